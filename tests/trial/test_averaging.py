"""The mean of the weights of a trial's last checkpoints."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from trials import EXPERIMENT, planned, run_trial

from rl_alliteration.cli.main import main
from rl_alliteration.config import PlannedTrial
from rl_alliteration.errors import UserError
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.results.integrity import WEIGHTS, checkpoint_folder
from rl_alliteration.results.storage import Storage
from rl_alliteration.trial.averaging import averaged
from rl_alliteration.trial.replay import StoredTrial, open_trial

Weights = dict[str, torch.Tensor]


@pytest.fixture
def trained(
    tmp_path: Path, tiny_gpt_neo: LoadedModel, make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> tuple[Storage, PlannedTrial, dict[int, Weights]]:
    """A trial with checkpoints at 8, 16 and 24, and its original; the weights after each step."""
    import rl_alliteration.trial.replay as module

    monkeypatch.setattr(module, "load_model", lambda name, **_: tiny_gpt_neo)
    storage = Storage(tmp_path / "results")
    trial = planned(make_config(tiny_gpt_neo, max_length=16, learning_rate=0.01), 24)
    weights: dict[int, Weights] = {}

    def remember(run: Any) -> None:
        weights[run.trainer.generation] = run.trainer.state().weights

    run_trial(storage, trial, tiny_gpt_neo, keep=None, on_step=remember)
    run_trial(storage, planned(trial.config.original(), 20, every=10), tiny_gpt_neo)
    return storage, trial, weights


def stored(storage: Storage, trial: PlannedTrial) -> StoredTrial:
    return open_trial(storage, EXPERIMENT, trial.trial_id)


@pytest.mark.parametrize(
    "generation, count, expected", [(None, 3, [8, 16, 24]), (24, 2, [16, 24]), (20, 2, [8, 16]), (16, 2, [8, 16])]
)
def test_the_mean_is_of_the_last_checkpoints_up_to_the_generation(
    trained: Any, generation: int | None, count: int, expected: list[int]
) -> None:
    storage, trial, weights = trained
    trainer, taken = averaged(stored(storage, trial), generation, count)
    assert (taken, trainer.generation) == (expected, expected[-1])
    for name, value in trainer.state().weights.items():
        assert value.dtype == torch.float32
        states = torch.stack([weights[one][name] for one in expected])
        assert torch.equal(value, states.double().mean(0).float())
        assert not torch.equal(value, states[-1])


def test_of_an_optimizer_that_keeps_something_too(
    tmp_path: Path, tiny_gpt_neo: LoadedModel, make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rl_alliteration.trial.replay.load_model", lambda name, **_: tiny_gpt_neo)
    trial = planned(make_config(tiny_gpt_neo, max_length=16, optimizer="adamw"), 16)
    run_trial(Storage(tmp_path), trial, tiny_gpt_neo, keep=None)
    assert averaged(stored(Storage(tmp_path), trial), None, 2)[1] == [8, 16]


def test_three_checkpoints_of_known_weights_have_a_known_mean(trained: Any) -> None:
    """In float64: summed in float32, 2^24 + 1 + 1 is 2^24."""
    storage, trial, _ = trained
    there = stored(storage, trial)
    for generation, value in ((8, 2.0**24), (16, 1.0), (24, 1.0)):
        trainer = there.trainer()
        there.checkpoints.load(generation, trainer)
        with torch.no_grad():
            for parameter in trainer.policy.model.parameters():
                parameter.fill_(value)
        there.checkpoints.save(trainer.state(), generation, end=False)
    mean, _ = averaged(there, None, 3)
    expected = torch.tensor((2**24 + 2) / 3, dtype=torch.float32)
    assert all(value.eq(expected).all() for value in mean.state().weights.values())


def test_a_torn_checkpoint_is_left_out(trained: Any) -> None:
    storage, trial, _ = trained
    storage.put(f"{checkpoint_folder(EXPERIMENT, trial.trial_id, 16)}/{WEIGHTS}", b"torn")
    assert averaged(stored(storage, trial), None, 2)[1] == [8, 24]
    with pytest.raises(UserError, match="has 2 whole checkpoints up to generation 24"):
        averaged(stored(storage, trial), None, 3)


@pytest.mark.parametrize(
    "generation, count, told",
    [
        (None, 4, "has 3 whole checkpoints up to generation 24; give fewer, or keep more with --keep-checkpoints"),
        (12, 2, "has 1 whole checkpoint up to generation 12;"),
        (None, 1, "--average: 1 is not accepted; give a number of checkpoints, 2 or more"),
        (10, 2, "--generation: 10 is not accepted"),
    ],
)
def test_what_cannot_be_averaged_is_refused_in_one_line(
    trained: Any, generation: int | None, count: int, told: str
) -> None:
    storage, trial, _ = trained
    with pytest.raises(UserError) as caught:
        averaged(stored(storage, trial), generation, count)
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_the_original_has_nothing_to_average(trained: Any) -> None:
    storage, trial, _ = trained
    with pytest.raises(UserError, match="is not trained"):
        averaged(open_trial(storage, EXPERIMENT, trial.config.original().trial_id), None, 2)


def test_export_writes_the_mean_and_says_so(trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage, trial, weights = trained
    code, told = exported(capsys, storage, tmp_path, "--trial", trial.trial_id, "--average", "2")
    assert code == 0 and "after 24 texts, the mean of 2 checkpoints, is in" in told
    check_exported(tmp_path, weights, [16, 24])


def test_the_recommended_model_may_be_a_mean(
    trained: Any, tmp_path: Path, tiny_gpt_neo: LoadedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    _, trial, weights = trained
    storage = Storage(tmp_path / "often")
    often = planned(trial.config, 24, every=4)
    run_trial(storage, often, tiny_gpt_neo, keep=None)
    run_trial(storage, planned(trial.config.original(), 20, every=10), tiny_gpt_neo)
    chosen = ["--recommended", "--window", "20", "--keep-variety", "0", "--keep-sense", "100"]
    code, told = exported(capsys, storage, tmp_path, *chosen, "--average", "9")
    assert code == 2 and "whole checkpoints up to generation" in told
    assert not (tmp_path / "model").exists()
    code, told = exported(capsys, storage, tmp_path, *chosen, "--average", "2")
    found = re.search(r"after (\d+) texts, the mean", told)  # the middle of its one whole window
    assert code == 0 and found is not None and int(found[1]) in (8, 12)
    check_exported(tmp_path, weights, [int(found[1]) - 4, int(found[1])])


def check_exported(folder: Path, weights: dict[int, Weights], generations: list[int]) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    for name, parameter in model.named_parameters():
        states = torch.stack([weights[one][name] for one in generations])
        assert torch.equal(parameter, states.double().mean(0).float())
    card = (folder / "model" / "README.md").read_text()
    assert f"Its weights are the mean of those after {generations[0]} and {generations[1]} texts." in card


def exported(capsys: pytest.CaptureFixture[str], storage: Storage, folder: Path, *flags: str) -> tuple[int, str]:
    words = ["export", "--storage", str(storage), "--experiment", EXPERIMENT, "--output", str(folder / "model")]
    with pytest.raises(SystemExit) as end:
        main([*words, *flags])
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out + captured.err
