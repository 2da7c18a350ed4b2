"""One trial against a storage: resume, step, publish parts and checkpoints. No Ray."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from rl_alliteration.analysis.running import RunningWindows
from rl_alliteration.config import MODEL, SETTINGS, PlannedTrial, TrialConfig
from rl_alliteration.errors import Failure
from rl_alliteration.flags import FIRST_GROUP
from rl_alliteration.results.parts import Row, model_of, part_paths, read_part
from rl_alliteration.results.schema import part_number
from rl_alliteration.results.storage import Storage, Unavailable
from rl_alliteration.results.tensorboard import TensorBoardWriter
from rl_alliteration.results.writer import TrialWriter
from rl_alliteration.rl.record import recorded_groups
from rl_alliteration.rl.trainer import Step, Trainer, TrainerState
from rl_alliteration.trial.background import Background
from rl_alliteration.trial.checkpoints import CheckpointStore
from rl_alliteration.trial.fork import keep_beginning


class Refused(Failure):
    """The storage refused an earlier part: nothing is forgotten, and `publish` may be tried again."""

    def __init__(self, message: str, step: Step) -> None:
        super().__init__(message)
        self.step = step
        """What was done nevertheless, and is kept."""


class TrialRun:
    """Runs a trainer from the newest checkpoint on, and keeps its rows, checkpoints and curves in step.

    The order of writing at a boundary is what makes a kill harmless: texts, then the checkpoint that covers them.
    Parts that lie beyond the checkpoint stay until each has been computed again. Writing goes on beside the next steps,
    on a thread of its own; a step waits only where an interval before has not been written yet.

    What a kill can lose is bounded by time too: where an interval takes longer than `publish_every`, a part ends before
    it does. Where parts end changes no row.
    """

    def __init__(
        self,
        trainer: Trainer,
        trial: PlannedTrial,
        storage: Storage,
        experiment: str,
        run_id: str,
        *,
        keep_checkpoints: int | None,
        repairs: bool = False,
        publish_every: float = math.inf,
        may_publish: Callable[[], None] = lambda: None,
        parent: str | None = None,
        record_tokens: str = FIRST_GROUP,
    ) -> None:
        """`repairs` as for `TrialWriter`; `publish_every` in seconds; `parent`: of a fork, its parent's experiment;
        `record_tokens`: see `record.recorded_groups`.

        `may_publish` is asked before anything is published; it raises if this run has been superseded.
        """
        may_publish()  # before a file of curves is opened: a superseded driver may still start trials
        self.trainer = trainer
        trainer.model_column = model_of(storage, experiment, trial.trial_id) or trainer.model_column
        trainer.records = recorded_groups(record_tokens, trial.checkpoint_every)
        self.trial = trial
        self.writer = TrialWriter(storage, experiment, trial.trial_id, run_id, repairs=repairs)
        self.checkpoints = CheckpointStore(storage, experiment, trial.trial_id)
        self._keep = keep_checkpoints
        self._may_publish = may_publish
        if trainer.config.ancestors:
            keep_beginning(storage, experiment, trainer, parent, may_publish)
        self.resumed_at = self.checkpoints.resume(trainer, self.writer.boundaries())
        self._tensorboard = TensorBoardWriter(
            storage,
            f"tensorboard/{experiment}/{trial.trial_id}",
            hyperparameters(trial),
            listed_hyperparameters(),
        )
        self._windows = RunningWindows()
        list(self._windows.add(self.stored_texts(RunningWindows.first(trainer.generation))))
        self._background = Background()
        self._edges = self.writer.edges
        self._saved: int | None = trainer.generation if self.resumed_at else None
        self._saved_as_end = False
        self._publish_every = publish_every
        self._published_at = time.monotonic()
        self._order = threading.RLock()  # of adding a step and of publishing: `finish_now` comes from another thread
        self._final: TrainerState | None = None
        self._closed = False
        self.generations = trainer.generation
        """Texts that are there: of the steps that are kept."""
        self.published_generations = trainer.generation
        """Texts that are in the storage for good, with the checkpoint that covers them."""
        self.parts_written = 0
        self.checkpoints_written = 0

    @property
    def done(self) -> bool:
        """Whether all of the trial's texts are there."""
        return self.generations >= self.trial.max_generations

    @property
    def over(self) -> bool:
        """Whether the run was ended by `finish_now`."""
        return self._final is not None

    @property
    def at_boundary(self) -> bool:
        """Whether a part ends here: multiples of the interval that the first event fixed, edges of parts there are."""
        return self.generations % self.trial.checkpoint_every == 0 or self.generations in self._edges

    @property
    def diverged_at(self) -> int | None:
        """First generation at which this run's rows differed from the ones stored before; None if none did."""
        return self.writer.diverged_at

    def step(self) -> Step | None:
        """One group: sampled, scored, learnt from; published if it fills a part, is due, or ends the trial.

        Returns:
            What it left; None if the run was ended meanwhile: then it is not kept.

        Raises:
            Refused: an earlier part could not be written; this step is kept.
            Failure: of the trainer; or another driver has taken over.
        """
        step = self.trainer.step()
        with self._order:
            if self.over:
                return None
            self.generations = self.trainer.generation
            due = time.monotonic() - self._published_at >= self._publish_every
            try:
                self._background.add(
                    partial(self.writer.add, step.texts, step.update),
                    partial(self._draw, step),
                )
                if self.done or self.at_boundary or due:
                    self.publish(end=self.done)
            except Unavailable as failure:
                raise Refused(str(failure), step) from failure
        return step

    def stored_texts(self, first: int = 0) -> Iterator[Row]:
        """Rows of the texts from generation `first` on, before the one that the run goes on with."""
        paths = part_paths(self.writer.storage, "generations", self.writer.experiment, self.writer.trial_id)
        there = {part_number(path): path for path in paths if part_number(path) < self.trainer.generation}
        for number, end in zip(there, [*there, self.trainer.generation][1:], strict=True):
            if end > first:
                rows = read_part(self.writer.storage, there[number])
                yield from (row for row in rows if row["generation"] >= first)

    def publish(self, *, end: bool) -> None:
        """Write what has been added as a part, then the checkpoint that covers it; wait for it at an `end`.

        What failed before is tried again first. Within a part that is there already, and is being computed again,
        nothing is written: its rows are safe, and it ends where it ended.

        Raises:
            Failure: the storage refused, or another driver has taken over.
        """
        with self._order:
            self._background.retry()
            self._background.finish()  # no more than an interval's rows and one checkpoint wait in memory
            self._published_at = time.monotonic()
            if self.writer.holds(self.generations) and not self.done:
                return
            if self._saved != self.generations or (end and not self._saved_as_end):
                self._saved, self._saved_as_end = self.generations, end
                state = self._final or self.trainer.state()
                self._background.add(partial(self._publish, self.generations, state, end, self.done))
            if end:
                self._background.finish()

    def finish_now(self) -> None:
        """Publish the steps that are finished and end the run, without waiting for the one in hand: it is not kept.

        For another thread than the one that steps. To be called again if the storage refused.

        Raises:
            Failure: the storage refused, or another driver has taken over.
        """
        while True:
            with self._order:
                if self._closed:
                    return
                state = self._final or self.trainer.state()
                if state.generation == self.generations:
                    self._final = state
                    self.publish(end=True)
                    return
            time.sleep(0.01)  # a step has just ended, and is about to be added

    def close(self) -> None:
        """End the threads; what was not published is not kept."""
        with self._order:
            self._closed = True
            self._background.close()
        self._tensorboard.close()

    def _draw(self, step: Step) -> None:
        windows = list(self._windows.add(step.texts))
        self._tensorboard.add(step.texts, step.update, step.logged, windows)

    def _publish(self, generation: int, state: TrainerState, end: bool, done: bool) -> None:
        self._may_publish()
        self.parts_written += bool(self.writer.pending)
        self.writer.write_part(before_removal=self._forget_checkpoints_after)
        if self.writer.unproven:
            stored = self.checkpoints.same_weights(generation, state)
            if stored is False:
                raise Failure(
                    f"generation {generation}: what was lost before it cannot be restored here, as this machine comes "
                    "to other weights than those that were stored; run the same command on the kind of machine that "
                    "wrote them, or with --recompute to replace them"
                )
            if stored is None and not done:
                return  # a later part or checkpoint will tell
            self.writer.store_unproven()
        self._tensorboard.publish()
        self._may_publish()
        self.checkpoints.save(state, generation, end=end)
        self.published_generations = generation
        self.checkpoints_written += 1
        self.checkpoints.prune(self._keep)

    def _forget_checkpoints_after(self, generation: int) -> None:
        """Rows from `generation` on are about to be replaced: later states belong to the rows that go."""
        for later in self.checkpoints.generations():
            if later > generation:
                self.checkpoints.delete(later)


def hyperparameters(trial: PlannedTrial) -> dict[str, Any]:
    """What is listed beside a trial: its model, and of every other setting the value, or words for it."""
    found: dict[str, Any] = {}
    for name, declared in SETTINGS.items():
        value = getattr(trial.config, name)
        if declared.kind != MODEL and value != declared.left_out_at:
            shown = value if isinstance(value, int | float) else declared.words(value)
            found[_LISTED_AS.get(name, name)] = shown
    return found | {"model": trial.model}


def listed_hyperparameters() -> dict[str, type]:
    """All that `hyperparameters` may have, with their types, in its order."""
    types = {field.name: str(field.type) for field in dataclasses.fields(TrialConfig)}
    found: dict[str, type] = {
        _LISTED_AS.get(name, name): float if types[name].startswith(("int", "float")) else str
        for name, declared in SETTINGS.items()
        if declared.kind != MODEL
    }
    return found | {"model": str}


_LISTED_AS = {"reward": "reward_function"}
