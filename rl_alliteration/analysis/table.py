"""The table `windows`: a row a window of each trial, for SQL and for notebooks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from rl_alliteration.analysis.measure import measure
from rl_alliteration.analysis.metrics import METRICS, Metric
from rl_alliteration.analysis.rules import KEEP_VARIETY, collapsed, keeps_sense, keeps_variety
from rl_alliteration.analysis.types import Analysis, Trial
from rl_alliteration.analysis.worth import nats_wasted, worth_best_of


@dataclasses.dataclass(frozen=True)
class WindowColumn:
    """One column of `windows`."""

    name: str
    type: pa.DataType
    meaning: str
    unit: str
    of: Callable[[Trial], Any]
    """Its values in a trial's K windows, (K,); or the one that all of them have."""


def _of_trial(name: str, type_: pa.DataType, meaning: str, unit: str = "") -> WindowColumn:
    return WindowColumn(name, type_, meaning, unit, lambda trial: getattr(trial, name))


def _metric(metric: Metric) -> list[WindowColumn]:
    """The metric's column, and those of its interval."""

    def bound(side: int) -> Callable[[Trial], Any]:
        return lambda trial: trial.intervals[metric.name][side]

    name, unit = metric.name, metric.unit
    meaning = metric.opposite or metric.meaning
    columns = [WindowColumn(name, pa.float64(), meaning, unit, lambda trial: trial.metrics[name])]
    if metric.interval:
        for side, end in enumerate(("low", "high")):
            meaning = f"{end} end of the 95% bootstrap interval of `{name}`, over the window's texts"
            columns.append(WindowColumn(f"{name}_{end}", pa.float64(), meaning, unit, bound(side)))
    return columns


def _judged(rule: Callable[[Trial], Any]) -> Callable[[Trial], Any]:
    """A rule's answers where it is one for: in full windows of trials with an original; null elsewhere."""
    return lambda trial: np.where(trial.full & (trial.original is not None), rule(trial), None)


def columns() -> list[WindowColumn]:
    """In their order; those of the metrics are whatever `METRICS` has. Null: too little text to say."""
    cannot_tell = "null where the original's texts cannot tell"
    keeps = "null if it is not full, or there is no original to compare with"
    return [
        _of_trial("experiment", pa.string(), "name of the experiment"),
        _of_trial("trial_id", pa.string(), "id of the trial, as in the other views"),
        _of_trial("algorithm", pa.string(), "algorithm of the trial; `original` for the trial without updates"),
        WindowColumn(
            "beta", pa.float64(),
            "KL coefficient; where it begins, if a controller changes it; null for the original, which has none", "",
            lambda trial: math.nan if trial.is_original else trial.beta,
        ),
        _of_trial("target_kl", pa.float64(), "KL divergence that a controller steers to; null if beta is fixed"),
        _of_trial("seed", pa.int64(), "seed of all random numbers of the trial"),
        _of_trial("reward_function", pa.string(), "name of the reward function, or a weighted sum of several"),
        WindowColumn("first_generation", pa.int64(), "generation that the window begins with", "", lambda t: t.first),
        WindowColumn(
            "last_generation", pa.int64(), "generation of its last text", "", lambda t: t.first + t.texts - 1
        ),
        _of_trial("texts", pa.int64(), "texts in the window; the last one of a trial may not be full"),
        *(column for metric in METRICS.values() for column in _metric(metric)),
        WindowColumn(
            "worth_best_of", pa.float64(),
            f"the n of the best-of-n that has the same raw reward; {cannot_tell}", "", worth_best_of,
        ),
        WindowColumn(
            "nats_wasted", pa.float64(),
            f"`kl_per_text` minus what that best-of-n needs at most; {cannot_tell}", "nats", nats_wasted,
        ),
        WindowColumn("collapsed", pa.bool_(), "whether the trial has collapsed by this window", "", collapsed),
        WindowColumn(
            "keeps_variety", pa.bool_(), f"whether it keeps {KEEP_VARIETY:.0%} of the original's variety; {keeps}", "",
            _judged(keeps_variety),
        ),
        WindowColumn(
            "keeps_sense", pa.bool_(), f"whether it keeps the original's sense; {keeps}", "", _judged(keeps_sense)
        ),
    ]  # fmt: skip


def windows_table(analysis: Analysis) -> pa.Table:
    """A row a window, in the order of the trials and of their generations."""
    shown = columns()
    trials = [trial for trial in analysis.trials if len(trial.first)]
    arrays = [
        pa.concat_arrays([_values(column, trial) for trial in trials] or [pa.array([], column.type)])
        for column in shown
    ]
    fields = [
        pa.field(column.name, column.type, metadata={"meaning": column.meaning, "unit": column.unit})
        for column in shown
    ]
    return pa.table(arrays, schema=pa.schema(fields))


def _values(column: WindowColumn, trial: Trial) -> pa.Array:
    values = np.broadcast_to(np.asarray(column.of(trial)), (len(trial.first),))
    return pa.array(values, column.type, from_pandas=True)


VIEWS: dict[str, Callable[[duckdb.DuckDBPyConnection], pa.Table]] = {
    "windows": lambda connection: windows_table(measure(connection))
}
"""What a query may name beside the views of `results.reader.connect`: measured only if it does."""
