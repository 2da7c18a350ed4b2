"""`--reference-dtype bfloat16`: the frozen weights take half the memory, everything else is as it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from trainers import make_trainer
from trials import assert_resumed_replayed_and_verified, planned

from rl_alliteration.analysis.measure import original_keys
from rl_alliteration.config import TrialConfig
from rl_alliteration.errors import UserError
from rl_alliteration.lm.loading import LoadedModel, load_model
from rl_alliteration.lm.sampling import log_probabilities, sample, uniforms
from rl_alliteration.tune.plan import Sweep, plan, resolve

Make = Callable[..., TrialConfig]
MODELS = ["storyteller", "tiny_llama"]


def bytes_of(model: Any) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_matrices_are_rounded_and_products_are_exact(name: str, request: pytest.FixtureRequest) -> None:
    loaded: LoadedModel = request.getfixturevalue(name)
    kept = loaded.reference(kept_in=torch.bfloat16)
    assert kept is loaded.reference(kept_in=torch.bfloat16) is not loaded.reference()
    assert bytes_of(kept.model) < 0.51 * bytes_of(loaded.model)
    rounded = loaded.policy()  # the same weights in float32
    for parameter in rounded.parameters:
        if parameter.ndim > 1:
            parameter.data.copy_(parameter.data.bfloat16())
    ids = torch.randint(2048, (3, 12), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(log_probabilities(kept, ids), log_probabilities(rounded, ids), rtol=0, atol=1e-5)
    sampled = [sample(model, [3, 4], uniforms(0, 0, 3, 12), end_tokens=frozenset()) for model in (kept, rounded)]
    assert sampled[0].token_ids.equal(sampled[1].token_ids)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_only_what_the_reference_says_changes(dtype: str, storyteller: LoadedModel, make_config: Make) -> None:
    config = make_config(storyteller, dtype=dtype, beta=0.0)
    assert "reference_dtype" not in config.identity
    other = dataclasses.replace(config, reference_dtype="bfloat16")
    assert other.trial_id != config.trial_id and other.original() == config.original()
    assert original_keys(other, "m") == original_keys(config, "m") == original_keys(config.original(), "m")
    found = [make_trainer(storyteller, one).step().texts for one in (config, other)]
    changed = ("original_lm_cross_entropy", "kl_penalty")
    for one, two in zip(*found, strict=True):
        assert one | dict.fromkeys(changed) == two | dict.fromkeys(changed)
        assert 0 < abs(one["kl_penalty"] - two["kl_penalty"]) < 0.01


@pytest.mark.parametrize("name", MODELS)
def test_such_a_trial_is_resumed_replayed_and_verified(
    name: str, request: pytest.FixtureRequest, make_config: Make, tmp_path: Path
) -> None:
    loaded = request.getfixturevalue(name)
    config = make_config(loaded, reference_dtype="bfloat16", max_length=12, learning_rate=1e-2, kl="exact")
    trial = planned(config, 24)
    assert_resumed_replayed_and_verified(tmp_path, trial, loaded)


def test_a_policy_may_have_the_loaded_weights_themselves(tiny_llama_folder: Path, make_config: Make) -> None:
    loaded = load_model(str(tiny_llama_folder), checked=True)
    config = make_config(loaded, reference_dtype="bfloat16", learning_rate=1e-2)
    copied = make_trainer(loaded, config)
    assert not loaded.spent
    loaded.gives_away = True
    given = make_trainer(loaded, config)
    assert loaded.spent and given.policy.model is loaded.model
    frozen = [parameter.clone() for parameter in given.reference.parameters]
    for _ in range(2):
        assert copied.step().texts == given.step().texts
    assert all(one.equal(other) for one, other in zip(frozen, given.reference.parameters, strict=True))


def test_transformers_own_code_has_no_such_choice(tiny_opt: LoadedModel) -> None:
    sweep = resolve(Sweep(storage="unused", experiment="e", beta=(0.0,), reference_dtype="bfloat16"))
    with pytest.raises(UserError, match="--reference-dtype: 'bfloat16' is not accepted; give float32: the model goes"):
        plan(sweep, tiny_opt)
