"""Whether trials end above the unmodified model by their own objective: what `status` and the end of a run say."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Sequence
from statistics import NormalDist

from rl_alliteration.analysis.measure import Candidate, nearest, original_keys
from rl_alliteration.analysis.summary import LAST, TrialSummary
from rl_alliteration.config import ORIGINAL
from rl_alliteration.results.reader import connect, trial_rows
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


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Trials of one experiment that are compared with one unmodified model, by J of their last 100 texts."""

    experiment: str
    reward_function: str
    nothing: Nothing
    trials: list[TrialSummary]
    below: list[TrialSummary]
    """Those whose objective is below J0 beyond noise, the lowest first."""
    above: list[TrialSummary]
    """Those whose objective is above it beyond noise, the highest first."""


def verdicts(storage: Storage, summaries: Sequence[TrialSummary]) -> list[Verdict]:
    """Of all trained trials that have 100 texts or more and an original."""
    trained = [one for one in summaries if one.algorithm != ORIGINAL and one.generations >= LAST]
    if not trained:
        return []
    originals = _originals(storage)
    groups: dict[Hashable, list[TrialSummary]] = {}
    beside: dict[Hashable, Nothing] = {}
    for summary in trained:
        found = nearest(originals, summary.experiment, summary.original_keys)
        if found is not None and math.isfinite(found.error):
            key = (summary.experiment, summary.reward_function, found)
            groups.setdefault(key, []).append(summary)
            beside[key] = found
    return [_judged(beside[key], group) for key, group in groups.items()]


def _judged(nothing: Nothing, trials: list[TrialSummary]) -> Verdict:
    errors = NormalDist().inv_cdf(1 - WRONG / 2 / len(trials))
    sure = [
        (trial.objective - nothing.objective, errors * math.hypot(trial.objective_error, nothing.error), trial)
        for trial in trials
    ]
    below = [trial for gain, noise, trial in sure if gain < -noise]
    above = [trial for gain, noise, trial in sure if gain > noise]
    return Verdict(
        trials[0].experiment,
        trials[0].reward_function,
        nothing,
        trials,
        sorted(below, key=lambda trial: trial.objective),
        sorted(above, key=lambda trial: -trial.objective),
    )


def _originals(storage: Storage) -> list[Candidate[Nothing]]:
    """The unmodified models that have texts."""
    connection = connect(storage, wait=False)
    events = trial_rows(
        connection.execute(
            "SELECT experiment, trial_id, config, model, max_generations, checkpoint_every FROM trials "
            "WHERE algorithm = ?",
            [ORIGINAL],
        )
    )
    if not events:
        return []
    rows = connection.execute(
        "SELECT experiment, trial_id, count(*), avg(raw_reward), stddev_samp(raw_reward) / sqrt(count(*)) "
        "FROM generations WHERE trial_id IN (SELECT unnest(?)) GROUP BY ALL HAVING count(*) > 1",
        [[event["trial_id"] for event in events]],
    ).fetchall()
    measured = {(experiment, trial_id): (texts, Nothing(*numbers)) for experiment, trial_id, texts, *numbers in rows}
    return [
        Candidate(original_keys(event["planned"].config, event["model"]), event["experiment"], *measured[key])
        for event in events
        if (key := (event["experiment"], event["trial_id"])) in measured
    ]
