"""What a sweep finds of its trials, and so what it has to do: nothing that is there is computed again."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Collection, Sequence

from rl_alliteration.checkpoints import CheckpointStore
from rl_alliteration.results import schema
from rl_alliteration.results.reader import first_event, last_event
from rl_alliteration.results.storage import Storage
from rl_alliteration.results.writer import PlannedTrial, TrialWriter


class Standing(enum.Enum):
    """How a trial stands before a sweep; the value is what a person is told."""

    NEW = "to be started"
    CONTINUE = "to be continued"
    EXTEND = "to be extended"
    RETRY = "to be tried again after a failure"
    FINISHED = "finished, left as it is"
    DIVERGED = "diverged, left as it is (--retry-failed runs it again)"
    STOPPED = "stopped by its own texts, left as it is (without --stop-on-… it is continued)"
    NO_CHECKPOINT = "finished, left as it is: the checkpoint at its end is gone (--recompute extends it all the same)"


@dataclasses.dataclass(frozen=True)
class Found:
    """A trial as planned and as found."""

    trial: PlannedTrial
    standing: Standing
    generations: int
    """Texts that are there, without a gap from the first."""
    error: str = ""

    @property
    def to_run(self) -> bool:
        """Whether there is something to do."""
        return self.standing in (Standing.NEW, Standing.CONTINUE, Standing.EXTEND, Standing.RETRY)

    def __str__(self) -> str:
        at = f", has {self.generations:,} of {self.trial.max_generations:,} texts" if self.generations else ""
        return f"{self.trial.trial_id}: {self.standing.value}{at}"


def find(
    storage: Storage,
    experiment: str,
    trials: Sequence[PlannedTrial],
    *,
    retry_failed: bool,
    recompute: bool,
    stop_on: Collection[str] = (),
) -> list[Found]:
    """Each trial with its standing.

    Args:
        storage: the results.
        experiment: theirs.
        trials: as planned; those that are there keep the interval that their first event fixed.
        retry_failed: run trials again that diverged.
        recompute: extend finished trials even if the checkpoint at their end is gone.
        stop_on: reasons for which trials that were stopped are left as they are.
    """
    return [_find(storage, experiment, trial, retry_failed, recompute, stop_on) for trial in trials]


def _find(
    storage: Storage,
    experiment: str,
    trial: PlannedTrial,
    retry_failed: bool,
    recompute: bool,
    stop_on: Collection[str],
) -> Found:
    event = last_event(storage, experiment, trial.trial_id)
    if event is None:
        return Found(trial, Standing.NEW, 0)
    first = first_event(storage, experiment, trial.trial_id) or event
    trial = dataclasses.replace(trial, checkpoint_every=first["checkpoint_every"])
    there = max(TrialWriter(storage, experiment, trial.trial_id, "").boundaries())
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
