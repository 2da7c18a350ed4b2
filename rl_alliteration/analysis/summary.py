"""One row a trial: how it stands, and what its last texts are like."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import duckdb
import pyarrow as pa

from rl_alliteration.analysis.measure import OriginalKeys, original_keys
from rl_alliteration.analysis.metrics import METRICS, Window
from rl_alliteration.analysis.prompts import variety_within_and_across
from rl_alliteration.analysis.types import WINDOW
from rl_alliteration.config import ORIGINAL
from rl_alliteration.foreign import Damaged
from rl_alliteration.names import trial_names
from rl_alliteration.results.originals import found_elsewhere, original_ids
from rl_alliteration.results.reader import connect, last_rows, parts_by_trial, trial_rows, whole
from rl_alliteration.results.storage import Storage
from rl_alliteration.rows import rewarded

LAST = WINDOW
"""Generations that the numbers of a summary are of."""


@dataclasses.dataclass(frozen=True)
class TrialSummary:
    """A trial's state, and means over its last 100 generations; nan where there are none."""

    experiment: str
    trial_id: str
    name: str
    """What sets it apart from the other trials of the storage, or of its experiment if only that was asked for."""
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
    reward_function: str
    original_keys: OriginalKeys
    """What `measure.nearest` finds its original by."""
    raw_reward: float
    objective: float
    """J, the mean composite reward."""
    objective_error: float
    """Its standard error, over texts; nan for fewer than two."""
    kl_penalty: float
    """Nats a token, with the study's sign: negative in the mean."""
    variety: float
    variety_within: float
    """Of the texts of one prompt, where a trial has several; nan where it has one."""
    variety_across: float
    """Between the texts of different prompts."""
    repetition: float
    original_lm_cross_entropy: float
    """How unlikely the texts are to the original model, nats a token."""
    last_text: str
    error: str


_READERS = 8  # an object store answers slowly, but many at a time


def summarise(
    storage: Storage,
    experiment: str | None = None,
    only: Collection[tuple[str, str]] | None = None,
    *,
    wait: bool = True,
    skip: Callable[[Damaged], None] | None = None,
) -> list[TrialSummary]:
    """Summaries of trials, by algorithm, beta, rate, group and seed. Reads the ends of the trials alone.

    Args:
        storage: the results.
        experiment: only this one, and the original that it has from another one.
        only: only these trials, as (experiment, trial id).
        wait: as for `connect`.
        skip: called with the error of an original in another experiment whose newest event is damaged.

    Raises:
        Damaged: an event or a text is, and there is no `skip` for it.
    """
    connection = connect(storage, wait=wait)
    events = _events(connection, experiment)
    if experiment is not None:
        names = original_ids(event["planned"] for event in events)
        for trial_id, other in found_elsewhere(connection, experiment, names, skip).items():
            events += _events(connection, other, trial_id)
    for event, name in zip(events, trial_names([event["planned"] for event in events]), strict=True):
        event["name"] = name
    chosen = [event for event in events if only is None or (event["experiment"], event["trial_id"]) in only]
    parts = parts_by_trial(storage)
    read = functools.partial(last_rows, storage, count=LAST, columns=_COLUMNS)
    paths = [parts.get((event["experiment"], event["trial_id"]), []) for event in chosen]

    def last(found: Sequence[str]) -> pa.Table | None:
        return read(found) if found else None

    if storage.folder("") is not None:  # threads would only wait for one another
        return list(map(_summary, chosen, map(last, paths)))
    with ThreadPoolExecutor(_READERS) as pool:
        return list(map(_summary, chosen, pool.map(last, paths)))


def _events(
    connection: duckdb.DuckDBPyConnection, experiment: str | None, trial_id: str | None = None
) -> list[dict[str, Any]]:
    answer = connection.execute(
        """
        SELECT experiment, trial_id, algorithm, if(algorithm = $original, 0, beta) AS beta, config, seed,
               learning_rate, group_size, status, reason, max_generations, error, model, checkpoint_every
        FROM trials
        WHERE ($experiment IS NULL OR experiment = $experiment) AND ($trial_id IS NULL OR trial_id = $trial_id)
        ORDER BY experiment, algorithm = $original, algorithm DESC, beta, learning_rate, group_size, seed,
                 trial_id
        """,
        {"experiment": experiment, "trial_id": trial_id, "original": ORIGINAL},
    )
    return trial_rows(answer)


_METRICS = ("raw_reward", "objective", "kl_penalty", "variety", "repetition", "original_lm_cross_entropy")
_NUMBERS = ("raw_reward", "reward", "kl_penalty", "original_lm_cross_entropy")
_COLUMNS = ("generation", "text", "completion", "reward_of", "prompt", *_NUMBERS)


def _summary(event: dict[str, Any], last: pa.Table | None) -> TrialSummary:
    nan = float("nan")
    config = event.pop("planned").config
    event |= {"target_kl": config.target_kl, "reward_function": config.reward}
    event["original_keys"] = original_keys(config, event.pop("model"))
    if last is None:
        unknown = (*_METRICS, "objective_error", "variety_within", "variety_across")
        nothing: dict[str, Any] = dict.fromkeys(unknown, nan)
        return TrialSummary(**event, **nothing, generations=0, last_text="")
    last = whole(last, event["experiment"], event["trial_id"])
    texts = list(map(rewarded, last.select(["text", "completion", "reward_of"]).to_pylist()))
    prompts = last["prompt"].to_pylist()
    window = Window({"text": texts, **{name: last[name].to_numpy() for name in _NUMBERS}})
    numbers: dict[str, Any] = {name: METRICS[name].value(window) for name in _METRICS}
    count = len(texts)
    error = float(window["reward"].std(ddof=1)) / math.sqrt(count) if count > 1 else nan
    within, across = variety_within_and_across(texts, prompts) if len(set(prompts)) > 1 else (nan, nan)
    return TrialSummary(
        **event,
        **numbers,
        objective_error=error,
        generations=last["generation"][-1].as_py() + 1,
        variety_within=within,
        variety_across=across,
        last_text=texts[-1],
    )
