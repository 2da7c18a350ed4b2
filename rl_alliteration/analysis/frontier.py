"""What alliteration costs in variety and sense: the windows that no other beats, and the one to keep."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rl_alliteration.analysis.rules import KEEP_VARIETY, SENSE_NATS, check_limits, keeps_sense, keeps_variety
from rl_alliteration.analysis.seeds import Estimate
from rl_alliteration.analysis.types import Analysis, Trial
from rl_alliteration.errors import Failure, UserError

NEW_TEXTS = 100
"""Texts whose mean raw reward a recommendation foretells."""


@dataclasses.dataclass(frozen=True)
class FrontierPoint:
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

    point: FrontierPoint
    generation: int
    """After how many texts its model was had: the middle of the window."""
    expected: float
    """Mean raw reward to expect: the window's, or that of those beside it if lower, as it was chosen for being high."""
    low: float
    high: float
    """Between these is the mean of 100 new texts, with a chance of 95%."""
    gain: Estimate
    """By how much the expected raw reward is above the unmodified model's mean. The interval is of the texts of both:
    it does not know that the window was picked."""
    worth: float
    """The n whose best-of-n has the expected raw reward; inf where that is more than the original's texts can tell."""

    @property
    def trial(self) -> Trial:
        """Its trial."""
        return self.point.trial

    def __str__(self) -> str:
        point = self.point
        return (
            f"recommended: {self.trial.trial_id} after {self.generation:,} texts. Alliteration "
            f"{point.alliteration:.1f} per 100 words, variety {point.variety:.2f}. Raw reward to expect: "
            f"{self.expected:.1f}, the mean of {NEW_TEXTS} new texts between {self.low:.1f} and {self.high:.1f}. "
            f"{self.comparison}"
        )

    @property
    def comparison(self) -> str:
        """What it has over the unmodified model, and over best-of-n of its texts, in words."""
        original = self.trial.original
        assert original is not None
        told = f"{self.gain.value:.1f} [{self.gain.low:.1f}, {self.gain.high:.1f}]"
        beside = f"the original's {original.raw_reward.value:.1f}"
        if self.gain.low <= 0:
            return f"That is {told} above {beside}: no more than noise"
        return f"That is {told} above {beside}, {_cost(self.worth, len(original.rewards))}"


def frontier(analysis: Analysis, nats: float = SENSE_NATS) -> list[FrontierPoint]:
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
        FrontierPoint(trial, index, float(values[row, 0]), float(values[row, 1]), sense, bool(best[row]))
        for row, (trial, index, sense) in enumerate(found)
    ]


def non_dominated(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(N,) which rows of (N, D) no other row is at least as high as in each column and higher in one."""
    kept = np.zeros(len(values), dtype=bool)
    best = np.empty((0, values.shape[1]))
    for row in np.lexsort(-values.T[::-1]):  # whatever is at least as high in all columns comes before
        value = values[row]
        if not bool(((best >= value).all(axis=1) & (best > value).any(axis=1)).any()):
            kept[row] = True
            best = np.vstack([best, value])
    return kept


def recommend(points: Sequence[FrontierPoint], keep_variety: float = KEEP_VARIETY) -> Recommendation | None:
    """The window with the most alliteration among those that keep the original's variety and sense; None if none do.

    Args:
        points: of `frontier`, which has settled what sense is.
        keep_variety: share of the original's variety to keep, 0 … 1.
    """
    kept = [point for point in points if keeps(point, keep_variety)]
    if not kept:
        return None
    return _recommendation(max(kept, key=lambda point: (point.alliteration, point.variety)))


def keeps(point: FrontierPoint, keep_variety: float = KEEP_VARIETY) -> bool:
    """Whether a window keeps the original's sense, and this share of its variety."""
    return point.sense and bool(keeps_variety(point.trial, keep_variety)[point.index])


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
    if not points and any(trial.full.any() for trial in analysis.trained):
        raise Failure(
            f"no window can be recommended without {analysis.window} texts of the original to compare it with; "
            "run the sweep again with --original-texts 1000"
        )
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


def _recommendation(point: FrontierPoint) -> Recommendation:
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
    original = trial.original
    assert original is not None
    gain = mean - original.raw_reward.value
    of_original = (original.raw_reward.high - original.raw_reward.low) / 2
    error = math.hypot(1.96 * math.sqrt(variance / (trial.window * len(chosen))), of_original)
    worth = float(original.best_of_n.worth(mean)) if len(original.rewards) else math.nan
    return Recommendation(
        point, middle // size * size, mean, mean - margin, mean + margin, Estimate(gain, gain - error, gain + error),
        worth,
    )  # fmt: skip


def _cost(worth: float, texts: int) -> str:
    """What the same reward costs without training."""
    if math.isnan(worth):
        return "whose texts were not kept"
    if math.isinf(worth):
        return f"more than the best of {texts:,} of its texts"
    samples = math.ceil(worth - 1e-9)
    return f"worth best-of-{samples:,}: {_NUMBERS.get(samples, f'{samples:,}')} samples of it for each text"


_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine"}
