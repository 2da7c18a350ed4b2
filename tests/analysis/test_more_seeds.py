"""How many more seeds would settle what is open: known answers, and simulations in which as many do."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from rl_alliteration.analysis.more_seeds import for_mean, for_share, for_threshold, words
from rl_alliteration.analysis.seeds import NOTHING, Estimate, estimate, mean, student


def wilson_leaves_out_half(count: int, seeds: int) -> bool:
    interval = binomtest(count, seeds).proportion_ci(method="wilson")
    return not interval.low <= 0.5 <= interval.high


def test_known_answers() -> None:
    assert for_threshold(Estimate(2.0, 1.0, 4.0), 0.0, 5) == 0
    # Half the width: √(n − 1)/n is 0.2 for 24 seeds, 0.4 for five. The simple rule, 1/√n, would say 20.
    assert for_threshold(Estimate(2.0, -2.0, 3.0), 0.0, 5) == for_threshold(Estimate(-2.0, -3.0, 2.0), 0.0, 5) == 19
    assert for_threshold(Estimate(2.0, -2.0, 3.0), 4.0, 5) == 0  # the other side is short
    assert for_threshold(Estimate(2.0, -198.0, 3.0), 0.0, 500) == pytest.approx(500 * 100**2, rel=0.01)
    assert for_threshold(Estimate(1.0, 0.0, 2.0), 0.0, 5) == 1  # it touches
    assert for_threshold(Estimate(1.0, 0.0, 2.0), 1.0, 5) == math.inf
    assert math.isnan(for_threshold(Estimate(1.0), 0.0, 1)) and math.isnan(for_threshold(NOTHING, 0.0, 1))
    assert for_threshold(Estimate(2.0, -2.0, 3.0), 0.0, 5, error=1.0) == 28  # as for a distance of √3
    assert for_threshold(Estimate(2.0, -2.0, 3.0), 0.0, 5, error=2.0) == math.inf  # seeds do not narrow that
    assert [for_share(*counts) for counts in ((5, 5), (3, 3), (1, 1), (2, 5), (0, 4))] == [0, 1, 3, 92, 0]
    assert for_share(2, 4) == math.inf
    assert for_mean([1.0, 1.0, 1.0]) == 0 and for_mean([-1.0, 1.0]) == math.inf and math.isnan(for_mean([1.0]))
    assert for_mean([0.0, 2.0]) == 9  # of eleven, 2.228 · √2 / √11 is under 1; of ten, 2.262 · √2 / √10 is not


def test_words() -> None:
    shown = [words(more) for more in (None, math.nan, math.inf, 0, 12, 1000, 1001)]
    assert shown == ["–", "1 or more", "no number of seeds like these", "0", "12", "1000", "over 1,000"]


@given(st.integers(1, 40).flatmap(lambda seeds: st.tuples(st.integers(0, seeds), st.just(seeds))))
def test_a_share_is_settled_where_wilsons_interval_is(counts: tuple[int, int]) -> None:
    count, seeds = counts
    more = for_share(count, seeds)
    assert (more == 0) == wilson_leaves_out_half(count, seeds)
    if math.isfinite(more):  # with several times as many, the share is the same
        for factor in (2, 3, 5, 10, 40):
            enough = factor * seeds >= seeds + more
            assert wilson_leaves_out_half(factor * count, factor * seeds) == enough


@pytest.mark.parametrize("interval, settle", [(estimate, for_threshold), (None, for_mean)])
def test_as_many_seeds_settle_it_about_every_second_time(
    interval: Callable[..., Estimate] | None, settle: Callable[..., float]
) -> None:
    """Where the seeds that are there are typical: new ones move the estimate both ways."""
    generator = np.random.default_rng(0)
    there = np.array([-1.0, 0.2, 0.6, 1.0, 2.2])  # mean 0.6
    if interval is None:
        more = for_mean(there)
    else:
        more = for_threshold(estimate([there], mean), 0.0, len(there))
    assert 1 < more < 20
    count = len(there) + int(more)
    settled = 0
    for _ in range(400):
        drawn = generator.normal(there.mean(), there.std(ddof=1), size=count)
        found = student(drawn) if interval is None else estimate([drawn], mean)
        settled += not found.low <= 0 <= found.high
    assert 0.45 < settled / 400 < 0.75
    fewer = sum(student(generator.normal(there.mean(), there.std(ddof=1), size=len(there))).low > 0 for _ in range(400))
    assert fewer < settled  # and the five alone less often


def test_a_share_is_settled_about_every_second_time() -> None:
    generator = np.random.default_rng(0)
    seeds = 10 + int(for_share(7, 10))
    settled = sum(for_share(int(count), seeds) == 0 for count in generator.binomial(seeds, 0.7, size=1000))
    assert 0.45 < settled / 1000 < 0.75
