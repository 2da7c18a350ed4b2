"""From a group's rewards to its advantages."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from rl_alliteration.errors import UserError
from rl_alliteration.rl import advantages
from rl_alliteration.rl.advantages import Rewards, algorithm, get_algorithm

rloo = get_algorithm("rloo").advantages
reinforce = get_algorithm("reinforce").advantages
baseline = get_algorithm("reinforce_baseline")
grpo = get_algorithm("grpo").advantages
dr_grpo = get_algorithm("dr_grpo").advantages

groups = st_numpy.arrays(np.float64, st.integers(2, 20), elements=st.floats(-1e3, 1e3))


@pytest.mark.parametrize(
    "rewards, expected",
    [
        ([1, 2, 6], [-3, -1.5, 4.5]),
        ([92, 93], [-1, 1]),
        (9 * [92] + [93], 9 * [-1 / 9] + [1]),  # the study: mostly 92 but occasionally 93
        ([5, 5, 5, 5], [0, 0, 0, 0]),
        ([-1, 0, 1], [-1.5, 0, 1.5]),
    ],
)
def test_rloo_by_hand(rewards: list[float], expected: list[float]) -> None:
    assert rloo(np.array(rewards, dtype=float)) == pytest.approx(expected, abs=1e-12)


@given(groups)
def test_rloo_is_the_plain_loop(rewards: Rewards) -> None:
    plain = [
        own - np.mean([other for place, other in enumerate(rewards) if place != index])
        for index, own in enumerate(rewards)
    ]
    assert rloo(rewards) == pytest.approx(plain, abs=1e-9)


@given(groups)
def test_rloo_sums_to_zero(rewards: Rewards) -> None:
    assert rloo(rewards).sum() == pytest.approx(0, abs=1e-9)


@given(groups, st.floats(-1e3, 1e3))
def test_rloo_ignores_a_constant_added_to_all(rewards: Rewards, constant: float) -> None:
    assert rloo(rewards + constant) == pytest.approx(rloo(rewards), abs=1e-9)


@given(groups)
def test_rloo_leaves_the_rewards_alone(rewards: Rewards) -> None:
    before = rewards.copy()
    rloo(rewards)
    assert np.array_equal(rewards, before)


@given(groups)
def test_reinforce_is_the_reward_itself(rewards: Rewards) -> None:
    result = reinforce(rewards)
    assert np.array_equal(result, rewards)
    assert not np.shares_memory(result, rewards)


def test_a_baseline_is_the_mean_of_the_latest_ten_rewards() -> None:
    # By hand: rewards 1, 2, ... 15 one at a time. The mean before n is that of the up to ten numbers below it.
    recent: list[float] = []
    seen = []
    for reward in range(1, 16):
        rewards = np.array([float(reward)])
        seen += baseline.advantages(rewards, recent).tolist()
        recent = baseline.remember(recent, rewards)
    assert seen == [0, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 5.5, 5.5, 5.5, 5.5]
    assert recent == list(range(6, 16))


def test_only_an_algorithm_with_a_memory_remembers() -> None:
    assert get_algorithm("rloo").remember([], np.array([1.0, 2.0])) == []
    assert baseline.remember([1.0, 2.0], np.array([3.0])) == [1, 2, 3]


@pytest.mark.parametrize(
    "rewards, expected",
    [
        ([1, 2, 6], [-2 / 7**0.5, -1 / 7**0.5, 3 / 7**0.5]),  # mean 3, variance (4 + 1 + 9) / 2 = 7
        ([92, 93], [-(0.5**0.5), 0.5**0.5]),
        ([5, 5, 5, 5], [0, 0, 0, 0]),
        ([0.1, 0.1, 0.1], [0, 0, 0]),  # their mean is not 0.1 to the last bit
    ],
)
def test_grpo_by_hand(rewards: list[float], expected: list[float]) -> None:
    assert grpo(np.array(rewards, dtype=float)) == pytest.approx(expected, abs=2e-4)


@given(groups, st.floats(1, 1e3))
def test_grpo_ignores_the_rewards_scale_where_they_differ(rewards: Rewards, factor: float) -> None:
    if rewards.std() > 1:
        assert grpo(factor * rewards) == pytest.approx(grpo(rewards), abs=1e-3)


@pytest.mark.parametrize("rewards, expected", [([1, 2, 6], [-2, -1, 3]), ([92, 93], [-0.5, 0.5]), ([5, 5], [0, 0])])
def test_dr_grpo_by_hand(rewards: list[int], expected: list[float]) -> None:
    assert dr_grpo(np.array(rewards, dtype=float)) == pytest.approx(expected, abs=1e-12)


@given(groups)
def test_dr_grpo_is_rloo_by_a_factor(rewards: Rewards) -> None:
    size = len(rewards)
    assert dr_grpo(rewards) == pytest.approx(rloo(rewards) * (size - 1) / size, abs=1e-9)


def test_group_sizes() -> None:
    assert (get_algorithm("rloo").group_size, get_algorithm("rloo").least_group_size) == (10, 2)
    assert (get_algorithm("reinforce").group_size, get_algorithm("reinforce").least_group_size) == (1, 1)


def test_an_unknown_name_lists_what_exists() -> None:
    with pytest.raises(UserError) as caught:
        get_algorithm("ppo")
    message = str(caught.value)
    assert message.startswith("--algorithm: 'ppo'")
    assert "reinforce" in message
    assert "rloo" in message


def test_ones_own_algorithm_takes_one_decorator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advantages, "ALGORITHMS", dict(advantages.ALGORITHMS))  # forgotten afterwards

    @algorithm("centred", group_size=4, least_group_size=2)
    def centred(rewards: Rewards) -> Rewards:
        advantages: Rewards = rewards - rewards.mean()
        return advantages

    found = get_algorithm("centred")
    assert (found.name, found.group_size, found.least_group_size) == ("centred", 4, 2)
    assert found.advantages(np.array([1.0, 3.0])).tolist() == [-1, 1]


def test_examples_in_the_docstrings() -> None:
    assert doctest.testmod(advantages).failed == 0
