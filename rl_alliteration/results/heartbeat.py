"""How a running sweep's trials stand between two of their parts: one small file an experiment.

The driver writes it from what its trials report; it is outside of the datasets, and losing it loses nothing.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import math
import time
from typing import Annotated

from pydantic import Field

from rl_alliteration.errors import Failure
from rl_alliteration.foreign import Count, Finite, encode_record, read_record
from rl_alliteration.results.storage import Storage
from rl_alliteration.rows import TrialReport, columns_of

BEAT_SECONDS = 5.0
BINS = 24
"""Points of a trial's curve, from its first text to its last."""
_SPEED_REPORTS = 16  # about half a minute

Number = Finite | None
"""None: not known."""


@dataclasses.dataclass(frozen=True)
class TrialBeat:
    """A running trial's newest report."""

    generations: Count
    published: Count
    speed: Annotated[float, Field(gt=1e-9, lt=1e9)] | None
    """Generations per second."""
    raw_reward: Number
    kl_penalty: Number
    entropy: Number
    variety: Number
    sample_seconds: Number
    train_seconds: Number
    host: str
    device: str
    curve: dict[Annotated[int, Field(ge=0, lt=BINS)], Finite]
    """Mean raw reward of what this run has seen, by bin."""


@dataclasses.dataclass(frozen=True)
class Beat:
    """What `heartbeats/E.json` says."""

    run_id: str
    written_at: Finite
    """Seconds since 1970."""
    trials: dict[str, TrialBeat]
    """By trial id."""


_MEASURED = [one.name for one in columns_of(TrialReport) if one.type is float]


def heartbeat_path(experiment: str) -> str:
    """Where an experiment's heartbeat is."""
    return f"heartbeats/{experiment}.json"


def read_heartbeat(storage: Storage, experiment: str) -> dict[str, TrialBeat]:
    """Each running trial's newest report, by trial id; nothing if there is no file, or none that can be read."""
    path = heartbeat_path(experiment)
    with contextlib.suppress(OSError, Failure):  # the next one is a few seconds away
        return read_record(Beat, storage.get(path), path).trials
    return {}


class Heartbeat:
    """Collects trials' reports and writes the file every few seconds."""

    def __init__(self, storage: Storage, experiment: str, run_id: str) -> None:
        self._storage = storage
        self._path = heartbeat_path(experiment)
        self._run_id = run_id
        self._lengths: dict[str, int] = {}
        self._trials: dict[str, TrialBeat] = {}
        self._seen: dict[str, collections.deque[tuple[float, int]]] = {}
        self._bins: dict[str, dict[int, tuple[float, int]]] = {}
        self._written = 0.0

    def add(self, trial_id: str, length: int) -> None:
        """A trial shall have `length` generations."""
        self._lengths[trial_id] = length

    def report(self, trial_id: str, report: TrialReport) -> float:
        """A trial has reported; returns its speed, generations per second (nan until there are two reports)."""
        generations, now = report.generations, time.monotonic()
        seen = self._seen.setdefault(trial_id, collections.deque(maxlen=_SPEED_REPORTS))
        if seen and generations < seen[-1][1]:  # it started again
            seen.clear()
        seen.append((now, generations))
        elapsed, done = now - seen[0][0], generations - seen[0][1]
        speed = done / elapsed if elapsed > 0 and done > 0 else math.nan
        bins = self._bins.setdefault(trial_id, {})
        place = min(max(generations - 1, 0) * BINS // self._lengths[trial_id], BINS - 1)
        total, count = bins.get(place, (0.0, 0))
        reward = _number(report.raw_reward)
        if reward is not None:
            bins[place] = (total + reward, count + 1)
        self._trials[trial_id] = TrialBeat(
            generations=generations,
            published=report.published,
            speed=_number(speed),
            host=report.host,
            device=report.device,
            curve={},
            **{name: _number(getattr(report, name)) for name in _MEASURED},
        )
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
            name: dataclasses.replace(trial, curve={i: t / n for i, (t, n) in self._bins[name].items()})
            for name, trial in self._trials.items()
        }
        with contextlib.suppress(Failure):  # the next may be written
            self._storage.put(self._path, encode_record(Beat(self._run_id, time.time(), trials)))


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
