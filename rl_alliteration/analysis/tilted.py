"""The optimum of the objective that a trial is trained on: what the best possible policy would be worth.

The objective of a policy π, with q the unmodified model, r(x) the raw reward of a text x and L(x) its scored tokens,
is the mean of the column `reward`, in which the KL penalty is a mean over the text's own tokens:

    J(π) = E_π[ r(x) − (β / L(x)) · log(π(x) / q(x)) ]

J is concave in the probabilities π(x). With a multiplier λ for Σ π(x) = 1 the first-order condition at each text is

    r(x) − (β / L(x)) · (log(π(x) / q(x)) + 1) − λ = 0

so that the optimum, its normalisation and its worth are

    π*(x) = q(x) · exp( L(x) · (r(x) − λ) / β − 1 )     with λ such that Σ π*(x) = 1
    J* = λ + β · E_π*[ 1 / L(x) ]

Where all texts have L tokens this is the usual tilt, π* ∝ q · exp(L · r / β). Otherwise λ is multiplied by the text's
length, and no constant factor normalises. A mean over a text's own tokens is then no divergence either: with every
reward the same, J* is still above J0, by a policy of other lengths (1.5e-4 at beta 100 for the shipped model, of whose
texts 997 in 1,000 have all 99 tokens).

By duality J* is also the least value over λ of λ + β · E_q[exp(L (r − λ)/β − 1) / L], a mean over the *original*'s
texts. From N of these J* is estimated by the least value of their own mean: too low in expectation, and far too low
where rare texts decide. `optimum` therefore says nothing where few texts carry the weights; `at_least` always holds.

A policy is here what it makes of the prompt. `kl_penalty` counts the prompt's tokens too; π gives them what q does.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rl_alliteration.analysis.best_of_n import NORMAL
from rl_alliteration.analysis.seeds import Estimate

Reals = NDArray[np.float64]

LEAST_SAMPLE = 100
"""Effective number of texts below which nothing is said of the optimum."""
ALPHA = 0.05
"""How often `at_least` may be wrong."""


@dataclasses.dataclass(frozen=True)
class Tilt:
    """The distribution over given texts that is best for the objective."""

    weights: Reals
    """(N,) π*(x) of each text; their sum is 1."""
    log_ratio: Reals
    """(N,) log(π*(x) / q(x)), nats."""
    multiplier: float
    """λ, in units of reward."""
    objective: float
    """J*."""

    @property
    def effective_sample(self) -> float:
        """How many equally weighted texts say as much: 1 / Σ weights²."""
        return float(1.0 / (self.weights**2).sum())


@dataclasses.dataclass(frozen=True)
class Optimum:
    """The optimum of the objective for one beta, from texts of the unmodified model."""

    beta: float
    objective: Estimate
    """J*, the mean of `reward` that no policy exceeds."""
    raw: Estimate
    """Mean raw reward there."""
    kl: Estimate
    """KL divergence from the original there, nats a text."""
    effective_sample: float
    """How many equally weighted texts say as much."""
    weights: Reals
    """(N,) of the original's texts, for `best_of_n.weighted_variety` and means of other numbers."""


def tilt(raw: ArrayLike, tokens: ArrayLike, beta: float, chance: ArrayLike | None = None) -> Tilt:
    """The best distribution over texts, by the condition above.

    Args:
        raw: (N,) raw rewards.
        tokens: (N,) scored tokens of each text, 1 or more: `num_tokens` − 1.
        beta: the KL coefficient, more than 0.
        chance: (N,) q(x) of each text, all positive, sum 1; None: they were drawn from q, each counts 1/N.

    Raises:
        ValueError: beta is not positive, there is no text, or one has no token.
    """
    rewards, lengths = _checked(raw, tokens, beta)
    log_q = np.full(len(rewards), -np.log(len(rewards))) if chance is None else np.log(np.asarray(chance, dtype=float))
    slope = lengths / beta
    multiplier = _multiplier(rewards, slope, log_q)
    log_ratio = slope * (rewards - multiplier) - 1.0
    weights = np.exp(log_q + log_ratio)
    weights /= weights.sum()
    return Tilt(weights, log_ratio, multiplier, multiplier + float(weights @ (1.0 / slope)))


def at_least(raw: ArrayLike, tokens: ArrayLike, beta: float) -> float:
    """J* is at least this, with 95% confidence, however few texts of the unmodified model there are.

    The true λ makes the mean of π*/q over drawn texts 1 in expectation, so 20 or more at most one time in 20 (Markov's
    inequality): else λ is above the one that makes it 20, and J* above that by β over the tokens of the longest text.

    Args:
        raw: (N,) raw rewards of the original's texts.
        tokens: (N,) scored tokens of each, `num_tokens` − 1, among them the most that a text may have.
        beta: the KL coefficient, more than 0.

    Raises:
        ValueError: beta is not positive, there is no text, or one has no token.
    """
    rewards, lengths = _checked(raw, tokens, beta)
    log_q = np.full(len(rewards), np.log(ALPHA / len(rewards)))
    return _multiplier(rewards, lengths / beta, log_q) + beta / float(lengths.max())


def optimum(raw: ArrayLike, tokens: ArrayLike, beta: float) -> Optimum | None:
    """The optimum for one beta from N texts of the unmodified model; None where they cannot say what it is.

    That is where fewer than 100 equally weighted texts would say as much, as at small betas and at none. Intervals are
    normal, by the influence of each text on the estimate and on the multiplier. They know only of texts like those
    drawn: rarer and better ones raise J*.

    Args:
        raw: (N,) raw rewards of the original's texts.
        tokens: (N,) scored tokens of each: `num_tokens` − 1.
        beta: the KL coefficient.
    """
    rewards, lengths = np.asarray(raw, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
    if not beta > 0 or len(rewards) < LEAST_SAMPLE:
        return None
    best = tilt(rewards, lengths, beta)
    if best.effective_sample < LEAST_SAMPLE:
        return None
    count = len(rewards)
    ratio = count * best.weights  # π*/q, mean 1 over the texts
    slope = lengths / beta
    of_multiplier = (ratio - 1.0) / (ratio @ slope / count)

    def estimated(value: float, influence: Reals) -> Estimate:
        error = NORMAL * float(influence.std()) / np.sqrt(count)
        return Estimate(value, value - error, value + error)

    def weighted(numbers: Reals, change: Reals) -> Estimate:
        """The mean under π* of numbers whose product with π*/q changes by `change` · π*/q with the multiplier."""
        value = float(best.weights @ numbers)
        return estimated(value, ratio * numbers + float(best.weights @ change) * of_multiplier)

    return Optimum(
        beta,
        estimated(best.objective, ratio / slope),  # at the least value over λ its own error does not count
        weighted(rewards, -slope * rewards),
        weighted(best.log_ratio, -slope * (best.log_ratio + 1.0)),
        best.effective_sample,
        best.weights,
    )


def _checked(raw: ArrayLike, tokens: ArrayLike, beta: float) -> tuple[Reals, Reals]:
    rewards, lengths = np.asarray(raw, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
    if not 0 < beta < np.inf or not len(rewards) or not lengths.min() >= 1:
        raise ValueError("the optimum needs a positive beta, and one or more texts of one or more tokens")
    return rewards, lengths


def _multiplier(rewards: Reals, slope: Reals, log_q: Reals) -> float:
    """The λ at which Σ q · exp(slope · (r − λ) − 1) is 1."""
    # The sum's logarithm is convex and falls; from a λ at which one text alone makes 1, Newton's steps never overshoot.
    multiplier = float((rewards + (log_q - 1.0) / slope).max())
    for _ in range(200):
        log_pi = log_q + slope * (rewards - multiplier) - 1.0
        top = log_pi.max()
        terms = np.exp(log_pi - top)
        step = float((top + np.log(terms.sum())) / ((terms @ slope) / terms.sum()))
        multiplier += step
        if abs(step) <= 1e-13 * (1.0 + abs(multiplier)):
            break
    return multiplier
