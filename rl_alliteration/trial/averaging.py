"""The mean of a trial's weights over its last checkpoints."""

from __future__ import annotations

import logging

import torch

from rl_alliteration.config import ORIGINAL
from rl_alliteration.errors import UserError
from rl_alliteration.rl.trainer import Trainer
from rl_alliteration.trial.checkpoints import Torn
from rl_alliteration.trial.replay import StoredTrial, checked_generation

log = logging.getLogger(__name__)


def averaged(trial: StoredTrial, generation: int | None, count: int) -> tuple[Trainer, list[int]]:
    """A trainer whose weights are the mean of those of the last `count` whole checkpoints up to a generation.

    The sum is taken in float64; the mean is stored in the weights' own type, float32.

    Args:
        trial: of `open_trial`.
        generation: after how many texts the last of them is at the latest; default: all.
        count: 2 or more.

    Returns:
        The trainer, whose generation is that of the last of the checkpoints, and their generations, ascending.

    Raises:
        UserError: there are fewer, or the trial has none.
    """
    if count < 2:
        raise UserError(f"--average: {count} is not accepted; give a number of checkpoints, 2 or more")
    if trial.config.algorithm == ORIGINAL:
        raise UserError(f"--average: {trial.trial_id} is not trained; leave it out")
    last = checked_generation(trial, generation)
    trainer = trial.trainer()
    total: dict[str, torch.Tensor] = {}
    taken: list[int] = []
    for kept in reversed([one for one in trial.checkpoints.generations() if one <= last]):
        if len(taken) == count:
            break
        try:
            trial.checkpoints.load(kept, trainer)
        except Torn as torn:
            log.warning("%s: %s; left out of the mean", trial.trial_id, torn)
            continue
        taken.insert(0, kept)
        for name, value in trainer.state().weights.items():
            total[name] = total.get(name, torch.zeros((), dtype=torch.float64)) + value.double()
    if len(taken) < count:
        has = f"{len(taken)} whole {'checkpoint' if len(taken) == 1 else 'checkpoints'} up to generation {last:,}"
        raise UserError(
            f"--average: {count} is not accepted, {trial.trial_id} has {has}; give fewer, or keep more with "
            "--keep-checkpoints of sweep"
        )
    mean = {name: value / count for name, value in total.items()}
    trainer.load_state(mean, taken[-1], {}, trainer.state().optimizer)  # which nobody uses: the mean learns no more
    return trainer, taken
