"""How many more seeds would settle what is open, if they were like those that are there.

A figure is settled where its 95% interval leaves out the number that it is held against. All numbers here assume that
the values so far are typical: then the estimate stays where it is and the interval narrows around it. That is where
more seeds settle it about every second time, as the new ones move the estimate as well. A number of seeds is of each
setting that the figure is of.

0: it is settled. inf: no number of seeds like these settles it. nan: one seed has no interval to project.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from rl_alliteration.analysis.seeds import LEVEL, Estimate, student, student_errors
from rl_alliteration.analysis.words import Reals

MANY = 1000
"""More than so many are not counted in words."""
FOR_EVER = 1e9
"""So many seeds are none."""


def for_threshold(found: Estimate, threshold: float, seeds: int, error: float = 0.0) -> float:
    """More seeds until an estimate's interval leaves out a threshold.

    The half-width towards the threshold shrinks as the bootstrap's does for a mean of n values, with √(n − 1)/n: 1/√n,
    times what the values fall short of the spread that they are drawn from (Efron & Tibshirani 1993, chapter 5). From
    w at n₀ seeds on, n is the larger root of (n − 1)/n² = (distance/w)² (n₀ − 1)/n₀²; for many seeds n₀ (w/distance)².

    Args:
        found: over `seeds` seeds of each setting.
        threshold: that it is held against.
        seeds: of each setting, two or more; of the one with most.
        error: half the width of the threshold's own interval, which more seeds do not narrow: both are then of normal
            errors that are independent of each other.
    """
    distance = abs(found.value - threshold)
    if not found.has_interval:
        return math.nan
    width = found.value - found.low if threshold < found.value else found.high - found.value
    if math.hypot(width, error) < distance:
        return 0
    room = distance**2 - error**2
    if room <= 0:
        return math.inf
    narrower = room / width**2 * (seeds - 1) / seeds**2
    needed = (1 + math.sqrt(max(1 - 4 * narrower, 0))) / (2 * narrower) if narrower > 0 else math.inf
    return max(math.ceil(needed * (1 - 1e-12)), seeds + 1) - seeds if needed < FOR_EVER else math.inf


def for_share(count: int, seeds: int) -> float:
    """More seeds until the 95% interval of a share of them (Wilson 1927) leaves out one half.

    It does where |share − 1/2| > z √(1/(4n)), z = 1.96: Wilson's interval inverts the score test, whose error is that
    of the share in question. So n > z²/(4 (share − 1/2)²), the share being what it is.

    Args:
        count: seeds that have it.
        seeds: of so many, one or more.
    """
    away = abs(count / seeds - 1 / 2)
    if away == 0:
        return math.inf
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    return max(math.floor(z**2 / (4 * away**2)) + 1 - seeds, 0)


def for_mean(values: Sequence[float] | Reals, threshold: float = 0.0) -> float:
    """More seeds until Student's interval of a mean leaves out a threshold, the spread being what it is.

    The interval shrinks faster than 1/√n, as its quantile falls too.

    Args:
        values: one a seed, such as differences between two settings seed by seed.
    """
    found, count = student(values), len(values)
    if not found.has_interval:
        return math.nan
    distance = abs(found.value - threshold)
    if distance == 0:
        return math.inf
    spread = (found.high - found.value) / student_errors(count)
    needed = count
    while spread * student_errors(needed) >= distance:
        needed = needed + 1 if needed < MANY else 2 * needed
        if needed > FOR_EVER:
            return math.inf
    return needed - count


def words(more: float | None) -> str:
    """For a table; None where seeds have no say."""
    if more is None:
        return "–"
    if math.isnan(more):
        return "1 or more"
    if math.isinf(more):
        return "no number of seeds like these"
    return f"{more:.0f}" if more <= MANY else f"over {MANY:,}"
