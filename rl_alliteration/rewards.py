"""Rewards: pure functions from a text to a number, and their registry."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

from rl_alliteration.config import check_name
from rl_alliteration.errors import UserError

RewardFunction = Callable[[str], float]


@dataclasses.dataclass(frozen=True)
class Reward:
    """A named reward. `version` is part of a trial's identity: raise it when the numbers change."""

    name: str
    function: RewardFunction
    version: int = 1

    def __call__(self, text: str) -> float:
        return self.function(text)


REWARDS: dict[str, Reward] = {}


def reward(name: str, version: int = 1) -> Callable[[RewardFunction], RewardFunction]:
    """Register the decorated function as `--reward name`.

    Raises:
        UserError: the name is not one that can be part of a path.
    """
    check_name(name)

    def register(function: RewardFunction) -> RewardFunction:
        REWARDS[name] = Reward(name, function, version)
        return function

    return register


def get_reward(name: str) -> Reward:
    """The registered reward of that name.

    Raises:
        UserError: there is none.
    """
    if name not in REWARDS:
        raise UserError(f"--reward: {name!r} is unknown; choose one of {', '.join(sorted(REWARDS))}")
    return REWARDS[name]


@reward("alliteration")
def alliteration(text: str) -> float:
    """Number of adjacent words that begin with the same character (study: "Note on definitions").

    Words are separated by whitespace; first characters are compared case folded.

    >>> alliteration('Fluff. Fluff hopped to the tree? "The')
    3.0
    """
    initials = [word[0].casefold() for word in text.split()]
    return float(sum(first == second for first, second in itertools.pairwise(initials)))


@reward("a_words")
def a_words(text: str) -> float:
    """Number of words that begin with "a" or "A" (study: "REINFORCE vs RLOO").

    >>> a_words("An apple and the Ant")
    4.0
    """
    return float(sum(word[0] in "aA" for word in text.split()))
