"""What a view makes of an address: a page, and the table that it shows."""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import pyarrow as pa

from rl_alliteration.app.choices import Choices
from rl_alliteration.app.index import Index, Known, Snapshot
from rl_alliteration.report.base import GREY, Shown, setting_of

T = TypeVar("T")
_KEPT = 24
"""Answers that are kept, of the last questions."""


@dataclasses.dataclass(frozen=True)
class Page:
    """What is shown."""

    template: str
    title: str
    values: Mapping[str, Any]
    """Of the template."""
    table: Callable[[], pa.Table] | None = None
    """What is shown, in full: to be downloaded."""


@dataclasses.dataclass(frozen=True)
class View:
    """One kind of page."""

    title: str
    """At the top of every page; empty for one that others lead to."""
    make: Callable[[Live, Choices], Page]


class Live:
    """What views share: the index, and answers to the last questions."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self._answers: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def kept(self, question: Hashable, answer: Callable[[], T]) -> T:
        """The answer to a question, found once: the question holds all that it depends on."""
        with self._lock:
            if question in self._answers:
                self._answers.move_to_end(question)
                found: T = self._answers[question]
                return found
        made = answer()
        with self._lock:
            self._answers[question] = made
            while len(self._answers) > _KEPT:
                self._answers.popitem(last=False)
        return made

    def colour_of(self, snapshot: Snapshot) -> Callable[[Known], str]:
        """One colour a setting, on every page: by all trials of the storage, whichever are shown."""

        with_texts = tuple(pair for pair, one in snapshot.trials.items() if len(one.trial.first))
        known = self.kept(("colours", with_texts), lambda: Shown(snapshot.analysis).colour)

        def colour(one: Known) -> str:
            return known(setting_of(one.trial)) if len(one.trial.first) and not one.trial.is_original else GREY

        return colour
