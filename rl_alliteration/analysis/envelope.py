"""The envelope: for every KL coefficient beta, the best of all windows of texts that a storage has.

Raw reward and KL penalty of a window belong to the policy that it was sampled from, whatever beta that was trained
with. So its objective can be had for every beta, raw + beta · `kl_penalty`, and all trials say what each beta asks for.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rl_alliteration.analysis.seeds import RESAMPLES, Estimate, of_draws, several

Reals = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class EnvelopeWindow:
    """A full window of a trial's texts."""

    raw: float
    """Mean raw reward."""
    kl_penalty: float
    """Mean of the column `kl_penalty`: nats a token, negative in the mean."""
    variety: float
    sense: bool
    """Whether it keeps the original's sense."""
    collapsed: bool
    setting: str
    """What the trials that differ in their seed alone have in common."""
    trial: str
    first: int = 0
    """Its first generation."""

    def objective(self, beta: float) -> float:
        """J of the policy for any beta."""
        return self.raw + beta * self.kl_penalty


@dataclasses.dataclass(frozen=True)
class EnvelopePoint:
    """What the windows, and theory, say of one beta; nan where nothing is known."""

    beta: float
    best: EnvelopeWindow | None
    """The window with the largest objective; None where doing nothing has more."""
    objective: float
    """J of `best`, or of doing nothing: picked for being high, so above what its model is worth."""
    beside: float
    """Mean J of the windows before and after `best` in its trial, which were not picked; nan if there are none."""
    collapsed: float
    """The largest J of a collapsed window."""
    varied: float
    """The largest J of a window that has not collapsed."""
    nothing: Estimate
    """J0 of the unmodified model, the same for every beta."""
    optimum: float
    """J* (`tilted.optimum`)."""

    @property
    def answered(self) -> bool:
        """Whether the best is a model that has not collapsed, is more than the unmodified one, and not by noise.

        Not by noise: the windows beside it are above the interval of J0 as well.
        """
        if self.best is None or self.best.collapsed:
            return False
        return self.objective > self.nothing.high and self.beside > self.nothing.high


@dataclasses.dataclass(frozen=True)
class Envelope:
    """One point for every beta, and the beta up to which collapse is the best that was seen."""

    points: list[EnvelopePoint]
    transition: Estimate
    """Above it no collapsed window is the best: −inf if none is for any beta asked for, inf if one is for the largest.
    The interval is of the bootstrap over the seeds of each setting; nan where each setting has one."""

    @property
    def answers(self) -> list[float]:
        """The betas with an answer: for the others collapse or doing nothing is the best, beyond noise."""
        return [point.beta for point in self.points if point.answered]


def envelope(
    windows: Sequence[EnvelopeWindow], nothing: Estimate, betas: ArrayLike, optimum: ArrayLike | None = None
) -> Envelope:
    """The best window for every beta.

    Args:
        windows: of all trained trials, those of one trial in the order of training.
        nothing: J0, the mean raw reward of the unmodified model's texts.
        betas: (B,) coefficients, growing; the transition is interpolated between them.
        optimum: (B,) J* for each, nan where it is not known; None: for none.

    Raises:
        ValueError: there is no window, or the betas do not grow.
    """
    asked = np.asarray(betas, dtype=np.float64)
    if not len(windows) or not len(asked) or (np.diff(asked) <= 0).any():
        raise ValueError("the envelope needs a window or more, and betas that grow")
    best_possible = np.full(len(asked), np.nan) if optimum is None else np.asarray(optimum, dtype=np.float64)
    raw = np.array([window.raw for window in windows])
    kl_penalty = np.array([window.kl_penalty for window in windows])
    fallen = np.array([window.collapsed for window in windows])
    objectives = raw + asked[:, None] * kl_penalty  # (B, K)
    neighbours = _neighbours([window.trial for window in windows])
    points = []
    for place, beta in enumerate(asked):
        row = objectives[place]
        best = np.flatnonzero(row == row.max())
        first = int(best[fallen[best].argmin()])  # of equals a varied one, as for the transition
        stays = row[first] <= nothing.value
        beside = row[neighbours[first]]
        points.append(
            EnvelopePoint(
                beta=float(beta),
                best=None if stays else windows[first],
                objective=nothing.value if stays else float(row[first]),
                beside=float(beside.mean()) if len(beside) and not stays else float("nan"),
                collapsed=_largest(row[fallen]),
                varied=_largest(row[~fallen]),
                nothing=nothing,
                optimum=float(best_possible[place]),
            )
        )
    return Envelope(points, _transition(windows, objectives, fallen, nothing.value, asked))


def _largest(values: Reals) -> float:
    return float(values.max()) if len(values) else float("nan")


def _neighbours(trials: Sequence[str]) -> list[list[int]]:
    """The windows before and after each in its trial."""
    places: dict[str, list[int]] = {}
    for place, trial in enumerate(trials):
        places.setdefault(trial, []).append(place)
    beside: list[list[int]] = [[] for _ in trials]
    for one, next_one in itertools.chain.from_iterable(itertools.pairwise(own) for own in places.values()):
        beside[one].append(next_one)
        beside[next_one].append(one)
    return beside


def _transition(
    windows: Sequence[EnvelopeWindow], objectives: Reals, fallen: NDArray[np.bool_], nothing: float, betas: Reals
) -> Estimate:
    """Where the best jumps from collapsed to not, with its interval over seeds."""
    trials = list(dict.fromkeys(window.trial for window in windows))
    number = {trial: place for place, trial in enumerate(trials)}
    owner = np.array([number[window.trial] for window in windows])
    collapsed = np.full((len(trials), len(betas)), -np.inf)  # the best of each trial, for every beta
    varied = np.full((len(trials), len(betas)), nothing)
    np.maximum.at(collapsed, owner[fallen], objectives.T[fallen])
    np.maximum.at(varied, owner[~fallen], objectives.T[~fallen])
    value = _last_crossing(collapsed.max(axis=0) - varied.max(axis=0), betas)
    settings: dict[str, list[int]] = {}
    for setting, trial in dict.fromkeys((window.setting, window.trial) for window in windows):
        settings.setdefault(setting, []).append(number[trial])
    if not several(settings.values()):
        return Estimate(value)
    generator = np.random.Generator(np.random.Philox([len(trials)]))
    picks = np.concatenate(
        [np.array(own)[generator.integers(len(own), size=(RESAMPLES, len(own)))] for own in settings.values()], axis=1
    )
    sets = [np.unique(own) for own in picks]
    drawn = [_last_crossing(collapsed[own].max(axis=0) - varied[own].max(axis=0), betas) for own in sets]
    return of_draws(value, np.array(drawn), "inverted_cdf")


def _last_crossing(lead: Reals, betas: Reals) -> float:
    """The beta after which `lead`, (B,), is positive no more."""
    ahead = np.flatnonzero(lead > 0)
    if not len(ahead):
        return float("-inf")
    last = int(ahead[-1])
    if last == len(betas) - 1:
        return float("inf")
    share = lead[last] / (lead[last] - lead[last + 1])
    return float(betas[last] + share * (betas[last + 1] - betas[last]))
