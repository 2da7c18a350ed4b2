"""What alliteration costs in variety and sense: the windows that no other beats, and the one to keep."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rl_alliteration.analysis.windows import SENSE_NATS, Analysis, Trial, keeps_sense
from rl_alliteration.errors import Failure, UserError

KEEP_VARIETY = 0.9
"""Share of the original's variety that a recommended window keeps, unless told otherwise."""
NEW_TEXTS = 100
"""Texts whose mean raw reward a recommendation foretells."""


@dataclasses.dataclass(frozen=True)
class Point:
    """A full window of a trial, on the axes of the frontier."""

    trial: Trial
    index: int
    """Of the window in its trial."""
    alliteration: float
    """Per 100 words."""
    variety: float
    sense: bool
    best: bool
    """Whether no other window has at least as much of each and more of one."""

    @property
    def first(self) -> int:
        """Its first generation."""
        return int(self.trial.first[self.index])


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """The window to keep, and what to expect of its model."""

    point: Point
    generation: int
    """After how many texts its model was had: the middle of the window."""
    expected: float
    """Mean raw reward to expect: the window's, or that of those beside it if lower, as it was chosen for being high."""
    low: float
    high: float
    """Between these is the mean of 100 new texts, with a chance of 95%."""

    @property
    def trial(self) -> Trial:
        """Its trial."""
        return self.point.trial

    def __str__(self) -> str:
        point = self.point
        return (
            f"recommended: {self.trial.trial_id} after {self.generation:,} texts. Alliteration "
            f"{point.alliteration:.1f} per 100 words, variety {point.variety:.2f}. Raw reward to expect: "
            f"{self.expected:.1f}, the mean of {NEW_TEXTS} new texts between {self.low:.1f} and {self.high:.1f}"
        )


def frontier(analysis: Analysis, nats: float = SENSE_NATS) -> list[Point]:
    """All full windows of the trained trials that have an original, by trial and generation."""
    found = [
        (trial, int(index), bool(sense))
        for trial in analysis.trained
        if trial.original is not None
        for index, sense in enumerate(keeps_sense(trial, nats))
        if trial.full[index]
    ]
    values = np.array(
        [(trial.metrics["alliteration"][i], trial.metrics["variety"][i], sense) for trial, i, sense in found]
    ).reshape(len(found), 3)
    best = non_dominated(values)
    return [
        Point(trial, index, float(values[row, 0]), float(values[row, 1]), sense, bool(best[row]))
        for row, (trial, index, sense) in enumerate(found)
    ]


def check_limits(keep_variety: float, nats: float) -> None:
    """Whether they can be what a recommendation keeps.

    Raises:
        UserError: the one is no share, or the other no distance.
    """
    if not 0 <= keep_variety <= 1:
        raise UserError(f"--keep-variety: {keep_variety} is not accepted; give a share of the original's, 0 to 1")
    if not (math.isfinite(nats) and nats >= 0):
        raise UserError(f"--keep-sense: {nats} is not accepted; give 0 nats or more")


def non_dominated(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(N,) which rows of (N, D) no other row is at least as high as in each column and higher in one."""
    kept = np.ones(len(values), dtype=bool)
    for row, value in enumerate(values):
        kept[row] = not bool(((values >= value).all(axis=1) & (values > value).any(axis=1)).any())
    return kept


def recommend(points: Sequence[Point], keep_variety: float = KEEP_VARIETY) -> Recommendation | None:
    """The window with the most alliteration among those that keep the original's variety and sense; None if none do.

    Args:
        points: of `frontier`, which has settled what sense is.
        keep_variety: share of the original's variety to keep, 0 … 1.
    """
    kept = [point for point in points if keeps(point, keep_variety)]
    if not kept:
        return None
    return _recommendation(max(kept, key=lambda point: (point.alliteration, point.variety)))


def keeps(point: Point, keep_variety: float = KEEP_VARIETY) -> bool:
    """Whether a window keeps the original's sense, and this share of its variety."""
    original = point.trial.original
    return point.sense and original is not None and point.variety >= keep_variety * original.metrics["variety"]


def recommended(
    analysis: Analysis, keep_variety: float = KEEP_VARIETY, nats: float = SENSE_NATS, trial_id: str | None = None
) -> Recommendation:
    """`recommend`, of all trials or one, or a reason why there is none.

    Raises:
        UserError: a share or a number of nats is not accepted, or there is no such trial.
        Failure: no window keeps variety and sense.
    """
    check_limits(keep_variety, nats)
    points = frontier(analysis, nats)
    known = sorted({point.trial.trial_id for point in points})
    if trial_id is not None and trial_id not in known:
        raise UserError(f"--trial: {trial_id!r} has no full window to recommend; there is: {', '.join(known)}")
    found = recommend([point for point in points if trial_id in (None, point.trial.trial_id)], keep_variety)
    if found is None:
        raise Failure(
            f"none of {len(points):,} windows keeps {keep_variety:.0%} of the original's variety and its sense; "
            "lower --keep-variety or raise --keep-sense, or run larger betas"
        )
    return found


def _recommendation(point: Point) -> Recommendation:
    trial, index = point.trial, point.index
    size = trial.group_size
    rewards = trial.metrics["raw_reward"]
    chosen = np.array([index])
    if 0 < index < len(rewards) - 1 and trial.full[index + 1]:
        beside = np.array([index - 1, index + 1])
        # Where the curve is flat, a window that was chosen for being high was also lucky; where it rises, it was not.
        chosen = beside if rewards[beside].mean() < rewards[index] else chosen
    mean = float(rewards[chosen].mean())
    variance = float((trial.spread[chosen] ** 2).mean())
    margin = 1.96 * math.sqrt(variance * (1 / (trial.window * len(chosen)) + 1 / NEW_TEXTS))
    middle = point.first + trial.window // 2
    return Recommendation(point, middle // size * size, mean, mean - margin, mean + margin)
