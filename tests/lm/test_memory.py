"""The estimate of a trial's memory."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch

from rl_alliteration.errors import UserError
from rl_alliteration.lm import memory
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.lm.sampling import sample, uniforms
from rl_alliteration.tune.execution import check_memory
from rl_alliteration.tune.plan import Sweep, plan, resolve


@pytest.mark.parametrize("name", ["storyteller", "tiny_llama"])
def test_what_decoding_keeps_is_what_is_counted(name: str, request: pytest.FixtureRequest) -> None:
    loaded: LoadedModel = request.getfixturevalue(name)
    policy = loaded.policy()
    sample(policy, [3], uniforms(0, 0, 5, 20), end_tokens=frozenset(), record=True)
    kept = policy.forward._activations  # type: ignore[attr-defined]
    numbers = sum(value.numel() for value in vars(kept).values() if isinstance(value, torch.Tensor))
    parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
    reference = 5 * 20 * kept.logits.shape[-1]
    assert memory.step_bytes(loaded.model, 5, 20) == memory._PROCESS + 4 * (3 * parameters + numbers + reference)


def test_a_model_without_a_description_has_none(tiny_opt: LoadedModel) -> None:
    assert memory.step_bytes(tiny_opt.model, 5, 20) is None


def test_a_containers_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    total = memory.machine_bytes()
    assert total is not None and total > 2**28
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: "1048576\n")
    assert memory.machine_bytes() == 2**20
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: "max\n")
    assert (memory.machine_bytes() or 0) >= total


@pytest.mark.parametrize(
    "gpus, available, refused", [("auto", True, False), ("1", False, False), ("auto", False, True), ("0", True, True)]
)
def test_the_memory_of_a_machine_says_nothing_of_its_gpus(
    gpus: str, available: bool, refused: bool, storyteller: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(memory, "machine_bytes", lambda: 2**20)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    sweep = resolve(Sweep(storage="unused", experiment="e", beta=(0.0,), gpus_per_trial=gpus))
    with pytest.raises(UserError, match="--group-size") if refused else contextlib.nullcontext():
        check_memory(sweep, plan(sweep, storyteller), storyteller)
