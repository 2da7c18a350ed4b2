"""How reward grows with the KL divergence: the two curves of Gao et al. (arXiv 2210.10760)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rl_alliteration.analysis.best_of_n import NORMAL
from rl_alliteration.analysis.seeds import Estimate

Reals = NDArray[np.float64]
Form = Literal["rl", "best_of_n"]
LEAST_FREEDOM = 3
"""Trials but one that an interval needs."""


@dataclasses.dataclass(frozen=True)
class GaoCurve:
    """With d the square root of nats a text: d (α − β log d) for RL, d (α − β d) for best-of-n."""

    form: Form
    alpha: Estimate
    """Reward gained per √nat at first."""
    beta: Estimate
    """How fast that falls: Gao's β, not the KL coefficient."""
    residuals: Reals
    """(K,) gains that were seen minus the curve's."""

    def gain(self, kl: ArrayLike) -> Reals:
        """The raw reward above the unmodified model's at these nats a text, of the shape of `kl`."""
        return np.asarray(_terms(kl, self.form) @ np.array([self.alpha.value, self.beta.value]))


def fit(kl: ArrayLike, gain: ArrayLike, trials: Sequence[str], form: Form) -> GaoCurve:
    """Least squares through the windows of several trials, which is exact: both curves are linear in α and β.

    Intervals are of the jackknife over whole trials, as a trial's windows depend on each other, and of Student's t;
    nan for fewer than four trials.

    Args:
        kl: (K,) nats a text; less than 0, by noise, counts as 0.
        gain: (K,) mean raw rewards minus the unmodified model's.
        trials: (K,) whose window each is.
        form: of RL, or of best-of-n.

    Raises:
        ValueError: there are too few different divergences for two parameters.
    """
    terms, gains = _terms(kl, form), np.asarray(gain, dtype=np.float64)
    names, owner = np.unique(np.asarray(trials), return_inverse=True)
    squares, products = np.zeros((len(names), 2, 2)), np.zeros((len(names), 2))
    np.add.at(squares, owner, terms[:, :, None] * terms[:, None, :])
    np.add.at(products, owner, terms * gains[:, None])
    if np.linalg.matrix_rank(terms) < 2:
        raise ValueError("a curve of two parameters needs windows of two or more different divergences above 0")
    found, *_ = np.linalg.lstsq(terms, gains)
    error = np.full(2, np.nan)
    if len(names) > LEAST_FREEDOM:
        without = np.linalg.pinv(squares.sum(axis=0) - squares, hermitian=True)  # (T, 2, 2), one trial left out
        moved = np.einsum("tij,tj->ti", without, products.sum(axis=0) - products) - found
        freedom = len(names) - 1
        error = t_quantile(freedom) * np.sqrt((moved**2).sum(axis=0) * freedom / len(names))
    alpha, beta = (Estimate(float(x), float(x - e), float(x + e)) for x, e in zip(found, error, strict=True))
    return GaoCurve(form, alpha, beta, gains - terms @ found)


def t_quantile(freedom: int) -> float:
    """The 97.5% quantile of Student's t, to 1% for three degrees of freedom or more (Abramowitz & Stegun, 26.7.5)."""
    z, share = NORMAL, 1.0 / freedom
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + share * (first + share * (second + share * third))


def _terms(kl: ArrayLike, form: Form) -> Reals:
    """(…, 2) what α and β are multiplied by."""
    distance = np.sqrt(np.maximum(np.asarray(kl, dtype=np.float64), 0.0))
    falling = distance**2 if form == "best_of_n" else distance * np.log(np.where(distance > 0, distance, 1.0))
    return np.stack([distance, -falling], axis=-1)
