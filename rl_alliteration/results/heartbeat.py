"""How a running sweep's trials stand between two of their parts: one small file an experiment.

The driver writes it from what its trials report; it is outside of the datasets, and losing it loses nothing.
"""

from __future__ import annotations

import collections
import contextlib
import json
import math
import time
from collections.abc import Mapping
from typing import Any

from rl_alliteration.errors import Failure
from rl_alliteration.results.storage import Storage

BEAT_SECONDS = 5.0
BINS = 24
"""Points of a trial's curve, from its first text to its last."""
_SPEED_REPORTS = 16  # about half a minute

SHOWN = ("raw_reward", "kl_penalty", "entropy", "variety", "sample_seconds", "train_seconds", "host", "device")
"""What of a trial's report is passed on."""


def heartbeat_path(experiment: str) -> str:
    """Where an experiment's heartbeat is."""
    return f"heartbeats/{experiment}.json"


def read_heartbeat(storage: Storage, experiment: str) -> dict[str, Any]:
    """`written_at` (seconds since 1970) and `trials`, by id: each running trial's newest report.

    Nothing is in it if there is none, or none that can be read.
    """
    with contextlib.suppress(FileNotFoundError, Failure, ValueError):
        beat = json.loads(storage.get(heartbeat_path(experiment)))
        if isinstance(beat, dict) and isinstance(beat.get("trials"), dict):
            return beat
    return {"written_at": 0.0, "trials": {}}


class Heartbeat:
    """Collects trials' reports and writes the file every few seconds."""

    def __init__(self, storage: Storage, experiment: str, run_id: str) -> None:
        self._storage = storage
        self._path = heartbeat_path(experiment)
        self._run_id = run_id
        self._lengths: dict[str, int] = {}
        self._trials: dict[str, dict[str, Any]] = {}
        self._seen: dict[str, collections.deque[tuple[float, int]]] = {}
        self._bins: dict[str, dict[int, tuple[float, int]]] = {}
        self._written = 0.0

    def add(self, trial_id: str, length: int) -> None:
        """A trial shall have `length` generations."""
        self._lengths[trial_id] = length

    def report(self, trial_id: str, result: Mapping[str, Any]) -> float:
        """A trial has reported; returns its speed, generations per second (nan until there are two reports)."""
        generations, now = int(result["generations"]), time.monotonic()
        seen = self._seen.setdefault(trial_id, collections.deque(maxlen=_SPEED_REPORTS))
        if seen and generations < seen[-1][1]:  # it started again
            seen.clear()
        seen.append((now, generations))
        elapsed, done = now - seen[0][0], generations - seen[0][1]
        speed = done / elapsed if elapsed > 0 and done > 0 else math.nan
        bins = self._bins.setdefault(trial_id, {})
        place = min(max(generations - 1, 0) * BINS // self._lengths[trial_id], BINS - 1)
        total, count = bins.get(place, (0.0, 0))
        bins[place] = (total + result["raw_reward"], count + 1)
        self._trials[trial_id] = {
            "generations": generations,
            "published": result["published"],
            "speed": speed,
            **{name: result[name] for name in SHOWN},
        }
        return speed

    def end(self, trial_id: str) -> None:
        """A trial will report no more: the datasets tell of it."""
        for kept in (self._trials, self._seen, self._bins):
            kept.pop(trial_id, None)

    def beat(self, *, at_once: bool = False) -> None:
        """Write the file if it is time to."""
        if not at_once and time.monotonic() - self._written < BEAT_SECONDS:
            return
        self._written = time.monotonic()
        trials = {
            name: {**_without_nan(trial), "curve": {str(i): t / n for i, (t, n) in self._bins[name].items()}}
            for name, trial in self._trials.items()
        }
        beat = {"run_id": self._run_id, "written_at": time.time(), "trials": trials}
        with contextlib.suppress(Failure):  # the next may be written
            self._storage.put(self._path, json.dumps(beat, allow_nan=False).encode())


def _without_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
