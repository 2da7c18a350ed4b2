"""Show a running sweep: a live line in a terminal or a notebook, a plain line now and then in a log."""

from __future__ import annotations

import time

from rich.console import Console
from rich.live import Live
from rich.text import Text

from rl_alliteration.config import PlannedTrial
from rl_alliteration.names import trial_names
from rl_alliteration.rows import TrialReport
from rl_alliteration.terminal import NotebookLine, Screen, duration, one_line

_LOG_SECONDS = 15.0
_NOTEBOOK_SECONDS = 0.5


class Progress:
    """Trials done, generations per second, current mean raw reward and KL divergence, time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._trials: dict[str, PlannedTrial] = {}
        self._names: dict[str, str] = {}
        self._begin: dict[str, int] = {}
        self._end: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._latest: dict[str, TrialReport] = {}
        self._finished: set[str] = set()
        self._first: float | None = None
        self._last_log = 0.0
        self._live = Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else None
        self._in_notebook = NotebookLine() if isinstance(console, Screen) and console.notebook else None

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()
        if self._in_notebook and self._trials:
            self._in_notebook.show(self.line(), sum(self._done.values()), sum(self._end.values()))

    def add(self, trial: PlannedTrial, generations: int) -> None:
        """A trial shall be run, which has so many generations already."""
        name = trial.trial_id
        self._begin[name] = self._done[name] = generations
        self._end[name] = trial.max_generations
        self._trials[name] = trial

    def report(self, trial_id: str, report: TrialReport) -> None:
        """A trial has reported."""
        self._first = self._first or time.monotonic()
        self._done[trial_id] = report.generations
        self._latest[trial_id] = report
        self._show()

    def say(self, message: str) -> None:
        """A line that stays."""
        self._console.print(Text(one_line(message)), soft_wrap=True)

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
        if len(self._names) < len(self._trials):
            self._names = dict(zip(self._trials, trial_names(list(self._trials.values())), strict=True))
        running = [
            f"{self._names[trial_id]}: reward {report.raw_reward:.1f}, KL {-report.kl_penalty:z.2f}"
            for trial_id, report in self._latest.items()
        ]
        shown = running[:4] + ([f"and {len(running) - 4} more"] if len(running) > 4 else [])
        return " · ".join([*words, *shown])

    def _show(self) -> None:
        if self._live:
            self._live.update(Text(one_line(self.line()), overflow="fold"), refresh=True)
        elif time.monotonic() - self._last_log >= (_NOTEBOOK_SECONDS if self._in_notebook else _LOG_SECONDS):
            self._last_log = time.monotonic()
            if self._in_notebook:
                self._in_notebook.show(self.line(), sum(self._done.values()), sum(self._end.values()))
            else:
                self.say(self.line())
