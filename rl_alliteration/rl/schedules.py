"""The learning rate over a trial: a pure function of the generation and the trial's length."""

from __future__ import annotations

import math


def rate_factor(schedule: str, generation: int, length: int, *, group_size: int, warm_up: int = 0) -> float:
    """What the learning rate is multiplied by for the update on the group that begins with a generation.

    It rises evenly over the warm-up, at whose last group it is 1, and falls over the rest, of which the first group
    has 1 and the generation `length` would have 0. No group's is 0.

    Args:
        schedule: `constant`, `linear` or `cosine`.
        generation: texts before the group.
        length: texts of the whole trial; only where the schedule is not constant does it matter.
        group_size: texts an update.
        warm_up: texts over which it rises; 0: from the first group on it is 1.

    >>> [rate_factor("linear", g, 60, group_size=10, warm_up=20) for g in range(0, 60, 10)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    >>> [round(rate_factor("cosine", g, 40, group_size=10), 3) for g in range(0, 40, 10)]
    [1.0, 0.854, 0.5, 0.146]
    """
    if generation < warm_up:
        return min((generation + group_size) / warm_up, 1.0)
    if schedule == "constant":
        return 1.0
    done = min((generation - warm_up) / (length - warm_up), 1.0)
    return 1 - done if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
