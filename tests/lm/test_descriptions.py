"""Models that have a description here, against transformers' code: random configurations of each architecture."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import VOCABULARY, save_folder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trainers import make_trainer, update_of

from rl_alliteration.config import DESCRIBED_TEXTS_VERSION, TEXTS_VERSION, TrialConfig
from rl_alliteration.flags import Sampling
from rl_alliteration.lm.architectures import ARCHITECTURES, describe
from rl_alliteration.lm.decoder import DecoderForward
from rl_alliteration.lm.description import Parameters, Unsupported
from rl_alliteration.lm.generic import TransformersForward
from rl_alliteration.lm.language_model import LanguageModel
from rl_alliteration.lm.loading import load_model
from rl_alliteration.lm.sampling import DeviceLoop, log_probabilities, sample, score, uniforms

Sizes = dict[str, Any]
Draw = Callable[[st.SearchStrategy[Any]], Any]
TOKENS = 300
LENGTH = 24
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
GELUS = st.sampled_from(["gelu_new", "gelu", "relu", "gelu_pytorch_tanh"])
GATES = st.sampled_from(["silu", "gelu", "gelu_pytorch_tanh"])
BOOLEANS = st.booleans()


def rope(draw: Draw) -> Sizes:
    given = draw(st.sampled_from([None, {"rope_type": "default", "rope_theta": 500.0}, LINEAR, LLAMA3, YARN]))
    return {} if given is None else {"rope_parameters": dict(given)}


def layer_types(draw: Draw, layers: int) -> Sizes:
    kinds = st.sampled_from(["full_attention", "sliding_attention"])
    return {"layer_types": [draw(kinds) for _ in range(layers)]}


def gpt_neo(draw: Draw) -> Sizes:
    heads = draw(st.sampled_from([1, 2, 4]))
    return {
        "hidden_size": heads * draw(st.sampled_from([4, 8, 16])), "num_heads": heads, "num_layers": 2,
        "attention_types": [[[draw(st.sampled_from(["global", "local"])), "local"], 1]],
        "window_size": draw(st.integers(1, 30)), "max_position_embeddings": 64, "activation_function": draw(GELUS),
        "intermediate_size": draw(st.sampled_from([None, 24])),
    }  # fmt: skip


def gpt2(draw: Draw) -> Sizes:
    heads = draw(st.sampled_from([1, 2, 4]))
    return {
        "n_embd": heads * draw(st.sampled_from([4, 8, 16])), "n_head": heads, "n_layer": draw(st.integers(1, 3)),
        "n_inner": draw(st.sampled_from([None, 24])), "n_positions": 64, "activation_function": draw(GELUS),
        "scale_attn_weights": draw(BOOLEANS), "scale_attn_by_inverse_layer_idx": draw(BOOLEANS),
    }  # fmt: skip


def gpt_neox(draw: Draw) -> Sizes:
    heads = draw(st.sampled_from([1, 2, 4]))
    return {
        "hidden_size": heads * 16, "num_attention_heads": heads, "num_hidden_layers": draw(st.integers(1, 3)),
        "intermediate_size": 48, "hidden_act": draw(GELUS), "rotary_pct": draw(st.sampled_from([0.25, 0.5, 1.0])),
        "use_parallel_residual": draw(BOOLEANS), "attention_bias": draw(BOOLEANS),
        "tie_word_embeddings": draw(BOOLEANS),
    }  # fmt: skip


def llama(draw: Draw, *, head_width: bool = True) -> Sizes:
    shared, group = draw(st.sampled_from([1, 2])), draw(st.sampled_from([1, 2, 3]))
    width = {"head_dim": draw(st.sampled_from([8, 16]))} if head_width else {}
    return {
        "hidden_size": 16 * shared * group, "num_attention_heads": shared * group, "num_key_value_heads": shared,
        "intermediate_size": 48, "num_hidden_layers": 2, "tie_word_embeddings": draw(BOOLEANS),
        "max_position_embeddings": 64, "hidden_act": draw(GATES), **width,
    }  # fmt: skip


def window(draw: Draw) -> Sizes:
    return {"sliding_window": draw(st.integers(1, 30))}


RANDOM: dict[str, tuple[str, Callable[[Draw], Sizes]]] = {
    "gpt_neo": ("GPTNeo", gpt_neo),
    "gpt2": ("GPT2", gpt2),
    "gpt_neox": ("GPTNeoX", gpt_neox),
    "llama": (
        "Llama",
        lambda draw: {**llama(draw), **rope(draw), "attention_bias": draw(BOOLEANS), "mlp_bias": draw(BOOLEANS)},
    ),
    "mistral": ("Mistral", lambda draw: {**llama(draw), **rope(draw), **window(draw)}),
    "qwen2": (
        "Qwen2",
        lambda draw: {
            **llama(draw, head_width=False), **rope(draw), **window(draw), **layer_types(draw, 2),
            "use_sliding_window": True,
        },
    ),
    "qwen3": (
        "Qwen3",
        lambda draw: {
            **llama(draw), **rope(draw), **window(draw), **layer_types(draw, 2), "use_sliding_window": True,
            "attention_bias": draw(BOOLEANS),
        },
    ),
    "smollm3": (
        "SmolLM3",
        lambda draw: {
            **llama(draw, head_width=False), **rope(draw), **window(draw), "use_sliding_window": draw(BOOLEANS),
            "no_rope_layers": [draw(st.sampled_from([0, 1])), draw(st.sampled_from([0, 1]))],
        },
    ),
    "gemma3_text": (
        "Gemma3Text",
        lambda draw: {
            **llama(draw), **window(draw), **layer_types(draw, 2), "query_pre_attn_scalar": draw(st.integers(1, 64)),
            "hidden_activation": draw(GATES),
        },
    ),
}  # fmt: skip


def built(kind: str, sizes: Sizes, seed: int = 0) -> Any:
    """A transformers model whose every weight, biases and norms included, shows."""
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=TOKENS, bos_token_id=0, eos_token_id=0, pad_token_id=None, **sizes
    )
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def tokens(texts: int, length: int = LENGTH, seed: int = 0) -> torch.Tensor:
    return torch.randint(TOKENS, (texts, length), generator=torch.Generator().manual_seed(seed))


def decoded(forward: DecoderForward, ids: torch.Tensor, prompt: int) -> torch.Tensor:
    """Logits after each token from the prompt's last on, by decoding, (B, T, V)."""
    found = [forward.start(ids[0, :prompt], *ids.shape, record=True)]
    found += [forward.advance(ids[:, position]) for position in range(prompt, ids.shape[1])]
    return torch.stack([logits.clone() for logits in found], 1)


def gradients(model: Any) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def same(found: torch.Tensor, expected: torch.Tensor, error: float) -> None:
    off, most = (found - expected).detach().abs().max(), expected.detach().abs().max()
    assert float(off) <= error * float(most)


def compare(model: Any, error: float, *prompts: int) -> None:
    """Logits and gradients, by scoring and by what decoding has computed, against transformers' code."""
    plain = copy.deepcopy(model)
    forward = DecoderForward(describe(model.config, Parameters.of(model)))
    for prompt in prompts:
        ids = tokens(3, seed=prompt)
        ids[:, :prompt] = ids[0, :prompt]
        expected = plain(input_ids=ids, use_cache=False).logits
        seed = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(expected)
        plain.zero_grad()
        (expected * seed).sum().backward()
        logits = forward.logits(ids)
        same(logits, expected, error)
        model.zero_grad()
        (logits * seed).sum().backward()
        same(gradients(model), gradients(plain), error)

        by_token = decoded(forward, ids, prompt)
        same(by_token, expected[:, prompt - 1 :], error)
        recorded = forward.finish()
        assert recorded is not None
        model.zero_grad()
        logits = recorded(ids).view(*ids.t().shape, -1).transpose(0, 1)
        assert torch.equal(logits[:, prompt - 1 :], by_token)
        (logits * seed).sum().backward()
        same(gradients(model), gradients(plain), error)


@pytest.mark.parametrize("name", ARCHITECTURES)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_configurations(name: str, data: st.DataObject, float64_throughout: None) -> None:
    kind, sizes = RANDOM[name]
    model = built(kind, sizes(data.draw))
    compare(copy.deepcopy(model), 1e-4, 7)
    compare(model.double(), 1e-9, 1, 7)


# fmt: off
SMALL: dict[str, Sizes] = {
    "gpt2": {"n_embd": 32, "n_head": 4, "n_layer": 2},
    "gpt_neox": {
        "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 48,
        "tie_word_embeddings": True,
    },
    "gpt_neo": {"hidden_size": 32, "num_heads": 4, "num_layers": 2, "attention_types": [[["global", "local"], 1]]},
}
LIKE_LLAMA: Sizes = {
    "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48,
    "num_hidden_layers": 2, "head_dim": 8, "sliding_window": 12,
}
# fmt: on


def folder_of(name: str, folder: Path) -> Path:
    """A small model of an architecture, with the storyteller's tokenizer."""
    common = {
        "vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "initializer_range": 0.2,
    }  # fmt: skip
    config = getattr(transformers, f"{RANDOM[name][0]}Config")(**SMALL.get(name, LIKE_LLAMA), **common)
    torch.manual_seed(0)
    saved: Path = save_folder(folder, transformers.AutoModelForCausalLM.from_config(config).eval())
    return saved


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sampler_and_trainer_have_the_same_numbers(
    name: str, dtype: str, tmp_path: Path, make_config: Callable[..., TrialConfig]
) -> None:
    loaded = load_model(str(folder_of(name, tmp_path)))
    assert loaded.undescribed is None
    trainer = make_trainer(loaded, make_config(loaded, dtype=dtype, max_length=40))
    gaps = [update_of(trainer.step())["sampler_gap"] for _ in range(3)]
    assert gaps == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_group_is_the_one_that_transformers_samples(name: str, tmp_path: Path, float64_throughout: None) -> None:
    """Texts that end at different places, prompts of one token and of many."""
    loaded = load_model(str(folder_of(name, tmp_path)))
    ours, plain = (LanguageModel(copy.deepcopy(loaded.model).double(), by_description=by) for by in (True, False))
    assert isinstance(ours.forward, DecoderForward)
    assert isinstance(plain.forward, TransformersForward)
    ends = frozenset(range(0, VOCABULARY, 40))
    for prompt in ([5], tokens(1, 60)[0].tolist()):
        groups = [sample(m, prompt, uniforms(0, 0, 6, len(prompt) + 30), end_tokens=ends) for m in (ours, plain)]
        assert torch.equal(groups[0].token_ids, groups[1].token_ids)
        torch.testing.assert_close(groups[0].log_probabilities, groups[1].log_probabilities, rtol=0, atol=1e-9)
    assert len(set(groups[0].lengths)) > 1


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_loop_for_devices_samples_the_same(name: str, tmp_path: Path) -> None:
    model = LanguageModel(load_model(str(folder_of(name, tmp_path))).model.double())
    prompt, chances = torch.tensor([3, 5, 7]), uniforms(0, 0, 4, 40)
    expected = sample(model, prompt.tolist(), chances, end_tokens=frozenset())
    with torch.inference_mode():
        token_ids, log_p = DeviceLoop.of(model, 4, 40, Sampling()).run(prompt, chances)
    assert torch.equal(token_ids, expected.token_ids)
    torch.testing.assert_close(log_p, expected.log_probabilities, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_attention_in_a_low_precision(name: str, tmp_path: Path) -> None:
    """As on a GPU, where queries, keys and values are in the precision of products."""
    loaded = load_model(str(folder_of(name, tmp_path)))
    expected = sample(loaded.policy(), [3, 5, 7], uniforms(0, 0, 4, 12), end_tokens=frozenset())
    model = loaded.policy(dtype=torch.bfloat16)
    assert isinstance(model.forward, DecoderForward)
    model.forward.attention_dtype = torch.bfloat16
    with torch.inference_mode():
        loop = DeviceLoop.of(model, 4, 12, Sampling())
        loop.run(torch.tensor([3, 5, 7]), uniforms(0, 0, 4, 12))
        found = log_probabilities(model, expected.token_ids)[:, 2:]
    torch.testing.assert_close(found.float(), expected.log_probabilities, rtol=0, atol=0.2)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_is_read_again_is_read_by_the_weights_of_now(name: str, tmp_path: Path) -> None:
    """Products that share one memory, or are laid out anew, follow an update and `load_state_dict`."""
    loaded = load_model(str(folder_of(name, tmp_path)))
    policy = loaded.policy()
    ids = torch.randint(VOCABULARY, (2, 30))
    before = policy.forward.logits(ids).detach()
    score(policy, ids)[0].sum().backward()
    torch.optim.SGD(policy.model.parameters(), lr=0.05).step()
    with torch.no_grad():
        after = policy.forward.logits(ids)
        same(after, policy.model(input_ids=ids).logits, 1e-4)
        assert not torch.allclose(after, before, atol=1e-2)
        policy.forward.start(ids[0, :-1], 1, 30)
        same(policy.forward.advance(ids[:1, -1]), after[:1, -1], 1e-4)
    policy.model.load_state_dict(loaded.model.state_dict())
    torch.testing.assert_close(policy.forward.logits(ids).detach(), before, rtol=0, atol=0)


def test_trials_of_before_there_were_descriptions_go_through_transformers(
    tmp_path: Path, make_config: Callable[..., TrialConfig]
) -> None:
    loaded = load_model(str(folder_of("llama", tmp_path)))
    config = make_config(loaded)
    assert config.texts_version == DESCRIBED_TEXTS_VERSION
    old = dataclasses.replace(config, texts_version=TEXTS_VERSION)
    assert old.trial_id != config.trial_id
    for one, way in ((config, DecoderForward), (old, TransformersForward)):
        trainer = make_trainer(loaded, one)
        assert isinstance(trainer.policy.forward, way)
        assert isinstance(trainer.reference.forward, way)


@pytest.mark.parametrize(
    "kind, changes, said",
    [
        ("Llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "rope_type is 'dyn"),
        ("Llama", {"hidden_act": "tanh"}, "activation function is 'tanh'"),
        ("Gemma3Text", {"final_logit_softcapping": 30.0}, "final_logit_softcapping 30.0"),
        ("GPT2", {"add_cross_attention": True}, "cross-attention"),
        ("OPT", {"word_embed_proj_dim": 32, "ffn_dim": 48}, "opt has no description"),
    ],
)
def test_what_a_description_cannot_say_goes_through_transformers(kind: str, changes: Sizes, said: str) -> None:
    small = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 1, "intermediate_size": 48}
    model = built(kind, {**small, **changes})
    with pytest.raises(Unsupported, match=said):
        describe(model.config, Parameters.of(model))
    assert isinstance(LanguageModel(model).forward, TransformersForward)


def test_other_weights_than_the_description_has_a_use_for(tiny_llama: Any) -> None:
    model = copy.deepcopy(tiny_llama.model)
    model.model.layers[0].self_attn.q_norm = torch.nn.LayerNorm(8)
    with pytest.raises(Unsupported, match=r"other weights, such as model.layers.0.self_attn.q_norm"):
        describe(model.config, Parameters.of(model))
    model.model.norm.weight = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(Unsupported, match="shape"):
        describe(model.config, Parameters.of(model))


def test_a_description_that_gives_other_numbers_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a change of transformers' code that no description knows of."""
    from rl_alliteration.lm import loading

    folder = folder_of("llama", tmp_path)

    def other(config: Any, parameters: Parameters) -> Any:
        found = describe(config, parameters)
        return dataclasses.replace(found, embedding_scale=1.1)

    monkeypatch.setattr(loading, "describe", other)
    loaded = load_model(str(folder))
    assert loaded.undescribed == "its description here gives other numbers than transformers"
    assert loaded.texts_version == TEXTS_VERSION
    assert isinstance(loaded.policy().forward, TransformersForward)
