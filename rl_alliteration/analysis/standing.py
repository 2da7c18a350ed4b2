"""Where texts of a trained model stand against the model before RL: what they paid in nats, and what that is worth."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rl_alliteration.analysis.best_of_n import NORMAL, BestOfN
from rl_alliteration.analysis.seeds import NOTHING, RESAMPLES, Estimate, estimate, mean, of_draws, resampled

Reals = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Standing:
    """A window of texts beside the unmodified model and best-of-n of its texts."""

    raw: Estimate
    """Mean raw reward."""
    objective: Estimate
    """J, the mean of the column `reward`: what the trial is trained on."""
    kl: Estimate
    """KL divergence from the original, nats a text, positive in the mean."""
    worth: Estimate
    """The n whose best-of-n has the same raw reward; inf, without an interval, where the original has too few texts."""
    wasted: Estimate
    """Nats a text beyond those that best-of-n needs at most for the same raw reward; nan where `worth` is inf."""


def standing(
    raw: ArrayLike, reward: ArrayLike, kl_penalty: ArrayLike, tokens: ArrayLike, original: BestOfN
) -> Standing:
    """Measure a window of M texts; intervals are of the bootstrap over its texts and the original's.

    Args:
        raw: (M,) the column `raw_reward`.
        reward: (M,) the column `reward`.
        kl_penalty: (M,) the column `kl_penalty`, nats a token, negative in the mean.
        tokens: (M,) scored tokens of each text: `num_tokens` − 1.
        original: of the unmodified model.
    """
    rewards = np.asarray(raw, dtype=np.float64)
    nats = -np.asarray(kl_penalty, dtype=np.float64) * np.asarray(tokens, dtype=np.float64)
    kl = estimate([nats], mean)
    worth, wasted = _against(rewards, nats, original)
    return Standing(estimate([rewards], mean), estimate([np.asarray(reward, dtype=float)], mean), kl, worth, wasted)


def reward_at(kl: ArrayLike, raw: ArrayLike, nats: float) -> float:
    """The mean raw reward at which a trial's path first reaches a KL divergence; nan if it does not.

    Args:
        kl: (K,) nats a text of its windows, in the order of training; begin with 0 for the unmodified model.
        raw: (K,) their mean raw rewards, of the unmodified model first.
        nats: the divergence; between two windows the path is a straight line.
    """
    path, rewards = np.asarray(kl, dtype=np.float64), np.asarray(raw, dtype=np.float64)
    reached = np.flatnonzero(path >= nats)
    if not len(reached) or (reached[0] == 0 and path[0] > nats):
        return float("nan")
    place = int(reached[0])
    if place == 0:
        return float(rewards[0])
    share = (nats - path[place - 1]) / (path[place] - path[place - 1])  # no slope, which may overflow
    return float((1 - share) * rewards[place - 1] + share * rewards[place])


def _against(raw: Reals, nats: Reals, original: BestOfN) -> tuple[Estimate, Estimate]:
    """`worth` and `wasted` of a window."""
    worth = float(original.worth(raw.mean())) if len(raw) else float("nan")
    if not np.isfinite(worth):
        return Estimate(worth), NOTHING
    wasted = float(nats.mean() - original.kl_needed(raw.mean()))
    of_original = original.mean(worth)
    error = (of_original.high - of_original.low) / (2 * NORMAL)
    if np.isnan(error):
        return Estimate(worth), Estimate(wasted)
    # One draw of texts for both numbers: rewards and nats of one text belong together.
    noise = np.random.Generator(np.random.Philox([len(raw)])).normal(0.0, error, RESAMPLES)
    drawn = mean(resampled(raw)) + noise
    many = of_draws(worth, original.worth(drawn), "inverted_cdf")  # some may be infinite
    return many, of_draws(wasted, mean(resampled(nats)) - original.kl_needed(drawn), "inverted_cdf")
