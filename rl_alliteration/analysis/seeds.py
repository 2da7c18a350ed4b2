"""Over seeds: interquartile means with stratified bootstrap intervals (rliable, 2108.13264)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from rl_alliteration.analysis.words import Reals

LEVEL = 0.95
RESAMPLES = 2000
Statistic = Callable[[Reals], Reals]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number with the interval that holds it with a chance of 95%; all nan where there is nothing to estimate."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


NOTHING = Estimate(float("nan"), float("nan"), float("nan"))


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

    Args:
        strata: values by setting, such as one list of seeds a beta; nan are left out.
        statistic: of values along the last axis.
    """
    finite = [values[np.isfinite(values)] for values in (np.asarray(stratum, dtype=float) for stratum in strata)]
    finite = [values for values in finite if len(values)]
    if not finite:
        return NOTHING
    value = float(statistic(np.concatenate(finite)))
    # Each stratum by draws of its own: with the same ones, the errors of strata of one size would add up.
    drawn = statistic(np.concatenate([resampled(values, place) for place, values in enumerate(finite)], axis=1))
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))


def difference(
    first: Sequence[float] | Reals, second: Sequence[float] | Reals, statistic: Statistic = interquartile_mean
) -> Estimate:
    """`first`'s statistic minus `second`'s, each resampled by itself."""
    one, two = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if not len(one) or not len(two):
        return NOTHING
    drawn = statistic(resampled(one, 0)) - statistic(resampled(two, 1))
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(statistic(one) - statistic(two)), float(low), float(high))


def resampled(values: Reals, seed: int = 0) -> Reals:
    """(2000, N) draws with replacement of N values; the same ones each time for one seed."""
    return np.asarray(values[_picks(len(values), seed)])


@lru_cache(maxsize=64)
def _picks(count: int, seed: int) -> NDArray[np.int32]:
    generator = np.random.Generator(np.random.Philox([seed, count]))
    return generator.integers(count, size=(RESAMPLES, count), dtype=np.int32)
