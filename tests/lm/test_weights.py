"""Weights that are read without transformers' modelling code: the same model, in less time."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import save_folder
from hypothesis import given, settings
from hypothesis import strategies as st
from test_descriptions import RANDOM, SMALL, built, folder_of, tokens
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from trainers import make_trainer
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from rl_alliteration.config import SHIPPED_MODELS, TrialConfig
from rl_alliteration.errors import UserError
from rl_alliteration.lm.architectures import ARCHITECTURES, describe
from rl_alliteration.lm.decoder import DecoderForward
from rl_alliteration.lm.description import Parameters
from rl_alliteration.lm.known import Known, PlainConfig
from rl_alliteration.lm.loading import LoadedModel, load_known, load_model
from rl_alliteration.lm.weights import Weights, as_transformers


def both(folder: Path) -> tuple[LoadedModel, LoadedModel]:
    """A model as a trial reads it, and as transformers loads it."""
    return load_model(str(folder), checked=True), load_model(str(folder))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_is_the_same_either_way(name: str, tmp_path: Path, make_config: Callable[..., TrialConfig]) -> None:
    alone, whole = both(folder_of(name, tmp_path))
    assert isinstance(alone.model, Weights)
    assert not isinstance(whole.model, Weights)
    assert alone.differs(make_config(whole)) is None
    assert alone.texts_version == whole.texts_version
    assert alone.end_tokens == whole.end_tokens == {0}
    for length in (10, 10**6):
        assert alone.longest(length) == whole.longest(length)
    assert whole.known is not None
    told = load_known(str(tmp_path), pickle.loads(pickle.dumps(whole.known)))  # as Ray sends it
    assert told is not None and told.differs(make_config(whole)) is None
    assert (told.texts_version, told.context, told.end_tokens) == (whole.texts_version, whole.context, whole.end_tokens)
    steps = [make_trainer(loaded, make_config(whole)).step() for loaded in (alone, whole, told)]
    assert steps[0].texts == steps[1].texts == steps[2].texts
    updates = [{key: value for key, value in (step.update or {}).items() if "seconds" not in key} for step in steps]
    assert updates[0] == updates[1] == updates[2], "the norm of the gradient to the last bit"


@pytest.mark.parametrize("name", SHIPPED_MODELS)
def test_the_shipped_models_are_what_transformers_loads(name: str, tmp_path: Path) -> None:
    loaded = load_model(name)
    assert isinstance(loaded.model, Weights)
    loaded.model.save_pretrained(tmp_path)
    loaded.pretrained_tokenizer.save_pretrained(tmp_path)
    again = load_model(str(tmp_path))
    assert not isinstance(again.model, Weights)
    assert again.weights_fingerprint == loaded.weights_fingerprint
    assert again.architecture_fingerprint == loaded.architecture_fingerprint
    assert again.end_tokens == loaded.end_tokens
    order = [parameter.shape for parameter in again.policy().model.parameters()]
    assert [parameter.shape for parameter in loaded.policy().parameters] == order, "of the sum in a gradient's norm"


@pytest.mark.parametrize("name", ARCHITECTURES)
@settings(max_examples=5)
@given(data=st.data())
def test_plain_data_describes_what_a_configuration_does(name: str, data: st.DataObject) -> None:
    kind, sizes = RANDOM[name]
    model = built(kind, sizes(data.draw))
    known = Known.of(model.config, Tokenizer(WordLevel({"a": 0}, "a")), frozenset(), "")
    assert known is not None
    ids = tokens(2)
    ways = [DecoderForward(describe(model.config, Parameters.of(model))).logits(ids)]
    try:
        ways.append(DecoderForward(describe(PlainConfig(known, Path()), Parameters.of(model))).logits(ids))
    except AttributeError:  # `read_weights` then says None: transformers' code for scaled angles asks its own class
        assert model.config.rope_parameters["rope_type"] != "default"
    assert all(torch.equal(logits, ways[0]) for logits in ways)


def test_what_a_trial_cannot_read_alone_is_left_to_the_whole_way(tmp_path: Path, tiny_opt: LoadedModel) -> None:
    assert tiny_opt.known is None, "transformers' code runs it"
    folder = folder_of("llama", tmp_path / "model")
    whole = load_model(str(folder))
    assert whole.known is not None
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    assert load_known(str(folder), whole.known) is None
    with pytest.raises(UserError, match="no folder"):
        load_known(str(tmp_path / "nowhere"), whole.known)


def test_the_kept_tokenizer_and_configuration_are_transformers_own(tmp_path: Path) -> None:
    folder = folder_of("qwen2", tmp_path)
    whole = load_model(str(folder))
    assert whole.known is not None
    told = load_known(str(folder), whole.known)
    assert told is not None
    assert type(told.pretrained_tokenizer) is type(whole.pretrained_tokenizer)
    assert told.pretrained_tokenizer.backend_tokenizer.to_str() == whole.tokenizer.to_str()
    assert (
        as_transformers(told.model).config.to_dict()
        == as_transformers(load_model(str(folder), checked=True).model).config.to_dict()
    )


def test_other_names_in_a_file_than_in_transformers_show_in_the_fingerprint(
    tmp_path: Path, make_config: Callable[..., TrialConfig]
) -> None:
    """Pythia's output is `embed_out` in files: a trial then has transformers load the model."""
    config = GPTNeoXConfig(**SMALL["gpt_neox"] | {"vocab_size": 2048, "tie_word_embeddings": False})
    alone, whole = both(save_folder(tmp_path, GPTNeoXForCausalLM(config)))
    same = {name for name, _ in alone.model.named_parameters()} == {name for name, _ in whole.model.named_parameters()}
    assert alone.differs(make_config(whole)) == (None if same else "its weights differ")


def test_a_copy_for_transformers_shares_nothing(storyteller: LoadedModel) -> None:
    plain = as_transformers(storyteller.model)
    ids = torch.arange(30)[None]
    with torch.no_grad():
        torch.testing.assert_close(
            storyteller.reference().forward.logits(ids), plain(input_ids=ids).logits, rtol=0, atol=1e-4
        )
        for parameter in plain.parameters():
            parameter.zero_()
    assert all(bool(parameter.any()) for parameter in storyteller.model.parameters())


def broken(folder: Path, how: str) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    if how == "cut":
        file.write_bytes(file.read_bytes()[:-8])
        return
    tensors = load_file(file)
    last = "model.norm.weight"
    if how == "missing":
        del tensors[last]
    elif how == "shape":
        tensors[last] = torch.ones(3)
    elif how == "not finite":
        tensors[last][0] = float("nan")
    else:
        tensors["model.layers.0.mlp.other.weight"] = torch.ones(3)
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize("how", ["cut", "missing", "shape", "not finite"])
def test_what_is_wrong_with_a_file_is_told_as_ever(how: str, tmp_path: Path) -> None:
    folder = folder_of("llama", tmp_path)
    broken(folder, how)
    messages = []
    for checked in (True, False):
        with pytest.raises(UserError) as caught:
            load_model(str(folder), checked=checked)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_what_no_description_reads_is_left_to_transformers(tmp_path: Path, tiny_opt_folder: Path) -> None:
    others = folder_of("llama", tmp_path / "other")
    broken(others, "another tensor")
    as_bin = save_folder(
        tmp_path / "bin", load_model(str(folder_of("gpt2", tmp_path / "gpt2"))).model, safetensors=False
    )
    for folder in (tiny_opt_folder, others, as_bin):
        assert not isinstance(load_model(str(folder), checked=True).model, Weights)


def test_a_trial_of_before_there_were_descriptions_gets_transformers(
    tmp_path: Path, make_config: Callable[..., TrialConfig]
) -> None:
    alone, whole = both(folder_of("llama", tmp_path))
    config = dataclasses.replace(make_config(whole), texts_version=4)
    steps = [make_trainer(loaded, config).step() for loaded in (alone, whole)]
    assert steps[0].texts == steps[1].texts


MODULES = """
print(*[name for name in ("torch._dynamo", "torch.distributed.tensor", "scipy", "sympy", "transformers.modeling_utils")
        if name in sys.modules])
"""
PLAIN = """
import sys
from transformers import AutoConfig, AutoTokenizer
AutoConfig.from_pretrained({folder!r}), AutoTokenizer.from_pretrained({folder!r})
"""
TRAIN = """
import sys
from rl_alliteration.lm.loading import load_model
from rl_alliteration.lm.sampling import sample, score, uniforms
from rl_alliteration.rl.optimizers import make_optimizer
policy = load_model({folder!r}, checked=True).policy()
optimizer = make_optimizer("sgd", policy.model, 0.1)
rollout = sample(policy, [1, 2], uniforms(0, 0, 4, 12), end_tokens=frozenset(), record=True)
score(policy, rollout.token_ids, rollout.decoded)[0].sum().backward()
optimizer.step()
"""


SHIPPED = """
import sys
from rl_alliteration.lm.deterministic import deterministic
from rl_alliteration.lm.loading import load_model
from rl_alliteration.tune.plan import Sweep, plan, resolve
deterministic(strict=True)
loaded = load_model("storyteller")
assert plan(resolve(Sweep(storage="unused", experiment="e", beta=(0.0,))), loaded)[0].config.prompt
print(*[name for name in ("transformers", "torch._inductor", "sympy") if name in sys.modules])
"""


def test_a_shipped_model_is_planned_with_without_transformers_and_deterministic_kernels_need_no_compiler() -> None:
    run = subprocess.run([sys.executable, "-c", SHIPPED], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_reading_weights_imports_no_modelling_code(tmp_path: Path) -> None:
    """Nor a step of training PyTorch's compiler: each takes as long as all else. But what a configuration brings."""
    folder = str(folder_of("gpt_neo", tmp_path))
    found = []
    for program in (PLAIN, TRAIN):
        command = [sys.executable, "-c", program.format(folder=folder) + MODULES]
        found.append(set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()))
    assert found[1] <= found[0]
    assert "transformers.modeling_utils" not in found[1]


def test_a_policy_in_another_place_keeps_its_weights_apart(storyteller: LoadedModel) -> None:
    other: Any = copy.deepcopy(storyteller.model)
    with torch.no_grad():
        other.transformer.wte.weight.zero_()
    assert bool(storyteller.model.transformer.wte.weight.any())
