"""One row a trial: how it stands, and what its last texts are like."""

from __future__ import annotations

import dataclasses
import functools
import json
import statistics
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from rl_alliteration.analysis.diversity import mean_variety, overlaps, repetitions
from rl_alliteration.analysis.prompts import variety_within_and_across
from rl_alliteration.analysis.words import Words
from rl_alliteration.results.reader import connect, last_rows, parts_by_trial
from rl_alliteration.results.storage import Storage

LAST = 100
"""Generations that the numbers of a summary are of."""


@dataclasses.dataclass(frozen=True)
class TrialSummary:
    """A trial's state, and means over its last 100 generations; nan where there are none."""

    experiment: str
    trial_id: str
    algorithm: str
    beta: float
    """Fixed, or where a controlled coefficient began."""
    target_kl: float | None
    """What a controller steered the KL divergence to; None if beta was fixed."""
    seed: int
    learning_rate: float
    group_size: int
    status: str
    reason: str
    """Of the status, where there is one: what stopped the trial."""
    generations: int
    max_generations: int
    raw_reward: float
    kl_penalty: float
    variety: float
    variety_within: float
    """Of the texts of one prompt, where a trial has several; nan where it has one."""
    variety_across: float
    """Between the texts of different prompts."""
    repetition: float
    last_text: str
    error: str


_COLUMNS = ("generation", "text", "prompt", "raw_reward", "kl_penalty")
_READERS = 8  # an object store answers slowly, but many at a time


def summarise(
    storage: Storage, experiment: str | None = None, only: Collection[tuple[str, str]] | None = None
) -> list[TrialSummary]:
    """Summaries of trials, by algorithm, beta, rate, group and seed. Reads the ends of the trials alone.

    Args:
        storage: the results.
        experiment: only this one.
        only: only these trials, as (experiment, trial id).
    """
    answer = connect(storage).execute(
        """
        SELECT experiment, trial_id, algorithm, beta, config, seed, learning_rate, group_size, status, reason,
               max_generations, error
        FROM trials
        WHERE $chosen IS NULL OR experiment = $chosen
        ORDER BY experiment, algorithm = 'original', algorithm DESC, beta, learning_rate, group_size, seed,
                 trial_id
        """,
        {"chosen": experiment},
    )
    names = [column[0] for column in answer.description]
    events = [dict(zip(names, row, strict=True)) for row in answer.fetchall()]
    chosen = [event for event in events if only is None or (event["experiment"], event["trial_id"]) in only]
    parts = parts_by_trial(storage, experiment)
    read = functools.partial(last_rows, storage, count=LAST, columns=_COLUMNS)
    paths = [parts.get((event["experiment"], event["trial_id"]), []) for event in chosen]

    def last(found: Sequence[str]) -> pa.Table | None:
        return read(found) if found else None

    if storage.folder("") is not None:  # threads would only wait for one another
        return list(map(_summary, chosen, map(last, paths)))
    with ThreadPoolExecutor(_READERS) as pool:
        return list(map(_summary, chosen, pool.map(last, paths)))


def _summary(event: dict[str, Any], last: pa.Table | None) -> TrialSummary:
    nan = float("nan")
    event["target_kl"] = json.loads(event.pop("config")).get("target_kl")
    if last is None:
        return TrialSummary(
            **event,
            generations=0,
            raw_reward=nan,
            kl_penalty=nan,
            variety=nan,
            variety_within=nan,
            variety_across=nan,
            repetition=nan,
            last_text="",
        )
    texts, prompts = last["text"].to_pylist(), last["prompt"].to_pylist()
    words = Words.of(texts)
    within, across = variety_within_and_across(texts, prompts) if len(set(prompts)) > 1 else (nan, nan)
    return TrialSummary(
        **event,
        generations=last["generation"][-1].as_py() + 1,
        raw_reward=statistics.fmean(last["raw_reward"].to_pylist()),
        kl_penalty=statistics.fmean(last["kl_penalty"].to_pylist()),
        variety=mean_variety(overlaps(words)),
        variety_within=within,
        variety_across=across,
        repetition=float(repetitions(words).mean()),
        last_text=texts[-1],
    )
