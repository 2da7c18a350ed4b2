"""The trial without updates: one of them serves all experiments of a storage, and stays in the one that sampled it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import duckdb

from rl_alliteration.config import ORIGINAL, PlannedTrial, TrialConfig
from rl_alliteration.errors import Failure
from rl_alliteration.foreign import Damaged
from rl_alliteration.results.reader import BY_PATH, all_trials, connect, trial_rows
from rl_alliteration.results.storage import Storage


def experiments_with(storage: Storage, trial_id: str) -> list[str]:
    """Names of the experiments that have a trial of this id, sorted."""
    return [experiment for experiment, name in all_trials(storage) if name == trial_id]


def original_ids(trials: Iterable[PlannedTrial]) -> list[str]:
    """Ids of the originals of trials that are trained, once each."""
    return sorted({trial.config.original().trial_id for trial in trials if trial.config.algorithm != ORIGINAL})


def found_elsewhere(
    connection: duckdb.DuckDBPyConnection,
    experiment: str,
    names: Sequence[str],
    skip: Callable[[Damaged], None] | None = None,
) -> dict[str, str]:
    """Of originals with these ids those of which another experiment has more texts than this one: its name, by id.

    Args:
        connection: with the views of `results.reader.connect`.
        experiment: this one.
        names: of `original_ids`.
        skip: called with the error of each whose newest event is damaged.

    Raises:
        Damaged: one is, and there is no `skip`.
    """
    known = connection.execute(
        f"SELECT experiment, trial_id FROM {BY_PATH} WHERE list_contains(?, trial_id) ORDER BY ALL", [list(names)]
    ).fetchall()
    try:
        found = _events(connection, known) if known else []
    except Damaged:
        found = []
        for pair in known:
            try:
                found += _events(connection, [pair])
            except Damaged as damaged:
                if skip is None:
                    raise
                skip(Damaged(f"the original in experiment {pair[0]} is not compared with: {damaged}; see `verify`"))
    found.sort(key=lambda event: (-event["generations"], event["experiment"] != experiment, event["experiment"]))
    longest: dict[str, str] = {}
    for event in found:
        longest.setdefault(event["trial_id"], event["experiment"])
    return {trial_id: other for trial_id, other in sorted(longest.items()) if other != experiment}


def _events(connection: duckdb.DuckDBPyConnection, trials: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """The newest events of trials, by experiment and id.

    Raises:
        Damaged: one cannot be read, or is none.
    """
    # Both are partition keys: no other file is opened.
    experiments, names = zip(*trials, strict=True)
    try:
        return trial_rows(
            connection.execute(
                "SELECT experiment, trial_id, config, model, max_generations, checkpoint_every, generations "
                f"FROM trials WHERE experiment IN ({_marks(experiments)}) AND trial_id IN ({_marks(names)})",
                [*experiments, *names],
            )
        )
    except (duckdb.Error, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise Damaged(f"the newest event of {'/'.join(trials[0])} cannot be read ({reason})") from error


def _marks(values: Sequence[str]) -> str:
    return ", ".join("?" * len(values))


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
