"""The frontier: alliteration against variety and sense."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from rl_alliteration.report.base import GOLD, GREY, RED, Figure, Series, Shown, setting_names, setting_of, style_of


def frontier_figure(shown: Shown) -> list[Figure]:
    """Alliteration against variety: each window a point, filled where the texts keep their sense."""
    points = shown.points
    if not points:
        return []
    rewards = list(dict.fromkeys(point.trial.reward_function for point in points))
    series = [one for reward in rewards for one in _windows(shown, reward, several=len(rewards) > 1)]
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
    kept = [(point.alliteration, point.variety) for point in points if point.sense]
    originals = list({id(p.trial.original): p.trial.original for p in points if p.trial.original}.values())
    alliteration, varieties = (
        [original.metrics[name] for original in originals] for name in ("alliteration", "variety")
    )
    series.append(Series("original model", alliteration, varieties, RED, "points", symbol="x"))
    variety = float(np.mean(varieties)) if originals else float("nan")
    share = shown.keep_variety
    figure = Figure(
        "frontier", "What alliteration costs: the frontier",
        "Each point is a window of a trial: further right it alliterates more, further up its texts differ more. "
        "Filled: they keep their sense (as likely to the original model as its own texts, and no more repetitive); "
        "hollow: they do not. On the line are the windows that no other beats. What is seen to begin with are the "
        "windows that keep their sense; a double click shows all. Choose a point to read its texts.",
        "alliterating pairs per 100 words", "variety", series,
        [(f"{share:.0%} of the original's variety", share * variety)] if originals else [], ordered=False,
        view=_view([*zip(alliteration, varieties, strict=True), *kept]),
    )  # fmt: skip
    return [figure]


def _view(kept: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """Ranges of x and of y that hold these points, with some room; None where they are too few or too alike to zoom."""
    ends = []
    for values in zip(*kept, strict=True):
        low, high = min(values), max(values)
        if not high > low:
            return None
        ends.append((low - _ROOM * (high - low), high + _ROOM * (high - low)))
    return (ends[0], ends[1]) if ends else None


_ROOM = 0.06


def _windows(shown: Shown, reward: str, several: bool) -> list[Series]:
    """A reward's windows by setting: those that keep their sense, and those that do not."""
    chosen = [point for point in shown.points if point.trial.reward_function == reward]
    trials = [point.trial for point in chosen]
    name_of = setting_names(trials)
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
                    shown.colour(setting), "points", group=name, hollow=not sense, small=True,
                    symbol=style_of(setting[0]).symbol,
                    targets=[(p.trial.name, p.first) for p in found],
                )
            )  # fmt: skip
    return series
