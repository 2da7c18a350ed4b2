"""Which setting of a search is best by the mean over its seeds, and how surely."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from statistics import fmean

from rl_alliteration.analysis import more_seeds
from rl_alliteration.analysis.frontier import frontier, keeps
from rl_alliteration.analysis.rules import KEEP_VARIETY, SENSE_NATS
from rl_alliteration.analysis.seeds import Estimate, student
from rl_alliteration.analysis.types import Analysis, Trial
from rl_alliteration.results import schema


@dataclasses.dataclass(frozen=True)
class JudgedSetting:
    """Trials that differ in their seed alone, in the order of the seeds."""

    trials: list[Trial]
    scores: list[float]
    """Of each: alliterating pairs per 100 words of its best window that keeps variety and sense; 0 without one."""

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.trials[0].algorithm} {self.trials[0].coefficient}"


@dataclasses.dataclass(frozen=True)
class BestSetting:
    """The setting with the highest mean score, beside the one that comes next; intervals are Student's, over seeds.

    They do not know that the two were picked from many.
    """

    best: JudgedSetting
    second: JudgedSetting | None
    """None where there is no other."""

    @property
    def score(self) -> Estimate:
        """The mean over seeds."""
        return student(self.best.scores)

    @property
    def differences(self) -> list[float]:
        """Best minus second, seed by seed."""
        second = self.second.scores if self.second is not None else []
        return [one - other for one, other in zip(self.best.scores, second, strict=False)]

    def __str__(self) -> str:
        seeds = len(self.best.scores)
        found = (
            f"best setting by the mean over {seeds} seeds: {self.best.name}, "
            f"{self.score.told('.1f')} alliterating pairs per 100 words. "
        )
        if self.second is None:
            return found + f"No other setting has all {seeds} seeds"
        lead, more = student(self.differences), more_seeds.for_mean(self.differences)
        surely = "That is beyond noise" if more == 0 else f"More seeds to settle it: {more_seeds.words(more)}"
        return found + f"The second, {self.second.name}, has {lead.told('z.1f')} less, seed by seed. {surely}"


def best_setting(
    analysis: Analysis, seeds: Sequence[int], keep_variety: float = KEEP_VARIETY, nats: float = SENSE_NATS
) -> BestSetting | None:
    """The best of the settings that have trials of all these seeds, none of them failed; None if there is no such.

    Args:
        keep_variety: share of the original's variety that a window must keep to count.
        nats: how far the cross-entropy of texts that keep their sense may be off.
    """
    scores: dict[str, float] = {}
    for point in frontier(analysis, nats):
        if keeps(point, keep_variety):
            scores[point.trial.name] = max(point.alliteration, scores.get(point.trial.name, 0.0))
    settings: dict[tuple[str, str, str, str], dict[int, Trial]] = {}
    for trial in analysis.trained:
        if trial.original is not None and trial.full.any() and trial.status != schema.FAILED:
            of = (trial.experiment, trial.reward_function, trial.algorithm, trial.coefficient)
            settings.setdefault(of, {})[trial.seed] = trial
    judged = [
        JudgedSetting([own[seed] for seed in seeds], [scores.get(own[seed].name, 0.0) for seed in seeds])
        for own in settings.values()
        if own.keys() >= set(seeds)
    ]
    judged.sort(key=lambda setting: -fmean(setting.scores))
    return BestSetting(judged[0], judged[1] if len(judged) > 1 else None) if judged else None
