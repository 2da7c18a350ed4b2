"""Trials of each setting of the update: resumed, extended, verified and replayed as the study's are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from trials import EXPERIMENT, open_run, planned, rows, run_trial

from rl_alliteration.cli.main import call
from rl_alliteration.config import PlannedTrial
from rl_alliteration.errors import UserError
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.results.parts import encode_part, read_part
from rl_alliteration.results.schema import part_path
from rl_alliteration.results.storage import Storage
from rl_alliteration.results.verify import verify_trial
from rl_alliteration.trial.replay import StoredTrial, replay, verify_deep
from rl_alliteration.tune.resume import Standing, find

LENGTH = 24
FALLING: list[dict[str, Any]] = [{"schedule": "linear"}, {"schedule": "cosine", "warm_up": 6}]
EXTENDED: list[dict[str, Any]] = [
    {"credit": "to-go"}, {"kl": "exact"}, {"kl": "k2"}, {"kl": "k3"}, {"credit": "to-go", "kl": "exact"},
    {"credit": "to-go", "kl": "k2"}, {"optimizer": "adamw"}, {"momentum": 0.9}, {"warm_up": 20},
    {"optimizer": "adamw", "credit": "to-go", "warm_up": 10},
]  # fmt: skip
OPTIONS: dict[str, Any] = {"retry_failed": False, "recompute": False}


def name_of(update: dict[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in update.items())


def trial_of(make_config: Any, loaded: LoadedModel, update: dict[str, Any], length: int = LENGTH) -> PlannedTrial:
    over = length if "schedule" in update else 0
    rate = 1e-3 if "optimizer" in update else 1e-2
    return planned(
        make_config(loaded, **update, schedule_length=over, max_length=12, beta=20.0, learning_rate=rate), length
    )


@pytest.mark.parametrize("update", EXTENDED + FALLING, ids=name_of)
def test_a_resumed_trial_has_the_same_rows_and_is_verified_deeply(
    tmp_path: Path, tiny_gpt_neo: LoadedModel, make_config: Any, update: dict[str, Any]
) -> None:
    trial = trial_of(make_config, tiny_gpt_neo, update)
    whole, cut = Storage(tmp_path / "whole"), Storage(tmp_path / "cut")
    run = run_trial(whole, trial, tiny_gpt_neo, keep=None)
    run_trial(cut, trial, tiny_gpt_neo, stop_after=3)  # killed within an interval
    assert open_run(cut, trial, tiny_gpt_neo).resumed_at == 8
    run_trial(cut, trial, tiny_gpt_neo)
    for dataset in ("generations", "steps"):
        assert rows(whole, trial, dataset) == rows(cut, trial, dataset)
    for storage in (whole, cut):
        assert verify_trial(storage, EXPERIMENT, trial.trial_id).problem is None
    there = StoredTrial(whole, EXPERIMENT, trial.trial_id, trial.config, tiny_gpt_neo, LENGTH)
    assert verify_deep(there, pytest.fail) is None
    again = replay(there, 20, lambda _: None)
    again.step()
    for one, other in zip(again.policy.model.parameters(), run.trainer.policy.model.parameters(), strict=True):
        assert one.equal(other)


@pytest.mark.parametrize("update", EXTENDED, ids=name_of)
def test_an_extended_trial_is_the_longer_one(
    tmp_path: Path, tiny_gpt_neo: LoadedModel, make_config: Any, update: dict[str, Any]
) -> None:
    short, long = (trial_of(make_config, tiny_gpt_neo, update, length) for length in (16, LENGTH))
    assert short.trial_id == long.trial_id
    extended, whole = Storage(tmp_path / "extended"), Storage(tmp_path / "whole")
    run_trial(extended, short, tiny_gpt_neo)
    (found,) = find(extended, EXPERIMENT, [long], **OPTIONS)
    assert found.to_run and found.standing is not Standing.FINISHED
    run_trial(extended, long, tiny_gpt_neo)
    run_trial(whole, long, tiny_gpt_neo)
    for dataset in ("generations", "steps"):
        assert rows(extended, long, dataset) == rows(whole, long, dataset)
    assert verify_trial(extended, EXPERIMENT, long.trial_id).problem is None
    there = StoredTrial(extended, EXPERIMENT, long.trial_id, long.config, tiny_gpt_neo, LENGTH)
    assert verify_deep(there, pytest.fail) is None


@pytest.mark.parametrize("update", FALLING, ids=name_of)
def test_a_falling_rate_refuses_another_length(
    tmp_path: Path, tiny_gpt_neo: LoadedModel, make_config: Any, update: dict[str, Any]
) -> None:
    storage = Storage(tmp_path)
    run_trial(storage, trial_of(make_config, tiny_gpt_neo, update, 16), tiny_gpt_neo)
    with pytest.raises(UserError, match="cannot change; give --max-generations 16"):
        find(storage, EXPERIMENT, [trial_of(make_config, tiny_gpt_neo, update)], **OPTIONS)


def test_deep_verification_by_the_command_finds_what_only_the_model_can_tell(
    tmp_path: Path,
    tiny_gpt_neo: LoadedModel,
    make_config: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import rl_alliteration.trial.replay as module

    monkeypatch.setattr(module, "load_model", lambda name, **_: tiny_gpt_neo)
    storage = Storage(tmp_path)
    trial = trial_of(make_config, tiny_gpt_neo, {"credit": "to-go", "kl": "exact", "optimizer": "adamw"})
    run_trial(storage, trial, tiny_gpt_neo, keep=None)
    assert call(["verify", "--storage", str(tmp_path), "--deep"]) == 0
    assert "losses were not computed again" in capsys.readouterr().out
    path = part_path("generations", EXPERIMENT, trial.trial_id, 8)
    changed = read_part(storage, path)
    changed[1]["lm_cross_entropy"] += 1e-3
    storage.put(path, encode_part(changed, "generations"))
    there = StoredTrial(storage, EXPERIMENT, trial.trial_id, trial.config, tiny_gpt_neo, LENGTH)
    assert str(verify_deep(there)).startswith("generation 9: lm_cross_entropy")
