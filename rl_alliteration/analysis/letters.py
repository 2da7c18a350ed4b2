"""Which initials a reward brings forth, where trials are equally far from the original model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from rl_alliteration.analysis.alliteration import letter_entropy
from rl_alliteration.analysis.seeds import Estimate, estimate
from rl_alliteration.analysis.types import Trial

KL_EDGES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Of the bins of KL divergence (-`kl_penalty`), nats per token: each is twice as far as the one before."""


def entropy_by_kl(trials: Sequence[Trial], edges: Sequence[float] = KL_EDGES) -> dict[str, Estimate]:
    """Entropy of alliterating initials (nats) by bin of KL divergence: interquartile mean over trials, 95% interval.

    A trial's value in a bin is the entropy of the pairs of all its full windows there together; trials without one
    are left out.
    """
    found = {}
    for low, high in itertools.pairwise(edges):
        values = []
        for trial in trials:
            divergence = -trial.metrics["kl_penalty"]
            inside = trial.full & (divergence >= low) & (divergence < high)
            if inside.any():
                values.append(letter_entropy(trial.by_letter[inside].sum(axis=0).astype(np.int64)))
        found[f"{low:g} to {high:g}"] = estimate([values])
    return found
