"""Tell the tools of `--log-to` what trials have published. A process a tool: none can stop a sweep, or slow it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from rl_alliteration.config import MODEL, SETTINGS, PlannedTrial
from rl_alliteration.results import schema
from rl_alliteration.results.storage import Storage
from rl_alliteration.tune.resume import Found, Standing
from rl_alliteration.tune.signals import StopRequest
from rl_alliteration.tune.trackers.__main__ import Told

_PATIENCE_SECONDS, _PATIENCE_SECONDS_STOPPED = 120.0, 5.0
"""That the tools have at the end to take what is left; where the sweep was asked to stop."""

_COMMAND = [sys.executable, "-m", "rl_alliteration.tune.trackers"]
_STATES = {
    Standing.DIVERGED: schema.FAILED,
    Standing.TWICE: schema.FAILED,
    Standing.STOPPED: schema.STOPPED,
}


class Tracking:
    """The tools' processes."""

    def __init__(self, names: Sequence[str], storage: Storage, experiment: str, say: Callable[[str], None]) -> None:
        """`say`: called with a line where a tool fails, on a thread of its own."""
        self._experiment, self._say = experiment, say
        self._known: dict[str, int] = {}
        self._processes = {
            name: subprocess.Popen(  # a signal to the sweep is not for it: it ends after the sweep
                [*_COMMAND, name, str(storage)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
            )
            for name in names
        }  # fmt: skip
        self._readers = [
            threading.Thread(target=self._listen, args=(process,), daemon=True) for process in self._processes.values()
        ]
        for reader in self._readers:
            reader.start()

    def published(self, trial: PlannedTrial, generations: int) -> None:
        """The trial has so many texts in the storage."""
        if generations > self._known.get(trial.trial_id, 0):
            self._known[trial.trial_id] = generations
            self._tell(trial, "")

    def found(self, found: Iterable[Found]) -> None:
        """What is there when a sweep begins: a tool may not have it."""
        for one in found:
            if one.standing is not Standing.ELSEWHERE:
                self.published(one.trial, one.generations)
                if not one.to_run:
                    self.ended(one.trial, _STATES.get(one.standing, schema.FINISHED))

    def ended(self, trial: PlannedTrial, status: str) -> None:
        """The trial runs no more, for now."""
        self._tell(trial, status)

    def close(self, *, stopped: bool) -> None:
        """Wait until the tools have all that was published, but not for ever."""
        until = time.monotonic() + (_PATIENCE_SECONDS_STOPPED if stopped else _PATIENCE_SECONDS)
        for process in self._processes.values():
            with contextlib.suppress(OSError):
                process.stdin.close()  # type: ignore[union-attr]
        for name, process in self._processes.items():
            try:
                code = process.wait(max(until - time.monotonic(), 0.0))
                if code:
                    self._say(f"--log-to: the process of {name} ended with code {code}; the same command tries again")
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                self._say(f"--log-to: {name} has not taken all texts in time; the same command goes on with it")
        for reader in self._readers:
            reader.join()

    def _tell(self, trial: PlannedTrial, status: str) -> None:
        told = Told(self._experiment, trial.trial_id, settings_of(trial), status)
        line = json.dumps(dataclasses.asdict(told))
        for process in self._processes.values():
            with contextlib.suppress(OSError):  # it has ended: `close` says so
                process.stdin.write(line + "\n")  # type: ignore[union-attr]
                process.stdin.flush()  # type: ignore[union-attr]

    def _listen(self, process: subprocess.Popen[str]) -> None:
        for line in process.stdout or ():
            self._say(line.rstrip("\n"))


def settings_of(trial: PlannedTrial) -> dict[str, Any]:
    """Every setting of a trial by name, those at their default too, and its model by its name."""
    values = {name: getattr(trial.config, name) for name, one in SETTINGS.items() if one.kind != MODEL}
    shown = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return {**shown, "model": trial.model}


@contextlib.contextmanager
def tracking(
    names: Sequence[str], storage: Storage, experiment: str, stop: StopRequest, say: Callable[[str], None]
) -> Iterator[Tracking]:
    """The tools, as long as a sweep runs."""
    tracked = Tracking(names, storage, experiment, say)
    try:
        yield tracked
    finally:
        tracked.close(stopped=stop.signal is not None)
