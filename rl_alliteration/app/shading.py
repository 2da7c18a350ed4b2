"""Texts in pieces, one a token, shaded by what their records say: of those texts that have one."""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rl_alliteration.app.index import Index, Known
from rl_alliteration.app.rows import Rollout, covering
from rl_alliteration.terminal import printable

RUNS = "runs"
_SURE = (0.1, 0.5, 1.0, 2.0, 4.0, 8.0)
_EDGES = {
    "log_p": _SURE,
    "log_q": _SURE,
    "difference": (0.1, 0.25, 0.5, 1.0, 2.0, 4.0),
    "entropy": (0.25, 0.5, 1.0, 2.0, 3.0, 4.0),
}
"""Nats from which each shade is: one scale for all texts, so that they can be compared."""
SHADES = {
    RUNS: "alliterating runs",
    "log_p": "tokens by log p",
    "log_q": "tokens by log q",
    "difference": "tokens by log p − log q",
    "entropy": "tokens by entropy",
}
MEANINGS = {
    "log_p": "Log-probability under the policy: the stronger the colour, the less likely",
    "log_q": "Log-probability under the original model: the stronger the colour, the less likely",
    "difference": "Log p − log q: blue where the policy, red where the original finds the token likelier",
    "entropy": "Entropy of the policy's distribution: the stronger the colour, the more open what comes",
}
END = "∎"
"""Stands for a token without a character of its own at the end of a text: the end token."""


@dataclasses.dataclass(frozen=True)
class Record:
    """The tokens of one text, each column as it is stored."""

    log_p: Sequence[float]
    log_q: Sequence[float]
    entropy: Sequence[float]
    starts: Sequence[int]


@dataclasses.dataclass(frozen=True)
class Piece:
    """One token's characters, or those of several that share one."""

    text: str
    shade: str
    """A class of the style: the sign and 0 to 6; empty for the prompt."""
    title: str
    """Its numbers, nats."""


def records(index: Index, one: Known, low: int, high: int) -> dict[int, Record]:
    """The records of generations `low` … `high` − 1 of a trial, those that have one and whose columns fit together.

    Raises:
        duckdb.Error: a part is damaged.
    """
    found = {}
    for path in covering(one, low, high):  # one by one: parts of earlier versions have no such columns
        table = index.parts.query(
            r"SELECT COLUMNS('^(generation|text|token_(log_p|log_q|entropy|starts))$') FROM parts "
            "WHERE generation >= $low AND generation < $high",
            [path],
            {"low": low, "high": high},
        )
        for row in table.to_pylist():
            record = _record(row)
            if record is not None:
                found[row["generation"]] = record
    return found


def _record(row: Mapping[str, Any]) -> Record | None:
    lists = [row.get(f"token_{field.name}") or [] for field in dataclasses.fields(Record)]
    *numbers, starts = lists
    if (
        not starts
        or not isinstance(row["text"], str)
        or len({len(one) if isinstance(one, list) else -1 for one in lists}) != 1
    ):
        return None
    if not all(isinstance(value, float) and math.isfinite(value) for one in numbers for value in one):
        return None
    places = [0, *starts, len(row["text"])]
    if not all(isinstance(place, int) for place in starts) or places != sorted(places):
        return None
    return Record(*lists)


def pieces(row: Rollout, record: Record, by: str) -> list[Piece]:
    """A text in pieces: the prompt, then token by token; numbers of tokens that share a character are added up."""
    found = [Piece(row.text[: record.starts[0]], "", "prompt")] if record.starts[0] else []
    ends = [*record.starts[1:], len(row.text)]
    pending: list[int] = []
    for place, (start, end) in enumerate(zip(record.starts, ends, strict=True)):
        pending.append(place)
        if end > start:
            found.append(_piece(row.text[start:end], record, pending, by))
            pending = []
    return found + ([_piece(END, record, pending, by)] if pending else [])


def _piece(text: str, record: Record, tokens: Sequence[int], by: str) -> Piece:
    log_p, log_q, entropy = (
        sum(values[token] for token in tokens) for values in (record.log_p, record.log_q, record.entropy)
    )
    values = {"log_p": log_p, "log_q": log_q, "difference": log_p - log_q, "entropy": entropy}
    told = ", ".join(f"{_NAMES[name]} {value:z.2f}" for name, value in values.items())
    several = f" ({len(tokens)} tokens)" if len(tokens) > 1 else ""
    return Piece(printable(text), _shade(values[by], by), f"{told} nats{several}")


_NAMES = {"log_p": "log p", "log_q": "log q", "difference": "log p − log q", "entropy": "entropy"}


def _shade(value: float, by: str) -> str:
    sign = "low" if by == "difference" and value < 0 else "high"
    return f"{sign}{bisect.bisect_right(_EDGES[by], abs(value))}"


def legend(by: str) -> list[tuple[str, str]]:
    """Classes and what each is for, nats, in order."""
    edges = _EDGES[by]

    def words(level: int, sign: str) -> str:
        if level == len(edges):
            return f"beyond {sign}{edges[-1]:g}"
        return f"{sign}{edges[level - 1]:g} to {sign}{edges[level]:g}" if level else f"0 to {sign}{edges[0]:g}"

    levels = range(len(edges) + 1)
    if by != "difference":
        return [(f"high{level}", words(level, "−" if by in ("log_p", "log_q") else "")) for level in levels]
    low = [(f"low{level}", words(level, "−")) for level in reversed(levels) if level]
    high = [(f"high{level}", words(level, "")) for level in levels if level]
    return [*low, ("high0", f"−{edges[0]:g} to {edges[0]:g}"), *high]
