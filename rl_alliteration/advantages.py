"""Algorithms: pure functions from a group's rewards to its advantages, and their registry."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from rl_alliteration.config import check_name
from rl_alliteration.errors import UserError

Rewards = NDArray[np.float64]
AdvantageFunction = Callable[[Rewards], Rewards]


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """A named way to turn rewards into advantages, with the group sizes it can use."""

    name: str
    advantages: AdvantageFunction
    group_size: int
    """The default number of texts per update."""
    least_group_size: int = 1


ALGORITHMS: dict[str, Algorithm] = {}


def algorithm(
    name: str, *, group_size: int, least_group_size: int = 1
) -> Callable[[AdvantageFunction], AdvantageFunction]:
    """Register the decorated function as `--algorithm name`.

    Raises:
        UserError: the name is not one that can be part of a path.
    """
    check_name(name)

    def register(function: AdvantageFunction) -> AdvantageFunction:
        ALGORITHMS[name] = Algorithm(name, function, group_size, least_group_size)
        return function

    return register


def get_algorithm(name: str) -> Algorithm:
    """The registered algorithm of that name.

    Raises:
        UserError: there is none.
    """
    if name not in ALGORITHMS:
        raise UserError(f"--algorithm: {name!r} is unknown; choose from {', '.join(sorted(ALGORITHMS))}")
    return ALGORITHMS[name]


@algorithm("reinforce", group_size=1)
def reinforce(rewards: Rewards) -> Rewards:
    """The rewards themselves, (group,) → (group,): no baseline (study: "The REINFORCE algorithm")."""
    return rewards.copy()


@algorithm("rloo", group_size=10, least_group_size=2)
def rloo(rewards: Rewards) -> Rewards:
    """Each reward minus the mean of the *other* members' rewards, (group,) → (group,).

    REINFORCE-Leave-One-Out: Ahmadian et al., arXiv 2402.14740, section 2; study: "The RLOO algorithm".

    >>> rloo(np.array([1.0, 2.0, 6.0]))
    array([-3. , -1.5,  4.5])
    """
    others = (rewards.sum() - rewards) / (len(rewards) - 1)
    return rewards - others
