"""What a search is after: the alliteration of windows that keep the original's variety and sense."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from rl_alliteration.analysis.alliteration import alliterating_pairs
from rl_alliteration.analysis.diversity import mean_variety, overlaps, repetitions
from rl_alliteration.analysis.windows import WINDOW, Original
from rl_alliteration.analysis.words import Words


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a window keeps, as the recommendation has it (`frontier.recommend`)."""

    variety: float
    """At least this."""
    cross_entropy: float
    """Mean under the original model, nats a token: this, …"""
    nats: float
    """… give or take."""
    repetition: float
    """At most this, in the mean over texts."""

    @classmethod
    def of(cls, original: Original, keep_variety: float, nats: float) -> Limits:
        """The limits that the unmodified model's texts set."""
        variety = keep_variety * original.metrics["variety"]
        return cls(variety, original.cross_entropy, nats, original.repetition_limit)


SPENT = "spent"
"""Why a trial was stopped: it has left the bounds for good."""
SPENT_WINDOWS = 2
"""Windows in a row outside of the bounds after which that is so: of 20 trials of the study with beta 10 to 50 that had
two, none had a better window within the bounds after that."""


class Objective:
    """Sees a trial's texts in their order, and tells the best window so far: a number a full window.

    The objective of a trial is the last of these: alliteration per 100 words of the best window within the limits,
    0 while there is none. So the bounds hold by construction, and what is searched for is what is recommended.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._texts: list[str] = []
        self._cross_entropies: list[float] = []
        self.best: list[float] = []
        """After each full window, the most alliteration of one within the limits."""
        self._outside = 0

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """See the next texts: `text` and `original_lm_cross_entropy` of each."""
        for row in rows:
            self._texts.append(row["text"])
            self._cross_entropies.append(row["original_lm_cross_entropy"])
            if len(self._texts) == WINDOW:
                alliteration = self._alliteration()
                self._outside = 0 if alliteration else self._outside + 1
                self.best.append(max([alliteration, *self.best[-1:]]))
                self._texts, self._cross_entropies = [], []

    @property
    def spent(self) -> bool:
        """Whether no better window is to be expected."""
        return self._outside >= SPENT_WINDOWS

    def _alliteration(self) -> float:
        """Of the window's texts; 0 if it is outside of the limits."""
        words, limits = Words.of(self._texts), self._limits
        kept = (
            math.fabs(float(np.mean(self._cross_entropies)) - limits.cross_entropy) <= limits.nats
            and float(repetitions(words).mean()) <= limits.repetition
            and mean_variety(overlaps(words)) >= limits.variety
        )
        pairs, _, _ = alliterating_pairs(words)
        return float((100.0 * pairs / np.maximum(words.lengths, 1)).mean()) if kept else 0.0
