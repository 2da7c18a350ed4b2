"""Which initial letters alliterate: at the end by beta, over time, and how evenly at equal KL divergence."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from rl_alliteration.analysis.alliteration import LETTERS
from rl_alliteration.analysis.letters import entropy_by_kl
from rl_alliteration.analysis.types import FINAL_TEXTS, Trial
from rl_alliteration.analysis.words import Reals
from rl_alliteration.config import ORIGINAL
from rl_alliteration.report.base import (
    CATEGORIES,
    GREY,
    Chooser,
    Figure,
    Select,
    Series,
    Shown,
    references,
    settings_of,
    short,
)


def chooser(shown: Shown) -> Chooser:
    """At the end of all trials of a reward, or over time in one trial."""
    several = len(shown.rewards) > 1
    found = {
        f"end-{reward}": (f"at the end, by beta{f' (reward {reward})' if several else ''}", by_beta(shown, reward))
        for reward in shown.rewards
    }
    found |= {
        f"trial-{index}": (f"over time: {trial.name}", over_time(shown, trial))
        for index, trial in enumerate(shown.analysis.trained)
    }
    return Chooser(
        "letters",
        [Select("letters-of", "Show", [(key, name) for key, (name, _) in found.items()])],
        ["letters-plot"],
        {key: [figure] for key, (_, figure) in found.items()},
    )


def by_beta(shown: Shown, reward: str) -> Figure:
    """Which initial letters alliterate at the end, by setting; the original for comparison."""
    trials = shown.trials(reward)
    several = len({trial.algorithm for trial in trials}) > 1
    names, counts = [], []
    original = next((trial.original for trial in trials if trial.original), None)
    if original is not None:
        names.append(ORIGINAL)
        counts.append(original.by_letter)
    for (algorithm, coefficient), found in settings_of(trials).items():
        names.append(short(coefficient) + (f" {algorithm}" if several else ""))
        counts.append(np.sum([trial.final_letters() for trial in found], axis=0))
    return _letters(
        shown, f"letters_{reward}", "Which letters alliterate, by beta",
        f"Share of the alliterating pairs by initial letter, over each trial's last {FINAL_TEXTS} texts.",
        "beta", names, np.array(counts), "bar",
    )  # fmt: skip


def over_time(shown: Shown, trial: Trial) -> Figure:
    """Which initial letters alliterate in each window of a trial."""
    return _letters(
        shown, f"letters_{trial.trial_id}", "Which letters alliterate, over time",
        f"Share of the alliterating pairs by initial letter, in each window of {trial.name}.",
        "generation", (trial.first + trial.window / 2).tolist(), trial.by_letter, "area",
    )  # fmt: skip


def by_kl(shown: Shown) -> list[Figure]:
    """How evenly initial letters alliterate under each of several rewards, equally far from the original model."""
    rewards = shown.rewards
    if len(rewards) < 2:
        return []
    series = []
    for reward, colour in zip(rewards, itertools.cycle(CATEGORIES), strict=False):
        estimates = entropy_by_kl(shown.trials(reward))
        series.append(
            Series(
                reward, list(estimates), [e.value for e in estimates.values()], colour, "points",
                bounds=([e.low for e in estimates.values()], [e.high for e in estimates.values()]),
            )
        )  # fmt: skip
    figure = Figure(
        "letters_by_kl", "How evenly letters alliterate, at equal KL divergence",
        "Entropy of the initial letters of the alliterating pairs, over windows that are equally far from the original "
        "model: the interquartile mean over trials with its 95% bootstrap interval, which one trial has not.",
        "KL divergence, nats per token", "entropy of letters, nats", series,
        references(shown.analysis.trained, "letter_entropy"),
    )  # fmt: skip
    return [figure]


def _letters(
    shown: Shown, key: str, title: str, caption: str, x_title: str, x: Sequence[float] | Sequence[str], counts: Reals,
    kind: str,
) -> Figure:  # fmt: skip
    """The letters that are the commonest in all trials, each with one colour in all figures; the others together."""
    counts = counts.reshape(len(x), len(LETTERS))
    shares = np.divide(counts, counts.sum(axis=1, keepdims=True), out=np.zeros(counts.shape),
                       where=counts.sum(axis=1, keepdims=True) > 0)  # fmt: skip
    top = commonest(shown.analysis.trained)
    series = [
        Series(LETTERS[i], x, shares[:, i].tolist(), colour, kind)
        for i, colour in zip(top, CATEGORIES, strict=False)
        if shares[:, i].any()
    ]
    rest = np.delete(shares, top, axis=1).sum(axis=1)
    series.append(Series("all others", x, rest.tolist(), GREY, kind))
    return Figure(key, title, caption, x_title, "share of alliteration", series)


def commonest(trials: Sequence[Trial]) -> list[int]:
    """Places in `LETTERS` of those that carry most alliteration in all windows, as many as there are colours."""
    counts = np.sum([trial.by_letter.sum(axis=0) for trial in trials], axis=0) if trials else np.zeros(len(LETTERS))
    order = np.argsort(-counts, kind="stable")
    return [int(i) for i in order[: len(CATEGORIES)] if counts[i] > 0]
