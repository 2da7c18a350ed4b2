"""What measured trials are worth beside the unmodified model: the yardsticks, of windows, settings and all trials."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from rl_alliteration.analysis.envelope import Envelope, EnvelopeWindow, envelope
from rl_alliteration.analysis.rules import keeps_sense, lost_variety
from rl_alliteration.analysis.seeds import Estimate, estimate
from rl_alliteration.analysis.tilted import Optimum, at_least, optimum
from rl_alliteration.analysis.types import Original, Trial
from rl_alliteration.analysis.words import Reals

BETAS = 120
"""Coefficients between which the envelope is drawn, evenly spaced."""
BEYOND = 1.2
"""The largest of these, by the largest that was trained with."""


def worth_best_of(trial: Trial) -> Reals:
    """(K,) the n whose best-of-n has the raw reward of each window; nan where the original's texts cannot tell."""
    return _worth(trial, trial.metrics["raw_reward"])


def nats_wasted(trial: Trial) -> Reals:
    """(K,) nats a text beyond those that this best-of-n needs at most; nan where the original's texts cannot tell."""
    return _wasted(trial, trial.metrics["raw_reward"], trial.metrics["kl_per_text"])


def _worth(trial: Trial, raw: Reals) -> Reals:
    if trial.original is None or not len(trial.original.rewards):
        return np.full(np.shape(raw), np.nan)
    found = trial.original.best_of_n.worth(raw)
    return np.where(np.isinf(found), np.nan, found)


def _wasted(trial: Trial, raw: Reals, kl: Reals) -> Reals:
    if trial.original is None or not len(trial.original.rewards):
        return np.full(np.shape(raw), np.nan)
    needed = trial.original.best_of_n.kl_needed(raw)
    return kl - np.where(np.isinf(needed), np.nan, needed)


def by_original(trials: Iterable[Trial]) -> list[tuple[Original, list[Trial]]]:
    """Trials together that are compared with the same texts of the unmodified model; those without any left out."""
    found: dict[bytes, tuple[Original, list[Trial]]] = {}
    for trial in trials:
        if trial.original is not None and len(trial.original.rewards):
            found.setdefault(trial.original.rewards.tobytes(), (trial.original, []))[1].append(trial)
    return list(found.values())


# --- seeds of a setting ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class SettingWorth:
    """What trials that differ in their seed alone end with: interquartile means, their intervals over the seeds.

    An interval needs two seeds or more: nan for one.
    """

    seeds: int
    objective: Estimate
    """J."""
    nothing: Estimate
    """J0 of the unmodified model, its interval over texts."""
    kl: Estimate
    """Nats a text."""
    wasted: Estimate
    """Nats a text, over the seeds for which the original's texts can tell; nan for none."""
    worth: Estimate
    """The n of best-of-n, over the same seeds."""
    beyond: int
    """How many seeds have more reward than the original's texts can tell."""


def setting_worth(trials: Sequence[Trial]) -> SettingWorth:
    """Of the last full windows of trials that have an original.

    Raises:
        ValueError: there is no trial, or one has no original.
    """
    original = trials[0].original if trials else None
    if original is None:
        raise ValueError("what a setting is worth needs trials that have an original")
    raw, kl = (np.array([trial.final(name) for trial in trials]) for name in ("raw_reward", "kl_per_text"))
    worth = np.array([float(_worth(trial, one)) for trial, one in zip(trials, raw, strict=True)])
    wasted = np.array([float(_wasted(trial, *ends)) for trial, *ends in zip(trials, raw, kl, strict=True)])
    return SettingWorth(
        len(trials),
        estimate([[trial.final("objective") for trial in trials]]),
        original.raw_reward,
        estimate([kl]),
        estimate([wasted]),
        estimate([worth]),
        int((np.isnan(worth) & np.isfinite(raw)).sum()),
    )


# --- the optimum -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Possible:
    """What the texts of the unmodified model say of the best possible policy for one beta."""

    optimum: Optimum | None
    """None where too few of them would carry the estimate."""
    at_least: float
    """J* is at least this, with 95% confidence; nan where doing nothing says as much."""


def possible(original: Original, beta: float) -> Possible | None:
    """The best that there can be for a fixed beta above 0; None where the original's texts are not known."""
    if not beta > 0 or not len(original.rewards):
        return None
    bound = at_least(original.rewards, original.tokens, beta)
    return Possible(
        optimum(original.rewards, original.tokens, beta), bound if bound > original.raw_reward.high else float("nan")
    )


def optima(original: Original, betas: Reals) -> list[Optimum]:
    """The optimum for each of growing betas at which enough texts carry it: the smaller a beta, the fewer do."""
    found = []
    for beta in betas[::-1].tolist():
        one = optimum(original.rewards, original.tokens, beta)
        if one is None:
            break
        found.append(one)
    return found[::-1]


# --- the envelope ------------------------------------------------------------------------------------------------


def envelope_of(
    original: Original, trials: Sequence[Trial], setting: Callable[[Trial], str], nats: float
) -> Envelope | None:
    """The best full window for every beta up to a fifth more than any trial has; None without a window, or a beta.

    Args:
        original: of all trials.
        trials: trained.
        setting: what the seeds of a setting have in common.
        nats: how far the cross-entropy of texts that keep their sense may be off.
    """
    windows = [window for trial in trials for window in envelope_windows(trial, setting(trial), nats)]
    largest = BEYOND * max((trial.beta for trial in trials), default=0.0)
    if not windows or not largest > 0:
        return None
    betas = np.linspace(0.0, largest, BETAS + 1)
    known = {one.beta: one.objective.value for one in optima(original, betas)}
    best = [known.get(beta, np.nan) for beta in betas.tolist()]
    return envelope(windows, original.raw_reward, betas, best)


def envelope_windows(trial: Trial, setting: str, nats: float) -> list[EnvelopeWindow]:
    """The full windows of a trial; none without an original.

    Args:
        trial: trained.
        setting: what its other seeds have in common with it.
        nats: how far the cross-entropy of texts that keep their sense may be off.
    """
    if trial.original is None:
        return []
    sense = keeps_sense(trial, nats)
    fallen = lost_variety(trial.metrics["variety"], trial.original.metrics["variety"])
    raw, kl_penalty, variety = (trial.metrics[name].tolist() for name in ("raw_reward", "kl_penalty", "variety"))
    return [
        EnvelopeWindow(
            raw[place],
            kl_penalty[place],
            variety[place],
            bool(sense[place]),
            bool(fallen[place]),
            setting,
            trial.name,
            int(trial.first[place]),
        )
        for place in np.flatnonzero(trial.full)
    ]
