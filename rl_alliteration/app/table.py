"""The table of trials: a row a trial or a setting, each column declared once, for the page and for a download."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from rl_alliteration.analysis.metrics import METRICS
from rl_alliteration.analysis.seeds import Estimate, estimate
from rl_alliteration.analysis.types import FINAL_TEXTS
from rl_alliteration.analysis.verdict import noise
from rl_alliteration.app.index import Known, Snapshot
from rl_alliteration.terminal import duration

ABOVE, BELOW, EVEN = "above", "below", "noise"
_INTERVAL = 1.96


@dataclasses.dataclass(frozen=True)
class Verdicts:
    """Where trials stand against doing nothing, those of one experiment and original judged together."""

    judged_together: dict[Any, int]

    @classmethod
    def of(cls, snapshot: Snapshot) -> Verdicts:
        """For all trials of a storage: how many are judged does not depend on which are shown."""
        counts: dict[Any, int] = {}
        for one in snapshot.trials.values():
            if one.trial.original is not None and one.trial.full.any():
                key = one.trial.experiment, id(one.trial.original)
                counts[key] = counts.get(key, 0) + 1
        return cls(counts)

    def gain(self, one: Known) -> float:
        """J minus that of doing nothing; nan without an original."""
        original = one.trial.original
        return math.nan if original is None else one.trial.final("objective") - original.raw_reward.value

    def word(self, one: Known) -> str:
        """Whether that is more than noise; empty where there is nothing to compare."""
        trial, original = one.trial, one.trial.original
        if original is None or not trial.full.any():
            return ""
        last = np.flatnonzero(trial.full)[-max(1, FINAL_TEXTS // trial.window) :]
        error = math.sqrt(float(one.variance[last].mean()) / (len(last) * trial.window))
        nothing = (original.raw_reward.high - original.raw_reward.low) / (2 * _INTERVAL)
        away = noise(error, nothing, self.judged_together[trial.experiment, id(original)])
        gain = self.gain(one)
        return ABOVE if gain > away else BELOW if gain < -away else EVEN


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of the table."""

    name: str
    """In addresses and downloads."""
    title: str
    meaning: str
    value: Callable[[Known, Verdicts], float]
    """nan: not known, or nothing to say."""
    show: Callable[[float], str]
    together: Literal["mean", "sum"] = "mean"
    """Of the seeds of a setting: an interquartile mean, or all of them together."""


def _final(metric: str) -> Callable[[Known, Verdicts], float]:
    about = METRICS[metric]
    return lambda one, _: about.shown(one.trial.final(metric))


def _digits(digits: int) -> Callable[[float], str]:
    return lambda value: "–" if math.isnan(value) else f"{value:z.{digits}f}"


def _time(value: float) -> str:
    return "–" if math.isnan(value) or value < 0 else duration(value)


def _whole(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:,.0f}"


def _collapse(one: Known, _: Verdicts) -> float:
    return math.nan if one.trial.collapse is None else float(one.trial.collapse)


_END = f"of the last {FINAL_TEXTS} texts"
COLUMNS = (
    Column("texts", "Texts", "that there are so far", lambda one, _: float(one.generations), _whole, "sum"),
    Column("left", "Left", "until all texts are there, at the present speed", lambda one, _: one.seconds_left, _time),
    Column("raw_reward", "Reward", f"mean raw reward {_END}", _final("raw_reward"), _digits(1)),
    Column("kl", "KL", f"divergence from the original, nats a token, {_END}", _final("kl_penalty"), _digits(3)),
    Column("variety", "Variety", f"1 − mean overlap of word pairs, {_END}", _final("variety"), _digits(2)),
    Column("repetition", "Repetition", f"share of repeated word triples, {_END}", _final("repetition"), _digits(2)),
    Column("collapse", "Collapse", "generation from which on it has collapsed", _collapse, _whole),
    Column("objective", "J", f"mean composite reward {_END}: what it is trained on", _final("objective"), _digits(1)),
    Column(
        "gain", "J − J0", "by how much J is above that of the unmodified model, which is doing nothing",
        lambda one, verdicts: verdicts.gain(one), _digits(2),
    ),
    Column(
        "device_seconds", "Device time", "of sampling and updates together",
        lambda one, _: float(one.elapsed[-1]) if len(one.elapsed) else math.nan, _time, "sum",
    ),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Row:
    """A trial, or the seeds of a setting."""

    name: str
    trials: list[Known]
    values: dict[str, Estimate]
    """By column."""
    verdict: str = ""
    key: str = ""
    """The value that it is a group of."""


def rows(trials: Sequence[Known], verdicts: Verdicts) -> list[Row]:
    """A row a trial."""
    found = []
    for one in trials:
        values = {column.name: column.value(one, verdicts) for column in COLUMNS}
        estimates = {name: Estimate(value, math.nan, math.nan) for name, value in values.items()}
        found.append(Row(one.note.name or one.trial.name, [one], estimates, verdicts.word(one)))
    return found


def grouped(trials: Sequence[Known], verdicts: Verdicts, key: Callable[[Known], str]) -> list[Row]:
    """A row a group, with interquartile means over its trials and their intervals."""
    groups: dict[str, list[Known]] = {}
    for one in trials:
        groups.setdefault(key(one), []).append(one)
    found = []
    for name, own in groups.items():
        values = {}
        for column in COLUMNS:
            numbers = np.array([column.value(one, verdicts) for one in own])
            known = numbers[np.isfinite(numbers)]
            if column.together == "sum":
                values[column.name] = Estimate(float(known.sum()) if len(known) else math.nan, math.nan, math.nan)
            else:
                values[column.name] = estimate([known])
        words = [verdicts.word(one) for one in own]
        told = ", ".join(f"{words.count(word)} {word}" for word in (ABOVE, EVEN, BELOW) if word in words)
        found.append(Row(name, own, values, told, name))
    return found


def sorted_rows(found: list[Row], by: str) -> list[Row]:
    """By a column, with a minus before it the largest first; what is not known comes last. Empty: as they are."""
    name, down = by.removeprefix("-"), by.startswith("-")
    if not name:
        return found
    if name == "name":
        return sorted(found, key=lambda row: row.name, reverse=down)

    def key(row: Row) -> tuple[bool, float]:
        value = row.values[name].value
        return math.isnan(value), 0.0 if math.isnan(value) else -value if down else value

    return sorted(found, key=key)


def as_table(found: Sequence[Row], columns: Sequence[Column] = COLUMNS, *, groups: bool) -> pa.Table:
    """What is shown, exactly: to be downloaded."""
    if groups:
        names: dict[str, Any] = {"group": [row.name for row in found], "trials": [len(row.trials) for row in found]}
    else:
        firsts = [row.trials[0] for row in found]
        names = {
            "experiment": [one.trial.experiment for one in firsts],
            "trial_id": [one.trial.trial_id for one in firsts],
            "name": [one.trial.name for one in firsts],
            "own_name": [one.note.name for one in firsts],
            "starred": [one.note.starred for one in firsts],
            "state": [one.trial.status for one in firsts],
            "algorithm": [one.trial.algorithm for one in firsts],
            "beta": [one.trial.beta for one in firsts],
            "seed": [one.trial.seed for one in firsts],
            "max_generations": [one.trial.max_generations for one in firsts],
        }
    numbers = {column.name: [_or_none(row.values[column.name].value) for row in found] for column in columns}
    made = {name: pa.array(values) for name, values in names.items()}
    made |= {name: pa.array(values, pa.float64()) for name, values in numbers.items()}
    return pa.table(made | {"against_nothing": pa.array([row.verdict for row in found], pa.string())})


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
