"""Where a window stands against best-of-n, on a model whose texts are all listed."""

from __future__ import annotations

import numpy as np
import pytest
from enumerable import Model, Reals, best_of, covered, kl, model
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rl_alliteration.analysis.best_of_n import BestOfN, kl_bound
from rl_alliteration.analysis.seeds import NOTHING
from rl_alliteration.analysis.standing import reward_at, standing

BETA = 3.0


def window(toy: Model, chance: Reals, texts: int, seed: int) -> tuple[Reals, Reals, Reals, NDArray[np.int64]]:
    """The columns of so many texts of a policy: rewards, composite rewards, KL penalties, tokens."""
    drawn = np.random.default_rng([seed, texts]).choice(len(chance), size=texts, p=chance)
    tokens = toy.tokens[drawn]
    penalty = -np.log(chance[drawn] / toy.chance[drawn]) / tokens
    return toy.rewards[drawn], toy.rewards[drawn] + BETA * penalty, penalty, tokens


def test_a_policy_that_is_best_of_n_is_worth_that_n_and_wastes_little() -> None:
    toy = model(0, tied=False)
    original = BestOfN(toy.rewards[toy.drawn(10_000, 0)])
    policy = best_of(toy, 4)
    found = standing(*window(toy, policy, 4000, 1), original)
    assert found.raw.value == pytest.approx(policy @ toy.rewards, abs=0.05)
    assert found.kl.value == pytest.approx(kl(policy, toy.chance), abs=0.05)
    assert found.worth.value == pytest.approx(4, abs=0.3)
    assert found.wasted.value == pytest.approx(kl(policy, toy.chance) - float(kl_bound(4)), abs=0.1)


def test_numbers_are_those_of_the_columns() -> None:
    found = standing([1.0, 3.0], [0.5, 1.5], [-0.25, 0.05], [4, 10], BestOfN([0.0, 4.0]))
    assert (found.raw.value, found.objective.value, found.kl.value) == (2, 1, 0.25)
    assert found.worth.value == 1 and found.wasted.value == 0.25


def test_doing_nothing_is_worth_one_text_and_what_the_texts_cannot_tell_is_not_told() -> None:
    toy = model(1)
    original = BestOfN(toy.rewards[toy.drawn(1000, 0)])
    same = standing(*window(toy, toy.chance, 1000, 0), original)
    assert same.kl.value == same.kl.low == 0 and same.worth.low == 1 and same.wasted.value <= 0
    beyond = standing(np.full(9, 5.0), np.full(9, 5.0), np.full(9, -1.0), np.full(9, 3), original)
    assert beyond.worth.value == np.inf and beyond.wasted == NOTHING and beyond.kl.value == 3
    top = standing(np.full(9, 2.9), np.full(9, 2.9), np.full(9, -1.0), np.full(9, 3), original)
    assert np.isfinite(top.worth.value) and np.isfinite(top.wasted.value)  # but by too few texts for an interval
    assert np.isnan([top.worth.low, top.worth.high, top.wasted.low, top.wasted.high]).all()


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    toy = model(2, tied=False)
    policy = toy.chance * np.exp(toy.rewards * 0.8)
    policy /= policy.sum()
    many = np.linspace(1, 20, 20_000)
    raw = policy @ toy.rewards
    n = np.interp(raw, [best_of(toy, one) @ toy.rewards for one in many[::20]], many[::20])
    penalties = policy @ (toy.rewards - BETA * np.log(policy / toy.chance) / toy.tokens)
    divergence = kl(policy, toy.chance)
    truths = raw, penalties, divergence, n, divergence - float(kl_bound(n))
    hits = np.zeros(5, dtype=int)
    for seed in range(500):
        original = BestOfN(toy.rewards[toy.drawn(400, seed)])
        found = standing(*window(toy, policy, 100, seed), original)
        for place, one in enumerate((found.raw, found.objective, found.kl, found.worth, found.wasted)):
            hits[place] += one.low <= truths[place] <= one.high
    assert all(covered(hit, 500) for hit in hits), hits


def test_the_reward_at_a_divergence_is_where_the_path_first_gets_there() -> None:
    kl_path, raw = [0.0, 1.0, 3.0, 2.0, 4.0], [5.0, 6.0, 8.0, 1.0, 9.0]
    assert [reward_at(kl_path, raw, nats) for nats in (0, 0.5, 1, 2, 3, 3.5)] == [5, 5.5, 6, 7, 8, 7]
    assert reward_at([0.0, 1e-308], [5.0, 0.0], 1e-313) == pytest.approx(5.0, abs=1e-3)
    assert np.isnan([reward_at(kl_path, raw, 4.1), reward_at([1.0, 2.0], [5.0, 6.0], 0.5), reward_at([], [], 0)]).all()


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0, 90)), min_size=1, max_size=8), st.floats(0, 60))
def test_the_reward_on_a_path_is_between_those_of_its_windows(path: list[tuple[float, float]], nats: float) -> None:
    kl_path, raw = (np.array(numbers) for numbers in zip((0.0, 5.0), *path, strict=True))
    found = reward_at(kl_path, raw, nats)
    assert np.isnan(found) == (nats > kl_path.max())
    if not np.isnan(found):
        assert raw.min() - 1e-9 <= found <= raw.max() + 1e-9
