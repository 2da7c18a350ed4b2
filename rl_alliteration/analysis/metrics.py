"""Every metric of a window of texts, each declared once: its name and words, and what it is computed from.

Whatever shows metrics iterates over `METRICS`: the curves of the page, its PNG files, the table `windows`. To add one,
add an entry.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np

from rl_alliteration.analysis import diversity
from rl_alliteration.analysis.alliteration import alliterating_pairs, letter_entropy, top_letters_share
from rl_alliteration.analysis.words import Ints, Reals, Words

COLUMNS = ("text", "raw_reward", "reward", "kl_penalty", "original_lm_cross_entropy", "num_tokens")
"""Columns of `generations` that the metrics read; in place of `text` what the reward is of, see `rows.rewarded`."""


T = TypeVar("T", float, Reals)


class Window:
    """N texts with their numbers; what several metrics need is computed once."""

    def __init__(self, columns: Mapping[str, Any]) -> None:
        """`columns`: those of `COLUMNS` that the metrics in question read; `text` a list, the others arrays, (N,)."""
        self._columns = columns

    def __getitem__(self, column: str) -> Reals:
        """(N,) numbers of the texts."""
        return np.asarray(self._columns[column])

    @property
    def texts(self) -> list[str]:
        """The texts."""
        return list(self._columns["text"])

    @cached_property
    def words(self) -> Words:
        """Their words."""
        return Words.of(self.texts)

    @cached_property
    def overlap(self) -> Reals:
        """(N, N) overlap of each two texts."""
        return diversity.overlaps(self.words)

    @property
    def pairs_per_100_words(self) -> Reals:
        """(N,) alliterating pairs of each text, per 100 of its words."""
        return 100.0 * self._alliteration[0] / np.maximum(self.words.lengths, 1)

    @property
    def longest_runs(self) -> Ints:
        """(N,) words of the longest alliterating run of each text."""
        return self._alliteration[1]

    @property
    def by_letter(self) -> Ints:
        """(27,) alliterating pairs by `LETTERS`."""
        return self._alliteration[2]

    @cached_property
    def _alliteration(self) -> tuple[Ints, Ints, Ints]:
        return alliterating_pairs(self.words)


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number that each window has."""

    name: str
    """In `Trial.metrics`, and the column of `windows`."""
    title: str
    """For people: of figures, axes and choices."""
    meaning: str
    of: Callable[[Window], Reals | Ints | float]
    """The number of a window, nan if there is too little text; or one a text, (N,), of which the metric is the mean."""
    unit: str = ""
    digits: int = 2
    """After the decimal point, where it is shown."""
    better: Literal["higher", "lower", ""] = ""
    """Which values are; empty where neither is as such."""
    interval: bool = False
    """Whether its mean over texts gets a bootstrap interval in each window; `of` then gives a number a text."""
    opposite: str = ""
    """Where the column has the opposite sign of what people are shown: what the column is."""

    @property
    def words(self) -> str:
        """Meaning and unit."""
        return f"{self.meaning}, {self.unit}" if self.unit else self.meaning

    def value(self, window: Window) -> float:
        """The metric of a window."""
        return float(np.mean(self.of(window)))

    def shown(self, value: T) -> T:
        """What people are shown of the metric's values: those of `title` and `meaning`."""
        return 0.0 - value if self.opposite else value  # not -value: that would make a zero a -0


def _distinct(n: int) -> Callable[[Window], float]:
    return lambda window: diversity.distinct(window.words, n, diversity.GRAMS_PER_TEXT * len(window.words))


_ALL = (
    Metric(
        "raw_reward", "Raw reward", "mean reward of a text, before the KL penalty",
        lambda window: window["raw_reward"], digits=1, better="higher", interval=True,
    ),
    Metric(
        "objective", "Objective J", "mean composite reward of a text: what the trial is trained on",
        lambda window: window["reward"], digits=1, better="higher", interval=True,
    ),
    Metric(
        "alliteration", "Alliteration per 100 words", "adjacent words with the same initial letter",
        lambda window: window.pairs_per_100_words, "per 100 words", 1, "higher", interval=True,
    ),
    Metric(
        "longest_run", "Longest run", "words of the longest alliterating run of a text, mean",
        lambda window: window.longest_runs, digits=1, better="higher",
    ),
    Metric(
        "letter_entropy", "Entropy of letters", "of the shares of the initial letters that alliterate",
        lambda window: letter_entropy(window.by_letter), "nats", better="higher",
    ),
    Metric(
        "top_letters", "Three commonest letters", "share of the alliteration that the three carry",
        lambda window: top_letters_share(window.by_letter), better="lower",
    ),
    Metric(
        "variety", "Variety", "1 − mean overlap (Jaccard) of the texts' sets of word pairs",
        lambda window: diversity.mean_variety(window.overlap), better="higher",
    ),
    Metric(
        "near_copies", "Near-copies", "share of texts that another one overlaps by 0.7 or more",
        lambda window: diversity.near_copies(window.overlap), better="lower",
    ),
    Metric(
        "distinct_1", "Distinct-1", "different words per word, of 10 words a text drawn at random",
        _distinct(1), better="higher",
    ),
    Metric(
        "distinct_2", "Distinct-2", "different word pairs per pair, of 10 pairs a text drawn at random",
        _distinct(2), better="higher",
    ),
    Metric(
        "distinct_3", "Distinct-3", "different word triples per triple, of 10 triples a text drawn at random",
        _distinct(3), better="higher",
    ),
    Metric(
        "self_bleu", "Self-BLEU", "mean BLEU of each text against the others, first 50 words; high: alike",
        lambda window: diversity.self_bleu(window.words.cut(diversity.WORDS)), better="lower",
    ),
    Metric(
        "compression", "Compression ratio", "bytes per compressed byte, of 100 bytes a text; high: alike",
        lambda window: diversity.compression(window.texts), better="lower",
    ),
    Metric(
        "vendi", "Vendi score", "effective number of different texts in a window",
        lambda window: diversity.vendi(window.overlap), digits=1, better="higher",
    ),
    Metric(
        "repetition", "Repetition", "share of a text's word triples that occurred in it before, mean",
        lambda window: diversity.repetitions(window.words), better="lower",
    ),
    Metric(
        "distinct_words", "Distinct words in a text", "different words among the first 50 of a text, per word",
        lambda window: diversity.distinct_words(window.words), better="higher",
    ),
    Metric(
        "original_lm_cross_entropy", "Cross-entropy, original model", "how unlikely the texts are to it",
        lambda window: window["original_lm_cross_entropy"], "nats per token",
    ),
    Metric(
        "kl_penalty", "KL divergence per token", "log p of the policy minus that of the original",
        lambda window: window["kl_penalty"], "nats per token", 3,
        opposite="cross-entropy under the policy minus under the original: minus the KL divergence in the mean",
    ),
    Metric(
        "kl_per_text", "KL divergence per text", "log p of the policy minus that of the original, over a text's tokens",
        lambda window: -window["kl_penalty"] * (window["num_tokens"] - 1), "nats", 1, interval=True,
    ),
    Metric("num_words", "Words per text", "mean", lambda window: window.words.lengths, digits=1),
)  # fmt: skip

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
"""What a window is measured by, by name, in the order in which to show it."""
