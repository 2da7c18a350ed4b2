"""The optimum of the objective against brute force on a model whose texts are all listed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from enumerable import Model, best_of, covered, kl, model
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from rl_alliteration.analysis.tilted import at_least, optimum, tilt

ones = st.integers(0, 30)
betas = st.floats(0.2, 50)


def objective(toy: Model, chance: np.ndarray, beta: float) -> float:
    """J of a policy, exactly: the mean of `reward`, whose KL penalty is a mean over a text's own tokens."""
    some = chance > 0
    ratio = np.log(chance[some] / toy.chance[some])
    return float(chance[some] @ (toy.rewards[some] - beta * ratio / toy.tokens[some]))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("beta", [2.0, 10.0])
def test_no_policy_is_better_as_found_by_brute_force(beta: float, tied: bool) -> None:
    toy = model(0, tied)
    found = tilt(toy.rewards, toy.tokens, beta, toy.chance)

    def loss(chance: Any) -> Any:
        ratio = np.log(chance / toy.chance)
        return -objective(toy, chance, beta), beta / toy.tokens * (ratio + 1) - toy.rewards

    forced = minimize(
        loss,
        toy.chance,
        jac=True,
        method="SLSQP",
        bounds=[(1e-16, 1)] * len(toy.chance),
        constraints={"type": "eq", "fun": lambda chance: chance.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-16, "maxiter": 1000},
    )
    assert found.objective == pytest.approx(-forced.fun, abs=1e-12)
    assert np.allclose(found.weights, forced.x, atol=1e-7)


@given(ones, betas, st.booleans())
def test_the_first_order_condition_holds(seed: int, beta: float, tied: bool) -> None:
    toy = model(seed, tied)
    found = tilt(toy.rewards, toy.tokens, beta, toy.chance)
    assert found.weights.sum() == pytest.approx(1, abs=1e-12)
    assert np.allclose(found.weights, toy.chance * np.exp(found.log_ratio), atol=1e-10)
    assert found.objective == pytest.approx(objective(toy, found.weights, beta), abs=1e-9)
    condition = toy.rewards - beta / toy.tokens * (found.log_ratio + 1)
    assert np.allclose(condition, found.multiplier, atol=1e-9)


@given(ones, betas, st.floats(1, 30), ones)
def test_neither_doing_nothing_nor_best_of_n_nor_any_other_is_better(
    seed: int, beta: float, n: float, other: int
) -> None:
    toy = model(seed)
    found = tilt(toy.rewards, toy.tokens, beta, toy.chance)
    for chance in (toy.chance, best_of(toy, n), np.random.default_rng(other).dirichlet(np.ones(len(toy.chance)))):
        assert objective(toy, chance, beta) <= found.objective + 1e-9


@given(ones, betas, st.integers(1, 9))
def test_with_one_length_it_is_the_usual_tilt(seed: int, beta: float, length: int) -> None:
    toy = model(seed, tied=False)
    found = tilt(toy.rewards, np.full(len(toy.rewards), length), beta, toy.chance)
    usual = toy.chance * np.exp(toy.rewards * length / beta)
    assert np.allclose(found.weights, usual / usual.sum(), atol=1e-10)
    divergence = kl(found.weights, toy.chance)
    assert found.objective == pytest.approx(found.weights @ toy.rewards - beta / length * divergence, abs=1e-9)


@given(ones, betas, betas)
def test_a_larger_beta_keeps_nearer_to_the_original_and_is_worth_less(seed: int, one: float, two: float) -> None:
    toy = model(seed)
    alike = np.full(len(toy.rewards), 3)
    small, large = (tilt(toy.rewards, alike, beta, toy.chance) for beta in sorted((one, two)))
    assert large.objective <= small.objective + 1e-9
    assert large.weights @ toy.rewards <= small.weights @ toy.rewards + 1e-9
    assert kl(large.weights, toy.chance) <= kl(small.weights, toy.chance) + 1e-9
    assert large.objective >= toy.chance @ toy.rewards - 1e-9


def test_other_lengths_alone_are_worth_something() -> None:
    toy = model(0)
    nothing = np.zeros(len(toy.rewards))
    found = tilt(nothing, toy.tokens, 10.0, toy.chance)
    rewardless = Model(toy.logits, nothing)
    assert objective(rewardless, found.weights, 10.0) == pytest.approx(found.objective)
    assert found.objective > 0.1  # and none by doing nothing
    assert kl(found.weights, toy.chance) > 0


def test_extreme_numbers_have_an_answer() -> None:
    found = tilt([0.0, 96.0, 95.0], [99, 99, 1], 1e-3)
    assert found.weights[1] == pytest.approx(1) and found.objective == pytest.approx(96, abs=1e-3)
    far = tilt([0.0, 96.0], [99, 99], 1e9)
    assert np.allclose(far.weights, 0.5, atol=1e-5)
    with pytest.raises(ValueError, match="positive beta"):
        tilt([1.0], [3], 0)
    with pytest.raises(ValueError, match="one or more tokens"):
        tilt([1.0], [0], 1)


def test_nothing_is_said_where_the_texts_are_spent() -> None:
    toy = model(1)
    drawn = toy.drawn(1000, 0)
    raw, tokens = toy.rewards[drawn], toy.tokens[drawn]
    assert optimum(raw, tokens, 0.0) is None
    assert optimum(raw, tokens, 0.05) is None
    assert optimum(raw[:99], tokens[:99], 1e6) is None
    plain = optimum(raw, np.full(1000, 3), 1e9)
    assert plain is not None
    assert plain.effective_sample == pytest.approx(1000)
    assert plain.objective.value == pytest.approx(raw.mean(), abs=1e-6)
    assert plain.kl.value == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("beta", [4.0, 8.0])
def test_intervals_hold_the_truth_as_often_as_they_say(beta: float, tied: bool) -> None:
    toy = model(6, tied)
    exact = tilt(toy.rewards, toy.tokens, beta, toy.chance)
    truths = exact.objective, exact.weights @ toy.rewards, kl(exact.weights, toy.chance)
    hits = np.zeros(3, dtype=int)
    for seed in range(1500):
        drawn = toy.drawn(800, seed)
        found = optimum(toy.rewards[drawn], toy.tokens[drawn], beta)
        assert found is not None
        for place, one in enumerate((found.objective, found.raw, found.kl)):
            hits[place] += one.low <= truths[place] <= one.high
    assert all(covered(hit, 1500) for hit in hits), hits


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("beta", [0.2, 1.0, 8.0])
def test_at_least_is_at_most_the_optimum_however_few_the_texts(beta: float, tied: bool) -> None:
    toy = model(6, tied)
    exact = tilt(toy.rewards, toy.tokens, beta, toy.chance).objective
    for texts in (20, 400):
        found = [
            at_least(toy.rewards[drawn], toy.tokens[drawn], beta) for drawn in map(toy.drawn, [texts] * 500, range(500))
        ]
        assert np.mean(np.array(found) <= exact) >= 0.95
