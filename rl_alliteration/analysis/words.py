"""A set of texts as arrays of word numbers: what the metrics count on."""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Reals = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Counts:
    """How often each text has each n-gram: K entries, by n-gram, then text."""

    gram: Ints
    """(K,) number of the n-gram, 0 … `grams` − 1."""
    text: Ints
    """(K,) number of the text."""
    count: Ints
    """(K,) how often; 1 or more."""
    grams: int
    """How many n-grams there are."""


class Words:
    """N texts, split at whitespace, as W numbers of words."""

    def __init__(self, ids: Ints, lengths: Ints, vocabulary: list[str]) -> None:
        """`ids`: (W,) the words of all texts in a row; `lengths`: (N,) words per text."""
        self.ids = ids
        self.lengths = lengths
        self.vocabulary = vocabulary
        self._counts: dict[int, Counts] = {}

    @classmethod
    def of(cls, texts: Sequence[str]) -> Words:
        """The words of the texts."""
        index: defaultdict[str, int] = defaultdict(itertools.count().__next__)  # a new word has the next number
        split = [text.split() for text in texts]
        lengths = np.array([len(words) for words in split], dtype=np.int64)
        numbers = map(index.__getitem__, itertools.chain.from_iterable(split))
        return cls(np.fromiter(numbers, np.int64, count=int(lengths.sum())), lengths, list(index))

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def text(self) -> Ints:
        """(W,) the text of each word."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @cached_property
    def place(self) -> Ints:
        """(W,) the place of each word in its text, from 0."""
        starts = np.cumsum(self.lengths) - self.lengths
        return np.arange(len(self.ids)) - starts[self.text]

    def cut(self, words: int) -> Words:
        """The first `words` words of each text: so that metrics compare like with like."""
        return Words(self.ids[self.place < words], np.minimum(self.lengths, words), self.vocabulary)

    def counts(self, n: int) -> Counts:
        """How often each text has each n-gram of words, n ≥ 1."""
        if n not in self._counts:
            numbers, texts = self._grams(n)
            keys, count = np.unique(numbers * len(self) + texts, return_counts=True)
            gram, text = np.divmod(keys, max(len(self), 1))
            self._counts[n] = Counts(gram, text, count, int(numbers.max(initial=-1)) + 1)
        return self._counts[n]

    def _grams(self, n: int) -> tuple[Ints, Ints]:
        """Numbers of all n-grams within texts, in reading order, and their texts."""
        numbers = self.ids
        for shift in range(1, n):
            pairs = numbers[:-1] * max(len(self.vocabulary), 1) + self.ids[shift:]
            numbers = np.unique(pairs, return_inverse=True)[1]
        inside = self.place[: len(numbers)] + n <= self.lengths[self.text[: len(numbers)]]
        return numbers[inside], self.text[: len(numbers)][inside]
