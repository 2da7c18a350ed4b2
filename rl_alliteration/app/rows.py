"""Texts with their numbers, out of the few parts that hold them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from rl_alliteration.analysis.diversity import overlaps
from rl_alliteration.analysis.words import Words
from rl_alliteration.app.index import Index, Known
from rl_alliteration.results.schema import part_number

COLUMNS = (
    "generation", "step", "sample", "text", "raw_reward", "reward", "advantage", "kl_penalty", "num_tokens",
    "original_lm_cross_entropy",
)  # fmt: skip
_LIST = ", ".join(COLUMNS)


@dataclasses.dataclass(frozen=True)
class Rollout:
    """One text, with its numbers."""

    generation: int
    step: int
    sample: int
    text: str
    raw_reward: float
    reward: float
    advantage: float
    kl_penalty: float
    num_tokens: int
    original_lm_cross_entropy: float

    @property
    def kl(self) -> float:
        """Nats a token, positive in the mean."""
        return 0.0 - self.kl_penalty


def covering(one: Known, low: int, high: int) -> list[str]:
    """The parts that hold generations `low` … `high` − 1 of a trial."""
    starts = [part_number(path) for path in one.parts]
    ends = [*starts[1:], 2**62]
    return [path for path, start, end in zip(one.parts, starts, ends, strict=True) if start < high and end > low]


def rollouts(index: Index, one: Known, low: int, high: int) -> list[Rollout]:
    """Generations `low` … `high` − 1 of a trial, those that are stored.

    Raises:
        duckdb.Error: a part is damaged.
    """
    paths = covering(one, low, high)
    if not paths:
        return []
    table = index.parts.query(
        f"SELECT {_LIST} FROM parts WHERE generation >= $low AND generation < $high ORDER BY generation",
        paths,
        {"low": low, "high": high},
    )
    return [_rollout(row) for row in table.to_pylist()]


def _rollout(row: dict[str, Any]) -> Rollout:
    return Rollout(**row)


ORDERS = {
    "sampled": "as they were sampled",
    "reward": "raw reward, the greatest first",
    "kl": "KL, the greatest first",
    "typical": "typical of them first",
    "random": "random",
}


def ordered(found: Sequence[Rollout], order: str, shuffle: int = 0) -> list[Rollout]:
    """Texts in an order of `ORDERS`.

    Typical are those whose sets of word bigrams overlap the others' most in the mean; `shuffle` makes another random
    order.
    """
    if order == "reward":
        return sorted(found, key=lambda one: -one.raw_reward)
    if order == "kl":
        return sorted(found, key=lambda one: one.kl_penalty)
    if order == "random":
        return [found[k] for k in np.random.Generator(np.random.Philox([shuffle, len(found)])).permutation(len(found))]
    if order == "typical" and len(found) > 1:
        near = overlaps(Words.of([one.text for one in found])).sum(axis=1)
        return [found[k] for k in np.argsort(-near, kind="stable")]
    return list(found)
