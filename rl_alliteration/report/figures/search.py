"""What a search found: trial by trial in the order in which they began, and by what it chose."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from rl_alliteration.analysis.frontier import FrontierPoint, keeps
from rl_alliteration.analysis.stopping import COLLAPSE, HALVING, SEED_FAILED, SPENT, status_words
from rl_alliteration.analysis.types import Trial
from rl_alliteration.flags import UpdateSettings
from rl_alliteration.report.base import BLUE, GOLD, GREEN, GREY, ORANGE, PINK, RED, Figure, Series, Shown, references
from rl_alliteration.results import schema
from rl_alliteration.setting import settings_of

_COLOURS = {schema.FINISHED: GREEN, HALVING: GREY, COLLAPSE: RED, SPENT: ORANGE, SEED_FAILED: PINK}
"""By how a trial ended, or why it was stopped."""
_CHOICES: tuple[tuple[str, str, Callable[[Trial], Any], bool], ...] = (
    ("beta", "beta", attrgetter("beta"), True),
    ("learning_rate", "learning rate", attrgetter("learning_rate"), True),
    ("group_size", "group size", attrgetter("group_size"), True),
    ("algorithm", "algorithm", attrgetter("algorithm"), False),
    *((name, name.replace("_", "-"), attrgetter(f"update.{name}"), False) for name in settings_of(UpdateSettings)),
)
"""What a search chooses: key, title, its value in a trial, and whether on a logarithmic axis."""


def search_figures(shown: Shown) -> list[Figure]:
    """The figures of each experiment that a search has run in."""
    found = []
    for name in sorted(shown.searches):
        trials = [trial for trial in shown.analysis.trained if trial.experiment == name]
        points = [point for point in shown.points if point.trial.experiment == name]
        figures = _of_one(points, trials, shown.keep_variety) if trials else []
        if len(shown.searches) > 1:
            figures = [dataclasses.replace(f, key=f"{f.key}_{name}", title=f"{f.title} ({name})") for f in figures]
        found += figures
    return found


def _of_one(points: Sequence[FrontierPoint], trials: Sequence[Trial], keep_variety: float) -> list[Figure]:
    ordered = sorted(trials, key=lambda trial: (trial.began, trial.trial_id))
    best: dict[str, FrontierPoint] = {}
    for point in points:
        name = point.trial.name
        if keeps(point, keep_variety) and (name not in best or point.alliteration > best[name].alliteration):
            best[name] = point
    scores = [best[trial.name].alliteration if trial.name in best else 0.0 for trial in ordered]
    numbers = [float(number) for number in range(1, len(ordered) + 1)]
    running = np.maximum.accumulate(scores).tolist() if scores else []
    fates = [status_words(trial.status, trial.reason) for trial in ordered]
    colours = {
        fate: _COLOURS.get(trial.reason if trial.status == schema.STOPPED else trial.status, BLUE)
        for fate, trial in zip(fates, ordered, strict=True)
    }
    targets = [(t.name, best[t.name].first if t.name in best else int(t.first[-1])) for t in ordered]

    def by_fate(x: Sequence[Any]) -> list[Series]:
        found = []
        for fate in dict.fromkeys(fates):
            chosen = [index for index, other in enumerate(fates) if other == fate]
            found.append(
                Series(
                    fate, [x[i] for i in chosen], [scores[i] for i in chosen], colours[fate], "points",
                    targets=[targets[i] for i in chosen],
                )
            )  # fmt: skip
        return found

    y_title = "alliterating pairs per 100 words"
    what = (
        "Alliteration of a trial's best window among those that keep variety and sense. Choose a point to read its "
        "texts."
    )
    history = Figure(
        "search_history", "The search, trial by trial", f"{what} The line: the best so far.",
        "trial", y_title, [*by_fate(numbers), Series("best so far", numbers, running, GOLD)],
        references(ordered, "alliteration"),
    )  # fmt: skip
    chosen_by = [
        Figure(
            f"search_{key}", f"The search, by {title}", what, title, y_title, by_fate([value(t) for t in ordered]),
            references(ordered, "alliteration"), log_x=log_x,
        )
        for key, title, value, log_x in _CHOICES
        if len({value(trial) for trial in ordered}) > 1
    ]  # fmt: skip
    return [history, *chosen_by]
