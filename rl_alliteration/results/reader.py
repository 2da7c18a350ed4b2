"""Read results: DuckDB views over the Parquet datasets, and whole trials as rows."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from rl_alliteration.errors import UserError
from rl_alliteration.results import schema
from rl_alliteration.results.lease import is_live, read_lease
from rl_alliteration.results.storage import Storage
from rl_alliteration.results.writer import part_paths, read_part

_PART = re.compile(r"\w+/experiment=(?P<experiment>[^/]+)/trial_id=(?P<trial_id>[^/]+)/part-\d{8,}\.parquet")
_KEYS = {"experiment": pa.string(), "trial_id": pa.string()}


def connect(storage: Storage) -> duckdb.DuckDBPyConnection:
    """An in-memory database with the views `generations`, `steps`, `trials` (newest event each), `trial_events`.

    Raises:
        UserError: the storage holds no results.
    """
    connection = duckdb.connect(":memory:", config={"autoinstall_known_extensions": False})
    _attach(connection, storage)
    found = {name: _create_view(connection, storage, name) for name in schema.DATASETS}
    if not any(found.values()):
        raise UserError(f"--storage: {str(storage)!r} holds no results; run a sweep with this --storage first")
    abandoned = ", ".join(_quote(name) for name in _without_driver(storage)) or "NULL"
    connection.execute(
        f"""
        CREATE VIEW trials AS SELECT * REPLACE (
            CASE WHEN status IN ('{schema.PLANNED}', '{schema.RUNNING}') AND experiment IN ({abandoned})
                 THEN '{schema.STALLED}' ELSE status END AS status
        ) FROM trial_events
        QUALIFY row_number() OVER (PARTITION BY experiment, trial_id ORDER BY event DESC) = 1
        """
    )
    return connection


def run_query(storage: Storage, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Column names and rows of one SELECT over the views; writes, extensions and settings are locked.

    Raises:
        UserError: the SQL is wrong (DuckDB's message), or does more than read.
    """
    connection = connect(storage)
    try:
        statements = connection.extract_statements(sql)
        kinds = [statement.type for statement in statements]
        if kinds != [duckdb.StatementType.SELECT]:  # EXPLAIN ANALYZE would run what it explains
            raise UserError("query: one SELECT is accepted (generations, steps, trials, trial_events)")
        for setting in (
            f"allowed_directories = [{_quote(_pattern_root(storage))}]",
            "enable_external_access = false",
            "python_enable_replacements = false",
            "lock_configuration = true",
        ):
            connection.execute(f"SET {setting}")
        answer = connection.sql(statements[0].query)
        return answer.columns, answer.fetchall()
    except duckdb.Error as error:
        raise UserError(f"query: {str(error).strip()}") from error


def all_trials(storage: Storage) -> list[tuple[str, str]]:
    """(experiment, trial id) of whatever has left a trace: a part of any dataset, or checksums. Sorted."""
    found = {pair for dataset in schema.DATASETS for pair in _trials_of(storage, dataset)}
    for path in storage.list("manifests"):
        _, experiment, trial_id, *_ = path.split("/")
        found.add((experiment, trial_id))
    return sorted(found)


def trial_ids(storage: Storage, experiment: str | None = None) -> list[tuple[str, str]]:
    """(experiment, trial id) of every trial that has an event or a text, sorted.

    Raises:
        UserError: there is none, or not of that experiment.
    """
    found = {pair for dataset in ("trials", "generations") for pair in _trials_of(storage, dataset)}
    if not found:
        raise UserError(f"--storage: {str(storage)!r} holds no results; run a sweep with this --storage first")
    chosen = sorted(pair for pair in found if experiment in (None, pair[0]))
    if not chosen:
        names = ", ".join(sorted({name for name, _ in found}))
        raise UserError(f"--experiment: {experiment!r} is not in {str(storage)!r}; there is: {names}")
    return chosen


def searched(storage: Storage) -> set[str]:
    """Experiments that a search has run in, by the records of their runs."""
    records = {path: path.split("/")[1] for path in storage.list("runs") if path.endswith(".json")}
    return {name for path, name in records.items() if "limits" in json.loads(storage.get(path))}


def parts(storage: Storage, dataset: str, experiment: str, trial_id: str) -> list[str]:
    """Paths of a trial's parts, in the order of their numbers."""
    return part_paths(storage, dataset, experiment, trial_id)


def parts_by_trial(storage: Storage, experiment: str | None = None) -> dict[tuple[str, str], list[str]]:
    """Paths of the parts of texts of all trials, by (experiment, trial id), in the order of their numbers."""
    found: dict[tuple[str, str], list[str]] = {}
    for match in map(_PART.fullmatch, storage.list("generations")):
        if match is not None and experiment in (None, match["experiment"]):
            found.setdefault((match["experiment"], match["trial_id"]), []).append(match[0])
    for paths in found.values():
        paths.sort(key=schema.part_number)
    return found


def last_rows(storage: Storage, paths: Sequence[str], count: int, columns: Sequence[str]) -> pa.Table:
    """The last `count` rows of parts that follow on one another; opens no more of them than it needs."""
    tables: list[pa.Table] = []
    missing = count
    for path in reversed(paths):
        if missing <= 0:
            break
        with storage.open(path) as file, pq.ParquetFile(file) as part:
            table = part.read(columns=list(columns), use_threads=False)
        tables.insert(0, table.slice(max(table.num_rows - missing, 0)))
        missing -= table.num_rows
    return pa.concat_tables(tables)


def last_event(storage: Storage, experiment: str, trial_id: str) -> dict[str, Any] | None:
    """The newest event of a trial; None if it has none."""
    found = parts(storage, "trials", experiment, trial_id)
    return read_part(storage, found[-1])[-1] if found else None


def first_event(storage: Storage, experiment: str, trial_id: str) -> dict[str, Any] | None:
    """The oldest event of a trial: what it fixed stays; None if it has none."""
    found = parts(storage, "trials", experiment, trial_id)
    return read_part(storage, found[0])[0] if found else None


def _without_driver(storage: Storage) -> list[str]:
    """Experiments whose driver is gone, or never had a lease."""
    names = {experiment for experiment, _ in _trials_of(storage, "trials")}
    return sorted(name for name in names if not is_live(read_lease(storage, name), time.time()))


def _create_view(connection: duckdb.DuckDBPyConnection, storage: Storage, dataset: str) -> bool:
    view = "trial_events" if dataset == "trials" else dataset
    columns = schema.DATASETS[dataset]
    names = ", ".join([*_KEYS, *columns.names])
    found = bool(_trials_of(storage, dataset))
    if found:
        pattern = _quote(f"{_pattern_root(storage)}/{dataset}/experiment=*/trial_id=*/part-*.parquet")
        types = "{'experiment': VARCHAR, 'trial_id': VARCHAR}"
        source = f"read_parquet({pattern}, hive_partitioning = true, hive_types = {types})"
    else:
        empty = pa.schema([*_KEYS.items(), *zip(columns.names, columns.types, strict=True)]).empty_table()
        connection.register(f"{view}_empty", empty)
        source = f"{view}_empty"
    connection.execute(f"CREATE VIEW {view} AS SELECT {names} FROM {source}")
    return found


def _trials_of(storage: Storage, dataset: str) -> set[tuple[str, str]]:
    """(experiment, trial id) of what has a part in a dataset."""
    return {
        (match["experiment"], match["trial_id"])
        for match in map(_PART.fullmatch, storage.list(dataset))
        if match is not None
    }


_LINKS: dict[str, tempfile.TemporaryDirectory[str]] = {}


def _pattern_root(storage: Storage) -> str:
    """The storage as DuckDB may be given it: a folder whose name would be read as a pattern goes by a link to it."""
    root = str(storage)
    if not re.search(r"[*?\[\\]", root):
        return root
    if root not in _LINKS:
        _LINKS[root] = tempfile.TemporaryDirectory(prefix="rl_alliteration-")
        Path(_LINKS[root].name, "results").symlink_to(root, target_is_directory=True)
    return f"{_LINKS[root].name}/results"


def _attach(connection: duckdb.DuckDBPyConnection, storage: Storage) -> None:
    """Let DuckDB read an object store through pyarrow: its own extension for that would have to be downloaded."""
    if storage.folder("") is None:
        from fsspec.implementations.arrow import ArrowFSWrapper

        class Wrapped(ArrowFSWrapper):
            protocol = str(storage).split(":", 1)[0]

        connection.register_filesystem(Wrapped(storage.pyarrow()[0]))


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
