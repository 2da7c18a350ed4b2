"""Over seeds: interquartile means with stratified bootstrap intervals (rliable, 2108.13264), paired differences."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence, Sized
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rl_alliteration.analysis.words import Reals

LEVEL = 0.95
RESAMPLES = 2000
ONE_SEED = "one seed"
"""What is said instead of an interval."""
Statistic = Callable[[Reals], Reals]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number with the interval that holds it with a chance of 95%.

    The bounds are nan where there is no interval, as for one seed; all is nan where there is nothing to estimate.
    """

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def has_interval(self) -> bool:
        """Whether it has one."""
        return not (math.isnan(self.low) or math.isnan(self.high))

    def told(self, spec: str) -> str:
        """`5.2 [5.0, 5.4]`, `5.2 (one seed)` or `–`, with the numbers by a format such as `.1f`."""
        if math.isnan(self.value):
            return "–"
        interval = f"[{self.low:{spec}}, {self.high:{spec}}]" if self.has_interval else f"({ONE_SEED})"
        return f"{self.value:{spec}} {interval}"

    def __str__(self) -> str:
        return self.told(".3g")


NOTHING = Estimate(math.nan)


def several(strata: Iterable[Sized]) -> bool:
    """Whether seeds can say how far a number may be off: some setting has two or more. One seed makes no interval."""
    return any(len(values) > 1 for values in strata)


def of_draws(value: float, drawn: Reals, method: Literal["linear", "inverted_cdf"] = "linear") -> Estimate:
    """A value with the interval that the bootstrap's draws of it leave.

    Args:
        drawn: (R,).
        method: of numpy's quantiles; `inverted_cdf` where some draws may be infinite.
    """
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method=method)
    return Estimate(value, float(low), float(high))


def interquartile_mean(values: NDArray[np.floating], axis: int = -1) -> Reals:
    """Mean of what is left when a quarter of the values, rounded down, is cut off at either end.

    >>> float(interquartile_mean(np.array([0.0, 1.0, 2.0, 3.0, 100.0])))
    2.0
    """
    ordered = np.sort(values, axis=axis)
    count = ordered.shape[axis]
    cut = count // 4
    return np.asarray(np.take(ordered, np.arange(cut, count - cut), axis=axis).mean(axis=axis))


def mean(values: NDArray[np.floating], axis: int = -1) -> Reals:
    """The plain mean, for sets of texts."""
    return np.asarray(values.mean(axis=axis))


def estimate(strata: Sequence[Sequence[float] | Reals], statistic: Statistic = interquartile_mean) -> Estimate:
    """A statistic of all values together, its interval by resampling within each stratum.

    It has no interval where no stratum has two values or more.

    Args:
        strata: values by setting, such as one list of seeds a beta; nan are left out.
        statistic: of values along the last axis.
    """
    finite = [values for values in map(_finite, strata) if len(values)]
    if not finite:
        return NOTHING
    value = float(statistic(np.concatenate(finite)))
    if not several(finite):
        return Estimate(value)
    # Each stratum by draws of its own: with the same ones, the errors of strata of one size would add up.
    return of_draws(
        value, statistic(np.concatenate([resampled(values, place) for place, values in enumerate(finite)], axis=1))
    )


def difference(
    first: Sequence[float] | Reals, second: Sequence[float] | Reals, statistic: Statistic = interquartile_mean
) -> Estimate:
    """`first`'s statistic minus `second`'s, each resampled by itself; no interval where one of them has one value.

    nan are left out.
    """
    one, two = _finite(first), _finite(second)
    if not len(one) or not len(two):
        return NOTHING
    value = float(statistic(one) - statistic(two))
    if len(one) < 2 or len(two) < 2:
        return Estimate(value)
    return of_draws(value, statistic(resampled(one, 0)) - statistic(resampled(two, 1)))


def student(values: Sequence[float] | Reals) -> Estimate:
    """The mean with Student's interval (Student, 1908), which is honest for few values; none of one value.

    Of differences between two settings, seed by seed, it is the paired comparison: what a seed does to both drops out.
    nan are left out.
    """
    finite = _finite(values)
    if not len(finite):
        return NOTHING
    value = float(finite.mean())
    if len(finite) < 2:
        return Estimate(value)
    error = float(finite.std(ddof=1)) * student_errors(len(finite))
    return Estimate(value, value - error, value + error)


def student_errors(count: int) -> float:
    """Half the width of Student's interval of a mean of `count` values, two or more, in standard deviations of one."""
    from scipy.special import stdtrit  # a fifth of a second that few need

    return float(stdtrit(count - 1, (1 + LEVEL) / 2)) / math.sqrt(count)


def _finite(values: Sequence[float] | Reals) -> Reals:
    found: Reals = np.asarray(values, dtype=float)
    return np.asarray(found[np.isfinite(found)])


def resampled(values: Reals, seed: int = 0) -> Reals:
    """(2000, N) draws with replacement of N values; the same ones each time for one seed."""
    return np.asarray(values[_picks(len(values), seed)])


@lru_cache(maxsize=64)
def _picks(count: int, seed: int) -> NDArray[np.int32]:
    generator = np.random.Generator(np.random.Philox([seed, count]))
    return generator.integers(count, size=(RESAMPLES, count), dtype=np.int32)
