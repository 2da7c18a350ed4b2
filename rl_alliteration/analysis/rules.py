"""The rules that windows and trials are judged by, each once: collapsed, destroyed, keeps variety, keeps sense."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from rl_alliteration.analysis.types import Original, Trial
from rl_alliteration.analysis.words import Ints, Reals
from rl_alliteration.errors import UserError

COLLAPSE_SHARE = 2 / 3
COLLAPSE_WINDOWS = 2
COLLAPSE_RULE = (
    "A trial collapses at the first generation of the first of two full windows in a row whose variety is less than "
    "two thirds of the original model's."
)
"""The rule, for people. One window alone is no collapse, and neither are stories that are as varied as the model's
own: variety compares a trial with the model that it began as, whatever the prompt."""
KEEP_VARIETY = 0.9
"""Share of the original's variety that a recommended window keeps, unless another is asked for."""
SENSE_NATS = 0.25
"""How far the mean `original_lm_cross_entropy` of texts that keep their sense may be from the original's."""
SENSE_QUANTILE = 0.95
"""Quantile of the original's repetition that the mean repetition of texts that keep their sense stays below."""

Flags = NDArray[np.bool_]


def lost_variety(variety: Reals | float, original: float) -> Flags:
    """Whether a variety is so far below the original's that two such windows in a row are a collapse."""
    return np.asarray(variety < COLLAPSE_SHARE * original)


def collapse_generation(variety: Reals, generation: Ints, original: float) -> int | None:
    """The generation at which a trial collapses by `COLLAPSE_RULE`; None if it does not.

    Args:
        variety: of each full window, (N,).
        generation: the first one of each window, (N,).
        original: the original model's variety, over windows of the same size.
    """
    low = lost_variety(variety, original)
    for index in range(len(low) - COLLAPSE_WINDOWS + 1):
        if low[index : index + COLLAPSE_WINDOWS].all():
            return int(generation[index])
    return None


def collapse_of(trial: Trial, length: int | None = None) -> int | None:
    """The generation at which a trial collapses, seen at `length` generations; None if not, or without an original."""
    if trial.original is None:
        return None
    seen = trial.seen(length)
    return collapse_generation(trial.metrics["variety"][seen], trial.first[seen], trial.original.metrics["variety"])


@dataclasses.dataclass(frozen=True)
class Limits:
    """Within these a window keeps the original's variety and sense."""

    variety: float
    """At least this."""
    cross_entropy: float
    """Mean under the original model, nats a token: this, …"""
    nats: float
    """… give or take."""
    repetition: float
    """At most this, in the mean over texts."""

    @classmethod
    def of(cls, original: Original, keep_variety: float = KEEP_VARIETY, nats: float = SENSE_NATS) -> Limits:
        """The limits that the unmodified model's texts set."""
        variety = keep_variety * original.metrics["variety"]
        return cls(variety, original.cross_entropy, nats, original.repetition_limit)

    def keep_variety(self, variety: Reals | float) -> Flags:
        """Whether windows of these varieties keep the original's."""
        return np.asarray(variety >= self.variety)

    def keep_sense(self, cross_entropy: Reals | float, repetition: Reals | float) -> Flags:
        """Whether windows keep the original's sense: their texts are as likely to it as its own, within `nats`, and on
        average no more repetitive than all but the most repetitive 5% of its own.

        Args:
            cross_entropy: mean `original_lm_cross_entropy` of each window.
            repetition: mean repetition of each window's texts.
        """
        near = np.abs(np.asarray(cross_entropy) - self.cross_entropy) <= self.nats
        return np.asarray(near & (repetition <= self.repetition))


@dataclasses.dataclass(frozen=True)
class Lost:
    """What the last texts of a trial have lost of the original's. A trial that has lost one of them is destroyed."""

    variety: bool
    """Whether they have less than two thirds of it: two such windows in a row are a collapse."""
    sense: bool

    @classmethod
    def of(cls, original: Limits, variety: float, cross_entropy: float, repetition: float) -> Lost | None:
        """Of the numbers of some texts; None if one of them is nan: there is too little text to say.

        Args:
            original: `Limits.of` the original, with `COLLAPSE_SHARE` of its variety.
            variety: of the texts.
            cross_entropy: their mean `original_lm_cross_entropy`.
            repetition: their mean repetition.
        """
        if not all(map(math.isfinite, (variety, cross_entropy, repetition))):
            return None
        kept = bool(original.keep_variety(variety)), bool(original.keep_sense(cross_entropy, repetition))
        return cls(not kept[0], not kept[1])


def lost_at_the_end(trial: Trial) -> Lost | None:
    """What a trial's last full window has lost; None where it has none, or no original to compare with."""
    full = np.flatnonzero(trial.full)
    if trial.original is None or not len(full):
        return None
    names = ("variety", "original_lm_cross_entropy", "repetition")
    return Lost.of(Limits.of(trial.original, COLLAPSE_SHARE), *(float(trial.metrics[name][full[-1]]) for name in names))


def check_limits(keep_variety: float, nats: float) -> None:
    """Whether they can be what a recommendation keeps.

    Raises:
        UserError: the one is no share, or the other no distance.
    """
    if not 0 <= keep_variety <= 1:
        raise UserError(f"--keep-variety: {keep_variety} is not accepted; give a share of the original's, 0 to 1")
    if not (math.isfinite(nats) and nats >= 0):
        raise UserError(f"--keep-sense: {nats} is not accepted; give 0 nats or more")


def keeps_variety(trial: Trial, share: float = KEEP_VARIETY) -> Flags:
    """(K,) which windows keep this share of the original's variety. None without an original."""
    if trial.original is None:
        return np.zeros(len(trial.first), dtype=bool)
    return Limits.of(trial.original, keep_variety=share).keep_variety(trial.metrics["variety"])


def keeps_sense(trial: Trial, nats: float = SENSE_NATS) -> Flags:
    """(K,) which windows keep the original's sense. None without an original."""
    if trial.original is None:
        return np.zeros(len(trial.first), dtype=bool)
    limits = Limits.of(trial.original, nats=nats)
    return limits.keep_sense(trial.metrics["original_lm_cross_entropy"], trial.metrics["repetition"])


def collapsed(trial: Trial) -> Flags:
    """(K,) which windows are of a collapsed trial: those from the collapse on."""
    return trial.first >= (np.inf if trial.collapse is None else trial.collapse)
