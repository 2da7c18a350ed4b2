"""Save and load a trainer's whole state. Nothing is ever unpickled: safetensors and JSON only.

A checkpoint is a folder: the weights and what the optimizer keeps first, `state.json` with their checksums last.
Without a valid `state.json` it is not there, so a kill at any moment leaves either a whole checkpoint or none.
"""

from __future__ import annotations

import hashlib
import logging

import safetensors.torch

from rl_alliteration.errors import Failure
from rl_alliteration.foreign import Damaged, encode_record, read_record
from rl_alliteration.results.integrity import (
    OPTIMIZER,
    STATE,
    WEIGHTS,
    checkpoint_folder,
    checkpoint_generations,
    read_checkpoint,
)
from rl_alliteration.results.records import CheckpointState
from rl_alliteration.results.storage import Storage
from rl_alliteration.rl.trainer import Trainer, TrainerState

log = logging.getLogger(__name__)


class Torn(Failure):
    """A checkpoint is not whole, or belongs to another trial."""


class CheckpointStore:
    """The checkpoints of one trial."""

    def __init__(self, storage: Storage, experiment: str, trial_id: str) -> None:
        self._storage = storage
        self._experiment = experiment
        self._trial_id = trial_id

    def generations(self) -> list[int]:
        """Generations that have a checkpoint, ascending; whether it is whole shows when it is loaded."""
        return checkpoint_generations(self._storage, self._experiment, self._trial_id)

    def save(self, state: TrainerState, generation: int, *, end: bool, parent: str = "") -> None:
        """Save a trainer's state after `generation` texts.

        Args:
            state: the trainer's.
            generation: texts before it.
            end: at a run's end, or of a fork's beginning: it is never pruned.
            parent: of a fork's beginning the parent's configuration.
        """
        folder = self._path(generation)
        files = {WEIGHTS: safetensors.torch.save(state.weights)}
        if state.optimizer:
            files[OPTIMIZER] = safetensors.torch.save(state.optimizer)
        for name, data in files.items():
            self._storage.put(f"{folder}/{name}", data)
        record = CheckpointState(
            trial_id=self._trial_id,
            generation=generation,
            end=end,
            sha256={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
            parent=parent,
            **state.counters,
        )
        self._storage.put(f"{folder}/{STATE}", encode_record(record))

    def load(self, generation: int, trainer: Trainer) -> None:
        """Put the trainer into the state after `generation` texts.

        Raises:
            Torn: the checkpoint is not there, not whole, or another trial's.
            Failure: the storage cannot be read.
        """
        try:
            state, files = read_checkpoint(self._storage, self._experiment, self._trial_id, generation)
            tensors = {name: safetensors.torch.load(data) for name, data in files.items()}
            counters = {name: value for name, value in vars(state).items() if value is not None}
            trainer.load_state(tensors[WEIGHTS], generation, counters, tensors.get(OPTIMIZER))
        except Damaged as error:
            raise Torn(str(error)) from error
        except (ValueError, safetensors.SafetensorError) as error:
            raise Torn(f"{self._path(generation)} is torn: {error}") from error

    def same_weights(self, generation: int, state: TrainerState) -> bool | None:
        """Whether the checkpoint at `generation` has the weights of `state`; None if there is none, or no weights."""
        try:
            stored, _ = read_checkpoint(self._storage, self._experiment, self._trial_id, generation)
        except Damaged:
            return None
        if not state.weights:
            return None
        return stored.sha256[WEIGHTS] == hashlib.sha256(safetensors.torch.save(state.weights)).hexdigest()

    def resume(self, trainer: Trainer, allowed: set[int]) -> int:
        """Load the newest whole checkpoint among the `allowed` generations; 0, the model itself, if there is none.

        Returns:
            The generation to go on from.

        Raises:
            Torn: a fork has none.
        """
        for generation in sorted(allowed.intersection(self.generations()), reverse=True):
            try:
                self.load(generation, trainer)
                return generation
            except Torn as torn:
                log.warning("%s: %s; using the one before it", self._trial_id, torn)
        if trainer.config.ancestors:
            raise Torn(
                f"{self._path(0)}, the model that {self._trial_id} begins with, is gone or torn; the command that "
                "began it makes it again, as long as its parent or another fork of the same model is there"
            )
        return 0

    def exists(self, generation: int) -> bool:
        """Whether there is a checkpoint at `generation`."""
        return self._storage.exists(f"{self._path(generation)}/{STATE}")

    def prune(self, keep: int | None) -> None:
        """Delete all but the newest `keep` and those of a run's end; None keeps all."""
        if keep is None:
            return
        for generation in self.generations()[: -keep or None]:
            if not self._is_end(generation):
                self.delete(generation)

    def delete(self, generation: int) -> None:
        """Delete one: its state first, so that it is gone at once."""
        for name in (STATE, WEIGHTS, OPTIMIZER):
            self._storage.delete(f"{self._path(generation)}/{name}")

    def _is_end(self, generation: int) -> bool:
        path = f"{self._path(generation)}/{STATE}"
        try:
            return read_record(CheckpointState, self._storage.get(path), path).end
        except (FileNotFoundError, Damaged):
            return False

    def _path(self, generation: int) -> str:
        return checkpoint_folder(self._experiment, self._trial_id, generation)
