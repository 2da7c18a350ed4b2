"""The token record: what is kept of each sampled token of some groups, and where their rewards come from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rl_alliteration.flags import ALL_GROUPS, FIRST_GROUP
from rl_alliteration.lm.sampling import Rollout
from rl_alliteration.rl.measures import unpadded
from rl_alliteration.rl.parts import Part, token_rewards, token_starts
from rl_alliteration.rl.rewards import Reward
from rl_alliteration.rl.undisturbed import undisturbed
from rl_alliteration.rl.user_errors import told
from rl_alliteration.rows import TokenRecord

log = logging.getLogger(__name__)

Array = NDArray[np.float64]


def recorded_groups(which: str, every: int) -> Callable[[int], bool]:
    """Whether the group that begins with a generation is recorded: a function of its place, whatever was resumed.

    Args:
        which: one of `flags.RECORDED`. The first group is that of each checkpoint interval: of a part that begins
            within one, for a run had ended there or it was time to publish, none is.
        every: generations of an interval.
    """
    if which == FIRST_GROUP:
        return lambda generation: generation % every == 0
    return lambda generation: which == ALL_GROUPS


def token_records(
    rollout: Rollout,
    numbers: tuple[Tensor, Tensor, Tensor],
    texts: Sequence[str],
    decode: Callable[[list[int]], str],
    reward: Reward,
    rewarded: Sequence[str],
    raw_rewards: Array,
) -> list[TokenRecord]:
    """The record of a group of B texts, T tokens the longest.

    Args:
        rollout: the group.
        numbers: log p, log q and entropies of each token but a text's first, (B, T − 1) each, nats.
        texts: B, prompts included.
        decode: token ids → text without special tokens.
        reward: whose parts are asked for.
        rewarded: B, what the reward is of.
        raw_rewards: (B,), its numbers.
    """
    first = rollout.prompt_length
    log_p, log_q, entropy = (values[:, first - 1 :].float().cpu().numpy() for values in numbers)
    found = []
    for place, ids in enumerate(unpadded(rollout)):
        sampled = slice(len(ids) - first)
        parts = _parts(reward, rewarded[place], float(raw_rewards[place]))
        found.append(
            TokenRecord(
                _nats(log_p[place, sampled]),
                _nats(log_q[place, sampled]),
                _nats(entropy[place, sampled]),
                token_starts(decode, ids, texts[place], first),
                np.array([value for value, _ in parts], dtype=np.float32).tolist(),
                [int(at) for _, at in parts],
            )
        )
    return found


def _parts(reward: Reward, text: str, number: float) -> Sequence[Part]:
    """A reward's parts; none where they are not its own: no update asks for them, so that nothing has to end."""
    try:
        with undisturbed():
            parts = list(reward.parts(text)) if reward.parts is not None else []
        if parts:
            token_rewards(number, parts, np.arange(1, len(text) + 2))
        return parts
    except (Exception, SystemExit) as error:
        log.warning("the parts of the reward %r were not recorded: %s", reward.name, told(error))
        return []


def _nats(values: NDArray[np.float32]) -> list[float]:
    """To 1 / 256 nat, in whole float32: more digits would be two thirds of what is stored."""
    rounded: list[float] = (np.round(values * 256) / 256).tolist()
    return rounded
