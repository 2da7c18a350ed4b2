"""What a fork begins with: the model of another trial after so many texts, as its own checkpoint at generation 0."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import safetensors.torch
import torch
from torch import Tensor

from rl_alliteration.errors import Failure, UserError
from rl_alliteration.foreign import Damaged
from rl_alliteration.results.forks import forks_of
from rl_alliteration.results.integrity import WEIGHTS, checkpoint_problem, read_checkpoint
from rl_alliteration.results.storage import Storage
from rl_alliteration.rl.trainer import Trainer
from rl_alliteration.trial.checkpoints import CheckpointStore
from rl_alliteration.trial.replay import open_trial, replay

log = logging.getLogger(__name__)


def keep_beginning(
    storage: Storage, experiment: str, trainer: Trainer, parent: str | None, may_publish: Callable[[], None]
) -> None:
    """See to it that a fork has the checkpoint that it begins with: from another fork of the same model, or its parent.

    Of its parent it has the weights alone: what the optimizer keeps, recent rewards, a controlled coefficient and the
    schedule begin anew.

    Args:
        storage: of both.
        experiment: the fork's.
        trainer: the fork's, at generation 0.
        parent: the experiment of its parent; None: it is not to be asked.
        may_publish: asked before anything is written.

    Raises:
        Failure: it has none, and the model that it would be made of is gone or cannot be computed here.
    """
    config = trainer.config
    store = CheckpointStore(storage, experiment, config.trial_id)
    there = store.generations()
    last = there == [0]
    if 0 in there and checkpoint_problem(storage, experiment, config.trial_id, 0, with_weights=last) is None:
        return
    try:
        weights, described = _beginning(storage, trainer, parent)
    except Failure as failure:
        if any(there):
            log.warning("%s: %s; it goes on from a later checkpoint", config.trial_id, failure)
            return
        raise
    trainer.load_state(dict(weights), 0, {})
    may_publish()
    store.save(trainer.state(), 0, end=True, parent=described)


def _beginning(storage: Storage, trainer: Trainer, parent: str | None) -> tuple[Mapping[str, Tensor], str]:
    """The weights that a fork begins with, and its parent's configuration."""
    config = trainer.config
    for place in forks_of(storage, config.ancestors):
        try:
            state, files = read_checkpoint(storage, *place, 0)
        except Damaged:
            continue
        return safetensors.torch.load(files[WEIGHTS]), state.parent
    trial_id, _, generation = config.ancestors[-1].rpartition("@")
    threads = torch.get_num_threads()
    try:
        if parent is None:
            raise UserError(f"no trial {trial_id} is at hand")
        trial = open_trial(storage, parent, trial_id, loaded=None if trainer.loaded.spent else trainer.loaded)
        found = replay(trial, int(generation), log.info, trainer)
    except UserError as error:
        raise Failure(
            f"the model of {trial_id} after {int(generation):,} texts cannot be had ({error}), and no other fork of it "
            "is there"
        ) from error
    finally:
        torch.set_num_threads(threads)
    return found.state().weights, trial.config.to_json()
