"""Weighted sums of rewards as one types them: `alliteration + 0.5*rare_alliteration`."""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Mapping

from rl_alliteration.errors import UserError

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
                f"--reward: {shown(expression)} is malformed at {shown(expression[position:])}; give rewards with + "
                "or - between them, each with a number and * before it or without, such as "
                "'alliteration + 0.5*rare_alliteration'"
            )
        weights[match["name"]] += float(f"{match['sign'] or ''}{match['weight'] or 1}")
        position = match.end()
    if not all(map(math.isfinite, weights.values())):
        raise UserError(f"--reward: {shown(expression)} has a weight that is not finite; give smaller ones")
    left = {name: weights[name] for name in sorted(weights) if weights[name]}
    if not left:
        raise UserError(f"--reward: {shown(expression)} is 0 for every text; give a weight other than 0")
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


def shown(text: str) -> str:
    """A text in an error's line."""
    return repr(text if len(text) <= 80 else text[:79] + "…")
