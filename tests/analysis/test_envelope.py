"""The envelope over beta, its transition, and what it does not answer."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_alliteration.analysis.envelope import EnvelopeWindow, envelope
from rl_alliteration.analysis.seeds import Estimate

NOTHING = Estimate(5.0, 4.9, 5.1)
BETAS = np.arange(0.0, 121.0, 10.0)


def window(
    raw: float, kl_penalty: float, collapsed: bool = False, trial: str = "a", setting: str = "beta 30"
) -> EnvelopeWindow:
    variety = 0.2 if collapsed else 0.9
    return EnvelopeWindow(raw, kl_penalty, variety, not collapsed, collapsed, setting, trial)


def test_collapse_then_stories_then_doing_nothing() -> None:
    windows = [window(6, -0.005), window(15, -0.08), window(15.2, -0.08), window(85, -1.08, collapsed=True)]
    found = envelope(windows, NOTHING, BETAS, optimum=np.linspace(96, 9, len(BETAS)))
    assert [point.best for point in found.points[:7]] == [windows[3]] * 7
    assert [point.best for point in found.points[7:]] == [windows[2]] * 6
    assert found.transition.value == pytest.approx(69.8)  # 85 − 1.08 b = 15.2 − 0.08 b
    seventy = found.points[7]
    assert seventy.beta == 70 and seventy.objective == pytest.approx(9.6)
    assert seventy.collapsed == pytest.approx(9.4) and seventy.varied == pytest.approx(9.6)
    assert seventy.nothing == NOTHING and seventy.optimum == pytest.approx(45.25)
    assert seventy.beside == pytest.approx((15 - 5.6 + 85 - 75.6) / 2)
    far = envelope(windows, NOTHING, [130, 200]).points
    assert far[0].best == windows[0] or far[0].best is None
    assert far[1].best is None and far[1].objective == 5 and np.isnan(far[1].beside) and np.isnan(far[1].optimum)


def test_a_beta_is_answered_where_windows_beside_the_best_say_the_same() -> None:
    lucky = [window(5.0, -0.001), window(5.6, -0.001), window(4.8, -0.001)]
    assert envelope(lucky, NOTHING, BETAS).answers == []  # one of many windows is always a little above
    real = [window(11, -0.03), window(12, -0.03), window(11.5, -0.03), window(90, -1, True, "b")]
    assert envelope(real, NOTHING, BETAS).answers == [90, 100, 110, 120]
    assert envelope(real[1:2], NOTHING, BETAS).answers == []  # nothing beside it
    assert envelope(real[3:], NOTHING, BETAS).answers == []


def test_trials_are_neighbours_of_themselves_alone() -> None:
    windows = [window(9, 0, trial="a"), window(20, 0, trial="b"), window(7, 0, trial="a"), window(11, 0, trial="b")]
    assert envelope(windows, NOTHING, [1.0]).points[0].beside == 11


def test_the_transition_is_bounded_by_what_was_asked() -> None:
    fallen, varied = window(85, -1, collapsed=True), window(12, -0.05, trial="b")
    assert envelope([fallen, varied], NOTHING, [0, 10, 20]).transition.value == np.inf
    assert envelope([varied], NOTHING, BETAS).transition.value == -np.inf
    assert envelope([fallen, varied], NOTHING, [90, 100]).transition.value == -np.inf
    assert envelope([fallen], NOTHING, BETAS).transition.value == pytest.approx(80)  # against doing nothing
    assert np.isnan(envelope([varied], NOTHING, BETAS).points[0].collapsed)
    with pytest.raises(ValueError, match="betas that grow"):
        envelope([fallen], NOTHING, [10, 10])
    with pytest.raises(ValueError, match="a window or more"):
        envelope([], NOTHING, BETAS)


def test_the_interval_is_over_the_seeds_of_each_setting() -> None:
    def trial(raw: float, seed: int, setting: str = "beta 30") -> EnvelopeWindow:
        return window(raw, -1, True, f"{setting} {seed}", setting)

    seeds = [trial(60 + 10 * seed, seed) for seed in range(4)]
    found = envelope(seeds, NOTHING, BETAS).transition
    assert found.value == pytest.approx(85)
    # The largest of four drawn again: the top one is among them with chance 1 − (3/4)**4 = 0.68, the second or
    # better with 0.94, the lowest alone with 1/256.
    assert found.low == pytest.approx(65) and found.high == pytest.approx(85)
    alone = [dataclasses.replace(one, setting=one.trial) for one in seeds]
    assert np.isnan(envelope(alone, NOTHING, BETAS).transition.low)
    assert envelope(seeds, NOTHING, BETAS).transition == found


rows = st.tuples(st.floats(0, 96), st.floats(-1.2, 0.01), st.booleans(), st.sampled_from("abc"))


def test_of_a_collapsed_and_a_varied_window_that_are_equal_the_varied_one_is_best() -> None:
    found = envelope([window(6.0, 0.0, True, "a"), window(6.0, 0.0, False, "a")], NOTHING, [0.0])
    assert found.points[0].best is not None and not found.points[0].best.collapsed


@given(st.lists(rows, min_size=1, max_size=12), st.lists(st.floats(0, 200), min_size=1, max_size=5, unique=True))
def test_nothing_seen_is_better_than_the_best(rows: list[tuple[float, float, bool, str]], betas: list[float]) -> None:
    windows = [window(raw, k, fallen, trial) for raw, k, fallen, trial in rows]
    found = envelope(windows, NOTHING, sorted(betas))
    for point in found.points:
        each = [one.objective(point.beta) for one in windows]
        assert point.objective == pytest.approx(max([*each, NOTHING.value]))
        assert (point.best is None) == (max(each) <= NOTHING.value)
        if point.best is not None and point.best.collapsed:
            assert point.beta <= found.transition.value
    # The largest objective of straight lines bends upwards only.
    objectives = [point.objective for point in found.points]
    for one, two, three in zip(range(5), range(1, 5), range(2, len(objectives)), strict=False):
        a, b, c = sorted(betas)[one : three + 1]
        between = objectives[one] + (objectives[three] - objectives[one]) * (b - a) / (c - a)
        assert objectives[two] <= between + 1e-6
