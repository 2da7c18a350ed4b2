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
from rl_alliteration.report.base import ordered as shades
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
Choice = tuple[str, Sequence[Any], bool]
"""A setting in which trials differ: its title, each trial's value, and whether it is a number on a log scale."""
_FEWEST, _BEST = 20, 0.25
"""Trials that importance is told of; and the share of them that count as the best."""


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
    choices = [(title, [value(t) for t in ordered], log) for _, title, value, log in _CHOICES]
    choices = [(title, values, log) for title, values, log in choices if len(set(values)) > 1]
    return [history, *chosen_by, *importance(choices, scores), *_parallel(choices, scores, targets)]


def importance(choices: Sequence[Choice], scores: Sequence[float]) -> list[Figure]:
    """How much each setting has to do with the best trials, by Optuna; none of few trials or of one setting."""
    if len(choices) < 2 or len(scores) < _FEWEST or len(set(scores)) < 2:
        return []
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize")
    known: dict[str, optuna.distributions.BaseDistribution] = {}
    for title, values, log in choices:
        if log:
            known[title] = optuna.distributions.FloatDistribution(min(values), max(values), log=min(values) > 0)
        else:
            known[title] = optuna.distributions.CategoricalDistribution(sorted(set(map(str, values))))
    for k, score in enumerate(scores):
        params = {title: float(values[k]) if log else str(values[k]) for title, values, log in choices}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=known, value=score))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=_BEST)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return [
        Figure(
            "search_importance", "Which settings matter",
            f"How much each setting has to do with being among the best quarter of {len(scores)} trials: PED-ANOVA of "
            "Optuna. The shares have no direction, and add up to 1 even where no setting matters.",
            "setting", "importance", [Series("importance", list(found), list(found.values()), BLUE, "bar", quiet=True)],
            ordered=False, digits=2,
        )
    ]  # fmt: skip


def _parallel(choices: Sequence[Choice], scores: Sequence[float], targets: Sequence[tuple[str, int]]) -> list[Figure]:
    """Every trial a line over what was chosen for it, the better the lighter."""
    if len(choices) < 2:
        return []
    axes = [_axis(*choice) for choice in choices] + [_axis("alliteration", scores, False)]
    names = [name for name, _ in axes]
    worst_first = sorted(range(len(scores)), key=scores.__getitem__)
    series = [
        Series(
            targets[k][0],
            names,
            [places[k] for _, places in axes],
            colour,
            quiet=True,
            targets=[targets[k]] * len(axes),
        )
        for k, colour in zip(worst_first, shades(len(scores)), strict=True)
    ]
    return [
        Figure(
            "search_parallel", "What was chosen together",
            "A line a trial, from dark, the least alliteration, to light, the most. Each axis goes from its least "
            "value at 0 to its greatest at 1.",
            "", "place on the axis", series, ordered=False, digits=2,
        )
    ]  # fmt: skip


def _axis(title: str, values: Sequence[Any], log: bool) -> tuple[str, list[float]]:
    """Its name with its ends, and where each value is on it, 0 to 1."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        low, high = min(values), max(values)
        numbers = np.log(values) if log and low > 0 else np.array(values, dtype=float)
        ends = f"{low:.3g} to {high:.3g}"
        places = (numbers - numbers.min()) / max(float(np.ptp(numbers)), 1e-12)
    else:
        kinds = sorted(set(map(str, values)))
        ends = " to ".join(dict.fromkeys((kinds[0], kinds[-1])))
        places = np.array([kinds.index(str(value)) for value in values]) / max(len(kinds) - 1, 1)
    return f"{title}: {ends}", places.tolist()
