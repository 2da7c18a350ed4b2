"""Variety of a set of texts and repetition within one (design: "Definitions")."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def variety(texts: Sequence[str]) -> float:
    """1 − mean pairwise Jaccard overlap of the texts' sets of word bigrams; 0 … 1, nan for fewer than two texts.

    >>> variety(["a b c", "a b c"]), variety(["a b c", "d e f"])
    (0.0, 1.0)
    """
    count = len(texts)
    if count < 2:
        return float("nan")
    members, pairs = _bigrams(texts)
    sizes = np.bincount(members, minlength=count)
    # Most pairs of words are in one text alone: they count in its size, but are shared with none.
    _, pair, holders = np.unique(pairs, return_inverse=True, return_counts=True)
    common = holders[pair] > 1
    columns = np.unique(pair[common], return_inverse=True)[1]
    width = int(columns.max(initial=0)) + 1
    presence = np.zeros((count, width + -width % 64), dtype=bool)
    presence[members[common], columns] = True
    bits = np.packbits(presence, axis=1).view(np.uint64)  # counting bits: a matrix product waits for its threads
    shared = np.bitwise_count(bits[:, None] & bits[None, :]).sum(axis=2, dtype=np.int64)
    union = sizes[:, None] + sizes[None, :] - shared
    # Two texts without a bigram (a word or less each) are the same to this measure.
    overlap = np.divide(shared, union, out=np.ones(shared.shape), where=union > 0)
    upper = np.triu_indices(count, k=1)
    return float(1.0 - overlap[upper].mean(dtype=np.float64))


def repetition(text: str) -> float:
    """Share of a text's word trigrams that occurred earlier in it; 0 for texts of fewer than three words.

    >>> repetition("the the the the")
    0.5
    """
    words = text.split()
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    if not trigrams:
        return 0.0
    return 1.0 - len(set(trigrams)) / len(trigrams)


def _bigrams(texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every pair of adjacent words of every text, once a text: index of the text, and a number for the pair."""
    numbers: dict[str, int] = {}
    words = [[numbers.setdefault(word, len(numbers)) for word in text.split()] for text in texts]
    flat = np.fromiter(itertools.chain.from_iterable(words), dtype=np.int64)
    text = np.repeat(np.arange(len(words)), [len(one) for one in words])
    if len(flat) < 2:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    within = text[:-1] == text[1:]
    pairs = (flat[:-1] * len(numbers) + flat[1:])[within]
    marked = np.sort(text[:-1][within] * len(numbers) ** 2 + pairs)
    marked = marked[np.diff(marked, prepend=-1) > 0]
    return marked // len(numbers) ** 2, marked % len(numbers) ** 2
