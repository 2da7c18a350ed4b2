"""Metrics of a trial's windows as its texts come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rl_alliteration.analysis.metrics import METRICS, Window
from rl_alliteration.analysis.types import WINDOW
from rl_alliteration.results.curves import WINDOWS
from rl_alliteration.rows import rewarded


class RunningWindows:
    """Collects texts, in their order; of each window that is full it gives the numbers that are drawn."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    @staticmethod
    def first(generation: int) -> int:
        """The first generation of the window that a text is in: from there on texts are needed."""
        return generation - generation % WINDOW

    def add(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, dict[str, float]]]:
        """The points of each window that these texts fill, with the generation of its last text.

        `rows`: the next texts; the first ones begin a window.
        """
        for row in rows:
            self._texts.append(rewarded(row))
            if len(self._texts) == WINDOW:
                window = Window({"text": self._texts})
                yield row["generation"], {tag: METRICS[name].value(window) for name, tag in WINDOWS.items()}
                self._texts = []
