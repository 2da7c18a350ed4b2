"""What each token of a sampled group is weighed by in the update: credit, by text or to go. Pure; numpy, no torch.

B texts, T tokens of the longest. A text of n tokens has n − 1 that are predicted, N − 1 if it reaches the greatest
length; a nat of it costs beta / (n − 1), as its KL penalty is a mean.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from rl_alliteration.rl.advantages import Algorithm

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Scored:
    """A sampled group with its numbers. Columns are a text's tokens but its first, as in `objective.Group`."""

    raw_rewards: Array
    """(B,)."""
    token_rewards: Array
    """(B, T − 1): of them what each token settles; a row's sum is the text's."""
    log_ratio: Array
    """(B, T − 1): log p − log q of each token, nats; 0 beyond a text's end."""
    divergence: Array | None
    """(B, T − 1): KL divergence of the distribution that each token was drawn from, nats; None: not computed."""
    mask: Mask
    """(B, T − 1): whether there is a token."""
    sampled: Mask
    """(B, T − 1): whether there is one that was sampled."""
    greatest_length: int
    """N: most tokens of a text, the prompt's included."""
    beta: float
    """The KL coefficient."""

    @property
    def own_share(self) -> Array:
        """1 / (n − 1) of each text, (B,)."""
        share: Array = 1.0 / self.mask.sum(-1)
        return share

    @property
    def full_share(self) -> float:
        """1 / (N − 1)."""
        return 1.0 / (self.greatest_length - 1)


@dataclasses.dataclass(frozen=True)
class Credit:
    """What a loss multiplies by: −Σ `weights` · log p + Σ `prices` · KL at each position."""

    weights: Array
    """(B, T − 1), in units of reward; 0 where there is no token."""
    prices: Array
    """(B, T − 1), in units of reward a nat; 0 where no token was sampled."""


def by_text(algorithm: Algorithm, scored: Scored) -> Credit:
    """One advantage for all tokens of a text, divided by the text's own length: the study's, its KL term in the loss.

    The divergence over the vocabulary, where there is one, is a cost of the text as well: tokens decide which prefixes
    come.
    """
    share = scored.own_share
    rewards = scored.raw_rewards
    if scored.divergence is not None:
        rewards = rewards - scored.beta * share * (scored.divergence * scored.sampled).sum(-1)
    advantages = algorithm.advantages(rewards) * share
    prices: Array = (scored.beta * share**2)[:, None] * scored.sampled
    return Credit(advantages[:, None] * scored.mask, prices)


def to_go(algorithm: Algorithm, scored: Scored, *, kl_in_reward: bool) -> Credit:
    """A token is weighed by what it can still change: the reward and the KL that come with it or after it.

    They are compared, at each position, among those texts of the group that reach it, as the algorithm compares texts:
    with RLOO, with the mean of the others. Where fewer than it needs do, a return is compared with nothing.

    Sums are divided by N − 1, whatever a text's own length. A nat costs beta / (N − 1) where it is spent; the
    difference to beta / (n − 1) is counted at the last token of a text that ends early, together with the gradient of
    its own cross-entropies. So the mean is the gradient of the mean `reward`, divided by N − 1, over what is sampled.

    Args:
        algorithm: its advantages are a function of the returns alone.
        scored: with a divergence, the cost of a position is that of its distribution, and what a token is weighed by
            begins with the next one's: the gradient of its own is the loss's.
        kl_in_reward: whether returns have the KL at all; not where it is a loss of the sampled tokens.
    """
    share = scored.full_share
    gains = scored.token_rewards * scored.mask
    if kl_in_reward:
        if scored.divergence is None:
            gains = gains - scored.beta * share * scored.log_ratio * scored.sampled
        else:
            gains[:, :-1] -= scored.beta * share * (scored.divergence * scored.sampled)[:, 1:]
        early = scored.own_share - share
        last = scored.mask.sum(-1) - 1
        gains[np.arange(len(gains)), last] -= scored.beta * early * (1 + (scored.log_ratio * scored.mask).sum(-1))
    returns = np.flip(np.cumsum(np.flip(gains, 1), 1), 1)
    advantages = advantages_by_position(algorithm, returns, scored.sampled)
    return Credit(share * advantages, scored.beta * share**2 * scored.sampled.astype(np.float64))


def advantages_by_position(algorithm: Algorithm, returns: Array, reached: Mask) -> Array:
    """An algorithm's advantages at each position, among the texts that reach it, (B, T − 1), (B, T − 1) → (B, T − 1).

    Where fewer than the algorithm's least group reach it they are the returns; where a text does not, 0.
    """
    found = np.where(reached, returns, 0.0)
    for column in np.flatnonzero(reached.sum(0) >= algorithm.least_group_size):
        texts = reached[:, column]
        found[texts, column] = algorithm.advantages(returns[texts, column])
    return found
