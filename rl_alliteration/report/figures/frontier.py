"""The frontier: alliteration against variety and sense."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from rl_alliteration.analysis.frontier import FrontierPoint
from rl_alliteration.report.base import GOLD, GREY, Figure, Series, Shown, colours, setting_names, setting_of


def frontier_figure(shown: Shown) -> list[Figure]:
    """Alliteration against variety: each window a point, filled where the texts keep their sense."""
    points = shown.points
    if not points:
        return []
    rewards = list(dict.fromkeys(point.trial.reward_function for point in points))
    series = [one for reward in rewards for one in _windows(points, reward, several=len(rewards) > 1)]
    best = sorted((p for p in points if p.best and p.sense), key=lambda p: p.alliteration)
    series.append(Series("frontier (sense kept)", [p.alliteration for p in best], [p.variety for p in best], GREY))
    if shown.recommendation is not None:
        point = shown.recommendation.point
        series.append(
            Series(
                "recommended", [point.alliteration], [point.variety], GOLD, "points", star=True,
                targets=[(point.trial.name, point.first)],
            )
        )  # fmt: skip
    originals = {id(p.trial.original): p.trial.original for p in points if p.trial.original}
    variety = float(np.mean([o.metrics["variety"] for o in originals.values()])) if originals else float("nan")
    share = shown.keep_variety
    figure = Figure(
        "frontier", "What alliteration costs: the frontier",
        "Each point is a window of a trial: further right it alliterates more, further up its texts differ more. "
        "Filled: they keep their sense (as likely to the original model as its own texts, and no more repetitive); "
        "hollow: they do not. On the line are the windows that no other beats. Choose a point to read its texts.",
        "alliterating pairs per 100 words", "variety", series,
        [(f"{share:.0%} of the original's variety", share * variety)] if originals else [], ordered=False,
    )  # fmt: skip
    return [figure]


def _windows(points: Sequence[FrontierPoint], reward: str, several: bool) -> list[Series]:
    """A reward's windows by setting: those that keep their sense, and those that do not."""
    chosen = [point for point in points if point.trial.reward_function == reward]
    trials = [point.trial for point in chosen]
    colour, name_of = colours(trials), setting_names(trials)
    series = []
    settings = dict.fromkeys(map(setting_of, trials))
    for setting, sense in itertools.product(settings, (True, False)):
        found = [p for p in chosen if setting_of(p.trial) == setting and p.sense == sense]
        name = name_of(setting) + (f", {reward}" if several else "")
        if found:
            series.append(
                Series(
                    name if sense else f"{name}: sense lost",
                    [p.alliteration for p in found], [p.variety for p in found],
                    colour(setting), "points", group=name, hollow=not sense, small=True,
                    targets=[(p.trial.name, p.first) for p in found],
                )
            )  # fmt: skip
    return series
