"""`status --watch`: how the trials of a running sweep stand, from the storage alone. No Ray, no torch."""

from __future__ import annotations

import dataclasses
import math
import signal
from collections.abc import Mapping, Sequence

from rich.console import RenderableType
from rich.text import Text

from rl_alliteration.analysis.summary import TrialSummary, summarise
from rl_alliteration.errors import Failure
from rl_alliteration.names import short_ids
from rl_alliteration.results import schema
from rl_alliteration.results.heartbeat import BINS, TrialBeat, read_heartbeat
from rl_alliteration.results.reader import connect, drivers, parts_by_trial
from rl_alliteration.results.storage import Storage
from rl_alliteration.terminal import Grid, Screen, duration

REFRESH_SECONDS = 3.0

_BARS = "▁▂▃▄▅▆▇█"
_STYLES = {schema.RUNNING: "green", schema.FINISHED: "dim", schema.FAILED: "red", schema.STALLED: "bold red"}
_URGENCY = (schema.FAILED, schema.STALLED, schema.RUNNING, schema.STOPPED, schema.PLANNED, schema.FINISHED)

Pair = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class LiveTrial:
    """A trial as its parts and its driver's heartbeat show it; nan and None for what is not known."""

    summary: TrialSummary
    generations: int
    raw_reward: float
    kl_penalty: float
    variety: float
    speed: float
    """Generations per second."""
    curve: tuple[float | None, ...]
    """Mean raw reward over 24 equal spans of the trial."""

    @property
    def seconds_left(self) -> float:
        """Until all of its texts are there, at its present speed."""
        return (self.summary.max_generations - self.generations) / self.speed if self.speed > 0 else math.nan


class LiveTrials:
    """Reads again only what has changed since the last look."""

    def __init__(self, storage: Storage, experiment: str | None = None) -> None:
        self._storage = storage
        self._experiment = experiment
        self._drivers = drivers(storage)
        self._parts: dict[Pair, list[str]] = {}
        self._summaries: dict[Pair, TrialSummary] = {}
        self._curves: dict[Pair, dict[int, float]] = {}
        self._events: list[str] = []

    def look(self) -> list[LiveTrial]:
        """All trials, in the order of `status`."""
        parts = parts_by_trial(self._storage, self._experiment)
        events = self._storage.list("trials")
        grown = {pair for pair, paths in parts.items() if paths != self._parts.get(pair)}
        if grown or events != self._events:
            self._read(parts, grown, first=not self._summaries)
            self._parts, self._events = parts, events
        driven = {name: self._drivers.look(name) for name in self._experiments}
        beats = {name: read_heartbeat(self._storage, name) for name, has_driver in driven.items() if has_driver}
        return [
            self._live(summary, beats.get(experiment, {}).get(trial_id), driven[experiment])
            for (experiment, trial_id), summary in self._summaries.items()
        ]

    def has_driver(self) -> bool:
        """Whether anything of what is watched may still change."""
        return any(self._drivers.look(name) is not False for name in self._experiments)

    @property
    def _experiments(self) -> set[str]:
        return {experiment for experiment, _ in self._summaries}

    def _read(self, parts: Mapping[Pair, Sequence[str]], grown: set[Pair], *, first: bool) -> None:
        # Nothing is compared here.
        found = summarise(self._storage, self._experiment, wait=False, skip=lambda damaged: None)
        new = {(s.experiment, s.trial_id): s for s in found if self._experiment in (None, s.experiment)}
        self._summaries = new
        if not grown:
            return
        connection = connect(self._storage, wait=False)
        lengths = {pair: summary.max_generations for pair, summary in new.items()}
        chosen = [(*pair, lengths[pair]) for pair in grown if pair in lengths]
        connection.execute("CREATE TABLE chosen (experiment VARCHAR, trial_id VARCHAR, length BIGINT)")
        connection.executemany("INSERT INTO chosen VALUES (?, ?, ?)", chosen)
        few = "" if first else f"WHERE trial_id IN ({', '.join('?' * len(chosen))})"  # opens only their parts
        rows = connection.execute(
            f"SELECT experiment, trial_id, least(generation * {BINS} // length, {BINS - 1}) AS bin, avg(raw_reward) "
            f"FROM generations JOIN chosen USING (experiment, trial_id) {few} GROUP BY ALL",
            [] if first else [trial_id for _, trial_id, _ in chosen],
        ).fetchall()
        for pair in grown:
            self._curves[pair] = {}
        for experiment, trial_id, place, reward in rows:
            self._curves[experiment, trial_id][place] = reward

    def _live(self, summary: TrialSummary, beat: TrialBeat | None, has_driver: bool | None) -> LiveTrial:
        curve: dict[int, float] = dict(self._curves.get((summary.experiment, summary.trial_id), {}))
        if beat is None:
            # Events are read when there are new ones, the lease at each look.
            if summary.status == schema.STALLED and has_driver:
                summary = dataclasses.replace(summary, status=schema.PLANNED)
            elif summary.status in (schema.PLANNED, schema.RUNNING) and has_driver is False:
                summary = dataclasses.replace(summary, status=schema.STALLED)
            return LiveTrial(
                summary, summary.generations, summary.raw_reward, summary.kl_penalty, summary.variety, math.nan,
                tuple(curve.get(i) for i in range(BINS)),
            )  # fmt: skip
        curve = {**beat.curve, **curve}
        return LiveTrial(
            dataclasses.replace(summary, status=schema.RUNNING),
            max(beat.generations, summary.generations),
            _number(beat.raw_reward),
            _number(beat.kl_penalty),
            summary.variety if beat.variety is None else beat.variety,
            _number(beat.speed),
            tuple(curve.get(i) for i in range(BINS)),
        )


def fitting(trials: Sequence[LiveTrial], console: Screen) -> RenderableType:
    """The table, or cards, of as many trials as the terminal has lines for."""
    room = max(console.height - 3, 1)  # lines, the title's and the heading's aside
    rows = room
    while True:
        shown = console.fitting(table(trials, rows))
        lines = len(console.render_lines(shown, pad=False)) - 2
        if lines <= room or rows == 1:
            return shown
        rows = max(min(rows - 1, rows * room // lines), 1)


def table(trials: Sequence[LiveTrial], rows: int | None = None) -> Grid:
    """A row a trial; of more than `rows` those that need attention first."""
    states = {status: sum(t.summary.status == status for t in trials) for status in _URGENCY}
    title = ", ".join(f"{count} {status}" for status, count in states.items() if count)
    speed = sum(t.speed for t in trials if t.speed > 0)
    left = max((t.seconds_left for t in trials if t.seconds_left > 0), default=math.nan)
    if speed > 0:
        title += f" · {speed:.1f} texts/s"
    shown = list(trials)
    if rows is not None and len(shown) > rows:
        urgency = {status: place for place, status in enumerate(_URGENCY)}
        ordered = sorted(range(len(shown)), key=lambda i: urgency.get(shown[i].summary.status, len(urgency)))
        shown = [shown[i] for i in sorted(ordered[:rows])]
        title += f" · {len(trials) - rows} more trials are not shown"
    if left > 0:
        title += f" · those running need {duration(left)}"
    several = len({t.summary.experiment for t in trials}) > 1
    made = Grid(title=title, title_justify="left", box=None, pad_edge=False)
    shown_columns = ("trial", "id", "state", "texts", "reward", "", "KL", "variety", "texts/s", "left")
    for column in ("experiment",) * several + shown_columns:
        left_aligned = column in ("experiment", "trial", "id", "state", "")
        bare = column in ("trial", "state", "")
        made.add_column(column, justify="left" if left_aligned else "right", no_wrap=True, bare=bare)
    ids = short_ids({t.summary.trial_id for t in trials})
    top = max((value for t in trials for value in t.curve if value is not None), default=0.0)
    for trial in shown:
        summary = trial.summary
        made.add_row(
            *([summary.experiment] if several else []),
            summary.name,
            ids[summary.trial_id],
            Text(summary.status, style=_STYLES.get(summary.status, "")),
            f"{trial.generations:,}/{summary.max_generations:,}",
            _shown(trial.raw_reward, ".1f"),
            Text(sparkline(trial.curve, top), style="yellow"),
            _shown(-trial.kl_penalty, "z.2f"),
            _shown(trial.variety, ".2f"),
            _shown(trial.speed, ".1f"),
            "" if math.isnan(trial.seconds_left) else duration(trial.seconds_left),
        )
    return made


def exit_code(storage: Storage, experiment: str | None) -> int:
    """That of the sweep which has ended, by what its trials' newest events say.

    Raises:
        Failure: a trial failed, or has neither ended nor a driver.
    """
    rows = connect(storage, wait=False).execute(
        "SELECT trial_id, status, reason, error, run_id = max(run_id) OVER (PARTITION BY experiment) FROM trials "
        "WHERE $1 IS NULL OR experiment = $1 ORDER BY ALL",
        [experiment],
    )
    trials = rows.fetchall()
    stopping = {number.name: number for number in (signal.SIGINT, signal.SIGTERM)}
    for _, status, reason, _, newest in trials:
        if newest and status == schema.STOPPED and reason in stopping:
            return 128 + stopping[reason]
    for wanted, what in ((schema.FAILED, "failed"), (schema.STALLED, "are left by a driver that is gone")):
        found = [(trial_id, error) for trial_id, status, _, error, _ in trials if status == wanted]
        if found:
            trial_id, error = found[0]
            raise Failure(f"{len(found)} of {len(trials)} trials {what}; {trial_id}{error and f': {error}'}")
    return 0


def sparkline(values: Sequence[float | None], top: float) -> str:
    """A character a value from 0 to `top`; a blank where there is none.

    >>> sparkline([0.0, None, 5.0, 10.0], 10.0)
    '▁ ▅█'
    """
    last = len(_BARS) - 1
    return "".join(
        " " if value is None else _BARS[round(min(max(0.0, value / top), 1.0) * last + 1e-9) if top > 0 else 0]
        for value in values
    ).rstrip()


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _shown(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)
