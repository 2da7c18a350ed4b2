"""The table of trials: a row a trial, a column each entry of `COLUMNS`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

from rl_alliteration.analysis.alliteration import LETTERS
from rl_alliteration.analysis.metrics import METRICS
from rl_alliteration.analysis.rules import lost_at_the_end
from rl_alliteration.analysis.stopping import status_words
from rl_alliteration.analysis.types import Trial
from rl_alliteration.report.base import short


class Cell(NamedTuple):
    """What is shown, and what is sorted by; empty sorts last."""

    text: str
    sort: float | str


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of the table."""

    title: str
    cell: Callable[[Trial], Cell]
    left: bool = False
    """Whether it is of words, not of numbers."""
    searched: bool = False
    """Whether it is shown only where a search chose it."""


_NOTHING = Cell("–", "")


def _trained(cell: Callable[[Trial], Cell]) -> Callable[[Trial], Cell]:
    """Nothing for the trial without updates."""
    return lambda trial: _NOTHING if trial.is_original else cell(trial)


def _number(value: float, digits: int) -> Cell:
    return Cell(f"{value:z.{digits}f}", value) if math.isfinite(value) else _NOTHING


def _at_the_end(metric: str, digits: int) -> Callable[[Trial], Cell]:
    return lambda trial: _number(METRICS[metric].shown(trial.final(metric)), digits)


def _word(value: str) -> Cell:
    return Cell(value, value)


def _status(trial: Trial) -> Cell:
    return _word(status_words(trial.status, trial.reason))


def _generations(trial: Trial) -> Cell:
    of = f"/{trial.max_generations:,}" if trial.generations < trial.max_generations else ""
    return Cell(f"{trial.generations:,}{of}", trial.generations)


def _reward_at_the_start(trial: Trial) -> Cell:
    return _number(float(trial.metrics["raw_reward"][0]) if len(trial.first) else math.nan, 1)


def _top_letters(trial: Trial) -> Cell:
    """The three commonest initial letters at the end."""
    counts = trial.final_letters()
    order = sorted(range(len(LETTERS)), key=lambda i: -counts[i])[:3]
    return _word(" ".join(LETTERS[i] for i in order if counts[i]))


def _collapse(trial: Trial) -> Cell:
    return _NOTHING if trial.collapse is None else Cell(f"{trial.collapse:,}", trial.collapse)


def _lost(trial: Trial) -> Cell:
    """What the last full window has lost; without either a trial is destroyed."""
    lost = lost_at_the_end(trial)
    if lost is None:
        return _NOTHING
    return _word(", ".join(["variety"] * lost.variety + ["sense"] * lost.sense) or "nothing")


COLUMNS = (
    Column("algorithm", lambda trial: _word(trial.algorithm), left=True),
    Column("beta", _trained(lambda trial: Cell(short(trial.coefficient), trial.beta))),
    Column("learning rate", _trained(lambda t: Cell(f"{t.learning_rate:g}", t.learning_rate)), searched=True),
    Column("group", _trained(lambda trial: Cell(str(trial.group_size), trial.group_size)), searched=True),
    Column("seed", _trained(lambda trial: Cell(str(trial.seed), trial.seed))),
    Column("status", _status, left=True),
    Column("generations", _generations),
    Column("reward, start", _reward_at_the_start),
    Column("reward, end", _at_the_end("raw_reward", 1)),
    Column("alliteration", _at_the_end("alliteration", 1)),
    Column("variety", _at_the_end("variety", 2)),
    Column("KL", _at_the_end("kl_penalty", 2)),
    Column("repetition", _at_the_end("repetition", 2)),
    Column("letters", _top_letters, left=True),
    Column("collapses at", _collapse),
    Column("lost at the end", _trained(_lost), left=True),
)


def columns(searched: bool) -> list[Column]:
    """Those to show; `searched`: results of a search are among them."""
    return [column for column in COLUMNS if searched or not column.searched]
