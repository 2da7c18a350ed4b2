"""The best setting of a search: by the mean over its seeds, against the second seed by seed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from made_up import MadeUp, write_results
from scipy.stats import ttest_rel

from rl_alliteration.analysis.best_setting import BestSetting, JudgedSetting, best_setting
from rl_alliteration.analysis.measure import measure
from rl_alliteration.analysis.types import Analysis, Trial
from rl_alliteration.results.reader import connect
from rl_alliteration.results.storage import Storage

SCORES = {20: (9.0, 5.0, 7.0), 40: (7.5, 4.0, 6.5), 80: (9.5, 1.0, 2.0)}
"""By beta, of each seed. The best single trial is of the worst setting."""


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    storage = Storage(tmp_path_factory.mktemp("made_up"))
    write_results(storage, [MadeUp(beta=20, generations=200)])
    found = measure(connect(storage))
    (one,) = found.trained
    trials = [
        scored(dataclasses.replace(one, beta=float(beta), seed=seed, name=f"rloo beta {beta} seed {seed}"))
        for beta in SCORES
        for seed in range(3)
    ]
    return Analysis([*trials, *(trial for trial in found.trials if trial.is_original)], found.window)


def scored(trial: Trial, score: float | None = None) -> Trial:
    """Two windows: one that keeps all, of the score, and one with more alliteration that has lost its variety."""
    original = trial.original
    if original is None:
        return trial
    score = SCORES[int(trial.beta)][trial.seed] if score is None else score
    metrics = trial.metrics | {
        "alliteration": np.array([score, 50.0]),
        "variety": np.array([1.0, 0.1]) * original.metrics["variety"],
        "original_lm_cross_entropy": np.full(2, original.cross_entropy),
        "repetition": np.zeros(2),
    }
    return dataclasses.replace(trial, metrics=metrics)


def of(analysis: Analysis, seeds: range = range(3)) -> BestSetting:
    found = best_setting(analysis, seeds)
    assert found is not None
    return found


def test_the_mean_over_seeds_decides(analysis: Analysis) -> None:
    found = of(analysis)
    assert (found.best.scores, found.best.name) == ([9.0, 5.0, 7.0], "rloo beta 20")
    assert found.second is not None and found.second.scores == [7.5, 4.0, 6.5]
    assert found.differences == [1.5, 1.0, 0.5]
    low, high = ttest_rel(SCORES[20], SCORES[40]).confidence_interval(0.95)
    assert str(found) == (
        "best setting by the mean over 3 seeds: rloo beta 20, 7.0 [2.0, 12.0] alliterating pairs per 100 words. "
        f"The second, rloo beta 40, has 1.0 [{low:.1f}, {high:.1f}] less, seed by seed. More seeds to settle it: 1"
    )


def test_a_lead_beyond_noise_is_said(analysis: Analysis) -> None:
    two = [trial for trial in analysis.trials if trial.beta != 80]
    clear = [scored(t, SCORES[20][t.seed] - 1 - t.seed / 10) if t.beta == 40 else t for t in two]
    assert str(of(Analysis(clear, 100))).endswith("less, seed by seed. That is beyond noise")
    same = [scored(t, SCORES[20][t.seed]) if t.beta == 40 else t for t in two]
    assert str(of(Analysis(same, 100))).endswith("More seeds to settle it: no number of seeds like these")


def test_only_settings_with_all_seeds_are_judged(analysis: Analysis) -> None:
    lacking = Analysis([t for t in analysis.trials if (t.beta, t.seed) != (20, 1)], 100)
    assert of(lacking).best.name == "rloo beta 40"
    failed = [dataclasses.replace(t, status="failed") if (t.beta, t.seed) == (20, 1) else t for t in analysis.trials]
    assert of(Analysis(failed, 100)).best.name == "rloo beta 40"
    assert of(analysis, range(2)).best.scores == [9.0, 5.0]
    alone = of(Analysis([t for t in analysis.trials if t.is_original or t.beta == 80], 100))
    assert alone.second is None and str(alone).endswith("No other setting has all 3 seeds")
    assert best_setting(analysis, range(4)) is None


def test_a_seed_without_a_window_that_counts_has_nothing(analysis: Analysis) -> None:
    lost = best_setting(analysis, range(3), keep_variety=1.1)
    assert lost is not None and lost.best.scores == [0.0, 0.0, 0.0]


def test_one_seed_has_no_interval() -> None:
    settings = [JudgedSetting([], [score]) for score in (7.0, 6.0)]
    found = BestSetting(*settings)
    assert str(found.score) == "7 (one seed)" and found.differences == [1.0]
