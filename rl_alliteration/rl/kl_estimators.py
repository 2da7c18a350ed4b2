"""Estimators of the KL divergence of a policy p from a reference q: pure functions, differentiable.

k1, k2 and k3 are John Schulman's ("Approximating KL divergence", 2020), of x = log p − log q of a sampled token. As a
value each is unbiased but k2, whose bias is small; as a loss, differentiated at the sampled token:

- k1 has a gradient whose mean is 0: it belongs into the reward (`--kl sampled`), where its gradient is unbiased;
- k2 has that of the divergence at the sampled prefixes (arXiv 2510.01555);
- k3 has that of the divergence the other way round, of q from p (arXiv 2512.21852).

None of the losses knows that a token decides which prefixes come: only `sampled` and `exact` count that too.
"""

from __future__ import annotations

import torch
from torch import Tensor


def k1(log_ratio: Tensor) -> Tensor:
    """log p − log q, nats: what is in the reward."""
    return log_ratio


def k2(log_ratio: Tensor) -> Tensor:
    """(log p − log q)² / 2, nats; 0 or more."""
    return 0.5 * log_ratio.square()


def k3(log_ratio: Tensor) -> Tensor:
    """r − 1 − log r with r = q / p, nats; 0 or more."""
    return torch.expm1(-log_ratio) + log_ratio


def exact(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Σ p (log p − log q) over the vocabulary, (…, V) → (…), nats: no estimate, given the prefix (arXiv 2504.10637).

    The plain form of what `lm.sampling.score_against` computes without a tensor of that size.
    """
    return (log_p.exp() * (log_p - log_q)).sum(-1)
