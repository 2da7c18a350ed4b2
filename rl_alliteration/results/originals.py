"""The trial without updates: one of them serves all experiments of a storage, and stays in the one that sampled it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

import duckdb

from rl_alliteration.config import ORIGINAL, PlannedTrial, TrialConfig
from rl_alliteration.errors import Failure
from rl_alliteration.results.reader import all_trials, connect
from rl_alliteration.results.storage import Storage


def experiments_with(storage: Storage, trial_id: str) -> list[str]:
    """Names of the experiments that have a trial of this id, sorted."""
    return [experiment for experiment, name in all_trials(storage) if name == trial_id]


def original_ids(trials: Iterable[PlannedTrial]) -> list[str]:
    """Ids of the originals of trials that are trained, once each."""
    return sorted({trial.config.original().trial_id for trial in trials if trial.config.algorithm != ORIGINAL})


def found_elsewhere(connection: duckdb.DuckDBPyConnection, experiment: str, names: Sequence[str]) -> dict[str, str]:
    """Of originals with these ids those of which another experiment has more texts than this one: its name, by id.

    Args:
        connection: with the views of `results.reader.connect`.
        experiment: this one.
        names: of `original_ids`.
    """
    if not names:
        return {}
    longest = connection.execute(
        f"""
        SELECT trial_id, experiment FROM trials WHERE trial_id IN ({", ".join("?" * len(names))})
        QUALIFY row_number() OVER (PARTITION BY trial_id ORDER BY generations DESC, experiment = ? DESC, experiment) = 1
        """,
        [*names, experiment],
    )
    return {trial_id: found for trial_id, found in longest.fetchall() if found != experiment}


def left_without(storage: Storage, experiment: str, trial_id: str | None) -> dict[str, list[str]]:
    """Which experiments lose their original if another one, or one of its trials, is removed: by the original's id."""
    known = all_trials(storage)
    kept = {name for owner, name in known if owner != experiment}
    going = {name for owner, name in known if owner == experiment and trial_id in (None, name)} - kept
    going = {name for name in going if name.startswith(f"{ORIGINAL}-")}
    lost: dict[str, list[str]] = {}
    if not going or not kept:
        return lost
    with contextlib.suppress(duckdb.Error, Failure):  # what is damaged can be removed all the same
        rows = connect(storage, wait=False).execute(
            "SELECT experiment, trial_id, config FROM trials WHERE experiment <> ? AND algorithm <> ? ORDER BY ALL",
            [experiment, ORIGINAL],
        )
        for other, name, config in rows.fetchall():
            original = TrialConfig.from_json(config, name).original().trial_id
            if original in going and other not in lost.setdefault(original, []):
                lost[original].append(other)
    return lost
