"""Curves: any number of windows against any other."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from rl_alliteration.analysis.metrics import METRICS
from rl_alliteration.analysis.seeds import interquartile_mean
from rl_alliteration.analysis.types import WINDOW
from rl_alliteration.analysis.words import Reals
from rl_alliteration.app.choices import Choices
from rl_alliteration.app.facets import chosen, facets, setting
from rl_alliteration.app.index import Known
from rl_alliteration.app.page import Live, Page
from rl_alliteration.report.base import Figure, Series, style_of
from rl_alliteration.report.drawing import to_plotly

MOST_LINES = 60
"""Trials that are drawn a line each; of more the first."""
SMOOTHING = {"1": "none", "3": "mean of 3 windows", "5": "mean of 5 windows"}
LOGARITHMIC = {"": "neither axis", "x": "x", "y": "y"}
TOGETHER, EACH = "seeds", "trials"


@dataclasses.dataclass(frozen=True)
class Axis:
    """What may stand at an axis."""

    name: str
    title: str
    unit: str
    digits: int
    of: Callable[[Known], Reals]
    """(K,) by window."""

    @property
    def words(self) -> str:
        """Title and unit."""
        return f"{self.title}, {self.unit}" if self.unit else self.title


def _of_metric(name: str) -> Axis:
    about = METRICS[name]
    return Axis(name, about.title, about.unit, about.digits, lambda one: about.shown(one.trial.metrics[name]))


AXES: dict[str, Axis] = {
    axis.name: axis
    for axis in (
        Axis("generation", "Generation", "texts sampled", 0, lambda one: one.trial.first + one.trial.texts / 2),
        Axis("tokens", "Tokens", "sampled so far, with the prompts'", 0, lambda one: one.tokens),
        Axis("device_seconds", "Device time", "seconds so far", 0, lambda one: one.elapsed),
        *map(_of_metric, METRICS),
    )
}
"""By name, in the order in which to offer them."""


def page(live: Live, choices: Choices) -> Page:
    """The curves that an address asks for."""
    snapshot = live.index.snapshot
    known = facets(snapshot)
    found = [one for one in chosen(snapshot, known, choices) if not one.trial.is_original and len(one.trial.first)]
    y = AXES[choices.one_of("y", AXES, "raw_reward")]
    x = AXES[choices.one_of("x", AXES, "generation")]
    log = choices.one_of("log", LOGARITHMIC, "")
    smooth = int(choices.one_of("smooth", SMOOTHING, "1"))
    by = choices.one_of("by", (TOGETHER, EACH), TOGETHER)
    live.index.want([one.pair for one in found[:MOST_LINES]])
    colour = live.colour_of(snapshot)
    if by == TOGETHER:
        series = together(found, x, y, smooth, colour)
        drawn = (
            f"Each line is the interquartile mean over the seeds of a setting; the band is from the least to the {''}"
        )
        drawn += "greatest of them."
    else:
        series = [one for trial in found[:MOST_LINES] for one in each(trial, x, y, smooth, colour(trial))]
        drawn = "Each line is a trial; a point leads to its texts."
        if len(found) > MOST_LINES:
            drawn += f" The first {MOST_LINES} of {len(found):,} trials are drawn: filter them, or draw seeds together."
    caption = f"Windows of {WINDOW} texts, each at its middle. {drawn}"
    if smooth > 1:
        caption += f" Smoothed: {SMOOTHING[str(smooth)]}, centred."
    unmeasured = sum(one.unmeasured for one in found)
    figure = Figure(
        "curves", f"{y.title} against {_within(x.title)}",
        caption, x.words, y.words, series, _reference(found, y), digits=y.digits, log_x=log == "x", ordered=False,
    )  # fmt: skip
    plot = to_plotly(figure)
    if log == "y":
        plot["layout"]["yaxis"]["type"] = "log"
    values: dict[str, Any] = {
        "facets": [(facet, facet.options, choices.all(facet.name)) for facet in known],
        "words": choices.text("trial"),
        "starred": choices.flag("starred"),
        "choices": choices,
        "axes": AXES,
        "x": x.name,
        "y": y.name,
        "log": log,
        "logs": LOGARITHMIC,
        "smooth": str(smooth),
        "smoothing": SMOOTHING,
        "by": by,
        "bys": {TOGETHER: "seeds together", EACH: "each trial"},
        "figure": figure,
        "plot": plot,
        "places": places(found),
        "numbers": _numbers(found, x, y, smooth),
        "trials": len(found),
        "unmeasured": unmeasured if y.name in METRICS or x.name in METRICS else 0,
    }
    return Page("curves.html", "Curves", values, lambda: as_table(found, x, y))


def places(trials: Sequence[Known]) -> dict[str, str]:
    """Where the texts of a trial are, by the name that figures know it by."""
    return {one.trial.name: "/".join(one.pair) for one in trials}


def each(one: Known, x: Axis, y: Axis, smooth: int, colour: str) -> list[Series]:
    """A trial's line, and its windows as points that lead to their texts."""
    xs, ys = _known(x.of(one), smoothed(y.of(one), smooth))
    firsts = _known_firsts(one, x, y, smooth)
    targets = [(one.trial.name, first) for first in firsts]
    name = one.note.name or one.trial.name
    style = style_of(one.trial.algorithm)
    return [
        Series(one.trial.name, xs, ys, colour, group=name, faint=True, dash=style.dash),
        Series(name, xs, ys, colour, "points", small=True, group=name, symbol=style.symbol, targets=targets),
    ]


def together(trials: Sequence[Known], x: Axis, y: Axis, smooth: int, colour: Callable[[Known], str]) -> list[Series]:
    """The seeds of each setting: a line and a band, by window."""
    groups: dict[Any, list[Known]] = {}
    for one in trials:
        groups.setdefault(setting(one), []).append(one)
    algorithms = {one.trial.algorithm for one in trials}
    rewards = {one.trial.reward_function for one in trials}
    series = []
    for own in groups.values():
        trial = own[0].trial
        name = trial.coefficient + (f", {trial.algorithm}" if len(algorithms) > 1 else "")
        name += f", {trial.reward_function}" if len(rewards) > 1 else ""
        rows = _by_window(own, x, y, smooth)
        if not rows:
            continue
        xs, middle = [row.x for row in rows], [row.middle for row in rows]
        bounds = [row.low for row in rows], [row.high for row in rows]
        targets = [row.nearest for row in rows]
        if len(own) > 1:
            series.append(Series(name, xs, middle, colour(own[0]), "band", group=name, quiet=True, bounds=bounds))
        series.append(Series(name, xs, middle, colour(own[0]), group=name, dash=style_of(trial.algorithm).dash))
        symbol = style_of(trial.algorithm).symbol
        series.append(
            Series(
                name, xs, middle, colour(own[0]), "points", small=True, quiet=True, group=name, symbol=symbol,
                targets=targets,
            )
        )  # fmt: skip
    return series


class Point(NamedTuple):
    """A window of several seeds."""

    x: float
    low: float
    middle: float
    high: float
    nearest: tuple[str, int]
    """The seed nearest to the middle, and the window's first generation."""


def _by_window(trials: Sequence[Known], x: Axis, y: Axis, smooth: int) -> list[Point]:
    """Of each full window that a seed has."""
    columns: dict[int, list[tuple[float, float, str]]] = {}
    for one in trials:
        full = one.trial.full
        for first, a, b in zip(one.trial.first[full], x.of(one)[full], smoothed(y.of(one), smooth)[full], strict=True):
            if math.isfinite(a) and math.isfinite(b):
                columns.setdefault(int(first), []).append((float(a), float(b), one.trial.name))
    found = []
    for first, own in sorted(columns.items()):
        xs, ys = (np.array([one[k] for one in own]) for k in range(2))
        middle = float(interquartile_mean(ys))
        nearest = own[int(np.abs(ys - middle).argmin())][2]
        found.append(Point(float(xs.mean()), float(ys.min()), middle, float(ys.max()), (nearest, first)))
    return found


def _within(title: str) -> str:
    """A title within a sentence; abbreviations stay as they are."""
    return title if title[:2].isupper() else title[:1].lower() + title[1:]


def smoothed(values: Reals, windows: int) -> Reals:
    """Centred means of an odd number of windows; fewer at the ends."""
    if windows <= 1:
        return values
    half = windows // 2
    parts = [values[max(0, place - half) : place + half + 1] for place in range(len(values))]
    return np.array([part[np.isfinite(part)].mean() if np.isfinite(part).any() else math.nan for part in parts])


def _known(xs: Reals, ys: Reals) -> tuple[list[float], list[float]]:
    there = np.isfinite(xs) & np.isfinite(ys)
    return xs[there].tolist(), ys[there].tolist()


def _known_firsts(one: Known, x: Axis, y: Axis, smooth: int) -> list[int]:
    there = np.isfinite(x.of(one)) & np.isfinite(smoothed(y.of(one), smooth))
    return [int(first) for first in one.trial.first[there]]


def _reference(trials: Sequence[Known], y: Axis) -> list[tuple[str, float]]:
    """The unmodified model's, where all are compared with the same."""
    originals = {id(one.trial.original): one.trial.original for one in trials}
    if len(originals) != 1 or y.name not in METRICS:
        return []
    (original,) = originals.values()
    if original is None or not math.isfinite(original.metrics[y.name]):
        return []
    return [("original model", METRICS[y.name].shown(original.metrics[y.name]))]


def _numbers(trials: Sequence[Known], x: Axis, y: Axis, smooth: int) -> list[tuple[str, list[float]]]:
    """First, middle and last of each setting, for those who cannot see the figure."""
    groups: dict[Any, list[Known]] = {}
    for one in trials:
        groups.setdefault(setting(one), []).append(one)
    found = []
    for own in groups.values():
        rows = _by_window(own, x, y, smooth)
        if rows:
            picks = (rows[0], rows[len(rows) // 2], rows[-1])
            trial = own[0].trial
            name = f"{trial.algorithm} {trial.coefficient}, {trial.reward_function}"
            found.append((name, [one.middle for one in picks]))
    return found


def as_table(trials: Sequence[Known], x: Axis, y: Axis) -> pa.Table:
    """A row a window of each trial: exact, not smoothed."""
    columns: dict[str, list[Any]] = {name: [] for name in ("experiment", "trial_id", "first_generation", "texts")}
    xs, ys = [np.zeros(0)], [np.zeros(0)]
    for one in trials:
        count = len(one.trial.first)
        columns["experiment"] += [one.trial.experiment] * count
        columns["trial_id"] += [one.trial.trial_id] * count
        columns["first_generation"] += one.trial.first.tolist()
        columns["texts"] += one.trial.texts.tolist()
        xs.append(np.asarray(x.of(one), dtype=np.float64))
        ys.append(np.asarray(y.of(one), dtype=np.float64))
    made = {name: pa.array(values) for name, values in columns.items()}
    made[x.name] = pa.array(np.concatenate(xs), from_pandas=True)
    if y.name != x.name:
        made[y.name] = pa.array(np.concatenate(ys), from_pandas=True)
    return pa.table(made)
