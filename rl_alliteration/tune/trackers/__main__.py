"""The process of one tool: told on its standard input of trials that have published, it brings the tool up to date.

    python -m rl_alliteration.tune.trackers TOOL STORAGE

Each line in is JSON, see `Told`; each line out is for people. What the tool itself prints goes nowhere.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from rl_alliteration.results.storage import Storage, storage_at
from rl_alliteration.tune.trackers import Run, Tracked
from rl_alliteration.tune.trackers.published import published

OpenRun = Callable[[Tracked], Run]


@dataclasses.dataclass(frozen=True)
class Told:
    """A trial that has published, or that runs no more for now: `status` then says how it ended."""

    experiment: str
    trial_id: str
    settings: dict[str, Any]
    status: str = ""


def follow(name: str, storage: Storage, told: Iterable[Told], open_run: OpenRun, say: Callable[[str], None]) -> None:
    """Bring a tool up to date at each line; what fails is told once, and tried again at the next."""
    runs: dict[tuple[str, str], Run] = {}
    failed = False
    for one in told:
        key = one.experiment, one.trial_id
        try:
            if key not in runs:
                if not any(published(storage, *key, 0)):
                    continue
                runs[key] = open_run(Tracked(*key, one.settings))
            run = runs[key]
            for points, texts in published(storage, *key, run.generations):
                run.log(points, texts)
                run.generations = points[-1][0]
            if one.status:
                run.end(one.status)
                del runs[key]
        except (Exception, SystemExit) as error:  # each tool has its own
            runs.pop(key, None)
            if not failed:
                reason = " ".join(str(error).split())[:200]
                say(
                    f"--log-to: {name} failed ({type(error).__name__}: {reason}); the sweep goes on, and the same "
                    "command again brings it up to date"
                )
            failed = True
    for run in runs.values():
        try:
            run.end("stopped")
        except (Exception, SystemExit):
            continue


def main(name: str, location: str) -> None:
    """Follow what standard input tells."""
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    lines_in = os.fdopen(os.dup(0))

    def read() -> None:  # at once, however slow the tool is: the sweep must not wait
        for line in lines_in:
            waiting.put(line)
        waiting.put("")

    threading.Thread(target=read, daemon=True).start()
    told = (Told(**json.loads(line)) for line in iter(waiting.get, ""))

    def open_run(trial: Tracked) -> Run:
        run: Run = importlib.import_module(f"rl_alliteration.tune.trackers.{name}").open_run(trial)
        return run

    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # a tool that asks for a key has nobody to ask
    follow(name, storage_at(location), told, open_run, lambda line: print(line, file=lines))


if __name__ == "__main__":
    main(*sys.argv[1:])
