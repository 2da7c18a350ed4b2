"""Best-of-n: of n texts of the unmodified model keep the best. What it buys, and how few nats it needs for that.

A policy without training, known to be close to the best trade of reward against KL divergence (arXiv 2404.01730), so
a yardstick for training. All of it is estimated from the N texts of `original`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rl_alliteration.analysis.diversity import overlaps
from rl_alliteration.analysis.seeds import Estimate
from rl_alliteration.analysis.words import Words

Reals = NDArray[np.float64]

SHARE_FOR_INTERVALS = 1 / 50
"""Largest n by N for which an interval is given. Beyond it too few of the texts decide: in simulation, intervals that
hold the truth 93 to 96% of the time up to here do so 91 to 94% of the time at N/20, and 90% at N/10."""
NORMAL = 1.959963984540054
"""Half the width of a normal distribution's middle 95%, in standard deviations."""
TABLE = 400
"""Values of n, evenly spaced by logarithm, between which the worth of a reward is interpolated."""
DIGITS = 12
"""Of a mean reward, in units of the rewards' range: what is beyond them is rounding."""
MOST_COMPARED = 1000
"""Texts that a weighted variety compares with each other at most."""


def kl_bound(n: ArrayLike) -> Reals:
    """The most nats a text by which best-of-n can differ from the original: log n − (n − 1)/n, for real n ≥ 1.

    An upper bound, not the divergence itself (arXiv 2401.01879): it is reached where no two texts are equally good.
    """
    many = np.asarray(n, dtype=np.float64)
    return np.asarray(np.log(many) - (many - 1) / many)


class BestOfN:
    """Best-of-n of a model, from the rewards of N of its texts; n is a real number from 1 to N.

    With F the share of texts with at most a reward, best-of-n draws a reward from F**n, which is defined for any real
    n. Where several texts are the best, each is as likely to be kept.
    """

    def __init__(self, rewards: ArrayLike) -> None:
        """`rewards`: (N,) raw rewards of texts of the unmodified model.

        Raises:
            ValueError: there are none, or one is not finite.
        """
        self.rewards = np.asarray(rewards, dtype=np.float64)
        if self.rewards.ndim != 1 or not len(self.rewards) or not np.isfinite(self.rewards).all():
            raise ValueError("best-of-n needs one or more rewards, all of them finite")
        self._levels, self._level, counts = np.unique(self.rewards, return_inverse=True, return_counts=True)
        self._counts = counts
        self._ends = np.cumsum(counts)

    def weights(self, n: float) -> Reals:
        """(N,) the chance of each text to be the best of n that are drawn from the N without replacement; their sum: 1.

        Over the draws of the N texts the weighted mean of any number is unbiased for whole n (a U-statistic).

        Raises:
            ValueError: n is not between 1 and N.
        """
        below = _chance_within(len(self.rewards), n)[np.append(0, self._ends)]
        return np.asarray((np.diff(below) / self._counts)[self._level])

    def mean(self, n: float, values: ArrayLike | None = None) -> Estimate:
        """The mean over best-of-n texts of a number that each text has: its reward, or `values`, (N,).

        The interval is normal, by the influence of each text on the estimate, widened by N/(N − n) for what that
        leaves out (arXiv 1510.04342); nan where n is more than N/50.

        Raises:
            ValueError: n is not between 1 and N.
        """
        count = len(self.rewards)
        numbers = self.rewards if values is None else np.asarray(values, dtype=np.float64)
        weights = self.weights(n)
        value = float(weights @ numbers)
        if n > 1 and n > count * SHARE_FOR_INTERVALS:
            return Estimate(value)
        # A text moves the estimate by moving F, and within its level of reward by its own number.
        of_level = np.bincount(self._level, numbers) / self._counts
        share = self._ends / count
        step = n * share[:-1] ** (n - 1) * -np.diff(of_level)
        by_level = np.append(np.cumsum(step[::-1])[::-1], 0.0) - (step * share[:-1]).sum()
        influence = by_level[self._level] + count * weights * (numbers - of_level[self._level])
        widened = count / (count - n) if count > n else 1.0
        error = NORMAL * widened * float(np.sqrt((influence**2).sum())) / count
        return Estimate(value, value - error, value + error)

    def worth(self, reward: ArrayLike) -> Reals:
        """The n whose best-of-n has this mean reward: 1 for no more than a plain text, inf where N texts cannot tell.

        Of the shape of `reward`. Interpolated between tabled values of n, to about four digits.
        """
        rewards, logarithms = self._table
        asked = np.asarray(reward, dtype=np.float64)
        place = np.round((asked - self._levels[0]) / self._range, DIGITS)
        found = np.where(place <= rewards[-1], np.exp(np.interp(place, rewards, logarithms)), np.inf)
        return np.asarray(np.where(np.isnan(asked), np.nan, found))

    def kl_needed(self, reward: ArrayLike) -> Reals:
        """Nats a text that best-of-n needs at most for this mean reward; inf where N texts cannot tell."""
        worth = self.worth(reward)
        return np.asarray(np.where(np.isinf(worth), np.inf, kl_bound(np.where(np.isinf(worth), 1.0, worth))))

    @property
    def _range(self) -> float:
        """Of the rewards; 1 where all are equal."""
        return float(np.ptp(self._levels)) or 1.0

    @cached_property
    def _table(self) -> tuple[Reals, Reals]:
        """Mean rewards of best-of-n, 0 … 1 from the least reward to the largest, and the least log n that has each."""
        logarithms = np.linspace(0.0, np.log(len(self.rewards)), TABLE)
        ends = np.append(0, self._ends)
        heights = (self._levels - self._levels[0]) / self._range
        within = [_chance_within(len(self.rewards), min(float(n), len(self.rewards))) for n in np.exp(logarithms)]
        means = np.round([np.diff(chance[ends]) @ heights for chance in within], DIGITS)
        rewards, first = np.unique(means, return_index=True)
        return rewards, logarithms[first]


def weighted_variety(texts: Sequence[str], weights: ArrayLike) -> float:
    """Variety (`diversity.variety`) of texts that are drawn with these chances: of best-of-n, or of the optimum.

    1 − the weighted mean overlap of each two different places of `texts`; nan if only one has a chance. Of more than
    1,000 texts with a chance, 1,000 are drawn: always the same ones for the same weights.
    """
    chance = np.asarray(weights, dtype=np.float64)
    places = np.flatnonzero(chance > 0)
    if len(places) > MOST_COMPARED:
        middles = (np.arange(MOST_COMPARED) + 0.5) / MOST_COMPARED
        order = np.random.Generator(np.random.Philox([len(places)])).permutation(places)
        sums = np.cumsum(chance[order])
        drawn, times = np.unique(order[np.searchsorted(sums, middles * sums[-1])], return_counts=True)
        places, chance = drawn, np.bincount(drawn, times, minlength=len(chance)).astype(np.float64)
    kept = chance[places]
    pairs = np.outer(kept, kept)
    np.fill_diagonal(pairs, 0.0)
    if not pairs.sum() > 0:
        return float("nan")
    return float(1.0 - (pairs * overlaps(Words.of([texts[place] for place in places.tolist()]))).sum() / pairs.sum())


def _chance_within(count: int, n: float) -> Reals:
    """(N + 1,) the chance that the best of n of N is among the i lowest: C(i, n) / C(N, n), for real n too."""
    if not 1 <= n <= count:
        raise ValueError(f"best-of-n of {count} texts: n = {n:g} is not between 1 and {count}")
    ranks = np.arange(1, count + 1, dtype=np.float64)
    with np.errstate(divide="ignore"):
        factors = np.log(np.maximum(1.0 - n / ranks, 0.0))
    return np.append(np.exp(np.cumsum(factors[::-1])[::-1]), 1.0)
