"""What a sweep finds of its trials, and so what it has to do: nothing that is there is computed again."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rl_alliteration.config import ORIGINAL, PlannedTrial, TrialConfig
from rl_alliteration.errors import UserError
from rl_alliteration.results import schema
from rl_alliteration.results.integrity import Survey, survey
from rl_alliteration.results.originals import experiments_with
from rl_alliteration.results.reader import last_event, trial_ids
from rl_alliteration.results.storage import Storage
from rl_alliteration.trial.checkpoints import CheckpointStore


class Standing(enum.Enum):
    """How a trial stands before a sweep; the value is what a person is told."""

    NEW = "to be started"
    CONTINUE = "to be continued"
    EXTEND = "to be extended"
    RETRY = "to be tried again after a failure"
    FINISHED = "finished, left as it is"
    DIVERGED = "diverged, left as it is (--retry-failed runs it again)"
    STOPPED = "stopped by its own texts, left as it is (without --stop-on-… it is continued)"
    DAMAGED = "damaged, to be restored"
    TWICE = "written by two processes, left as it is (remove it, and run the same command again)"
    ELSEWHERE = "used from experiment {}, which has it"
    NO_CHECKPOINT = "finished, left as it is: the checkpoint at its end is gone (--recompute extends it all the same)"


_TO_RUN = (Standing.NEW, Standing.CONTINUE, Standing.EXTEND, Standing.RETRY, Standing.DAMAGED)


_READERS = 4


@dataclasses.dataclass(frozen=True)
class Found:
    """A trial as planned and as found."""

    trial: PlannedTrial
    standing: Standing
    generations: int
    """Texts that are there, without a gap from the first."""
    error: str = ""
    repairs: bool = False
    """Whether what is damaged was whole once: rows are restored then, and never replaced by others."""
    damages: tuple[str, ...] = ()
    """What has to be computed again, a line each."""
    seen: Survey | None = None
    elsewhere: str = ""
    """The experiment that has it in place of this one."""

    @property
    def events_damaged(self) -> bool:
        """Whether something of its event log is to be put right."""
        return self.seen is not None and bool(self.seen.events.problems)

    @property
    def to_run(self) -> bool:
        """Whether there is something to compute."""
        return self.standing in _TO_RUN

    @property
    def words(self) -> str:
        """How it stands, for people."""
        at = f", has {self.generations:,} of {self.trial.max_generations:,} texts" if self.generations else ""
        return f"{self.standing.value.format(self.elsewhere)}{at}"

    def __str__(self) -> str:
        return f"{self.trial.trial_id}: {self.words}"


def find(
    storage: Storage,
    experiment: str,
    trials: Sequence[PlannedTrial],
    *,
    retry_failed: bool,
    recompute: bool,
    stop_on: Collection[str] = (),
) -> list[Found]:
    """Each trial with its standing. An original that another experiment has need not be sampled again.

    Args:
        storage: the results.
        experiment: theirs.
        trials: as planned; those that are there keep the interval that their first event fixed.
        retry_failed: run trials again that diverged.
        recompute: extend finished trials even if the checkpoint at their end is gone.
        stop_on: reasons for which trials that were stopped are left as they are.

    Raises:
        UserError: a trial is there with another length, at which its learning rate has fallen to 0.
    """
    _refuse_other_lengths(storage, experiment, trials)

    def find_one(trial: PlannedTrial) -> Found:
        found = _find(storage, experiment, trial, retry_failed, recompute, stop_on)
        return (_elsewhere(storage, experiment, found) if trial.config.algorithm == ORIGINAL else None) or found

    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(find_one, trials))


def _refuse_other_lengths(storage: Storage, experiment: str, trials: Sequence[PlannedTrial]) -> None:
    """A schedule's length is part of a trial's id, so that a longer one is another trial: not what was meant."""
    wanted = {
        _of_any_length(trial.config): trial for trial in trials if trial.config.schedule_length and not trial.beside
    }
    stored: list[tuple[str, str]] = []
    if wanted:
        with contextlib.suppress(UserError):  # there is none yet
            stored = trial_ids(storage, experiment)
    for _, trial_id in stored:
        event = last_event(storage, experiment, trial_id)
        there = None if event is None else TrialConfig.from_json(event["config"], trial_id)
        trial = None if there is None else wanted.get(_of_any_length(there))
        if there is not None and trial is not None and there.schedule_length != trial.max_generations:
            raise UserError(
                f"--max-generations: {trial.max_generations} is not accepted for {trial_id}, whose {there.schedule} "
                f"learning rate falls to 0 at {there.schedule_length:,} texts, so that its length cannot change; give "
                f"--max-generations {there.schedule_length}, or another --experiment for a trial of another length"
            )


def _of_any_length(config: TrialConfig) -> TrialConfig:
    return dataclasses.replace(config, schedule_length=0)


def _find(
    storage: Storage,
    experiment: str,
    trial: PlannedTrial,
    retry_failed: bool,
    recompute: bool,
    stop_on: Collection[str],
) -> Found:
    seen = survey(storage, experiment, trial.trial_id)
    damaged = seen.damaged_parts
    event, first = seen.events.last, seen.events.first
    ended = event is not None and event["status"] in (schema.FINISHED, schema.STOPPED)
    repairs = any(map(seen.was_whole, damaged))
    there = seen.reach if repairs else seen.whole
    if event is None or first is None:
        found = Found(trial, Standing.CONTINUE if there else Standing.NEW, there)
    else:
        trial = dataclasses.replace(trial, checkpoint_every=first["checkpoint_every"])
        found = _undamaged(storage, experiment, trial, event, there, retry_failed, recompute, stop_on)
    lines = [f"{path} {what}" for problems in damaged.values() for path, what in problems.items()] if repairs else []
    newest = seen.checkpoints.get(max(seen.checkpoints, default=0))
    beginning = seen.checkpoints.get(0, "is missing" if any(seen.checkpoints) else None)
    if trial.config.ancestors and beginning is not None:
        lines = [*lines, f"the model that it begins with, {trial.config.ancestors[-1]}: {beginning}"]
    if newest is not None and (ended or repairs or max(seen.checkpoints) >= seen.reach):
        lines, repairs = [*lines, newest], True
    if seen.overlap is not None:
        return dataclasses.replace(found, standing=Standing.TWICE, error=seen.overlap, seen=seen)
    length = trial.max_generations
    if lines and not found.to_run:
        found, length = dataclasses.replace(found, standing=Standing.DAMAGED, error=""), 0
    if found.to_run:  # who asks for less than is there loses nothing of it
        length = max(length, seen.reach)
        found = dataclasses.replace(found, trial=dataclasses.replace(trial, max_generations=length))
    elif damaged and not lines:
        lines = [f"{path} {what}" for problems in damaged.values() for path, what in problems.items()]
        lines = [f"{line}; it is no part that this trial has finished: delete it" for line in lines]
    repairs = repairs and not recompute
    return dataclasses.replace(found, generations=seen.whole, repairs=repairs, damages=tuple(lines), seen=seen)


def _elsewhere(storage: Storage, experiment: str, found: Found) -> Found | None:
    """An original as another experiment has it, if that has all that is asked for; what was begun here is finished
    here."""
    trial = found.trial
    begun = found.seen is not None and found.seen.events.last is not None
    shorter = found.standing in (Standing.EXTEND, Standing.NO_CHECKPOINT)
    if not shorter and (found.standing is not Standing.NEW or begun):
        return None
    for name in experiments_with(storage, trial.trial_id):
        if name != experiment:
            there = _find(storage, name, trial, retry_failed=False, recompute=False, stop_on=())
            if there.standing is Standing.FINISHED:
                return Found(trial, Standing.ELSEWHERE, there.generations, elsewhere=name)
    return None


def _undamaged(
    storage: Storage,
    experiment: str,
    trial: PlannedTrial,
    event: Mapping[str, Any],
    there: int,
    retry_failed: bool,
    recompute: bool,
    stop_on: Collection[str],
) -> Found:
    """How a trial stands by its newest event and the texts that are `there`."""
    status = event["status"]
    if status == schema.FAILED:
        if event["reason"] == "diverged" and not retry_failed:
            return Found(trial, Standing.DIVERGED, there, event["error"])
        return Found(trial, Standing.RETRY, there)
    if status == schema.STOPPED and event["reason"] in stop_on:
        return Found(trial, Standing.STOPPED, there)
    if status == schema.FINISHED and there >= event["max_generations"]:
        if trial.max_generations <= there:
            return Found(trial, Standing.FINISHED, there)
        if not CheckpointStore(storage, experiment, trial.trial_id).exists(there) and not recompute:
            return Found(trial, Standing.NO_CHECKPOINT, there)
        return Found(trial, Standing.EXTEND, there)
    if trial.max_generations <= there < event["max_generations"]:
        return Found(trial, Standing.FINISHED, there)  # asked for less than is there: that changes nothing
    return Found(trial, Standing.CONTINUE if there else Standing.NEW, there)
