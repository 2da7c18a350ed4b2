"""Rewards: pure functions from a text to a number, their registry, and weighted sums of them."""

from __future__ import annotations

import collections
import dataclasses
import functools
import importlib
import importlib.metadata
import itertools
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rl_alliteration import phonetics
from rl_alliteration.config import check_name
from rl_alliteration.errors import UserError

RewardFunction = Callable[..., float]

ENTRY_POINTS = "rl_alliteration.rewards"
"""The group in which an installed package names its rewards."""

PER_100_WORDS = "_per_100_words"
"""After the name of any reward: the same, times 100, divided by the text's number of words."""


@dataclasses.dataclass(frozen=True)
class Reward:
    """A named reward. `version` is part of a trial's identity: raise it when the numbers change."""

    name: str
    function: RewardFunction
    version: int = 1
    needs: tuple[str, ...] = ()
    """Names of the function's arguments after the text. A trial's `reward_parameters` hold their values."""
    logs: Mapping[str, Callable[[str], float]] = dataclasses.field(default_factory=dict)
    """What TensorBoard shows beside it, by name: the mean over a group of a function of the text."""
    check: Callable[[], None] = lambda: None
    """Called before a sweep; raises a `UserError` if something is not installed."""

    def __call__(self, text: str) -> float:
        return self.function(text)


REWARDS: dict[str, Reward] = {}


def reward(name: str, version: int = 1, **more: Any) -> Callable[[RewardFunction], RewardFunction]:
    """Register the decorated function as `--reward name`. `more`: other fields of `Reward`.

    Raises:
        UserError: the name is not one that can be part of a path.
    """
    check_name(name)

    def register(function: RewardFunction) -> RewardFunction:
        REWARDS[name] = Reward(name, function, version, **more)
        return function

    return register


def get_reward(expression: str, parameters: str = "") -> Reward:
    """The reward that an expression names: one reward, or a weighted sum of several.

    Its name is the expression's canonical form, so that "b + 2*a" and "2*a+b" are one. Its version is raised when
    that of any of its terms is.

    Args:
        expression: such as "alliteration", "alliteration + 0.5*rare_alliteration", "my_module:my_function".
        parameters: JSON of what the rewards need beside a text; without it the reward can be named, not called.

    Raises:
        UserError: it is malformed, or names a reward that there is not.
    """
    terms = parse(expression)
    rewards = {name: _lookup(name) for name in terms}
    for term in rewards.values():
        term.check()
    functions = {name: _bound(term, parameters) for name, term in rewards.items()}
    if list(terms.values()) == [1.0]:
        ((name, term),) = rewards.items()
        return dataclasses.replace(term, name=name, function=functions[name])

    def weighted_sum(text: str) -> float:
        return sum(weight * functions[name](text) for name, weight in terms.items())

    return Reward(
        canonical(terms),
        weighted_sum,
        1 + sum(term.version - 1 for term in rewards.values()),  # versions only rise, and so does this
        needs=tuple(dict.fromkeys(need for term in rewards.values() for need in term.needs)),
        logs={label: log for term in rewards.values() for label, log in term.logs.items()},
    )


def known_reward(expression: str, version: int, parameters: str = "") -> Reward | None:
    """The reward of a stored trial, if it is known here at that version.

    Results may come from someone else: a module is not imported because they name it.
    """
    try:
        modules = {name.split(":")[0] for name in parse(expression) if ":" in name}
        found = get_reward(expression, parameters) if modules <= sys.modules.keys() else None
    except UserError:
        return None
    return found if found is not None and found.version == version else None


# --- expressions -----------------------------------------------------------------------------------------

_TERM = re.compile(
    r"""\s* (?P<sign>[+-])? \s*
    (?: (?P<weight> (?:\d+\.?\d*|\.\d+) (?:[eE][+-]?\d+)?) \s* \* \s* )?
    (?P<name> [A-Za-z_][\w.]* (?: : [A-Za-z_][\w.]* )? ) \s*""",
    re.VERBOSE | re.ASCII,
)


def parse(expression: str) -> dict[str, float]:
    """Weights by name, sorted by name, of a sum such as "alliteration + 0.5*rare_alliteration".

    sum = ["+" | "-"] term {("+" | "-") term};  term = [number "*"] name;  name = NAME | MODULE ":" FUNCTION

    >>> parse("a_words - 2*alliteration + a_words")
    {'a_words': 2.0, 'alliteration': -2.0}

    Raises:
        UserError: it is malformed, a weight is not finite, or nothing is left of it.
    """
    weights: dict[str, float] = collections.defaultdict(float)
    position = 0
    while position < len(expression) or not weights:
        match = _TERM.match(expression, position)
        if match is None or not (match["sign"] or position == 0):
            raise UserError(
                f"--reward: {_shown(expression)} is malformed at {_shown(expression[position:])}; give rewards with + "
                "or - between them, each with a number and * before it or without, such as "
                "'alliteration + 0.5*rare_alliteration'"
            )
        weights[match["name"]] += float(f"{match['sign'] or ''}{match['weight'] or 1}")
        position = match.end()
    if not all(map(math.isfinite, weights.values())):
        raise UserError(f"--reward: {_shown(expression)} has a weight that is not finite; give smaller ones")
    left = {name: weights[name] for name in sorted(weights) if weights[name]}
    if not left:
        raise UserError(f"--reward: {_shown(expression)} is 0 for every text; give a weight other than 0")
    return left


def canonical(weights: Mapping[str, float]) -> str:
    """The one spelling of a sum.

    >>> canonical({"a_words": 2.0, "alliteration": -1.0, "mine:short": 0.5})
    '2*a_words - alliteration + 0.5*mine:short'
    """
    words: list[str] = []
    for name, weight in weights.items():
        number = repr(abs(weight)).removesuffix(".0")
        words += ["-" if weight < 0 else "+", name if number == "1" else f"{number}*{name}"]
    return " ".join(words[1:] if words[0] == "+" else [f"-{words[1]}", *words[2:]])


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:79] + "…")


def _bound(term: Reward, parameters: str) -> RewardFunction:
    """The term's function of a text alone."""
    if not term.needs or not parameters:
        return term.function
    values = json.loads(parameters)
    return functools.partial(term.function, **{need: values[need] for need in term.needs})


def _lookup(name: str) -> Reward:
    if name in REWARDS:
        return REWARDS[name]
    if ":" in name:
        return _imported(name)
    installed = {point.name: point for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    if name in installed:
        return dataclasses.replace(_imported(installed[name].value), name=name)
    base = name.removesuffix(PER_100_WORDS)
    if base != name and (base in REWARDS or base in installed):
        term = _lookup(base)
        return dataclasses.replace(term, name=name, function=functools.partial(_per_100_words, term.function))
    known = ", ".join(sorted({*REWARDS, *installed}))
    raise UserError(
        f"--reward: {_shown(name)} is unknown; choose one of {known} (or one of these with {PER_100_WORDS} after it, "
        "or MODULE:FUNCTION of your own)"
    )


def _imported(name: str) -> Reward:
    """The function of `module:function`; its attribute `version`, if it has one, is the reward's."""
    module_name, _, path = name.partition(":")
    if os.getcwd() not in sys.path:  # as `python -m` does
        sys.path.insert(0, os.getcwd())
    try:
        function: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a module of the user's raises what it likes
        raise UserError(
            f"--reward: the module of {name!r} could not be imported ({type(error).__name__}: {error})"
        ) from error
    for attribute in path.split("."):
        function = getattr(function, attribute, None)
    if not callable(function):
        raise UserError(f"--reward: {name!r} is no function; give MODULE:FUNCTION, a function from a text to a number")
    version = getattr(function, "version", 1)
    if not isinstance(version, int) or version < 1:
        raise UserError(f"--reward: the version of {name!r} is {_shown(str(version))}; give a whole number, 1 or more")
    return Reward(name, function, version)


# --- the rewards -----------------------------------------------------------------------------------------


@reward("alliteration")
def alliteration(text: str) -> float:
    """Number of adjacent words that begin with the same character (study: "Note on definitions").

    Words are separated by whitespace; first characters are compared case folded.

    >>> alliteration('Fluff. Fluff hopped to the tree? "The')
    3.0
    """
    return float(sum(1 for _ in alliterating_initials(text)))


@reward("rare_alliteration", needs=("rarity",))
def rare_alliteration(text: str, rarity: Mapping[str, float]) -> float:
    """Adjacent words that begin with the same letter, each pair weighted by how rare that initial is.

    Args:
        text: as in `alliteration`; pairs that begin with a digit or a quotation mark count nothing.
        rarity: weight by letter, and by "" for letters that it does not list; see `initial_rarity`.

    >>> rare_alliteration("the tall tree saw a zany zebra", {"t": 1.0, "": 3.5})
    5.5
    """
    return float(sum(rarity.get(i, rarity[""]) for i in alliterating_initials(text) if i.isalpha()))


@reward("phonetic_alliteration", check=phonetics.check_installed, logs={"unknown_words": phonetics.unknown_words})
def phonetic_alliteration(text: str) -> float:
    """Number of adjacent words that begin with the same consonant sound, by CMUdict.

    A word that begins with a vowel sound alliterates with none.

    >>> phonetic_alliteration("A new knight at night: phone fish, city cat, an hour, an apple")
    2.0
    """
    sounds = [phonetics.initial_sound(word) for word in text.split()]
    return float(sum(first == second is not None for first, second in itertools.pairwise(sounds)))


@reward("a_words")
def a_words(text: str) -> float:
    """Number of words that begin with "a" or "A" (study: "REINFORCE vs RLOO").

    >>> a_words("An apple and the Ant")
    4.0
    """
    return float(sum(word[0] in "aA" for word in text.split()))


def alliterating_initials(text: str) -> Iterable[str]:
    """The common first character, case folded, of each two adjacent words that share it."""
    initials = [word[0].casefold() for word in text.split()]
    return (first for first, second in itertools.pairwise(initials) if first == second)


def initial_rarity(texts: Iterable[str]) -> dict[str, float]:
    """How rare each letter is as an initial: its surprisal, −log of its share, over that of the commonest one.

    The commonest initial counts 1; "" stands for letters that begin no word of the texts, and counts as one that
    begins a single word. Three decimals.

    >>> initial_rarity(["the tall tree to a zoo " * 10])
    {'': 9.742, 'a': 4.285, 't': 1.0, 'z': 4.285}
    """
    initials = (word[0].casefold() for text in texts for word in text.split())
    counts = collections.Counter(initial for initial in initials if initial.isalpha())
    total = counts.total() + 1
    least = math.log(total / max(counts.values(), default=1))
    shares = {"": 1, **dict(sorted(counts.items()))}
    return {letter: round(math.log(total / count) / least, 3) if least else 1.0 for letter, count in shares.items()}


def _per_100_words(function: RewardFunction, text: str, **needed: Any) -> float:
    return 100 * function(text, **needed) / max(len(text.split()), 1)
