"""From a group's rewards to its advantages."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from rl_alliteration import advantages
from rl_alliteration.advantages import algorithm, get_algorithm
from rl_alliteration.errors import UserError

rloo = get_algorithm("rloo").advantages
reinforce = get_algorithm("reinforce").advantages

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
def test_rloo_by_hand(rewards, expected):
    assert rloo(np.array(rewards, dtype=float)) == pytest.approx(expected, abs=1e-12)


@given(groups)
def test_rloo_is_the_plain_loop(rewards):
    plain = [
        own - np.mean([other for place, other in enumerate(rewards) if place != index])
        for index, own in enumerate(rewards)
    ]
    assert rloo(rewards) == pytest.approx(plain, abs=1e-9)


@given(groups)
def test_rloo_sums_to_zero(rewards):
    assert rloo(rewards).sum() == pytest.approx(0, abs=1e-9)


@given(groups, st.floats(-1e3, 1e3))
def test_rloo_ignores_a_constant_added_to_all(rewards, constant):
    assert rloo(rewards + constant) == pytest.approx(rloo(rewards), abs=1e-9)


@given(groups)
def test_rloo_leaves_the_rewards_alone(rewards):
    before = rewards.copy()
    rloo(rewards)
    assert np.array_equal(rewards, before)


@given(groups)
def test_reinforce_is_the_reward_itself(rewards):
    result = reinforce(rewards)
    assert np.array_equal(result, rewards)
    assert not np.shares_memory(result, rewards)


def test_group_sizes():
    assert (get_algorithm("rloo").group_size, get_algorithm("rloo").least_group_size) == (10, 2)
    assert (get_algorithm("reinforce").group_size, get_algorithm("reinforce").least_group_size) == (1, 1)


def test_an_unknown_name_lists_what_exists():
    with pytest.raises(UserError) as caught:
        get_algorithm("ppo")
    message = str(caught.value)
    assert message.startswith("--algorithm: 'ppo'")
    assert "reinforce" in message
    assert "rloo" in message


def test_ones_own_algorithm_takes_one_decorator(monkeypatch):
    monkeypatch.setattr(advantages, "ALGORITHMS", dict(advantages.ALGORITHMS))  # forgotten afterwards

    @algorithm("centred", group_size=4, least_group_size=2)
    def centred(rewards):
        return rewards - rewards.mean()

    found = get_algorithm("centred")
    assert (found.name, found.group_size, found.least_group_size) == ("centred", 4, 2)
    assert found.advantages(np.array([1.0, 3.0])).tolist() == [-1, 1]


def test_examples_in_the_docstrings():
    assert doctest.testmod(advantages).failed == 0
