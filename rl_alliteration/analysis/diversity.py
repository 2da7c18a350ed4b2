"""Variety of a set of texts and repetition within one (design: "Definitions")."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np


def variety(texts: Sequence[str]) -> float:
    """1 − mean pairwise Jaccard overlap of the texts' sets of word bigrams; 0 … 1, nan for fewer than two texts.

    >>> variety(["a b c", "a b c"]), variety(["a b c", "d e f"])
    (0.0, 1.0)
    """
    count = len(texts)
    if count < 2:
        return float("nan")
    sets = [_bigrams(text) for text in texts]
    # Most pairs of words are in one text alone: they count in its size, but are shared with none.
    common = [pair for pair, members in Counter(itertools.chain.from_iterable(sets)).items() if members > 1]
    index = {pair: column for column, pair in enumerate(common)}
    presence = np.zeros((count, max(len(index), 1)), dtype=np.float32)
    for row, pairs_of_text in enumerate(sets):
        presence[row, [index[pair] for pair in pairs_of_text if pair in index]] = 1.0
    shared = presence @ presence.T
    sizes = np.array([len(pairs_of_text) for pairs_of_text in sets], dtype=np.float32)
    np.fill_diagonal(shared, sizes)
    union = sizes[:, None] + sizes[None, :] - shared
    # Two texts without a bigram (a word or less each) are the same to this measure.
    overlap = np.divide(shared, union, out=np.ones_like(shared), where=union > 0)
    pairs = np.triu_indices(count, k=1)
    return float(1.0 - overlap[pairs].mean(dtype=np.float64))


def repetition(text: str) -> float:
    """Share of a text's word trigrams that occurred earlier in it; 0 for texts of fewer than three words.

    >>> repetition("the the the the")
    0.5
    """
    words = text.split()
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    if not trigrams:
        return 0.0
    return 1.0 - len(Counter(trigrams)) / len(trigrams)


def _bigrams(text: str) -> set[tuple[str, str]]:
    words = text.split()
    return set(itertools.pairwise(words))
