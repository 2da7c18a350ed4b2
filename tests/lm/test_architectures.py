"""Any causal LM that transformers has: sampled exactly, with the model's own cache where that is exact, or refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import transformers
from conftest import VOCABULARY, save_folder

from rl_alliteration.config import TEXTS_VERSION
from rl_alliteration.errors import UserError
from rl_alliteration.lm.checks import exact_cache
from rl_alliteration.lm.generic import TransformersForward
from rl_alliteration.lm.loading import LoadedModel, load_model
from rl_alliteration.lm.sampling import sample, score, uniforms
from rl_alliteration.tune.plan import Sweep, plan, resolve

Sizes = dict[str, Any]
COMMON: Sizes = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
SMALL: Sizes = {"hidden_size": 32, "num_hidden_layers": 2}
LLAMA: Sizes = {**SMALL, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
GPT2: Sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4}
EXPERTS: Sizes = {"num_local_experts": 4, "num_experts_per_tok": 2}
BERT: Sizes = {**SMALL, "intermediate_size": 64, "num_attention_heads": 4, "is_decoder": True}
MAMBA2: Sizes = {"num_heads": 8, "head_dim": 8, "n_groups": 2, "state_size": 8, "chunk_size": 8}
BAMBA: Sizes = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_chunk_size": 8}

OWN, ANY, NONE = "past_key_values", "any", None
"""The cache that a kind is to be decoded with; `ANY`: with or without one, as this version of transformers has it."""

KINDS: dict[str, tuple[str | None, Sizes]] = {
    "Llama": (OWN, LLAMA),
    "GPT2": (OWN, GPT2),
    "GPTJ": (OWN, {**GPT2, "rotary_dim": 4}),
    "Bloom": (OWN, {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "Mistral": (OWN, {**LLAMA, "sliding_window": 8}),
    "Gemma3": (OWN, {**LLAMA, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}),
    "Mixtral": (OWN, {**LLAMA, **EXPERTS}),
    "GraniteMoe": (OWN, {**LLAMA, **EXPERTS}),
    "Bert": (OWN, BERT),
    "Mamba": ("cache_params", {**SMALL, "state_size": 8, "time_step_rank": 4}),
    "FalconMamba": ("cache_params", {**SMALL, "state_size": 8, "time_step_rank": 4}),
    "Mamba2": ("cache_params", {**SMALL, **MAMBA2}),
    "xLSTM": (ANY, {"hidden_size": 64, "embedding_dim": 64, "num_heads": 4, "num_hidden_layers": 2}),
    "Rwkv": (NONE, {**SMALL, "attention_hidden_size": 32, "num_hidden_layers": 3, "rescale_every": 1}),
    "RecurrentGemma": (NONE, {**LLAMA, "num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 8}),
    "OpenAIGPT": (NONE, GPT2),
    "Roberta": (NONE, BERT),
    "Bamba": (ANY, {**LLAMA, **BAMBA, "num_hidden_layers": 3, "attn_layer_indices": [1]}),
    "Jamba": (
        ANY,
        {**LLAMA, "num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False,
         "mamba_dt_rank": 4, "mamba_d_state": 8},
    ),
    "Lfm2": (ANY, {**LLAMA, "layer_types": ["conv", "full_attention"]}),
    "MiniMax": (ANY, {**LLAMA, **EXPERTS, "layer_types": ["linear_attention", "full_attention"], "block_size": 8}),
}  # fmt: skip


def tiny(kind: str, **changes: Any) -> Any:
    """A model of a kind with weights so great that every token shows."""
    text = f"{kind}Text" if f"{kind}TextConfig" in dir(transformers) else kind
    config = getattr(transformers, f"{text}Config")(**{**COMMON, **KINDS.get(kind, (ANY, {}))[1], **changes})
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 0.15)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_sampled_from_the_distribution_that_scoring_gives(kind: str, tmp_path: Path) -> None:
    loaded = load_model(str(save_folder(tmp_path, tiny(kind))))
    expected = KINDS[kind][0]
    assert expected == ANY or loaded.cache == expected
    loaded.model.config.use_cache = False  # of what it is compared with
    policy = loaded.policy(texts_version=TEXTS_VERSION)  # as trials were sampled before there were descriptions
    assert isinstance(policy.forward, TransformersForward)
    for prompt in ([7], [5, 0, 900, 3, 17]):
        rollout = sample(policy, prompt, uniforms(0, 0, 3, 24), end_tokens=frozenset())
        with torch.no_grad():
            logits = loaded.model(input_ids=rollout.token_ids).logits[:, :-1]
        log_p = logits.log_softmax(-1).gather(-1, rollout.token_ids[:, 1:, None])[..., 0]
        sampled = rollout.log_probabilities
        torch.testing.assert_close(sampled, log_p[:, len(prompt) - 1 :], rtol=0, atol=2e-4)
        scored, _ = score(policy, rollout.token_ids)
        torch.testing.assert_close(scored, log_p, rtol=0, atol=1e-5)
        scored.sum().backward()
        assert all(
            parameter.grad.isfinite().all() for parameter in policy.model.parameters() if parameter.grad is not None
        )


def test_a_cache_that_is_not_exact_is_not_used(tiny_llama: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Bamba's and MiniMax's were not: what was read before is forgotten."""
    model = tiny_llama.model
    forward = model.forward

    def forgetful(input_ids: Any, past_key_values: Any = None, use_cache: bool = False, logits_to_keep: int = 0) -> Any:
        return forward(input_ids=input_ids, use_cache=use_cache, logits_to_keep=logits_to_keep)

    assert exact_cache(TransformersForward(model, model.dtype), model) == "past_key_values"
    monkeypatch.setattr(model, "forward", forgetful)
    assert exact_cache(TransformersForward(model, model.dtype), model) is None


def test_a_cache_that_is_not_exact_beyond_a_window_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.cache_utils import DynamicSlidingWindowLayer

    model = tiny("Mistral", sliding_window=30)
    assert exact_cache(TransformersForward(model, model.dtype), model) == "past_key_values"
    update = DynamicSlidingWindowLayer.update

    def wrong(self: Any, key: torch.Tensor, value: torch.Tensor, *rest: Any, **options: Any) -> Any:
        found = update(self, key, value, *rest, **options)
        return found if found[0].shape[-2] < 30 else (found[0].roll(1, -2), found[1])

    monkeypatch.setattr(DynamicSlidingWindowLayer, "update", wrong)
    assert exact_cache(TransformersForward(model, model.dtype), model) is None


def test_a_policy_and_its_reference_use_the_cache_that_was_found(tmp_path: Path) -> None:
    loaded = load_model(str(save_folder(tmp_path, tiny("Mamba"))))
    for model in (loaded.policy(), loaded.reference()):
        assert isinstance(model.forward, TransformersForward)
        with mock.patch.object(model.forward.model, "forward", wraps=model.forward.model.forward) as forward:
            sample(model, [1, 2, 3], uniforms(0, 0, 2, 8), end_tokens=frozenset())
        assert [call.kwargs["input_ids"].shape[1] for call in forward.call_args_list] == [3, 1, 1, 1, 1]


@pytest.mark.parametrize(
    "kind, sizes, said",
    [
        ("Bert", {**BERT, "is_decoder": False}, "it is not causal"),
        ("XLNet", {"d_model": 32, "n_layer": 1, "n_head": 4, "d_inner": 64}, "it is not causal"),
        ("Xmod", {**BERT, "languages": ["en_XX"]}, "it cannot read a text of token ids alone"),
    ],
)
def test_what_cannot_be_served_is_refused_when_it_is_loaded(
    kind: str, sizes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    folder = save_folder(tmp_path, tiny(kind, **sizes))
    with pytest.raises(UserError, match=said) as caught:
        load_model(str(folder))
    assert "\n" not in str(caught.value)


def test_a_precision_that_a_model_cannot_compute_is_refused_before_a_sweep(tmp_path: Path) -> None:
    folder: Path = save_folder(tmp_path, tiny("Xmod", **BERT, languages=["en_XX"], default_language="en_XX"))
    loaded = load_model(str(folder))
    sweep = Sweep(storage="x", experiment="e", beta=(0.0,), model=str(folder), max_length=24)
    plan(resolve(sweep), loaded)
    with pytest.raises(UserError, match="--dtype: the model cannot be computed in bfloat16"):
        plan(resolve(dataclasses.replace(sweep, dtype="bfloat16")), loaded)
