"""Best-of-n against exact enumeration of a model whose texts are all listed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from enumerable import TEXTS, best_of, covered, kl, model
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_alliteration.analysis.best_of_n import BestOfN, kl_bound, weighted_variety
from rl_alliteration.analysis.diversity import overlaps, variety
from rl_alliteration.analysis.words import Words

few_rewards = st.lists(st.integers(0, 4).map(float), min_size=1, max_size=9)


@pytest.mark.parametrize("tied", [True, False])
def test_the_exact_distribution_is_what_drawing_n_texts_and_keeping_the_best_gives(tied: bool) -> None:
    toy = model(0, tied)
    for n in (1, 2, 3):
        drawn = np.indices([len(TEXTS)] * n).reshape(n, -1)  # all ways to draw n texts
        best = toy.rewards[drawn] == toy.rewards[drawn].max(axis=0)
        won = best * toy.chance[drawn].prod(axis=0) / best.sum(axis=0)
        assert np.allclose(best_of(toy, n), np.bincount(drawn.ravel(), won.ravel()), atol=1e-14)


@pytest.mark.parametrize("tied", [True, False])
def test_the_estimate_is_unbiased_over_all_samples(tied: bool) -> None:
    toy = model(1, tied)
    # Five texts of a model of four: all 1,024 samples of N = 5, each with its chance.
    rewards, chance = toy.rewards[-4:], toy.chance[-4:] / toy.chance[-4:].sum()
    order = np.argsort(rewards, kind="stable")
    below = np.cumsum(chance[order])
    below = np.array([below[rewards[order] <= reward].max() for reward in rewards[order]])
    for n in (1, 2, 3, 5):
        levels, first = np.unique(rewards[order], return_index=True)
        exact = np.diff(np.append(0.0, below[first] ** n)) @ levels
        mean = 0.0
        for texts in itertools.product(range(4), repeat=5):
            mean += np.prod(chance[list(texts)]) * BestOfN(rewards[list(texts)]).mean(n).value
        assert mean == pytest.approx(exact, abs=1e-12)


@given(few_rewards, st.data())
def test_weights_are_the_share_of_subsets_in_which_a_text_is_the_best(
    rewards: list[float], data: st.DataObject
) -> None:
    n = data.draw(st.integers(1, len(rewards)))
    won = np.zeros(len(rewards))
    subsets = list(itertools.combinations(range(len(rewards)), n))
    for subset in subsets:
        top = max(rewards[text] for text in subset)
        best = [text for text in subset if rewards[text] == top]
        won[best] += 1 / len(best)
    assert np.allclose(BestOfN(rewards).weights(n), won / len(subsets), atol=1e-12)


@given(few_rewards, st.floats(0, 1), st.floats(0, 1))
def test_more_draws_are_no_worse_and_one_is_the_mean(rewards: list[float], one: float, two: float) -> None:
    best = BestOfN(rewards)
    low, high = (1 + share * (len(rewards) - 1) for share in sorted((one, two)))
    assert best.mean(1).value == pytest.approx(np.mean(rewards))
    assert best.mean(len(rewards)).value == pytest.approx(max(rewards))
    assert best.mean(low).value <= best.mean(high).value + 1e-12
    weights = best.weights(high)
    assert weights.min() >= 0 and weights.sum() == pytest.approx(1)
    for reward in set(rewards):
        assert np.ptp(weights[np.array(rewards) == reward]) == 0


@given(st.integers(0, 20), st.booleans(), st.floats(1, 60))
def test_the_bound_is_no_less_than_the_divergence(seed: int, tied: bool, n: float) -> None:
    toy = model(seed, tied)
    exact = kl(best_of(toy, n), toy.chance)
    assert -1e-12 <= exact <= kl_bound(n) + 1e-12


def test_the_bound_is_reached_by_many_texts_that_differ() -> None:
    q = np.full(100_000, 1e-5)
    p = np.diff(np.linspace(0, 1, len(q) + 1) ** 4.5)
    assert kl(p, q) == pytest.approx(float(kl_bound(4.5)), abs=1e-4)
    assert kl_bound([1.0, 2.0]).tolist() == [0.0, np.log(2) - 0.5]


@settings(max_examples=30)
@given(few_rewards, st.floats(0, 1))
def test_worth_is_the_n_that_has_the_reward(rewards: list[float], share: float) -> None:
    best = BestOfN(rewards)
    n = len(rewards) ** share
    reward = best.mean(n).value
    worth = float(best.worth(reward))
    if reward < max(rewards):  # from some n on more draws may buy nothing
        assert best.mean(worth).value == pytest.approx(reward, abs=1e-3)
    assert best.worth(np.mean(rewards) - 1) == best.worth(min(rewards) - 0.1) == 1
    assert best.kl_needed(np.mean(rewards) - 1) == 0
    assert best.worth(max(rewards) + 0.1) == best.kl_needed(max(rewards) + 0.1) == np.inf


def test_worth_of_many_texts_and_of_many_rewards_at_once() -> None:
    best = BestOfN(np.random.default_rng(0).normal(size=2000))
    asked = np.array([best.mean(n).value for n in (1.5, 2, 7, 64.25)])
    assert np.allclose(best.worth(asked), [1.5, 2, 7, 64.25], rtol=1e-3)
    assert np.allclose(best.kl_needed(asked), kl_bound([1.5, 2, 7, 64.25]), rtol=1e-3)
    assert np.isnan(best.worth(np.nan)) and np.isnan(best.kl_needed(np.nan))
    assert BestOfN([3.0, 3.0]).worth(3.0) == 1  # no more than a plain text


@pytest.mark.parametrize("n", [0.5, 4.5, float("nan")])
def test_what_n_texts_cannot_say_is_refused(n: float) -> None:
    with pytest.raises(ValueError, match="is not between 1 and 4"):
        BestOfN([1.0, 2.0, 3.0, 4.0]).weights(n)
    with pytest.raises(ValueError, match="one or more rewards"):
        BestOfN([1.0, np.inf])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("n", [1, 1.5, 4, 20])
def test_intervals_hold_the_truth_as_often_as_they_say(n: float, tied: bool) -> None:
    toy = model(7, tied)
    length = toy.tokens.astype(float)
    exact = best_of(toy, n)
    truths = exact @ toy.rewards, exact @ length
    hits = np.zeros(2, dtype=int)
    for seed in range(1500):
        drawn = toy.drawn(1000, seed)
        best = BestOfN(toy.rewards[drawn])
        for place, found in enumerate((best.mean(n), best.mean(n, length[drawn]))):
            hits[place] += found.low <= truths[place] <= found.high
    assert all(covered(hit, 1500) for hit in hits), hits


def test_intervals_of_rewards_without_ties_hold_the_truth() -> None:
    uniforms = np.random.default_rng(3).random((1500, 1000))
    for n in (2, 20):
        truth = n / (n + 1)
        found = [BestOfN(rewards).mean(n) for rewards in uniforms]
        assert covered(sum(one.low <= truth <= one.high for one in found), 1500)
    beyond = BestOfN(uniforms[0]).mean(21)
    assert np.isnan(beyond.low) and np.isnan(beyond.high) and beyond.value > found[0].value


def test_variety_of_best_of_n_texts() -> None:
    toy = model(4)
    overlap = overlaps(Words.of(toy.words))
    for n in (1, 3):
        chance = best_of(toy, n)
        drawn = toy.drawn(800, 5)
        weights = BestOfN(toy.rewards[drawn]).weights(n)
        found = weighted_variety([toy.words[place] for place in drawn], weights)
        assert found == pytest.approx(1 - chance @ overlap @ chance, abs=0.03)


def test_variety_with_equal_chances_is_that_of_the_set() -> None:
    texts = [f"word {number % 7} and {number % 5} more {number}" for number in range(1500)]
    assert weighted_variety(texts[:300], np.ones(300)) == pytest.approx(variety(texts[:300]))
    assert weighted_variety(texts[:3], [0.5, 0.5, 0]) == pytest.approx(variety(texts[:2]))
    assert np.isnan(weighted_variety(texts[:3], [1, 0, 0]))
    chance = np.random.default_rng(0).dirichlet(np.ones(1500))
    pairs = np.outer(chance, chance) * (1 - np.eye(1500))
    exact = 1 - (pairs * overlaps(Words.of(texts))).sum() / pairs.sum()
    assert weighted_variety(texts, chance) == pytest.approx(exact, abs=0.01)  # by 1,000 of them
    assert weighted_variety(texts, chance) == weighted_variety(texts, chance)
