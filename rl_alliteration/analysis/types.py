"""What measuring gives: trials with their windows, and the unmodified model that they are compared with."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from rl_alliteration.analysis.best_of_n import BestOfN
from rl_alliteration.analysis.seeds import Estimate
from rl_alliteration.analysis.words import Ints, Reals
from rl_alliteration.config import ORIGINAL
from rl_alliteration.flags import STUDYS_UPDATE, UpdateSettings
from rl_alliteration.names import coefficient

WINDOW = 100
"""Generations per window, unless another number is asked for."""
FINAL_TEXTS = 300
"""Texts at the end of a trial that "final" and "at the end" are of."""


@dataclasses.dataclass(frozen=True)
class Original:
    """The unmodified model: what every comparison is with. Means over its windows; intervals over its texts."""

    raw_reward: Estimate
    alliteration: Estimate
    repetition: Estimate
    cross_entropy: float
    repetition_limit: float
    """95th percentile of its texts' repetition."""
    metrics: dict[str, float]
    """Each of `METRICS`."""
    by_letter: Reals
    """(27,) alliterating pairs by `LETTERS`."""
    rewards: Reals
    """(N,) raw reward of each of its texts."""
    tokens: Ints
    """(N,) scored tokens of each, `num_tokens` − 1."""

    @cached_property
    def best_of_n(self) -> BestOfN:
        """Best-of-n of its texts."""
        return BestOfN(self.rewards)


@dataclasses.dataclass(frozen=True)
class Trial:
    """A trial, its windows and what they say. K windows; the last one may not be full."""

    experiment: str
    trial_id: str
    name: str
    """For people, no other trial of its `Analysis` has it: `rloo beta 60 seed 0, rate 0.0005`."""
    algorithm: str
    beta: float
    """Fixed, or where a controlled coefficient began."""
    target_kl: float | None
    """What a controller steered the KL divergence to, nats a token; None if beta was fixed."""
    seed: int
    status: str
    reason: str
    """Of the status, where there is one: what stopped the trial."""
    began: str
    """When it was planned for the first time: ISO 8601, UTC."""
    generations: int
    max_generations: int
    reward_function: str
    group_size: int
    learning_rate: float
    model: str
    first: Ints
    """(K,) first generation of each window."""
    texts: Ints
    """(K,) texts in it."""
    metrics: dict[str, Reals]
    """Each of `METRICS`, (K,); nan where there is too little text to say."""
    intervals: dict[str, tuple[Reals, Reals]]
    """Low and high of the mean over texts of the metrics that have an interval, (K,) each."""
    spread: Reals
    """(K,) standard deviation of the texts' raw rewards."""
    by_letter: Reals
    """(K, 27) alliterating pairs by `LETTERS`."""
    curve: dict[str, Reals]
    """Means of ten texts of `raw_reward` and `kl_penalty`, by `generation`."""
    window: int
    original: Original | None = None
    collapse: int | None = None
    """The generation at which it collapsed (`rules.COLLAPSE_RULE`); None if it did not, or has no original."""
    apart: str = ""
    """What else sets it apart from the other trials of its reward, algorithm and coefficient: `, rate 0.0005`."""
    update: UpdateSettings = STUDYS_UPDATE

    @property
    def coefficient(self) -> str:
        """Beta, or what took its place, in words; with what else there is that no seed explains."""
        return coefficient(self) + self.apart

    @property
    def is_original(self) -> bool:
        """Whether it is the trial without updates."""
        return self.algorithm == ORIGINAL

    @property
    def full(self) -> NDArray[np.bool_]:
        """(K,) which windows are full."""
        full: NDArray[np.bool_] = self.texts == self.window
        return full

    def seen(self, length: int | None = None) -> NDArray[np.bool_]:
        """(K,) which full windows end by generation `length`; by default all of them."""
        return self.full if length is None else self.full & (self.first + self.window <= length)

    def final(self, metric: str, texts: int = FINAL_TEXTS, before: int | None = None) -> float:
        """Mean of a metric over the full windows of the last `texts` generations (before generation `before`)."""
        values = self.metrics[metric][self.seen(before)][-max(1, texts // self.window) :]
        return float(values.mean()) if len(values) else float("nan")

    def final_letters(self, before: int | None = None) -> Reals:
        """(27,) alliterating pairs by `LETTERS` in the full windows that `final` is of."""
        return np.asarray(self.by_letter[self.seen(before)][-max(1, FINAL_TEXTS // self.window) :].sum(axis=0))


@dataclasses.dataclass(frozen=True)
class Analysis:
    """All trials of some results, measured."""

    trials: list[Trial]
    window: int

    @property
    def trained(self) -> list[Trial]:
        """All but the originals, those without a text left out."""
        return [trial for trial in self.trials if not trial.is_original and len(trial.first)]
