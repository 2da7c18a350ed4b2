"""One trial against a storage: resume, step, publish parts and checkpoints. No Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from rl_alliteration.background import Background
from rl_alliteration.checkpoints import CheckpointStore
from rl_alliteration.results.schema import part_number
from rl_alliteration.results.storage import Storage
from rl_alliteration.results.tensorboard import TensorBoardWriter
from rl_alliteration.results.writer import PlannedTrial, Row, TrialWriter, part_paths, read_part
from rl_alliteration.trainer import Step, Trainer, TrainerState


class TrialRun:
    """Runs a trainer from the newest checkpoint on, and keeps its rows, checkpoints and curves in step.

    The order of writing at a boundary is what makes a kill harmless: texts, then the checkpoint that covers them.
    Parts that lie beyond the checkpoint stay until each has been computed again. Writing goes on beside the next steps,
    on a thread of its own; a step waits only where an interval before has not been written yet.
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
        may_publish: Callable[[], None] = lambda: None,
    ) -> None:
        """`may_publish` is asked before anything is published; it raises if this run has been superseded."""
        may_publish()  # before a file of curves is opened: a superseded driver may still start trials
        self.trainer = trainer
        self.trial = trial
        self.writer = TrialWriter(storage, experiment, trial.trial_id, run_id)
        self.checkpoints = CheckpointStore(storage, experiment, trial.trial_id)
        self._keep = keep_checkpoints
        self._may_publish = may_publish
        self.resumed_at = self.checkpoints.resume(trainer, self.writer.boundaries())
        self._tensorboard = TensorBoardWriter(
            storage,
            f"tensorboard/{experiment}/{trial.trial_id}",
            hyperparameters(trial),
        )
        self._background = Background()
        self._edges = self.writer.edges
        self._saved: int | None = trainer.generation if self.resumed_at else None
        self._saved_as_end = False
        self.published_generations = trainer.generation
        """Texts that are in the storage for good, with the checkpoint that covers them."""
        self.parts_written = 0
        self.checkpoints_written = 0

    @property
    def done(self) -> bool:
        """Whether all of the trial's texts are there."""
        return self.trainer.generation >= self.trial.max_generations

    @property
    def at_boundary(self) -> bool:
        """Whether a part ends here: multiples of the interval that the first event fixed, edges of parts there are."""
        generation = self.trainer.generation
        return generation % self.trial.checkpoint_every == 0 or generation in self._edges

    @property
    def diverged_at(self) -> int | None:
        """First generation at which this run's rows differed from the ones stored before; None if none did."""
        return self.writer.diverged_at

    def step(self) -> Step:
        """One group: sampled, scored, learnt from; published if it fills a part or ends the trial.

        Raises:
            Failure: of the trainer; or the storage refused an earlier part, or another driver has taken over.
        """
        step = self.trainer.step()
        self._background.add(
            partial(self.writer.add, step.texts, step.update),
            partial(self._tensorboard.add, step.texts, step.update, step.logged),
        )
        if self.done or self.at_boundary:
            self.publish(end=self.done)
        return step

    def stored_texts(self) -> Iterator[Row]:
        """Rows of the texts before the one that the run goes on with."""
        for path in part_paths(self.writer.storage, "generations", self.writer.experiment, self.writer.trial_id):
            if part_number(path) < self.trainer.generation:
                yield from read_part(self.writer.storage, path)

    def publish(self, *, end: bool) -> None:
        """Write what has been added as a part, then the checkpoint that covers it; wait for it at an `end`.

        What failed before is tried again first.

        Raises:
            Failure: the storage refused, or another driver has taken over.
        """
        self._background.retry()
        self._background.finish()  # no more than an interval's rows and one checkpoint wait in memory
        generation = self.trainer.generation
        if self._saved != generation or (end and not self._saved_as_end):
            self._saved, self._saved_as_end = generation, end
            self._background.add(partial(self._publish, generation, self.trainer.state(), end))
        if end:
            self._background.finish()

    def close(self) -> None:
        """End the threads; what was not published is not kept."""
        self._background.close()
        self._tensorboard.close()

    def _publish(self, generation: int, state: TrainerState, end: bool) -> None:
        self._may_publish()
        self.parts_written += bool(self.writer.pending)
        self.writer.write_part(before_removal=self._forget_checkpoints_after)
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
    """What TensorBoard lists beside a trial."""
    config = trial.config
    return {
        "algorithm": config.algorithm,
        "beta": config.beta,
        **({} if config.target_kl is None else {"target_kl": config.target_kl}),
        "seed": config.seed,
        "group_size": config.group_size,
        "learning_rate": config.learning_rate,
        "reward_function": config.reward,
        "top_k": config.top_k,
        "model": trial.model,
    }
