"""Show a running sweep: a live line in a terminal, a plain line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from rl_alliteration.watch import duration

_LOG_SECONDS = 15.0


class Progress:
    """Trials done, generations per second, current mean raw reward and KL penalty, time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._begin: dict[str, int] = {}
        self._end: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._latest: dict[str, Mapping[str, Any]] = {}
        self._finished: set[str] = set()
        self._first: float | None = None
        self._last_log = 0.0
        self._live = Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def add(self, trial_id: str, begin: int, end: int) -> None:
        """A trial has `begin` generations and shall have `end`."""
        self._begin[trial_id] = self._done[trial_id] = begin
        self._end[trial_id] = end

    def report(self, trial_id: str, generations: int, result: Mapping[str, Any]) -> None:
        """A trial has done `generations` of its total."""
        self._first = self._first or time.monotonic()
        self._done[trial_id] = generations
        self._latest[trial_id] = result
        self._show()

    def say(self, message: str) -> None:
        """A line that stays."""
        self._console.print(Text(message), soft_wrap=True)

    def end(self, trial_id: str) -> None:
        """A trial will report no more."""
        self._finished.add(trial_id)
        self._latest.pop(trial_id, None)
        self._show()

    def line(self) -> str:
        """The state in one line."""
        done, total = sum(self._done.values()), sum(self._end.values())
        seconds = time.monotonic() - (self._first or time.monotonic())
        speed = (done - sum(self._begin.values())) / seconds if seconds > 1 else 0.0
        words = [f"{len(self._finished)}/{len(self._end)} trials", f"{done:,}/{total:,} texts"]
        if speed > 0:
            words += [f"{speed:.1f} texts/s", f"about {duration((total - done) / speed)} left"]
        running = [
            f"{name.rsplit('-', 1)[0]}: reward {result['raw_reward']:.1f}, KL {result['kl_penalty']:.2f}"
            for name, result in self._latest.items()
        ]
        shown = running[:4] + ([f"and {len(running) - 4} more"] if len(running) > 4 else [])
        return " · ".join([*words, *shown])

    def _show(self) -> None:
        if self._live:
            self._live.update(Text(self.line(), overflow="fold"), refresh=True)
        elif time.monotonic() - self._last_log >= _LOG_SECONDS:
            self._last_log = time.monotonic()
            self._console.print(Text(self.line()), soft_wrap=True)
