"""Where in a text its reward comes from: parts, and the tokens that they belong to. Pure functions; no torch."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Part = tuple[float, int]
"""A value, and the place where it is settled: the character, counted from 0, with which it is certain whatever follows;
the text's length if only the text's end makes it certain.

It is this that makes credit unbiased: what is settled before a token is no merit of the token, which cannot change it.
"""

PartsFunction = Callable[..., Sequence[Part]]
"""A text → parts whose sum is its reward."""

_TOLERANCE = 1e-6
"""By which parts may miss the number, relative to their sizes: rounding."""


def words(text: str) -> Iterator[tuple[str, int, int]]:
    """Each word, where it begins, and the place after it; words as `str.split` finds them.

    >>> list(words(" the tree"))
    [('the', 1, 4), ('tree', 5, 9)]
    """
    return ((match.group(), match.start(), match.end()) for match in re.finditer(r"\S+", text))


def per_100_words(parts: PartsFunction, text: str, **needed: object) -> list[Part]:
    """The parts of a reward's number per 100 words of the text.

    At a part's place nobody knows how many words there will be: it cannot be divided there. So what counts at a place
    is by how much the number of the text so far changes: up with a part, down with a word that brings none.

    >>> per_100_words(lambda text: [(1.0, 4)], "the tall one I")
    [(50.0, 4), (-16.666666666666664, 9), (-8.333333333333336, 13)]
    """
    values = [(at, value, 0) for value, at in parts(text, **needed)]
    changes = sorted([*values, *((start, 0.0, 1) for _, start, _ in words(text))])
    found: list[Part] = []
    total, count, before = 0.0, 0, 0.0
    for place, group in itertools.groupby(changes, key=lambda change: change[0]):
        for _, value, word in group:
            total, count = total + value, count + word
        now = 100 * total / max(count, 1)
        if now != before:
            found.append((now - before, place))
        before = now
    return found


class Decoder:
    """Token ids → text, without special tokens; a single one's is looked up once."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._pieces: dict[int, str] = {}

    def __call__(self, token_ids: list[int]) -> str:
        if len(token_ids) != 1:
            return self._decoded(token_ids)
        (token,) = token_ids
        if token not in self._pieces:
            self._pieces[token] = self._decoded(token_ids)
        return self._pieces[token]

    def _decoded(self, token_ids: list[int]) -> str:
        text: str = self._tokenizer.decode(token_ids, skip_special_tokens=True)
        return text


def settled_characters(decode: Callable[[list[int]], str], token_ids: Sequence[int], text: str) -> NDArray[np.int64]:
    """How many characters of a text are certain after each of its tokens, (T,): they only rise.

    Where a tokenizer's tokens are pieces of the text, their lengths say so; else its beginnings are decoded one by one.

    Args:
        decode: of token ids, special tokens left out; asked for single ones again and again.
        token_ids: (T,), of the text.
        text: what they decode to, without a final end token.
    """
    pieces = [decode([token]) for token in token_ids]
    joined = "".join(pieces)
    if joined.startswith(text):  # a final end token that is no special one has a piece too
        ends: NDArray[np.int64] = np.minimum(np.cumsum([len(piece) for piece in pieces]), len(text))
        return ends
    known = [_in_common(decode(list(token_ids[:end])), text) for end in range(1, len(token_ids) + 1)]
    rising: NDArray[np.int64] = np.maximum.accumulate(np.array(known, dtype=np.int64))
    return rising


def token_starts(decode: Callable[[list[int]], str], token_ids: Sequence[int], text: str, first: int) -> list[int]:
    """The character of a text at which each of its tokens from place `first` on begins, which is not the very first.

    A token that completes no character begins where the next one does; an end token at the text's length. The other
    arguments as for `settled_characters`.

    >>> token_starts(lambda ids: "".join("abc"[i] * (i + 1) for i in ids), [0, 2, 1], "acccbb", 1)
    [1, 4]
    """
    starts: list[int] = settled_characters(decode, token_ids, text)[first - 1 : -1].tolist()
    return starts


def token_rewards(number: float, parts: Sequence[Part] | None, settled: NDArray[np.int64]) -> NDArray[np.float64]:
    """A text's reward by the token that settles each part of it, (T,); what no part accounts for is the last one's.

    Args:
        number: the reward.
        parts: None: there are none.
        settled: as `settled_characters` gives it, (T,).

    Raises:
        ValueError: the parts' sum is not the number, or one lies outside of the text.
    """
    found = np.zeros(len(settled))
    for value, place in parts or ():
        if place < 0:
            raise ValueError(f"a part lies at character {place}")
        found[min(int(np.searchsorted(settled, place, side="right")), len(settled) - 1)] += value
    left = number - found.sum()
    if parts is not None and not abs(left) <= _TOLERANCE * (1 + abs(number) + np.abs(found).sum()):
        raise ValueError(f"its parts' sum is {found.sum():g}, its number {number:g}")
    found[-1] += left
    return found


def _in_common(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
