"""Trials at one place: which of their windows that is, its numbers, what their settings differ in."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from rl_alliteration.analysis.metrics import METRICS
from rl_alliteration.analysis.types import Trial
from rl_alliteration.config import SETTINGS, PlannedTrial
from rl_alliteration.errors import UserError

FEWEST, MOST = 2, 4
"""Trials of a comparison."""
TEXTS = 4
"""Of each trial: the most typical of its window."""
GENERATION, KL = "generation", "kl"
PLACES = {GENERATION: "equal generation", KL: "equal KL (nats a token)"}
"""Where trials are compared, in words."""
NUMBERS = (
    "raw_reward", "objective", "kl_penalty", "kl_per_text", "variety", "repetition", "alliteration", "near_copies",
)  # fmt: skip
"""Metrics to show first."""


def usual(trials: Sequence[Trial], at: str) -> float:
    """The last generation that all have, or the largest divergence that all reach."""
    if at == GENERATION:
        return float(max(0, min(one.generations for one in trials) - 1))
    return math.floor(min(map(reached, trials)) * 1000) / 1000


def reached(trial: Trial) -> float:
    """The largest KL divergence of its windows, nats a token."""
    return float(np.nanmax(-trial.metrics["kl_penalty"], initial=0.0))


def window_at(trial: Trial, at: str, value: float) -> int | None:
    """Of the trial's windows the one with that generation, or the first that reaches that KL; None: it has none."""
    if at == GENERATION:
        there = np.flatnonzero((trial.first <= value) & (value < trial.first + trial.window))
    else:
        there = np.flatnonzero(-trial.metrics["kl_penalty"] >= value)
    return int(there[0]) if len(there) else None


def number(trial: Trial, window: int | None, metric: str) -> float:
    """A metric of a window as people are shown it; nan without one."""
    return math.nan if window is None else METRICS[metric].shown(float(trial.metrics[metric][window]))


def as_table(trials: Sequence[Trial], windows: Sequence[int | None]) -> pa.Table:
    """A row a trial: its window's first generation, and every metric as people are shown it."""
    places = list(zip(trials, windows, strict=True))
    columns = {
        "experiment": pa.array([trial.experiment for trial in trials]),
        "trial_id": pa.array([trial.trial_id for trial in trials]),
        "first_generation": pa.array([None if place is None else int(one.first[place]) for one, place in places]),
    }
    for name in METRICS:
        columns[name] = pa.array(np.array([number(one, place, name) for one, place in places]), from_pandas=True)
    return pa.table(columns)


def differing(trials: Sequence[PlannedTrial]) -> list[tuple[str, list[str], bool]]:
    """Settings of trials beside one another, those that differ first: name, each one's value, whether they differ."""
    rows = []
    for name, declared in SETTINGS.items():
        if name == "target_kl" and all(one.config.target_kl is None for one in trials):
            continue
        values = [getattr(one.config, name) for one in trials]
        words = [declared.words(value) for value in values]
        rows.append((name.replace("_", " "), words, len(set(map(repr, values))) > 1))
    rows.append(("model", [one.model for one in trials], len({one.model for one in trials}) > 1))
    return sorted(rows, key=lambda row: not row[2])


def check_count(count: int, field: str) -> None:
    """Whether so many trials are compared.

    Raises:
        UserError: they are too few or too many.
    """
    if not FEWEST <= count <= MOST:
        raise UserError(f"{field}: {count} are too {'few' if count < FEWEST else 'many'}; give {FEWEST} to {MOST}")
