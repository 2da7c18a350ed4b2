"""What a nat buys: trials beside the unmodified model, best-of-n of its texts, and the optimum of the objective."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from rl_alliteration.analysis.best_of_n import SHARE_FOR_INTERVALS, kl_bound
from rl_alliteration.analysis.envelope import Envelope, EnvelopePoint
from rl_alliteration.analysis.rules import COLLAPSE_SHARE, KEEP_VARIETY
from rl_alliteration.analysis.seeds import Estimate
from rl_alliteration.analysis.tilted import LEAST_SAMPLE
from rl_alliteration.analysis.types import Original, Trial
from rl_alliteration.analysis.worth import by_original, envelope_of, optima, possible
from rl_alliteration.report.base import (
    CYAN,
    GOLD,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    RED,
    Figure,
    Series,
    Shown,
    by_generation,
    setting_names,
    setting_of,
    settings_of,
    style_of,
)

LEAST_NATS = 0.1
"""Nats a text below which a window is at the left end: its own noise is as large, and a logarithm has no zero."""
SIZES = 60
"""Values of n at which best-of-n is drawn, evenly spaced by logarithm."""
OPTIMA = 60
"""Coefficients for which the optimum is drawn, evenly spaced by logarithm …"""
OPTIMA_BETAS = (1.0, 1e4)
"""… between these."""


def reward_against_kl(shown: Shown) -> list[Figure]:
    """Raw reward against KL divergence: the path of every trial, best-of-n, and the optimum where it is known."""
    figures = []
    for key, title, original, trials in _comparisons(shown):
        best = _optima(original)
        figures.append(
            Figure(
                f"reward_against_kl_{key}", f"Reward against KL, {title}",
                f"Each point is a window of {shown.analysis.window} texts, each thin line a trial, from left to right "
                f"as it leaves the original model; windows of less than {LEAST_NATS:g} nats are drawn at "
                f"{LEAST_NATS:g}. Best-of-n: of n texts of the original keep the best, from {len(original.rewards):,} "
                "texts, with its 95% interval; dashed where these are too few for one. It needs the divergence drawn "
                f"or less. {_of_the_optimum(original, trials, bool(best))}",
                "KL divergence, nats a text (logarithmic)", "raw reward",
                [*_paths(shown, trials), *_best_of_n(original), *best],
                [("original model", original.raw_reward.value)], digits=1, log_x=True, ordered=False,
            )
        )  # fmt: skip
    return figures


def envelope_over_beta(shown: Shown) -> list[Figure]:
    """The objective of the best window for every beta, whatever beta it was trained with, coloured by its variety."""
    figures = []
    for key, title, original, trials in _comparisons(shown):
        found = envelope_of(original, trials, lambda trial: " ".join(setting_of(trial)), shown.nats)
        if found is None:
            continue
        transition = found.transition
        figures.append(
            Figure(
                f"envelope_{key}", f"The envelope, {title}",
                "For every beta the largest objective J of any stored window, whatever beta it was trained with; "
                "picked for being high, so a little above what its model is worth. Colour: the variety of its texts, "
                f"as a share of the original's. {_of_the_transition(transition)} {_of_the_answers(found)}",
                "beta", "objective J",
                [*_sides(found.points), *_best_windows(found.points, original.metrics["variety"])],
                [("doing nothing (J0)", original.raw_reward.value)],
                [("transition", transition)] if math.isfinite(transition.value) else [], ordered=False,
            )
        )  # fmt: skip
    return figures


def objective(shown: Shown, reward: str) -> Figure:
    """J over generations, with the line of doing nothing."""
    figure = by_generation(
        shown, reward, "objective", f"objective_{reward}", f"The objective by generation, reward {reward}",
        f"J, the mean of raw reward minus beta times the KL divergence per token, of {shown.analysis.window} texts: "
        "what each trial is trained on, so trials of different beta have different objectives. Doing nothing has the "
        "same for each: the original's mean raw reward. Thick: the interquartile mean over seeds; thin: each trial.",
    )  # fmt: skip
    figure.references[:] = [("doing nothing (J0)", value) for _, value in figure.references]
    return figure


def _comparisons(shown: Shown) -> list[tuple[str, str, Original, list[Trial]]]:
    """Trials of one reward that are compared with the same texts: a figure's key, its title, the original, and they."""
    found = []
    for reward in shown.rewards:
        groups = by_original(shown.trials(reward))
        for place, (original, trials) in enumerate(groups):
            several = len(groups) > 1
            model = trials[0].model.rpartition("@")[0].rstrip("/").rpartition("/")[2]
            title = f"reward {reward}" + (f", original {place + 1} ({model})" if several else "")
            found.append((f"{reward}_{place + 1}" if several else reward, title, original, trials))
    return found


# --- reward against KL -------------------------------------------------------------------------------------------


def _paths(shown: Shown, trials: Sequence[Trial]) -> list[Series]:
    """Of each trial a thin line; of each setting its windows as points."""
    colour, name_of = shown.colour, setting_names(trials)
    series = []
    for setting, found in settings_of(trials).items():
        name = name_of(setting)
        paths = [_path(trial) for trial in found]
        series += [
            Series(trial.name, *path, colour(setting), group=name, faint=True)
            for trial, path in zip(found, paths, strict=True)
        ]
        kl, raw = (list(itertools.chain.from_iterable(ends)) for ends in zip(*paths, strict=True))
        targets = [(trial.name, first) for trial in found for first in trial.first[trial.full].tolist()]
        symbol = style_of(setting[0]).symbol
        series.append(Series(name, kl, raw, colour(setting), "points", small=True, symbol=symbol, targets=targets))
    return series


def _path(trial: Trial) -> tuple[list[float], list[float]]:
    """Nats a text and raw rewards of its full windows."""
    kl, raw = (trial.metrics[name][trial.full] for name in ("kl_per_text", "raw_reward"))
    return np.maximum(kl, LEAST_NATS).tolist(), raw.tolist()


def _best_of_n(original: Original) -> list[Series]:
    """Its curve with a band, and as far as that again, by logarithm, without one."""
    best = original.best_of_n
    count = len(original.rewards)
    name = "best-of-n"
    series = []
    sure = max(count * SHARE_FOR_INTERVALS, 1.0)
    if sure > 1:
        sizes = np.geomspace(1.0, sure, SIZES)
        sizes = sizes[kl_bound(sizes) >= LEAST_NATS]
        means = [best.mean(n) for n in sizes.tolist()]
        kl = kl_bound(sizes).tolist()
        bounds = [mean.low for mean in means], [mean.high for mean in means]
        series += [
            Series(name, kl, [mean.value for mean in means], GREY, "band", quiet=True, bounds=bounds),
            Series(name, kl, [mean.value for mean in means], GREY),
        ]
    sizes = np.geomspace(sure, count, SIZES)
    sizes = sizes[kl_bound(sizes) >= LEAST_NATS]
    series.append(
        Series(
            f"{name}, no interval", kl_bound(sizes).tolist(),
            [best.mean(min(n, count)).value for n in sizes.tolist()], GREY, group=name, dash="dash", quiet=sure > 1,
        )
    )  # fmt: skip
    return series


def _optima(original: Original) -> list[Series]:
    """The optimum of the objective over beta, where enough texts carry it; nothing elsewhere."""
    known = [one for one in optima(original, np.geomspace(*OPTIMA_BETAS, OPTIMA)) if one.kl.value >= LEAST_NATS]
    if not known:
        return []
    raw = [one.raw for one in known]
    return [
        Series(
            "optimum, estimated", [one.kl.value for one in known], [one.value for one in raw], GOLD,
            bounds=([one.low for one in raw], [one.high for one in raw]),
        )
    ]  # fmt: skip


def _of_the_optimum(original: Original, trials: Sequence[Trial], drawn: bool) -> str:
    """What the original's texts say of it, in words."""
    told = (
        f"The optimum of the objective, for betas at which {LEAST_SAMPLE} or more of these texts carry it; rarer and "
        "better texts than these would raise it."
        if drawn
        else f"The optimum of the objective is not drawn: for no beta do {LEAST_SAMPLE} of these texts carry it."
    )
    betas = sorted({trial.beta for trial in trials if trial.beta > 0 and trial.target_kl is None})
    bounds = {beta: possible(original, beta) for beta in betas}
    sure = [f"{one.at_least:.1f} at beta {beta:g}" for beta, one in bounds.items() if one and one.at_least > 0]
    if not sure:
        return told
    shown = sure if len(sure) <= _TOLD else [sure[0], sure[len(sure) // 2], sure[-1]]
    return f"{told} With 95% confidence its objective is at least {', '.join(shown)}."


_TOLD = 3


# --- the envelope ------------------------------------------------------------------------------------------------


def _best_windows(points: Sequence[EnvelopePoint], variety: float) -> list[Series]:
    """The best window for each beta, those of a range of variety together."""
    found: dict[tuple[str, str], list[EnvelopePoint]] = {}
    for point in points:
        found.setdefault(_shade(point, variety), []).append(point)
    return [
        Series(
            name, [point.beta for point in own], [point.objective for point in own], colour, "points", small=True,
            targets=None if own[0].best is None else [(p.best.trial, p.best.first) for p in own if p.best is not None],
        )
        for (name, colour), own in found.items()
    ]  # fmt: skip


def _shade(point: EnvelopePoint, variety: float) -> tuple[str, str]:
    """In words, and its colour."""
    if point.best is None:
        return "doing nothing is best", GREY
    share = point.best.variety / variety if variety > 0 else math.nan
    return next(((name, colour) for least, name, colour in _SHADES if share >= least), _SHADES[-1][1:])


_SHADES = (
    (KEEP_VARIETY, f"variety of {KEEP_VARIETY:.0%} or more", GREEN),
    (COLLAPSE_SHARE, f"variety of {COLLAPSE_SHARE:.0%} to {KEEP_VARIETY:.0%}", CYAN),
    (COLLAPSE_SHARE / 2, f"variety of {COLLAPSE_SHARE / 2:.0%} to {COLLAPSE_SHARE:.0%} (collapsed)", ORANGE),
    (-math.inf, f"variety under {COLLAPSE_SHARE / 2:.0%} (collapsed)", RED),
)
"""The least share of the original's variety, in words, and its colour."""


def _sides(points: Sequence[EnvelopePoint]) -> list[Series]:
    """What collapse, no collapse and the optimum are worth for every beta; each where it is known, and not far below
    doing nothing."""
    nothing = points[0].nothing.value
    top = max(point.objective for point in points)
    floor = nothing - max(top - nothing, abs(nothing)) / 4
    sides = (
        ("best collapsed window", RED, [point.collapsed for point in points]),
        ("best window not collapsed", GREEN, [point.varied for point in points]),
        ("optimum J*, estimated", PINK, [point.optimum for point in points]),
    )
    series = []
    for name, colour, values in sides:
        known = [(point.beta, value) for point, value in zip(points, values, strict=True) if value >= floor]
        if known:
            series.append(Series(name, [x for x, _ in known], [y for _, y in known], colour, dash="dash"))
    return series


def _of_the_transition(transition: Estimate) -> str:
    if transition.value == -math.inf:
        return "No collapsed window is the best for any beta."
    if transition.value == math.inf:
        return "A collapsed window is the best for every beta that is drawn."
    interval = f" [{transition.low:.3g}, {transition.high:.3g}]" if transition.has_interval else ""
    of_seeds = " (its interval over seeds)" if interval else " (one seed of each setting: no interval)"
    return (
        f"The transition, above which no collapsed window is the best: beta {transition.value:.3g}{interval}{of_seeds}."
    )


def _of_the_answers(found: Envelope) -> str:
    answers = found.answers
    where = f", between {answers[0]:.3g} and {answers[-1]:.3g}" if answers else ""
    told = (
        "Betas at which a window that has not collapsed is the best, and above doing nothing beyond noise: "
        f"{len(answers)} of {len(found.points)}{where}."
    )
    if not any(math.isfinite(point.optimum) for point in found.points):
        return told
    return (
        f"{told} J* is estimated where {LEAST_SAMPLE} or more of the original's texts carry it; rarer and better ones "
        "than these would raise it."
    )
