"""Every metric: over time, and at the end by beta."""

from __future__ import annotations

from rl_alliteration.analysis.metrics import METRICS
from rl_alliteration.analysis.seeds import estimate
from rl_alliteration.analysis.types import FINAL_TEXTS
from rl_alliteration.report.base import (
    GREY,
    Chooser,
    Figure,
    Select,
    Series,
    Shown,
    by_generation,
    references,
    settings_of,
    short,
    style_of,
)


def chooser(shown: Shown) -> Chooser:
    """Each metric for each reward: over time, and at the end."""
    return Chooser(
        "metric",
        (
            Select("metric", "Metric", [(name, about.title) for name, about in METRICS.items()], "variety"),
            Select("metric-reward", "Reward", [(reward, reward) for reward in shown.rewards]),
        ),
        ("over-time", "at-the-end"),
        {
            f"{metric}_{reward}": (over_time(shown, reward, metric), at_the_end(shown, reward, metric))
            for reward in shown.rewards
            for metric in METRICS
        },
    )


def over_time(shown: Shown, reward: str, metric: str) -> Figure:
    """A metric by generation."""
    about = METRICS[metric]
    return by_generation(
        shown, reward, metric, f"{metric}_{reward}", f"{about.title} by generation",
        f"{about.title}: {about.words}.",
    )  # fmt: skip


def at_the_end(shown: Shown, reward: str, metric: str) -> Figure:
    """A metric at the end of the trials, by beta, with intervals over seeds."""
    trials = shown.trials(reward)
    about = METRICS[metric]
    series = []
    for algorithm in dict.fromkeys(trial.algorithm for trial in trials):
        chosen = settings_of(trial for trial in trials if trial.algorithm == algorithm)
        names = [short(coefficient) for _, coefficient in chosen]
        estimates = [estimate([[about.shown(trial.final(metric)) for trial in found]]) for found in chosen.values()]
        series.append(
            Series(
                f"{algorithm}: interquartile mean", names, [e.value for e in estimates],
                style_of(algorithm).colour, "points", symbol=style_of(algorithm).symbol,
                bounds=([e.low for e in estimates], [e.high for e in estimates]),
            )
        )  # fmt: skip
        every = [trial for found in chosen.values() for trial in found]
        series.append(
            Series(
                f"{algorithm}: each seed", [short(trial.coefficient) for trial in every],
                [about.shown(trial.final(metric)) for trial in every], GREY, "points", faint=True,
                symbol=style_of(algorithm).symbol,
                targets=[(trial.name, int(trial.first[-1])) for trial in every],
            )
        )  # fmt: skip
    return Figure(
        f"{metric}_{reward}_end", f"{about.title} at the end, by beta",
        f"Of each trial's last {FINAL_TEXTS} texts: the interquartile mean over seeds with its 95% bootstrap interval, "
        "which one seed has not, and each seed.",
        "beta", about.title, series, references(trials, metric), digits=about.digits,
    )  # fmt: skip


def variety_over_time(shown: Shown, reward: str) -> Figure:
    """Variety by generation."""
    return over_time(shown, reward, "variety")


def variety_at_the_end(shown: Shown, reward: str) -> Figure:
    """Variety at the end, by beta."""
    return at_the_end(shown, reward, "variety")


def raw_reward_at_the_end(shown: Shown, reward: str) -> Figure:
    """Raw reward at the end, by beta."""
    return at_the_end(shown, reward, "raw_reward")
