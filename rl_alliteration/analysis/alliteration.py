"""Where a text alliterates, how much, and with which letters."""

from __future__ import annotations

import re
import string

import numpy as np
from numpy.typing import NDArray

from rl_alliteration.analysis.words import Ints, Words
from rl_alliteration.terminal import printable

LETTERS = (*string.ascii_lowercase, "other")
"""Initial letters; whatever is no letter of a to z is other."""


def alliterating_runs(text: str) -> list[tuple[int, int]]:
    """Character spans (start, end) of two or more adjacent words that begin with the same character.

    >>> alliterating_runs("see the tall tree now")
    [(4, 17)]
    """
    words = list(re.finditer(r"\S+", text))
    runs: list[tuple[int, int]] = []
    start = 0
    for index in range(1, len(words) + 1):
        if index < len(words) and words[index][0][0].casefold() == words[start][0][0].casefold():
            continue
        if index - start > 1:
            runs.append((words[start].start(), words[index - 1].end()))
        start = index
    return runs


def marked(text: str) -> list[tuple[str, bool]]:
    """A text in pieces, `printable`, and whether each is a run that alliterates."""
    found, at = [], 0
    for start, end in alliterating_runs(text):
        found += [(text[at:start], False), (text[start:end], True)]
        at = end
    return [(printable(piece), runs) for piece, runs in [*found, (text[at:], False)] if piece]


def alliterating_pairs(words: Words) -> tuple[Ints, Ints, Ints]:
    """Of N texts: (N,) adjacent words that begin with the same character, as the reward `alliteration` counts them;
    (N,) words of the longest run of such words (1: none; 0: no word); (27,) pairs by `LETTERS`.
    """
    characters: dict[str, int] = {}
    number = np.array(
        [characters.setdefault(word[0].casefold(), len(characters)) for word in words.vocabulary], dtype=np.int64
    )
    letter = np.array([LETTERS.index(c) if c in LETTERS else len(LETTERS) - 1 for c in characters], dtype=np.int64)
    initial = number[words.ids]
    follows = np.zeros(len(initial), dtype=bool)  # begins as the word before it does
    follows[1:] = (initial[1:] == initial[:-1]) & (words.text[1:] == words.text[:-1])
    pairs = np.bincount(words.text[follows], minlength=len(words))
    by_letter = np.bincount(letter[initial[follows]], minlength=len(LETTERS))
    starts = np.flatnonzero(~follows)
    longest = np.zeros(len(words), dtype=np.int64)
    np.maximum.at(longest, words.text[starts], np.diff(starts, append=len(initial)))
    return pairs, longest, by_letter


def letter_entropy(by_letter: NDArray[np.number]) -> float:
    """Entropy of the shares of the initial letters, nats; nan without a pair. exp of it: letters in equal use."""
    total = float(by_letter.sum())
    if total <= 0:
        return float("nan")
    shares = by_letter[by_letter > 0] / total
    return float(-(shares * np.log(shares)).sum()) + 0.0


def top_letters_share(by_letter: NDArray[np.number], letters: int = 3) -> float:
    """Share of the pairs that the most common initial letters carry; nan without a pair."""
    total = float(by_letter.sum())
    return float(np.sort(by_letter)[-letters:].sum() / total) if total > 0 else float("nan")
