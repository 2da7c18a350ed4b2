"""What measured trials are worth beside the unmodified model: known answers on made-up results."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from made_up import MadeUp, write_results

from rl_alliteration.analysis.best_of_n import BestOfN, kl_bound
from rl_alliteration.analysis.measure import measure
from rl_alliteration.analysis.types import Analysis, Trial
from rl_alliteration.analysis.worth import (
    by_original,
    envelope_of,
    envelope_windows,
    nats_wasted,
    possible,
    setting_worth,
    worth_best_of,
)
from rl_alliteration.config import ORIGINAL
from rl_alliteration.handle import open_results
from rl_alliteration.results.reader import connect
from rl_alliteration.results.storage import Storage

PER_TEXT = 99
"""Scored tokens of a made-up text: 100 − 1."""


def rising(trial: MadeUp, generation: int) -> str:
    """Rewards 0 to 9, each as often, of the original; 6 of a trained model's texts up to generation 200, then 30."""
    reward = generation % 10 if trial.algorithm == ORIGINAL else 6 if generation < 200 else 30
    return " ".join(["tall"] * (reward + 1))


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    storage = Storage(tmp_path_factory.mktemp("made_up"))
    write_results(storage, [MadeUp(beta=beta, generations=300) for beta in (0, 10)], text=rising)
    return storage


@pytest.fixture(scope="module")
def analysis(storage: Storage) -> Analysis:
    return measure(connect(storage))


def test_the_original_keeps_each_texts_reward_and_tokens(analysis: Analysis) -> None:
    original = analysis.trained[0].original
    assert original is not None
    assert original.rewards.tolist() == [float(k % 10) for k in range(300)]
    assert set(original.tokens.tolist()) == {PER_TEXT}
    assert original.best_of_n is original.best_of_n
    assert original.metrics["objective"] == original.metrics["raw_reward"] == 4.5  # J0


def test_a_window_is_worth_the_best_of_n_that_has_its_reward(analysis: Analysis) -> None:
    trial = analysis.trained[1]
    best = BestOfN([k % 10 for k in range(300)])
    n = float(best.worth(6.0))
    assert best.mean(n).value == pytest.approx(6.0, abs=1e-3) and 1 < n < 3
    assert worth_best_of(trial)[:2] == pytest.approx([n, n])
    kl = -trial.metrics["kl_penalty"] * PER_TEXT
    assert trial.metrics["kl_per_text"] == pytest.approx(kl) and (kl > 0).all()
    assert nats_wasted(trial)[:2] == pytest.approx(kl[:2] - float(kl_bound(n)))
    assert np.isnan([worth_best_of(trial)[2], nats_wasted(trial)[2]]).all()  # more than the best of all 300
    raw, penalty = trial.metrics["raw_reward"], trial.metrics["kl_penalty"]
    assert trial.metrics["objective"] == pytest.approx(raw + 10 * penalty)
    low, high = trial.intervals["kl_per_text"]
    assert ((low < kl) & (kl < high)).all()


def test_the_table_has_them_and_null_where_the_original_cannot_tell(storage: Storage) -> None:
    columns = "objective, kl_penalty, kl_per_text, nats_wasted, worth_best_of"
    sql = f"SELECT {columns} FROM windows WHERE beta = 10 ORDER BY ALL"
    rows = open_results(str(storage)).query(sql).to_pylist()
    assert [row["worth_best_of"] is None for row in rows] == [row["nats_wasted"] is None for row in rows]
    assert [row["worth_best_of"] is None for row in rows] == [False, False, True]
    assert all(row["kl_penalty"] < 0 < row["kl_per_text"] for row in rows)
    original = "SELECT DISTINCT worth_best_of, nats_wasted FROM windows WHERE algorithm = 'original'"
    assert open_results(str(storage)).query(original).to_pylist() == [{"worth_best_of": None, "nats_wasted": None}]


def with_end(trial: Trial, raw: float, kl: float) -> Trial:
    """The trial with other numbers in all of its windows."""
    numbers = {"raw_reward": raw, "objective": raw - kl * trial.beta / PER_TEXT, "kl_per_text": kl}
    metrics = trial.metrics | {name: np.full(len(trial.first), value) for name, value in numbers.items()}
    return dataclasses.replace(trial, metrics=metrics)


def test_seeds_are_the_unit_and_one_has_no_interval(analysis: Analysis) -> None:
    trial = analysis.trained[1]
    two = setting_worth([with_end(trial, 6.0, 2.0), with_end(trial, 7.0, 3.0)])
    assert (two.seeds, two.beyond, two.kl.value, two.kl.low, two.kl.high) == (2, 0, 2.5, 2.0, 3.0)
    assert two.objective.value == pytest.approx(6.5 - 2.5 * 10 / PER_TEXT)
    best = analysis.trained[1].original.best_of_n  # type: ignore[union-attr]
    assert two.worth.value == pytest.approx(float(best.worth([6.0, 7.0]).mean()))
    assert two.wasted.value == pytest.approx(2.5 - float(best.kl_needed([6.0, 7.0]).mean()))
    one = setting_worth([with_end(trial, 6.0, 2.0)])
    assert one.kl.value == 2.0 and np.isnan([one.kl.low, one.kl.high, one.worth.low]).all()
    far = setting_worth([with_end(trial, 6.0, 2.0), with_end(trial, 50.0, 3.0)])
    assert far.beyond == 1 and far.worth.value == pytest.approx(float(best.worth(6.0))) and np.isnan(far.worth.low)


def test_nothing_is_said_of_an_optimum_that_few_texts_carry(analysis: Analysis) -> None:
    original = analysis.trained[0].original
    assert original is not None
    small, large = possible(original, 1.0), possible(original, 1e4)
    assert small is not None and large is not None and possible(original, 0.0) is None
    assert small.optimum is None  # all of its weight is on the 30 best texts
    assert 4.5 < small.at_least < 9
    assert large.optimum is not None and large.optimum.objective.value == pytest.approx(4.5, abs=0.1)
    assert np.isnan(large.at_least)  # doing nothing says as much
    unknown = dataclasses.replace(original, rewards=np.zeros(0))
    assert possible(unknown, 1.0) is None
    lost = dataclasses.replace(analysis.trained[0], original=unknown)
    assert np.isnan([worth_best_of(lost), nats_wasted(lost)]).all() and by_original([lost]) == []


def test_the_envelope_is_of_all_full_windows_up_to_a_larger_beta(analysis: Analysis) -> None:
    ((original, trials),) = by_original(analysis.trained)
    found = envelope_of(original, trials, lambda trial: trial.coefficient, 0.25)
    assert found is not None
    assert [found.points[0].beta, found.points[-1].beta] == [0, pytest.approx(12)]
    assert found.points[0].objective == 30  # whatever beta it was trained with
    assert [window.first for window in envelope_windows(trials[0], "", 0.25)] == [0, 100, 200]
    assert envelope_of(original, trials[:1], lambda trial: "", 0.25) is None  # of no beta above 0
    assert envelope_of(original, [], lambda trial: "", 0.25) is None


def test_originals_of_the_same_texts_are_one(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    write_results(storage, [MadeUp(beta=10, generations=100)], "first", text=rising)
    write_results(storage, [MadeUp(beta=20, generations=100)], "second", text=rising)
    trials = measure(connect(storage)).trained
    assert trials[0].original is not trials[1].original and len(by_original(trials)) == 1
