"""Algorithms: from a group's rewards to its advantages, each with a loss, and their registry."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rl_alliteration.errors import UserError
from rl_alliteration.identifiers import check_name

if TYPE_CHECKING:  # it needs torch, of which those who read results know nothing
    from rl_alliteration.rl.objective import Loss

Rewards = NDArray[np.float64]
AdvantageFunction = Callable[..., Rewards]


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """A named way to turn a group's rewards into an update: its advantages, and the loss that they go into."""

    name: str
    function: AdvantageFunction
    group_size: int
    """The default number of texts per update."""
    least_group_size: int = 1
    memory: int = 0
    """How many of the trial's latest rewards before the group the function takes as its second argument."""
    version: int = 1
    """Part of a trial's identity: raise it when the updates change."""
    loss: Loss | None = None
    """What a step of plain SGD is taken on, see `objective.Loss`; None: the study's, `objective.policy_gradient`."""

    def advantages(self, rewards: Rewards, recent: Sequence[float] = ()) -> Rewards:
        """Advantages of a group, (group,) → (group,); `recent` is what `remember` gave after the group before."""
        return self.function(rewards, np.array(recent, dtype=np.float64)) if self.memory else self.function(rewards)

    def remember(self, recent: Sequence[float], rewards: Rewards) -> list[float]:
        """What the next group's `recent` is: nothing, or the latest `memory` rewards, oldest first."""
        return [*recent, *rewards.tolist()][-self.memory :] if self.memory else []


ALGORITHMS: dict[str, Algorithm] = {}


def algorithm(name: str, *, group_size: int, **more: Any) -> Callable[[AdvantageFunction], AdvantageFunction]:
    """Register the decorated function as `--algorithm name`. `more`: other fields of `Algorithm`.

    Raises:
        UserError: the name is not one that can be part of a path, or the version is no whole number.
    """
    check_name(name)
    version = more.get("version", 1)
    if not isinstance(version, int) or version < 1:
        raise UserError(f"--algorithm: the version of {name!r} is {version!r}; give a whole number, 1 or more")

    def register(function: AdvantageFunction) -> AdvantageFunction:
        ALGORITHMS[name] = Algorithm(name, function, group_size, **more)
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


def known_algorithm(name: str, version: int) -> Algorithm | None:
    """The algorithm of a stored trial, if it is registered here at that version."""
    found = ALGORITHMS.get(name)
    return found if found is not None and found.version == version else None


@algorithm("reinforce", group_size=1)
def reinforce(rewards: Rewards) -> Rewards:
    """The rewards themselves, (group,) → (group,): no baseline (study: "The REINFORCE algorithm")."""
    return rewards.copy()


@algorithm("reinforce_baseline", group_size=1, memory=10)
def reinforce_baseline(rewards: Rewards, recent: Rewards) -> Rewards:
    """The rewards minus the mean of the trial's latest 10 before them, (group,), (≤ 10,) → (group,).

    The study's "using recent rewards as a baseline", with REINFORCE's one text an update; as many as RLOO compares.
    The first group has nothing to be compared with: its advantages are 0. A reinforcement baseline: Williams,
    "Simple statistical gradient-following algorithms", 1992, section 4; a moving average: arXiv 2402.14740, section 2.

    >>> reinforce_baseline(np.array([7.0]), np.array([1.0, 2.0, 6.0]))
    array([4.])
    """
    return rewards - recent.mean() if len(recent) else np.zeros_like(rewards)


@algorithm("rloo", group_size=10, least_group_size=2)
def rloo(rewards: Rewards) -> Rewards:
    """Each reward minus the mean of the *other* members' rewards, (group,) → (group,).

    REINFORCE-Leave-One-Out: Ahmadian et al., arXiv 2402.14740, section 2; study: "The RLOO algorithm".

    >>> rloo(np.array([1.0, 2.0, 6.0]))
    array([-3. , -1.5,  4.5])
    """
    others: Rewards = (rewards.sum() - rewards) / (len(rewards) - 1)
    return rewards - others


@algorithm("grpo", group_size=10, least_group_size=2)
def grpo(rewards: Rewards) -> Rewards:
    """How many standard deviations each reward lies above the group's mean, (group,) → (group,).

    Group Relative Policy Optimization: Shao et al., arXiv 2402.03300, section 4.1.2 (outcome supervision). As in its
    usual implementations the deviation is the sample's (n − 1), and 1e-4 keeps a group of equal rewards at 0. With one
    step a group, the paper's ratio is 1 and nothing is clipped: its surrogate's gradient is this project's update.

    >>> grpo(np.array([1.0, 2.0, 3.0])).round(3)
    array([-1.,  0.,  1.])
    """
    centred = dr_grpo(rewards)
    scaled: Rewards = centred / (rewards.std(ddof=1) + 1e-4)
    return scaled


@algorithm("dr_grpo", group_size=10, least_group_size=2)
def dr_grpo(rewards: Rewards) -> Rewards:
    """Each reward minus the group's mean, its own included, (group,) → (group,): GRPO without its normalisation.

    "GRPO done right": Liu et al., arXiv 2503.20783, section 3.2. It is RLOO times (group − 1) / group.

    >>> dr_grpo(np.array([1.0, 2.0, 6.0]))
    array([-2., -1.,  3.])
    """
    centred: Rewards = rewards - rewards.mean()
    return centred
