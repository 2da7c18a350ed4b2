"""One row a trial: how it stands, and what its last texts are like."""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from rl_alliteration.analysis.diversity import repetition, variety
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
    seed: int
    status: str
    generations: int
    max_generations: int
    raw_reward: float
    kl_penalty: float
    variety: float
    repetition: float
    last_text: str
    error: str


_READERS = 8  # an object store answers slowly, but many at a time


def summarise(
    storage: Storage, experiment: str | None = None, only: Collection[tuple[str, str]] | None = None
) -> list[TrialSummary]:
    """Summaries of trials, by algorithm, beta and seed. Reads the ends of the trials alone.

    Args:
        storage: the results.
        experiment: only this one.
        only: only these trials, as (experiment, trial id).
    """
    answer = connect(storage).execute(
        """
        SELECT experiment, trial_id, algorithm, beta, seed, status, max_generations, error FROM trials
        WHERE $chosen IS NULL OR experiment = $chosen
        ORDER BY experiment, algorithm = 'original', algorithm DESC, beta, seed, trial_id
        """,
        {"chosen": experiment},
    )
    names = [column[0] for column in answer.description]
    events = [dict(zip(names, row, strict=True)) for row in answer.fetchall()]
    chosen = [event for event in events if only is None or (event["experiment"], event["trial_id"]) in only]
    parts = parts_by_trial(storage, experiment)
    read = functools.partial(last_rows, storage, count=LAST, columns=("generation", "text", "raw_reward", "kl_penalty"))
    paths = [parts.get((event["experiment"], event["trial_id"]), []) for event in chosen]

    def last(found: Sequence[str]) -> pa.Table | None:
        return read(found) if found else None

    if storage.folder("") is not None:  # threads would only wait for one another
        return list(map(_summary, chosen, map(last, paths)))
    with ThreadPoolExecutor(_READERS) as pool:
        return list(map(_summary, chosen, pool.map(last, paths)))


def _summary(event: dict[str, Any], last: pa.Table | None) -> TrialSummary:
    nan = float("nan")
    if last is None:
        return TrialSummary(
            **event, generations=0, raw_reward=nan, kl_penalty=nan, variety=nan, repetition=nan, last_text=""
        )
    texts = last["text"].to_pylist()
    return TrialSummary(
        **event,
        generations=last["generation"][-1].as_py() + 1,
        raw_reward=statistics.fmean(last["raw_reward"].to_pylist()),
        kl_penalty=statistics.fmean(last["kl_penalty"].to_pylist()),
        variety=variety(texts),
        repetition=sum(map(repetition, texts)) / len(texts),
        last_text=texts[-1],
    )
