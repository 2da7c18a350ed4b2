"""What the page knows of a storage: looked at again and again in the background, and handed out as it stood."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future
from typing import Any

from rl_alliteration.analysis.measure import Candidate, compared, nearest
from rl_alliteration.analysis.types import WINDOW, Analysis, Original, Trial
from rl_alliteration.analysis.words import Reals
from rl_alliteration.app.events import UNREADABLE, Pair, one_line
from rl_alliteration.app.reading import Reading
from rl_alliteration.app.windows import TrialWindows, Work, do
from rl_alliteration.config import PlannedTrial
from rl_alliteration.results.duck import Parts
from rl_alliteration.results.heartbeat import TrialBeat
from rl_alliteration.results.notes import NO_NOTE, Note
from rl_alliteration.results.storage import Storage

LOOK_SECONDS, REMOTE_SECONDS = 2.0, 15.0
"""Between two looks at a storage: at a folder, and at an object store, where a list has a price."""
MEMORY = "300MB"
"""That DuckDB may take of this process."""
_FILES = 500
"""Parts that one question opens: between two of them what is known so far is shown."""
_PLACES = 40
"""Windows that are measured in one go."""
_NEWEST_FIRST = 3
"""Windows at the end of each trial that are measured before all others: tables show them."""


@dataclasses.dataclass(frozen=True)
class Known:
    """A trial as the page knows it."""

    trial: Trial
    planned: PlannedTrial
    error: str
    host: str
    device: str
    written_at: str
    """When its newest event was."""
    unmeasured: int
    """Windows whose texts have not been measured yet."""
    tokens: Reals
    """(K,) until the end of each window."""
    elapsed: Reals
    """(K,) seconds of the device until the end of each window."""
    variance: Reals
    """(K,) of the objective over each window's texts."""
    beat: TrialBeat | None
    """What its driver says of it meanwhile."""
    parts: tuple[str, ...]
    """Of its texts, in order."""
    note: Note
    """What people say of it."""

    @property
    def pair(self) -> Pair:
        """Experiment and id."""
        return self.trial.experiment, self.trial.trial_id

    @property
    def generations(self) -> int:
        """Texts, those that are not stored yet included."""
        return max(self.trial.generations, self.beat.generations if self.beat is not None else 0)

    @property
    def seconds_left(self) -> float:
        """Until all of its texts are there; nan if that is not known."""
        speed = self.beat.speed if self.beat is not None else None
        return (self.trial.max_generations - self.generations) / speed if speed else math.nan


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """All that is known at one moment. Nothing of it changes."""

    version: int
    trials: Mapping[Pair, Known]
    """In the order of `measure`."""
    problems: tuple[str, ...] = ()
    """What could not be read, a line each."""
    reading: bool = False
    """Whether there are files that have not been read yet."""

    @property
    def analysis(self) -> Analysis:
        """All trials, as far as they are known."""
        return Analysis([one.trial for one in self.trials.values()], WINDOW)

    @property
    def unmeasured(self) -> int:
        """Windows that have not been measured yet."""
        return sum(one.unmeasured for one in self.trials.values())


@dataclasses.dataclass(frozen=True, eq=False)
class _Same:
    """Equal if the objects are the same ones."""

    objects: tuple[object, ...]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and all(a is b for a, b in zip(self.objects, other.objects, strict=True))

    __hash__ = None  # type: ignore[assignment]


_NOTHING = TrialWindows()
"""Of a trial without a text."""


class Index:
    """Reads what is new of a storage, and measures it in `executor`."""

    def __init__(self, storage: Storage, location: str, executor: Callable[[], Executor]) -> None:
        """`location`: of the storage, for processes of their own; `executor`: makes what they run in."""
        self.storage = storage
        self.parts = Parts(storage, MEMORY)
        self.snapshot = Snapshot(0, {})
        self._location = location
        self._make_executor = executor
        self._executor: Executor | None = None
        self._originals: dict[Pair, tuple[Any, Original | None]] = {}
        self._left: dict[Pair, str] = {}
        self._trials: dict[Pair, tuple[Any, Known]] = {}
        self._wanted: deque[Pair] = deque()
        self._running: tuple[Work, tuple[Any, ...], Future[Any]] | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="index", daemon=True)
        self._first = threading.Event()
        self._soon = threading.Event()
        self._reading = Reading(storage, self.parts, self._closed.is_set)

    # --- from any thread -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Look at the storage from now on."""
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(5)
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
        self.parts.close()

    def wait(self, seconds: float) -> None:
        """Wait until the trials are known, but no longer than this."""
        self._first.wait(seconds)

    def look_soon(self) -> None:
        """Something has just changed."""
        self._soon.set()

    def want(self, pairs: Iterable[Pair]) -> None:
        """Measure these before all others."""
        for pair in pairs:
            if pair not in self._wanted:
                self._wanted.append(pair)
        while len(self._wanted) > 100:
            with contextlib.suppress(IndexError):
                self._wanted.popleft()

    # --- the thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        pause = REMOTE_SECONDS if self.storage.folder("") is None else LOOK_SECONDS
        while not self._closed.is_set():
            started = time.monotonic()
            try:
                self.look()
            except UNREADABLE as error:
                self._say(one_line(error))
            except Exception as error:  # whatever it is, the page says so, and looks again
                self._say(f"{type(error).__name__}: {one_line(error)}")
            self._soon.clear()
            while not (self._closed.is_set() or self._soon.is_set()) and time.monotonic() - started < pause:
                if not self.measure_some():
                    self._soon.wait(0.2)

    def look(self) -> None:
        """Read what is new, and show it."""
        for step, _ in enumerate(self._reading.look()):  # after the first, only where there is something new
            self._show(reading=step > 0 or not self._first.is_set())
            self._first.set()
        self._show()

    def _say(self, problem: str) -> None:
        if problem not in self.snapshot.problems:
            self.snapshot = dataclasses.replace(
                self.snapshot, version=self.snapshot.version + 1, problems=(problem,), reading=False
            )
        self._first.set()

    # --- texts -----------------------------------------------------------------------------------------------

    def measure_some(self) -> bool:
        """Take in what was measured, and have more of it measured; whether there is anything to do."""
        if self._running is not None:
            work, known, future = self._running
            try:
                self._keep(work, known, future.result(timeout=0.1))
            except TimeoutError:
                return True
            except Exception as error:  # of damaged texts, or of a process that was killed
                if isinstance(error, BrokenExecutor):
                    self._executor = None
                self._leave(work, known, f"the texts of {'/'.join(work.pair)} cannot be measured: {one_line(error)}")
            self._running = None
        work_and_known = self._next()
        if work_and_known is None:
            return False
        self._executor = self._executor or self._make_executor()
        self._running = (*work_and_known, self._executor.submit(do, work_and_known[0]))
        return True

    def _leave(self, work: Work, known: tuple[Any, ...], line: str) -> None:
        """Measure this no more, unless its parts change."""
        self._left[work.pair] = line
        windows = self._reading.windows.get(work.pair)
        if work.fact is not None:
            self._originals[work.pair] = (known, None)
        elif windows is not None:
            for place, parts in zip(work.places, known, strict=True):
                windows.leave(place, parts)

    def _keep(self, work: Work, known: tuple[Any, ...], result: Any) -> None:
        windows = self._reading.windows.get(work.pair)
        if windows is None:
            return
        if work.fact is not None:
            self._originals[work.pair] = (known, result)
        else:
            self._left.pop(work.pair, None)
            for place, parts in zip(work.places, known, strict=True):
                if place in result:
                    windows.keep(place, parts, result[place])

    def _next(self) -> tuple[Work, tuple[Any, ...]] | None:
        """What to measure next: originals, what is looked at, the ends of all trials, the rest."""
        for pair, fact in self._reading.facts.items():
            windows = self._reading.windows.get(pair)
            if fact["algorithm"] == "original" and windows is not None and windows.numbers:
                known = tuple(windows.parts.items())
                if self._originals.get(pair, (None,))[0] != known:
                    return Work(self._location, pair, tuple(windows.numbers), (), self._fact(pair)), known
        while self._wanted:
            found = self._some_of(self._wanted[0], _PLACES)
            if found is not None:
                return found
            with contextlib.suppress(IndexError):
                self._wanted.popleft()
        for limit in (_NEWEST_FIRST, None):
            for pair in self._reading.windows:
                found = self._some_of(pair, _PLACES, limit)
                if found is not None:
                    return found
        return None

    def _some_of(self, pair: Pair, most: int, newest: int | None = None) -> tuple[Work, tuple[Any, ...]] | None:
        windows = self._reading.windows.get(pair)
        if windows is None or pair not in self._reading.facts:
            return None
        missing = windows.missing()
        if newest is not None:
            first = (windows.places() or [0])[-newest:][0]
            missing = [place for place in missing if place >= first]
        places = tuple(missing[:most])
        if not places:
            return None
        known = tuple(windows.of(place) for place in places)
        paths = dict.fromkeys(path for parts in known for path, _ in parts)
        return Work(self._location, pair, tuple(paths), places), known

    # --- showing ---------------------------------------------------------------------------------------------

    def _fact(self, pair: Pair) -> dict[str, Any]:
        """Fields of `Trial`."""
        fact = {name: value for name, value in self._reading.facts[pair].items() if name not in _NOT_OF_TRIAL}
        return fact | {"status": self._reading.status[pair]}

    def _show(self, *, reading: bool = False) -> None:
        facts, known = self._reading.facts, self._reading.windows
        originals = [
            Candidate(facts[pair]["original_keys"], pair[0], known[pair].generations, original)
            for pair, (_, original) in self._originals.items()
            if original is not None and pair in facts and pair in known
        ]
        trials = {}
        for pair, fact in self._reading.facts.items():
            windows = self._reading.windows.get(pair, _NOTHING)
            original = nearest(originals, pair[0], fact["original_keys"])
            beat = self._reading.beats.get(pair[0], {}).get(pair[1])
            status = self._reading.status[pair]
            note = self._reading.notes.get(pair, NO_NOTE)
            state = (_Same((fact, windows, original)), windows.revision, status, beat, note)
            before = self._trials.get(pair)
            if before is None or before[0] != state:
                before = (state, self._shown(pair, fact, windows, original, beat, note))
            trials[pair] = before
        changed = trials.keys() != self._trials.keys() or any(
            one is not self._trials.get(pair) for pair, one in trials.items()
        )
        self._trials = trials
        left = [line for pair, line in self._left.items() if pair in self._reading.windows]
        lines = tuple(dict.fromkeys([*self._reading.problems, *left]))
        now = self.snapshot
        if changed or lines != now.problems or reading != now.reading:
            shown = {pair: one for pair, (_, one) in trials.items()}
            self.snapshot = Snapshot(now.version + 1, shown, lines, reading)

    def _shown(
        self,
        pair: Pair,
        fact: Mapping[str, Any],
        windows: TrialWindows,
        original: Original | None,
        beat: Any,
        note: Note,
    ) -> Known:
        trial = windows.as_trial(self._fact(pair))
        return Known(
            trial if trial.is_original else compared(trial, original),
            fact["planned"],
            unmeasured=len(windows.missing()),
            tokens=windows.tokens(),
            elapsed=windows.elapsed(),
            variance=windows.objective_variance(),
            beat=beat,
            note=note,
            parts=tuple(path for path in windows.parts if path in windows.numbers),
            **fact["more"],
        )


_NOT_OF_TRIAL = ("planned", "original_keys", "more")
