"""One row a trial: how it stands, and what its last texts are like."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import duckdb

from rl_alliteration.analysis.diversity import repetition, variety
from rl_alliteration.analysis.prompts import variety_within_and_across

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


def summarise(connection: duckdb.DuckDBPyConnection, experiment: str | None = None) -> list[TrialSummary]:
    """Summaries of all trials, or of one experiment's, by algorithm, beta and seed.

    Args:
        connection: with the views of `results.reader.connect`.
        experiment: only this one.
    """
    connection.execute("SET VARIABLE chosen = ?", [experiment])
    answer = connection.execute(
        f"""
        WITH ends AS (
            SELECT experiment, trial_id, max(generation) AS last
            FROM generations WHERE getvariable('chosen') IS NULL OR experiment = getvariable('chosen')
            GROUP BY ALL
        ), lasts AS (
            SELECT experiment, trial_id, last + 1 AS generations, avg(raw_reward) AS raw_reward,
                   avg(kl_penalty) AS kl_penalty, list(text ORDER BY generation) AS texts,
                   list(prompt ORDER BY generation) AS prompts
            FROM generations JOIN ends USING (experiment, trial_id)
            WHERE generation > last - {LAST} GROUP BY ALL
        )
        SELECT experiment, trial_id, algorithm, beta, config, seed, status, reason,
               coalesce(lasts.generations, 0) AS generations, max_generations,
               raw_reward, kl_penalty, texts, prompts, error
        FROM trials LEFT JOIN lasts USING (experiment, trial_id)
        WHERE getvariable('chosen') IS NULL OR experiment = getvariable('chosen')
        ORDER BY experiment, algorithm = 'original', algorithm DESC, beta, seed, trial_id
        """
    )
    names = [column[0] for column in answer.description]
    return [_summary(dict(zip(names, row, strict=True))) for row in answer.fetchall()]


def _summary(row: dict[str, Any]) -> TrialSummary:
    config: str = row.pop("config")
    texts, prompts = row.pop("texts") or [], row.pop("prompts") or []
    nan = float("nan")
    within, across = variety_within_and_across(texts, prompts) if len(set(prompts)) > 1 else (nan, nan)
    told: dict[str, Any] = {name: nan if value is None else value for name, value in row.items()}
    return TrialSummary(
        **told,
        target_kl=json.loads(config).get("target_kl"),
        variety=variety(texts),
        variety_within=within,
        variety_across=across,
        repetition=sum(map(repetition, texts)) / len(texts) if texts else nan,
        last_text=texts[-1] if texts else "",
    )
