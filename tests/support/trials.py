"""Helpers: a tiny trial against a storage, without Ray."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rl_alliteration.config import PlannedTrial, TrialConfig
from rl_alliteration.flags import FIRST_GROUP
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.results import schema
from rl_alliteration.results.events import EventLog
from rl_alliteration.results.parts import read_part
from rl_alliteration.results.reader import parts
from rl_alliteration.results.storage import Storage
from rl_alliteration.results.verify import verify_trial
from rl_alliteration.rl.advantages import ALGORITHMS
from rl_alliteration.rl.rewards import get_reward
from rl_alliteration.rl.trainer import Trainer
from rl_alliteration.trial.replay import StoredTrial, replay, verify_deep
from rl_alliteration.trial.run import TrialRun
from rl_alliteration.tune.plan import Sweep
from rl_alliteration.tune.restore import store_model

EXPERIMENT = "tiny"


def planned(config: TrialConfig, max_generations: int, every: int = 8) -> PlannedTrial:
    return PlannedTrial(config, "tiny", max_generations, every)


def open_run(
    storage: Storage,
    trial: PlannedTrial,
    loaded: LoadedModel,
    run_id: str = "run",
    keep: int | None = 2,
    publish_every: float = math.inf,
    *,
    repairs: bool = False,
    experiment: str = EXPERIMENT,
    record: str = FIRST_GROUP,
) -> TrialRun:
    config = trial.config
    reward = get_reward(config.reward, config.reward_parameters)
    trainer = Trainer(config, loaded, reward, ALGORITHMS.get(config.algorithm))
    return TrialRun(
        trainer,
        trial,
        storage,
        experiment,
        run_id,
        keep_checkpoints=keep,
        repairs=repairs,
        publish_every=publish_every,
        parent=experiment,
        record_tokens=record,
    )


def run_trial(
    storage: Storage,
    trial: PlannedTrial,
    loaded: LoadedModel,
    *,
    stop_after: int | None = None,
    run_id: str = "run",
    keep: int | None = 2,
    on_step: Callable[[TrialRun], None] = lambda run: None,
    experiment: str = EXPERIMENT,
) -> TrialRun:
    """Run a trial as a sweep would, events included; `stop_after` steps it is left as a kill leaves it."""
    log = EventLog(storage, experiment, run_id, {})
    store_model(storage, trial, loaded, Sweep(storage=str(storage)))
    run = open_run(storage, trial, loaded, run_id, keep, experiment=experiment)
    log.append(trial, schema.RUNNING, generations=run.resumed_at)
    for count in itertools.count():
        if run.done or count == stop_after:
            break
        run.step()
        on_step(run)
    if run.done:
        run.publish(end=True)
        log.append(trial, schema.FINISHED, generations=run.trainer.generation)
    run.close()
    return run


def rows(
    storage: Storage, trial: PlannedTrial, dataset: str = "generations", *, record: bool = False
) -> list[dict[str, Any]]:
    """All rows of a trial that the promise is about, in the order of the files; with their token `record`, if asked."""
    left_out = {one.name for one in schema.describe(dataset) if not one.compared}
    left_out -= {name for name in left_out if record and name.startswith(("token_", "part_"))}
    return [
        {name: value for name, value in row.items() if name not in left_out}
        for path in parts(storage, dataset, EXPERIMENT, trial.trial_id)
        for row in read_part(storage, path)
    ]


def assert_resumed_replayed_and_verified(folder: Path, trial: PlannedTrial, loaded: LoadedModel) -> None:
    """A trial of 24 texts in groups of 4, whole and cut short after three steps, is the same bit for bit."""
    whole, cut = Storage(folder / "whole"), Storage(folder / "cut")
    run = run_trial(whole, trial, loaded, keep=None)
    run_trial(cut, trial, loaded, stop_after=3)
    assert open_run(cut, trial, loaded).resumed_at == 8
    run_trial(cut, trial, loaded)
    for dataset in ("generations", "steps"):
        assert rows(whole, trial, dataset) == rows(cut, trial, dataset)
    assert verify_trial(cut, EXPERIMENT, trial.trial_id).problem is None
    there = StoredTrial(whole, EXPERIMENT, trial.trial_id, trial.config, loaded, 24)
    assert verify_deep(there, pytest.fail) is None
    again = replay(there, 20, lambda _: None)
    again.step()
    for one, other in zip(again.policy.model.parameters(), run.trainer.policy.model.parameters(), strict=True):
        assert one.equal(other)
