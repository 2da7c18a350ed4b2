"""The curves of reward against KL divergence, fitted to known ones."""

from __future__ import annotations

import numpy as np
import pytest
from enumerable import Reals, covered
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rl_alliteration.analysis.gao import Form, fit, t_quantile

KL = np.array([0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 9.0, 30.0])
BOTH = pytest.mark.parametrize("form", ["rl", "best_of_n"])


def exact(form: Form, alpha: float, beta: float, kl: Reals = KL) -> Reals:
    d = np.sqrt(kl)
    return d * (alpha - beta * (d if form == "best_of_n" else np.log(np.maximum(d, 1e-300))))


@BOTH
@given(st.floats(-9, 9), st.floats(-9, 9))
def test_a_curve_without_noise_is_found(form: Form, alpha: float, beta: float) -> None:
    gain = exact(form, alpha, beta)
    found = fit(KL, gain, ["a"] * 4 + ["b"] * 4, form)
    assert found.alpha.value == pytest.approx(alpha, abs=1e-9) and found.beta.value == pytest.approx(beta, abs=1e-9)
    assert np.allclose(found.residuals, 0, atol=1e-9)
    assert np.allclose(found.gain(KL), gain, atol=1e-9) and found.gain(4.0).shape == ()


@BOTH
def test_it_is_the_least_sum_of_squares(form: Form) -> None:
    gain = exact(form, 2.0, 0.5) + np.random.default_rng(0).normal(size=len(KL))
    found = fit(KL, gain, ["a"] * len(KL), form)
    least = (found.residuals**2).sum()
    assert np.allclose(found.residuals, gain - found.gain(KL))
    for step in ([0.01, 0], [-0.01, 0], [0, 0.01], [0, -0.01]):
        other = exact(form, found.alpha.value + step[0], found.beta.value + step[1])
        assert ((gain - other) ** 2).sum() > least
    assert np.isnan([found.alpha.low, found.beta.high]).all()  # one trial makes no interval


def test_the_quantile_of_students_t() -> None:
    for freedom in (3, 4, 9, 39, 1000):
        assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=0.01)


def test_too_little_to_fit_is_refused() -> None:
    for kl in ([0.0, 0.0, -0.1], [2.0, 2.0, 2.0], [0.0, 4.0, 4.0]):
        with pytest.raises(ValueError, match="two or more different"):
            fit(kl, [1.0, 2.0, 3.0], list("abc"), "best_of_n")


@BOTH
def test_intervals_hold_the_truth_as_often_as_they_say(form: Form) -> None:
    generator = np.random.default_rng(1)
    trials = np.repeat(np.arange(40), 5)
    names = [f"{trial:02}" for trial in trials]
    hits = np.zeros(2, dtype=int)
    for _ in range(1500):
        kl = generator.uniform(0, 20, 200)
        of_trial = generator.normal(0, 0.3, 40)[trials]  # a trial's windows err together
        gain = exact(form, 3.0, 0.4, kl) + np.sqrt(kl) * of_trial + generator.normal(0, 0.3, 200)
        found = fit(kl, gain, names, form)
        hits += [found.alpha.low <= 3.0 <= found.alpha.high, found.beta.low <= 0.4 <= found.beta.high]
    assert all(covered(hit, 1500) for hit in hits), hits
