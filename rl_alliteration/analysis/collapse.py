"""When a trial collapses."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

COLLAPSE_SHARE = 2 / 3
COLLAPSE_WINDOWS = 2
RULE = (
    "A trial collapses at the first generation of the first of two full windows in a row whose variety is less than "
    "two thirds of the original model's."
)
"""The rule, for people. One window alone is no collapse, and neither are stories that are as varied as the model's
own: variety compares a trial with the model that it began as, whatever the prompt."""


def collapse_generation(variety: NDArray[np.float64], generation: NDArray[np.int64], original: float) -> int | None:
    """The generation at which a trial collapses by `RULE`; None if it does not.

    Args:
        variety: of each full window, (N,).
        generation: the first one of each window, (N,).
        original: the original model's variety, over windows of the same size.
    """
    low = variety < COLLAPSE_SHARE * original
    for index in range(len(low) - COLLAPSE_WINDOWS + 1):
        if low[index : index + COLLAPSE_WINDOWS].all():
            return int(generation[index])
    return None
