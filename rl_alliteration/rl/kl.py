"""The KL coefficient as a controller sets it: a pure function from one step to the next."""

from __future__ import annotations

INITIAL_BETA = 60.0
"""Where a controlled coefficient begins unless told otherwise: from above, where a model is still safe."""

_GAIN, _MOST = 0.1, 0.2


def next_beta(beta: float, kl: float, target: float) -> float:
    """The coefficient of the next step: up where the KL divergence was above its target, down where it was below.

    The proportional controller of Ziegler et al., arXiv 1909.08593, section 2.2: the relative error, at most 0.2
    either way, times 0.1, is the relative change of the coefficient.

    Args:
        beta: the coefficient of this step.
        kl: its group's mean of −`kl_penalty`, nats a token.
        target: above 0.

    >>> next_beta(50.0, kl=0.11, target=0.1), next_beta(50.0, kl=9.0, target=0.1), next_beta(50.0, kl=0.0, target=0.1)
    (50.5, 51.0, 49.0)
    """
    error = min(max(kl / target - 1, -_MOST), _MOST)
    return beta * (1 + _GAIN * error)
