"""The settings of an update in a sweep: flags, ids, what cannot be together, and trials that have a length."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trials import EXPERIMENT, open_run, planned, rows, run_trial

from rl_alliteration.config import PlannedTrial, TrialConfig
from rl_alliteration.errors import UserError
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.results.storage import Storage
from rl_alliteration.results.verify import verify_trial
from rl_alliteration.trial.replay import StoredTrial, replay
from rl_alliteration.tune.plan import Sweep, plan, resolve
from rl_alliteration.tune.resume import Standing, find
from rl_alliteration.tune.search import Search, resolve_search, sweep_of

ALL: dict[str, Any] = {"credit": "to-go", "kl": "exact", "optimizer": "adamw", "schedule": "linear", "warm_up": 100}


def configs(loaded: LoadedModel, **flags: Any) -> list[TrialConfig]:
    sweep = resolve(Sweep(storage="unused", experiment="e", beta=(40.0,), max_generations=3600, **flags))
    return [trial.config for trial in plan(sweep, loaded)]


def test_they_reach_the_trials_and_leave_the_original_as_it_is(tiny_gpt_neo: LoadedModel) -> None:
    original, plain = configs(tiny_gpt_neo)
    same, changed = configs(tiny_gpt_neo, **ALL)
    assert same == original
    assert {name: getattr(changed, name) for name in ALL} == ALL
    assert (changed.schedule_length, plain.schedule_length) == (3600, 0)
    assert changed.trial_id != plain.trial_id
    assert not {*ALL, "schedule_length"} & plain.identity.keys()
    assert {*ALL, "schedule_length"} <= changed.identity.keys()


def test_only_a_schedule_makes_the_length_part_of_the_id(tiny_gpt_neo: LoadedModel) -> None:
    for flags, same in (({"warm_up": 100}, True), ({"optimizer": "adamw"}, True), ({"schedule": "cosine"}, False)):
        sweeps = [
            resolve(Sweep(storage="unused", experiment="e", beta=(40.0,), max_generations=length, **flags))
            for length in (600, 1200)
        ]
        one, other = (plan(sweep, tiny_gpt_neo)[-1].trial_id for sweep in sweeps)
        assert (one == other) == same


def test_a_search_has_them_too() -> None:
    search = resolve_search(Search(storage="unused", preset="frontier", **ALL))
    sweep = sweep_of(search)
    assert {name: getattr(sweep, name) for name in ALL} == {name: (value,) for name, value in ALL.items()}


@pytest.mark.parametrize(
    "flags, told",
    [
        ({"credit": "later"}, "--credit: 'later' is not accepted; give text or to-go"),
        ({"optimizer": "adamw", "momentum": 0.9}, "--momentum: 0.9 is not accepted; give 0: adamw has its own"),
        ({"schedule": "linear", "warm_up": 3600}, "--warm-up: 3600 is not accepted; give fewer texts than the 3,600"),
        ({"kl": "exact", "algorithm": ("reinforce_baseline",)}, "--kl: 'exact' is not accepted for 'reinforce_base"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_anything_starts(flags: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve(Sweep(storage="unused", experiment="e", beta=(40.0,), max_generations=3600, **flags))
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)


def scheduled(make_config: Callable[..., TrialConfig], loaded: LoadedModel, length: int) -> PlannedTrial:
    config = make_config(loaded, **ALL | {"warm_up": 4}, schedule_length=length, max_length=12, learning_rate=1e-3)
    return planned(config, length)


def test_a_trial_with_a_schedule_cannot_be_extended(
    tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig], tmp_path: Path
) -> None:
    storage = Storage(tmp_path)
    trial = scheduled(make_config, tiny_gpt_neo, 16)
    run_trial(storage, trial, tiny_gpt_neo)
    options: dict[str, Any] = {"retry_failed": False, "recompute": False}
    (found,) = find(storage, EXPERIMENT, [trial], **options)
    assert found.standing is Standing.FINISHED
    for length in (8, 24):
        with pytest.raises(UserError) as caught:
            find(storage, EXPERIMENT, [scheduled(make_config, tiny_gpt_neo, length)], **options)
        assert str(caught.value) == (
            f"--max-generations: {length} is not accepted for {trial.trial_id}, whose linear learning rate falls to 0 "
            "at 16 texts, so that its length cannot change; give --max-generations 16, or another --experiment for a "
            "trial of another length"
        )
        assert find(storage, "another", [scheduled(make_config, tiny_gpt_neo, length)], **options)[0].to_run
    other = dataclasses.replace(trial, config=dataclasses.replace(trial.config, seed=7, schedule_length=24))
    assert find(storage, EXPERIMENT, [other], **options)[0].to_run


def test_a_trial_with_all_of_them_resumes_bit_for_bit_and_is_verified_and_replayed(
    tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig], tmp_path: Path
) -> None:
    trial = scheduled(make_config, tiny_gpt_neo, 24)
    whole, cut = Storage(tmp_path / "whole"), Storage(tmp_path / "cut")
    run = run_trial(whole, trial, tiny_gpt_neo)
    run_trial(cut, trial, tiny_gpt_neo, stop_after=3)  # killed within an interval
    assert open_run(cut, trial, tiny_gpt_neo).resumed_at == 8
    run_trial(cut, trial, tiny_gpt_neo)
    for dataset in ("generations", "steps"):
        assert rows(whole, trial, dataset) == rows(cut, trial, dataset)
    verdict = verify_trial(whole, EXPERIMENT, trial.trial_id)
    assert verdict.problem is None
    assert verdict.notes == ("credit to-go, KL exact: losses were not computed again",)
    again = replay(StoredTrial(whole, EXPERIMENT, trial.trial_id, trial.config, tiny_gpt_neo, 24), 20, lambda _: None)
    again.step()
    for one, other in zip(again.policy.model.parameters(), run.trainer.policy.model.parameters(), strict=True):
        assert one.equal(other)
