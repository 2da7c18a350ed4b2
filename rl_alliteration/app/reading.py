"""What of a storage is new since the last look, by its files' paths and sizes: events, sums over texts and steps."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from rl_alliteration.app.events import UNREADABLE, Pair, facts_of, one_line
from rl_alliteration.app.windows import NUMBERS_SQL, SECONDS_SQL, Numbers, TrialWindows
from rl_alliteration.errors import Failure
from rl_alliteration.results import schema
from rl_alliteration.results.duck import Parts
from rl_alliteration.results.heartbeat import TrialBeat, read_heartbeat
from rl_alliteration.results.notes import Note, noted, read_note
from rl_alliteration.results.reader import by_trial, drivers
from rl_alliteration.results.storage import Storage

_FILES = 500
"""Parts that one question opens: between two of them what is known so far is shown."""


_AGAIN_SECONDS = 60.0
"""After which a file that could not be read is tried again: the network may have been the reason."""


@dataclasses.dataclass(frozen=True)
class _Bad:
    """A file that could not be read."""

    size: int
    since: float
    line: str


class Reading:
    """What was read of a storage; of one thread."""

    def __init__(self, storage: Storage, parts: Parts, closed: Callable[[], bool]) -> None:
        """`closed`: whether to read no more."""
        self.windows: dict[Pair, TrialWindows] = {}
        self.facts: dict[Pair, dict[str, Any]] = {}
        """Of each trial: see `measure.facts`; and `more`, fields of its newest event."""
        self.status: dict[Pair, str] = {}
        self.beats: dict[str, dict[str, TrialBeat]] = {}
        """What drivers say of running trials, by experiment and id."""
        self.notes: dict[Pair, Note] = {}
        self._note_problems: dict[str, str] = {}
        self._storage = storage
        self._parts = parts
        self._closed = closed
        self._steps: dict[str, int] = {}
        self._events: dict[str, int] = {}
        self._event_rows: dict[str, list[dict[str, Any]]] = {}
        self._unreadable: Sequence[str] = ()
        self._bad: dict[str, _Bad] = {}

    @property
    def problems(self) -> list[str]:
        """What cannot be read, a line each."""
        return [*(one.line for one in self._bad.values()), *self._unreadable, *self._note_problems.values()]

    def look(self) -> Iterator[None]:
        """Read what is new: first which trials there are, then their numbers, some at a time.

        Raises:
            Failure: the storage cannot be listed.
        """
        listed = {dataset: self._storage.sizes(dataset) for dataset in schema.DATASETS}
        files = {path: size for sizes in listed.values() for path, size in sizes.items()}
        again = time.monotonic() - _AGAIN_SECONDS
        self._bad = {path: one for path, one in self._bad.items() if files.get(path) == one.size and one.since > again}
        self._read_events(listed["trials"])
        yield
        self._read_notes()
        yield from self._read_numbers(listed["generations"])
        yield from self._read_seconds(listed["steps"])

    def _read_notes(self) -> None:
        """All of them: they are few and small, and may change at any time."""
        self.notes, self._note_problems = {}, {}
        for path in self._storage.list("notes"):
            pair = noted(path)
            if pair is not None:
                try:
                    self.notes[pair], _ = read_note(self._storage, *pair)
                except (Failure, OSError) as error:
                    self._note_problems[path] = one_line(error)

    # --- events ----------------------------------------------------------------------------------------------

    def _read_events(self, listed: Mapping[str, int]) -> None:
        ends = {}
        for pair, paths in by_trial(listed).items():
            ends[pair] = dict.fromkeys((paths[0], paths[-1]))
        wanted = {path: listed[path] for paths in ends.values() for path in paths}
        new = [path for path, size in wanted.items() if self._events.get(path) != size]
        gone = self._events.keys() - wanted.keys()
        for path in gone:
            del self._events[path]
            self._event_rows.pop(path, None)
        columns = ", ".join(["experiment", "trial_id", *schema.arrow("trials", 1).names])
        for table in self._ask(f"SELECT {columns}, filename FROM parts", new, wanted):
            rows: dict[str, list[dict[str, Any]]] = {}
            for row in table.to_pylist():
                path = _path_of("trials", row.pop("filename"), row)
                rows.setdefault(path, []).append(row)
            self._event_rows |= rows
        self._events = {path: size for path, size in wanted.items() if path not in self._bad}
        if new or gone:
            self._make_facts()
        self._stalled()

    def _make_facts(self) -> None:
        rows = [row for found in self._event_rows.values() for row in found]
        found, self._unreadable = facts_of(rows)
        newest: dict[Pair, dict[str, Any]] = {}
        for row in rows:
            pair = row["experiment"], row["trial_id"]
            if pair not in newest or row["event"] >= newest[pair]["event"]:
                newest[pair] = row
        for fact in found:
            row = newest[fact["experiment"], fact["trial_id"]]
            fact["more"] = {name: str(row[name] or "") for name in ("error", "host", "device", "written_at")}
        self.facts = {(fact["experiment"], fact["trial_id"]): fact for fact in found}

    def _stalled(self) -> None:
        """Which trials run by their events, and have no driver; what running ones say of themselves."""
        seen = drivers(self._storage)
        driven = {name: seen.look(name) for name in {name for name, _ in self.facts}}
        self.beats = {name: read_heartbeat(self._storage, name) for name, has_driver in driven.items() if has_driver}
        self.status = {}
        for pair, fact in self.facts.items():
            going_on = fact["status"] in (schema.PLANNED, schema.RUNNING)
            self.status[pair] = schema.STALLED if going_on and driven[pair[0]] is False else fact["status"]

    # --- numbers ---------------------------------------------------------------------------------------------

    def _read_numbers(self, listed: Mapping[str, int]) -> Iterator[None]:
        found = by_trial(listed)
        for pair in self.windows.keys() - found.keys():
            del self.windows[pair]
        new = []
        for pair, paths in found.items():
            windows = self.windows.setdefault(pair, TrialWindows())
            windows.stand({path: listed[path] for path in paths})
            new += [path for path in paths if path not in windows.numbers]
        for table in self._ask(NUMBERS_SQL, new, listed):
            for path in _add_numbers(self.windows, table):
                self._set_aside(path, listed[path], "one of its numbers is missing, infinite or nan, see `verify`")
            yield

    def _read_seconds(self, listed: Mapping[str, int]) -> Iterator[None]:
        of_trials = {path: pair for pair, paths in by_trial(listed).items() for path in paths}
        for pair, windows in self.windows.items():
            windows.seconds = {path: found for path, found in windows.seconds.items() if of_trials.get(path) == pair}
        new = [path for path in of_trials if self._steps.get(path) != listed[path]]
        for table in self._ask(SECONDS_SQL, new, listed):
            for row in table.to_pylist():
                found = self.windows.get((row["experiment"], row["trial_id"]))
                if found is not None and row["seconds"] is not None:
                    found.add_seconds(_path_of("steps", row["filename"], row), row["place"], row["seconds"])
            yield
        self._steps = {path: size for path, size in listed.items() if path not in self._bad}

    def _ask(self, sql: str, paths: Sequence[str], sizes: Mapping[str, int]) -> Iterator[pa.Table]:
        """The answers over some files at a time; those that cannot be read are left out, with a line."""
        paths = [path for path in paths if path not in self._bad]
        for start in range(0, len(paths), _FILES):
            if self._closed():
                return
            yield from self._ask_some(sql, paths[start : start + _FILES], sizes)

    def _ask_some(self, sql: str, paths: Sequence[str], sizes: Mapping[str, int]) -> Iterator[pa.Table]:
        try:
            yield self._parts.query(sql, paths)
        except UNREADABLE as error:
            if len(paths) > 1:  # which of them it is
                half = len(paths) // 2
                yield from self._ask_some(sql, paths[:half], sizes)
                yield from self._ask_some(sql, paths[half:], sizes)
            else:
                self._set_aside(paths[0], sizes[paths[0]], one_line(error))

    def _set_aside(self, path: str, size: int, why: str) -> None:
        self._bad[path] = _Bad(size, time.monotonic(), f"{path} cannot be read: {why}")


def _path_of(dataset: str, filename: str, row: Mapping[str, Any]) -> str:
    """The path within the storage of a file that DuckDB names."""
    return schema.part_path(dataset, row["experiment"], row["trial_id"], schema.part_number(filename))


def _add_numbers(windows: Mapping[Pair, TrialWindows], table: pa.Table) -> set[str]:
    """Take in the answers to `NUMBERS_SQL`; the parts that have numbers which are none."""
    damaged = set()
    columns = table.to_pydict()
    fixed = ("experiment", "trial_id", "filename", "place", "texts", "first", "last")
    sums = np.array([columns[name] for name in table.column_names if name not in fixed], dtype=np.float64).T
    for row in range(table.num_rows):
        experiment, trial_id = columns["experiment"][row], columns["trial_id"][row]
        path = _path_of("generations", columns["filename"][row], {"experiment": experiment, "trial_id": trial_id})
        if not np.isfinite(sums[row]).all():
            damaged.add(path)
            continue
        numbers = Numbers(columns["texts"][row], columns["last"][row], sums[row])
        found = windows.get((experiment, trial_id))
        if found is not None and path in found.parts:
            found.add(path, columns["place"][row], numbers)
    return damaged
