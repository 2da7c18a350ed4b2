"""Helpers: the same command once more."""

from __future__ import annotations

from trials import EXPERIMENT, open_run

from rl_alliteration.config import PlannedTrial
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.results import schema
from rl_alliteration.results.events import EventLog
from rl_alliteration.results.storage import Storage
from rl_alliteration.tune.restore import restore_files
from rl_alliteration.tune.resume import Found, find


def same_command(storage: Storage, trial: PlannedTrial, loaded: LoadedModel) -> tuple[Found, list[str]]:
    """What a sweep does with one trial: look, restore what needs no computing, run what is to be run."""
    found = look(storage, trial)
    log = EventLog(storage, EXPERIMENT, "again", {})
    told = [*found.damages, *restore_files(storage, log, found)]
    if found.to_run:
        log.append(found.trial, schema.RUNNING)
        run = open_run(storage, found.trial, loaded, "again", keep=None, repairs=found.repairs)
        try:
            while not run.done:
                run.step()
            run.publish(end=True)
        finally:
            run.close()
        log.append(found.trial, schema.FINISHED, generations=run.trainer.generation)
    return found, told


def look(storage: Storage, trial: PlannedTrial) -> Found:
    return find(storage, EXPERIMENT, [trial], retry_failed=False, recompute=False)[0]
