"""Save and load a trainer's whole state. Nothing is ever unpickled: safetensors and JSON only.

A checkpoint is a folder: the weights first, `state.json` with their checksum last. Without a valid `state.json`
it is not there, so a kill at any moment leaves either a whole checkpoint or none.
"""

from __future__ import annotations

import hashlib
import json
import logging
from typing import Any

import safetensors.torch

from rl_alliteration.results.storage import Storage
from rl_alliteration.trainer import Trainer, TrainerState

log = logging.getLogger(__name__)

_WEIGHTS = "weights.safetensors"
_STATE = "state.json"


class Torn(Exception):
    """A checkpoint is not whole, or belongs to another trial."""


class CheckpointStore:
    """The checkpoints of one trial."""

    def __init__(self, storage: Storage, experiment: str, trial_id: str) -> None:
        self._storage = storage
        self._trial_id = trial_id
        self._folder = f"checkpoints/{experiment}/{trial_id}"

    def generations(self) -> list[int]:
        """Generations that have a checkpoint, ascending; whether it is whole shows when it is loaded."""
        return sorted(
            int(path.split("/")[-2].removeprefix("generation-"))
            for path in self._storage.list(self._folder)
            if path.endswith(f"/{_STATE}")
        )

    def save(self, state: TrainerState, generation: int, *, end: bool) -> None:
        """Save a trainer's state after `generation` texts. `end`: at a run's end, so that it is never pruned."""
        folder = self._path(generation)
        weights = safetensors.torch.save(state.weights)
        self._storage.put(f"{folder}/{_WEIGHTS}", weights)
        record = {
            "trial_id": self._trial_id,
            "generation": generation,
            "end": end,
            "sha256": {_WEIGHTS: hashlib.sha256(weights).hexdigest()},
            **state.counters,
        }
        self._storage.put(f"{folder}/{_STATE}", json.dumps(record, indent=1).encode())

    def load(self, generation: int, trainer: Trainer) -> None:
        """Put the trainer into the state after `generation` texts.

        Raises:
            Torn: the checkpoint is not there, not whole, or another trial's.
        """
        folder = self._path(generation)
        try:
            record = json.loads(self._storage.get(f"{folder}/{_STATE}"))
            weights = self._storage.get(f"{folder}/{_WEIGHTS}")
            whole = hashlib.sha256(weights).hexdigest() == record["sha256"][_WEIGHTS]
            if not whole or (record["trial_id"], record["generation"]) != (self._trial_id, generation):
                raise Torn(f"{folder} is torn")
            tensors = safetensors.torch.load(weights)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Torn(f"{folder} is torn: {error}") from error
        trainer.load_state(tensors, generation, record)

    def resume(self, trainer: Trainer, allowed: set[int]) -> int:
        """Load the newest whole checkpoint among the `allowed` generations; 0, the model itself, if there is none.

        Returns:
            The generation to go on from.
        """
        for generation in sorted(allowed.intersection(self.generations()), reverse=True):
            try:
                self.load(generation, trainer)
                return generation
            except Torn as torn:
                log.warning("%s: %s; using the one before it", self._trial_id, torn)
        return 0

    def exists(self, generation: int) -> bool:
        """Whether there is a checkpoint at `generation`."""
        return self._storage.exists(f"{self._path(generation)}/{_STATE}")

    def prune(self, keep: int | None) -> None:
        """Delete all but the newest `keep` and those of a run's end; None keeps all."""
        if keep is None:
            return
        for generation in self.generations()[: -keep or None]:
            if not self._is_end(generation):
                self.delete(generation)

    def delete(self, generation: int) -> None:
        """Delete one: its state first, so that it is gone at once."""
        for name in (_STATE, _WEIGHTS):
            self._storage.delete(f"{self._path(generation)}/{name}")

    def _is_end(self, generation: int) -> bool:
        try:
            record: dict[str, Any] = json.loads(self._storage.get(f"{self._path(generation)}/{_STATE}"))
        except (OSError, ValueError):
            return False
        return bool(record.get("end"))

    def _path(self, generation: int) -> str:
        return f"{self._folder}/generation-{generation:08d}"
