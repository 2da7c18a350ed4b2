"""What trials end with beside the unmodified model: what `status` and the end of a run say."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Sequence
from statistics import NormalDist

import duckdb
import numpy as np
import pyarrow as pa

from rl_alliteration.analysis.diversity import repetitions, variety
from rl_alliteration.analysis.measure import Candidate, nearest
from rl_alliteration.analysis.rules import COLLAPSE_SHARE, SENSE_NATS, SENSE_QUANTILE, Limits, Lost
from rl_alliteration.analysis.summary import LAST, TrialSummary
from rl_alliteration.analysis.types import WINDOW
from rl_alliteration.analysis.words import Words
from rl_alliteration.config import ORIGINAL
from rl_alliteration.results.reader import connect, whole
from rl_alliteration.results.storage import Storage

WRONG = 0.05
"""How often some trial of a verdict is taken for better or worse though it is not: shared among its trials."""


@dataclasses.dataclass(frozen=True)
class Nothing:
    """The unmodified model, which has no KL divergence: its objective is its mean raw reward, for every beta."""

    objective: float
    """J0."""
    error: float
    """Its standard error, over texts."""
    limits: Limits | None
    """Outside of these texts have lost what `rules.Lost` tells of; None if it has less than a window of texts."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Trials of one experiment that are compared with one unmodified model, by their last 100 texts."""

    experiment: str
    reward_function: str
    nothing: Nothing
    trials: list[TrialSummary]
    below: list[TrialSummary]
    """Those whose objective is below J0 beyond noise, the lowest first."""
    above: list[TrialSummary]
    """Those whose objective is above it beyond noise, the highest first."""
    lost_variety: list[TrialSummary]
    """Those that have less than two thirds of its variety."""
    lost_sense: list[TrialSummary]


def verdicts(storage: Storage, summaries: Sequence[TrialSummary]) -> list[Verdict]:
    """Of all trained trials that have 100 texts or more and an original.

    Args:
        storage: the results.
        summaries: of trials, and of the originals that they are compared with.
    """
    trained = [one for one in summaries if one.algorithm != ORIGINAL and one.generations >= LAST]
    originals = [
        Candidate(one.original_keys, one.experiment, one.generations, one)
        for one in summaries
        if one.algorithm == ORIGINAL and one.generations > 1
    ]
    groups: dict[Hashable, list[TrialSummary]] = {}
    beside: dict[Hashable, TrialSummary] = {}
    for summary in trained:
        found = nearest(originals, summary.experiment, summary.original_keys)
        if found is not None:
            key = (summary.experiment, summary.reward_function, found.experiment, found.trial_id)
            groups.setdefault(key, []).append(summary)
            beside[key] = found
    if not groups:
        return []
    connection = connect(storage, wait=False)
    nothing = {found: _nothing(connection, found) for found in dict.fromkeys(beside.values())}
    return [_judged(nothing[beside[key]], group) for key, group in groups.items()]


def noise(error: float, nothing: float, trials: int) -> float:
    """What an objective must be away from doing nothing to be so beyond noise.

    Args:
        error: its standard error.
        nothing: that of doing nothing.
        trials: how many are judged together, which share `WRONG`.
    """
    return NormalDist().inv_cdf(1 - WRONG / 2 / trials) * math.hypot(error, nothing)


def _judged(nothing: Nothing, trials: list[TrialSummary]) -> Verdict:
    sure = [
        (trial.objective - nothing.objective, noise(trial.objective_error, nothing.error, len(trials)), trial)
        for trial in trials
    ]
    below = [trial for gain, away, trial in sure if gain < -away]
    above = [trial for gain, away, trial in sure if gain > away]
    lost = [(_lost(nothing, trial), trial) for trial in trials]
    return Verdict(
        trials[0].experiment,
        trials[0].reward_function,
        nothing,
        trials,
        sorted(below, key=lambda trial: trial.objective),
        sorted(above, key=lambda trial: -trial.objective),
        [trial for what, trial in lost if what is not None and what.variety],
        [trial for what, trial in lost if what is not None and what.sense],
    )


def _lost(nothing: Nothing, trial: TrialSummary) -> Lost | None:
    if nothing.limits is None:
        return None
    return Lost.of(nothing.limits, trial.variety, trial.original_lm_cross_entropy, trial.repetition)


def _nothing(connection: duckdb.DuckDBPyConnection, original: TrialSummary) -> Nothing:
    table = connection.sql(
        "SELECT raw_reward, text, original_lm_cross_entropy FROM generations WHERE experiment = ? AND trial_id = ? "
        "ORDER BY generation",
        params=[original.experiment, original.trial_id],
    ).to_arrow_table()
    table = whole(table, original.experiment, original.trial_id)
    rewards = table["raw_reward"].to_numpy()
    return Nothing(float(rewards.mean()), float(rewards.std(ddof=1)) / math.sqrt(len(rewards)), _limits(table))


def _limits(original: pa.Table) -> Limits | None:
    """As `Limits.of` has them, of the texts alone."""
    texts = original["text"].to_pylist()
    firsts = range(0, len(texts) - WINDOW + 1, WINDOW)
    if not firsts:
        return None
    return Limits(
        COLLAPSE_SHARE * float(np.mean([variety(texts[first : first + WINDOW]) for first in firsts])),
        float(original["original_lm_cross_entropy"].to_numpy().mean()),
        SENSE_NATS,
        float(np.quantile(repetitions(Words.of(texts)), SENSE_QUANTILE)),
    )
