"""What a search is after: the alliteration of windows that keep the original's variety and sense."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rl_alliteration.analysis.metrics import METRICS, Window
from rl_alliteration.analysis.rules import Limits
from rl_alliteration.analysis.types import WINDOW
from rl_alliteration.rows import rewarded

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
        """See the next rows of `generations`."""
        for row in rows:
            self._texts.append(rewarded(row))
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
        window = Window({"text": self._texts, "original_lm_cross_entropy": self._cross_entropies})
        cross_entropy, repetition, variety, alliteration = (
            METRICS[name].value(window)
            for name in ("original_lm_cross_entropy", "repetition", "variety", "alliteration")
        )
        kept = self._limits.keep_sense(cross_entropy, repetition) and self._limits.keep_variety(variety)
        return alliteration if kept else 0.0
