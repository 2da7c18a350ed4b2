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
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from rl_alliteration.errors import UserError
from rl_alliteration.identifiers import check_name
from rl_alliteration.rl import parts as parts_of
from rl_alliteration.rl import phonetics
from rl_alliteration.rl.expressions import canonical, parse, shown
from rl_alliteration.rl.parts import Part, PartsFunction
from rl_alliteration.rl.source_version import source_version
from rl_alliteration.rl.user_errors import told

RewardFunction = Callable[..., float]
TableFunction = Callable[[Iterable[str]], dict[str, float]]

ENTRY_POINTS = "rl_alliteration.rl.rewards"
"""The group in which an installed package names its rewards."""

PER_100_WORDS = "_per_100_words"
"""After the name of any reward: the same, times 100, divided by the text's number of words."""


@dataclasses.dataclass(frozen=True)
class Reward:
    """A named reward. `version` is part of a trial's identity: raise it when the numbers change."""

    name: str
    function: RewardFunction
    version: int = 1
    needs: Mapping[str, TableFunction] = dataclasses.field(default_factory=dict)
    """The function's arguments after the text, by name, each with what makes it of texts that the unmodified model
    samples. A trial's `reward_parameters` hold the tables; one name is one table in all rewards."""
    logs: Mapping[str, Callable[[str], float]] = dataclasses.field(default_factory=dict)
    """What TensorBoard shows beside it, by name: the mean over a group of a function of the text."""
    check: Callable[[], None] = lambda: None
    """Called before a sweep; raises a `UserError` if something is not installed."""
    parts: PartsFunction | None = None
    """What the number is the sum of, see `parts.Part`; takes what the function takes. None: all of it counts at the
    text's end."""

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
    functions = {name: _bound(term, term.function, parameters) for name, term in rewards.items()}
    parts = {name: _bound(term, term.parts, parameters) for name, term in rewards.items() if term.parts}
    if list(terms.values()) == [1.0]:
        ((name, term),) = rewards.items()
        return dataclasses.replace(term, name=name, function=functions[name], parts=parts.get(name))

    def weighted_sum(text: str) -> float:
        total: float = sum(weight * functions[name](text) for name, weight in terms.items())
        return total

    def weighted_parts(text: str) -> list[Part]:
        found = {name: parts[name](text) if name in parts else [(functions[name](text), len(text))] for name in terms}
        return [(weight * value, place) for name, weight in terms.items() for value, place in found[name]]

    return Reward(
        canonical(terms),
        weighted_sum,
        1 + sum(term.version - 1 for term in rewards.values()),  # versions only rise, and so does this
        needs=_needs(rewards.values()),
        logs={label: log for term in rewards.values() for label, log in term.logs.items()},
        parts=weighted_parts if parts else None,
    )


def _needs(terms: Iterable[Reward]) -> dict[str, TableFunction]:
    """The tables of all terms by name."""
    found: dict[str, TableFunction] = {}
    for term in terms:
        for name, table_of in term.needs.items():
            if found.setdefault(name, table_of) is not table_of:
                raise UserError(f"--reward: two of its terms need tables named {name!r} that differ; rename one")
    return found


_ASKED_FOR: set[str] = set()
"""What this process was asked to reward by, of the form MODULE:FUNCTION."""


def known_reward(expression: str, version: int, parameters: str = "") -> Reward | None:
    """The reward of a stored trial, if it is known here at that version.

    Results may come from someone else: nothing is imported or called because they name it, `os:system` least of all.
    """
    try:
        foreign = {name for name in parse(expression) if ":" in name} - _ASKED_FOR
        found = None if foreign else get_reward(expression, parameters)
    except UserError:
        return None
    return found if found is not None and found.version == version else None


def _bound(term: Reward, function: Callable[..., Any], parameters: str) -> Callable[..., Any]:
    """A function of the term as one of a text alone."""
    if not term.needs or not parameters:
        return function
    values = json.loads(parameters)
    if missing := term.needs.keys() - values.keys():
        raise UserError(f"--reward: {term.name!r} needs {min(missing)!r}, which the trial's parameters have not")
    return functools.partial(function, **{need: values[need] for need in term.needs})


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
        function = functools.partial(_per_100_words, term.function)
        parts = functools.partial(parts_of.per_100_words, term.parts) if term.parts else None
        return dataclasses.replace(term, name=name, function=function, parts=parts)
    known = ", ".join(sorted({*REWARDS, *installed}))
    raise UserError(
        f"--reward: {shown(name)} is unknown; choose one of {known} (or one of these with {PER_100_WORDS} after it, "
        "or MODULE:FUNCTION of your own)"
    )


def _imported(name: str) -> Reward:
    """The function of `module:function`; its attributes `version` and `parts`, if it has them, are the reward's.

    One of a notebook or a script without that attribute has a version by its source: nobody raises a number there.
    """
    module_name, _, path = name.partition(":")
    if os.getcwd() not in sys.path:  # as `python -m` does
        sys.path.insert(0, os.getcwd())
    try:
        function: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a module of the user's raises what it likes
        raise UserError(f"--reward: the module of {name!r} could not be imported ({told(error)})") from error
    for attribute in path.split("."):
        function = getattr(function, attribute, None)
    if not callable(function):
        raise UserError(f"--reward: {name!r} is no function; give MODULE:FUNCTION, a function from a text to a number")
    version, parts = getattr(function, "version", None), getattr(function, "parts", None)
    if version is None:
        version = source_version(function, *([parts] if parts else [])) if module_name == "__main__" else 1
    if not isinstance(version, int) or version < 1:
        raise UserError(f"--reward: the version of {name!r} is {shown(str(version))}; give a whole number, 1 or more")
    _ASKED_FOR.add(name)
    return Reward(name, function, version, parts=parts)


def expression_of(function: RewardFunction) -> str:
    """The expression that names a function: that of its registration, or MODULE:FUNCTION.

    Raises:
        UserError: it has no name under which it is found again, as a lambda has none.
    """
    for name, registered in REWARDS.items():
        if registered.function is function:
            return name
    module, path = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not callable(function) or not module or not path or "<" in path:  # <lambda>, <locals>
        raise UserError(
            f"reward: {shown(repr(function))} has no name under which it is found again; "
            "give a function made with `def` at the top level of a notebook, a script or a module"
        )
    expression = f"{module}:{path}"
    if _imported(expression).function is not function:
        raise UserError(f"reward: {expression!r} is another function by now; give the one of that name")
    return expression


# --- the rewards -----------------------------------------------------------------------------------------


@reward("alliteration", parts=lambda text: [(1.0, place) for _, place in alliterating_initials(text)])
def alliteration(text: str) -> float:
    """Number of adjacent words that begin with the same character (study: "Note on definitions").

    Words are separated by whitespace; first characters are compared case folded.

    >>> alliteration('Fluff. Fluff hopped to the tree? "The')
    3.0
    """
    return float(sum(1 for _ in alliterating_initials(text)))


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


def _rare_parts(text: str, rarity: Mapping[str, float]) -> list[Part]:
    pairs = alliterating_initials(text)
    return [(rarity.get(initial, rarity[""]), place) for initial, place in pairs if initial.isalpha()]


@reward("rare_alliteration", needs={"rarity": initial_rarity}, parts=_rare_parts)
def rare_alliteration(text: str, rarity: Mapping[str, float]) -> float:
    """Adjacent words that begin with the same letter, each pair weighted by how rare that initial is.

    Args:
        text: as in `alliteration`; pairs that begin with a digit or a quotation mark count nothing.
        rarity: weight by letter, and by "" for letters that it does not list; see `initial_rarity`.

    >>> rare_alliteration("the tall tree saw a zany zebra", {"t": 1.0, "": 3.5})
    5.5
    """
    return float(sum(value for value, _ in _rare_parts(text, rarity)))


def _phonetic_parts(text: str) -> list[Part]:
    """A word's sound is known when the word is over: at what follows it."""
    words = [(phonetics.initial_sound(word), end) for word, _, end in parts_of.words(text)]
    return [(1.0, end) for (first, _), (second, end) in itertools.pairwise(words) if first == second is not None]


@reward(
    "phonetic_alliteration",
    check=phonetics.check_installed,
    logs={"unknown_words": phonetics.unknown_words},
    parts=_phonetic_parts,
)
def phonetic_alliteration(text: str) -> float:
    """Number of adjacent words that begin with the same consonant sound, by CMUdict.

    A word that begins with a vowel sound alliterates with none.

    >>> phonetic_alliteration("A new knight at night: phone fish, city cat, an hour, an apple")
    2.0
    """
    return float(len(_phonetic_parts(text)))


def _a_word_parts(text: str) -> list[Part]:
    return [(1.0, start) for word, start, _ in parts_of.words(text) if word[0] in "aA"]


@reward("a_words", parts=_a_word_parts)
def a_words(text: str) -> float:
    """Number of words that begin with "a" or "A" (study: "REINFORCE vs RLOO").

    >>> a_words("An apple and the Ant")
    4.0
    """
    return float(len(_a_word_parts(text)))


def _repeated_trigrams(text: str) -> list[Part]:
    """A trigram is there when its third word is over: at what follows it."""
    words = list(parts_of.words(text))
    earlier: set[tuple[str, ...]] = set()
    found: list[Part] = []
    for three in zip(words, words[1:], words[2:], strict=False):
        trigram = tuple(word for word, _, _ in three)
        if trigram in earlier:
            found.append((1.0, three[2][2]))
        earlier.add(trigram)
    return found


@reward("repeated_trigrams", parts=_repeated_trigrams)
def repeated_trigrams(text: str) -> float:
    """Number of word trigrams that occurred earlier in the text: with a minus, what keeps texts from repeating.

    The count whose share the metric `repetition` is.

    >>> repeated_trigrams("the tall tree and the tall tree and the tall tree")
    5.0
    """
    return float(len(_repeated_trigrams(text)))


def alliterating_initials(text: str) -> Iterator[tuple[str, int]]:
    """Of each two adjacent words that share it: the first character, case folded, and where the second begins."""
    initials = [(word[0].casefold(), start) for word, start, _ in parts_of.words(text)]
    return ((second, start) for (first, _), (second, start) in itertools.pairwise(initials) if first == second)


def _per_100_words(function: RewardFunction, text: str, **needed: Any) -> float:
    return 100 * function(text, **needed) / max(len(text.split()), 1)
