"""When a trial is stopped before its end: by what its texts are like, so that a replay stops where the trial did."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from rl_alliteration.analysis.diversity import variety
from rl_alliteration.analysis.rules import COLLAPSE_WINDOWS, lost_variety
from rl_alliteration.analysis.types import WINDOW
from rl_alliteration.results import schema
from rl_alliteration.rows import rewarded

COLLAPSE, PLATEAU = "collapse", "plateau"
HALVING = "halving"
"""Why a search stops a trial: others that had come as far had better windows."""
SEED_FAILED = "a seed failed"
"""Why a search stops the other seeds of a setting: they cannot judge it without that one."""
SPENT = "spent"
"""Why a search stops a trial: it has left the limits of variety and sense for good."""
_WORDS = {SPENT: "outside its limits"}
"""Reasons that are stored in a word that says too little."""

PLATEAU_MEAN = 3
PLATEAU_PATIENCE = 10
PLATEAU_RISE = 3.0


def status_words(status: str, reason: str) -> str:
    """How a trial stands, for people, with what stopped it: `stopped (collapse)`."""
    shown = status == schema.STOPPED and reason
    return f"{status} ({_WORDS.get(reason, reason)})" if shown else status


class EarlyStopping:
    """Sees a trial's texts in their order, and says when it should stop.

    `collapse`: two windows in a row have less than two thirds of the variety of the trial's first window, whose texts
    are nearly the original model's. `plateau`: the reward has risen, by more than three standard errors, and the best
    mean over three windows in a row is ten windows old. A reward that never rose may yet do so.
    """

    def __init__(self, reasons: Iterable[str]) -> None:
        """`reasons`: any of `collapse` and `plateau`."""
        self.reasons = frozenset(reasons)
        self.reason = ""
        """Why the trial should stop; empty while it should not."""
        self._texts: list[str] = []
        self._rewards: list[float] = []
        self._first: list[float] = []
        self._variety: list[float] = []
        self._means: list[float] = []

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """See the next texts; those that fill a window may give a reason."""
        if not self.reasons:
            return
        for row in rows:
            self._texts.append(rewarded(row))
            self._rewards.append(row["reward"])
            if len(self._texts) == WINDOW:
                self._end_window()

    def _end_window(self) -> None:
        self._means.append(statistics.fmean(self._rewards))
        if len(self._means) <= PLATEAU_MEAN:
            self._first += self._rewards
        if COLLAPSE in self.reasons:
            self._variety.append(variety(self._texts))
        self._texts, self._rewards = [], []
        if COLLAPSE in self.reasons and self._collapsed():
            self.reason = self.reason or COLLAPSE
        if PLATEAU in self.reasons and self._on_a_plateau():
            self.reason = self.reason or PLATEAU

    def _collapsed(self) -> bool:
        last = self._variety[1:][-COLLAPSE_WINDOWS:]
        return len(last) == COLLAPSE_WINDOWS and bool(lost_variety(max(last), self._variety[0]))

    def _on_a_plateau(self) -> bool:
        if len(self._means) < PLATEAU_MEAN + PLATEAU_PATIENCE:
            return False
        places = range(len(self._means) - PLATEAU_MEAN + 1)
        smooth = [statistics.fmean(self._means[place : place + PLATEAU_MEAN]) for place in places]
        best = max(range(len(smooth)), key=smooth.__getitem__)
        error = statistics.stdev(self._first) * (2 / len(self._first)) ** 0.5
        return len(smooth) - 1 - best >= PLATEAU_PATIENCE and smooth[best] - smooth[0] > PLATEAU_RISE * error
