"""Read results: DuckDB views over the Parquet datasets, and whole trials as rows."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rl_alliteration.config import ORIGINAL, PlannedTrial, TrialConfig
from rl_alliteration.errors import UserError
from rl_alliteration.foreign import Damaged, Newer
from rl_alliteration.results import schema
from rl_alliteration.results.cards import is_search, read_run
from rl_alliteration.results.drivers import Drivers
from rl_alliteration.results.duck import attach, files, literal, quote, quoted, readable_root
from rl_alliteration.results.integrity import read_events
from rl_alliteration.results.parts import part_paths
from rl_alliteration.results.storage import Storage

_TRIAL = rf"experiment=(?P<experiment>{schema.EXPERIMENT})/trial_id=(?P<trial_id>{schema.TRIAL_ID})"
_PART = re.compile(rf"\w+/{_TRIAL}/part-\d{{8,}}\.parquet")
_CHECKSUM = re.compile(rf"manifests/(?P<experiment>{schema.EXPERIMENT})/(?P<trial_id>{schema.TRIAL_ID})/.*\.json")
_KEYS = {"experiment": pa.string(), "trial_id": pa.string()}
_GOING_ON = f"('{schema.PLANNED}', '{schema.RUNNING}')"
BY_PATH = "trials_by_path"
"""Experiment and id of each trial that has an event, by the paths alone: no damaged file is in its way."""
_NEWEST = "trial_events QUALIFY row_number() OVER (PARTITION BY experiment, trial_id ORDER BY event DESC) = 1"


def connect(storage: Storage, *, wait: bool = True) -> duckdb.DuckDBPyConnection:
    """An in-memory database with the views `generations`, `steps`, `trials` (newest event each), `trial_events`.

    Args:
        storage: of the results.
        wait: watch leases for some seconds where only that can tell a stalled trial from one that runs; else such
            a trial is shown as its newest event says.

    Raises:
        UserError: the storage holds no results.
        Newer: a newer version of the code has written some of them.
    """
    connection = duckdb.connect(":memory:", config={"autoinstall_known_extensions": False})
    attach(connection, storage)
    found = {name: [path for path in storage.list(name) if _PART.fullmatch(path)] for name in schema.DATASETS}
    for name, paths in found.items():
        _create_view(connection, storage, name, paths)
    if not any(found.values()):
        raise UserError(f"--storage: {str(storage)!r} holds no results; run a sweep with this --storage first")
    _check_versions(connection, storage, found["trials"])
    pairs = sorted(_pairs(_PART, found["trials"]))
    by_path = [dict(zip(_KEYS, pair, strict=True)) for pair in pairs]
    connection.register(BY_PATH, pa.Table.from_pylist(by_path, schema=pa.schema(_KEYS)))
    abandoned = quoted(_without_driver(storage, connection, wait=wait))
    connection.execute(
        f"""
        CREATE VIEW trials AS SELECT * REPLACE (
            CASE WHEN status IN {_GOING_ON} AND experiment IN ({abandoned})
                 THEN '{schema.STALLED}' ELSE status END AS status
        ) FROM {_NEWEST}
        """
    )
    return connection


Views = Mapping[str, Callable[[duckdb.DuckDBPyConnection], pa.Table]]


def run_query(storage: Storage, sql: str, views: Views | None = None) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Column names and rows of one SELECT over the views; writes, extensions and settings are locked.

    Args:
        storage: the results.
        sql: the SELECT.
        views: more tables by name, each made of the other views only if `sql` names it.

    Raises:
        UserError: the SQL is wrong (DuckDB's message), or does more than read.
    """
    with _answered(storage, sql, views or {}) as answer:
        return answer.columns, answer.fetchall()


def query_table(storage: Storage, sql: str, views: Views | None = None) -> pa.Table:
    """As `run_query`, with types."""
    with _answered(storage, sql, views or {}) as answer:
        return answer.to_arrow_table()


@contextlib.contextmanager
def _answered(storage: Storage, sql: str, views: Views) -> Iterator[duckdb.DuckDBPyRelation]:
    connection = connect(storage)
    try:
        statements = connection.extract_statements(sql)
        kinds = [statement.type for statement in statements]
        if kinds != [duckdb.StatementType.SELECT]:  # EXPLAIN ANALYZE would run what it explains
            names = ", ".join(["generations", "steps", "trials", "trial_events", *views])
            raise UserError(f"query: one SELECT is accepted ({names})")
        for name, made in views.items():
            if re.search(rf"\b{name}\b", sql, re.IGNORECASE):  # one made for nothing costs time, and changes no answer
                connection.register(name, made(connection))
        for setting in (
            f"allowed_directories = [{quote(readable_root(storage))}]",
            "enable_external_access = false",
            "python_enable_replacements = false",
            "lock_configuration = true",
        ):
            connection.execute(f"SET {setting}")
        yield connection.sql(statements[0].query)
    except duckdb.Error as error:
        raise UserError(f"query: {str(error).strip()}") from error


def all_trials(storage: Storage) -> list[tuple[str, str]]:
    """(experiment, trial id) of whatever has left a trace: a part of any dataset, or checksums. Sorted."""
    found = {pair for dataset in schema.DATASETS for pair in _trials_of(storage, dataset)}
    return sorted(found | _pairs(_CHECKSUM, storage.list("manifests")))


def strangers(storage: Storage) -> list[str]:
    """Files below the datasets that are by name no part of a trial, or their folders: no command looks at them."""
    paths = [path for dataset in schema.DATASETS for path in storage.list(dataset)]
    ours = {path.rpartition("/")[0] for path in paths if _PART.fullmatch(path)}
    found = set()
    for path in paths:
        folder = path.rpartition("/")[0]
        if not _PART.fullmatch(path):
            found.add(path if folder in ours else folder)
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


def searched(storage: Storage, skip: Callable[[Damaged], None] | None = None) -> set[str]:
    """Experiments that a search has run in, by the records of their runs.

    Args:
        storage: the results.
        skip: called with the error of each damaged record.

    Raises:
        Damaged: a record is, and there is no `skip`.
    """
    found = set()
    for path in storage.list("runs"):
        if path.endswith(".json") and path.count("/") == 2:
            try:
                found |= {path.split("/")[1]} if is_search(read_run(storage, path)) else set()
            except Damaged as error:
                if skip is None:
                    raise
                skip(error)
    return found


def parts(storage: Storage, dataset: str, experiment: str, trial_id: str) -> list[str]:
    """Paths of a trial's parts, in the order of their numbers."""
    return part_paths(storage, dataset, experiment, trial_id)


def by_trial(paths: Iterable[str]) -> dict[tuple[str, str], list[str]]:
    """Paths of parts by (experiment, trial id), in the order of their numbers; what is none is left out."""
    found: dict[tuple[str, str], list[str]] = {}
    for match in map(_PART.fullmatch, paths):
        if match is not None:
            found.setdefault((match["experiment"], match["trial_id"]), []).append(match[0])
    for own in found.values():
        own.sort(key=schema.part_number)
    return found


def parts_by_trial(storage: Storage, experiment: str | None = None) -> dict[tuple[str, str], list[str]]:
    """Paths of the parts of texts of all trials, by (experiment, trial id), in the order of their numbers."""
    found = by_trial(storage.list("generations"))
    return {pair: paths for pair, paths in found.items() if experiment in (None, pair[0])}


def last_rows(storage: Storage, paths: Sequence[str], count: int, columns: Sequence[str]) -> pa.Table:
    """The last `count` rows of parts that follow on one another; opens no more of them than it needs."""
    tables: list[pa.Table] = []
    missing = count
    for path in reversed(paths):
        if missing <= 0:
            break
        with storage.open(path) as file, pq.ParquetFile(file) as part:
            table = part.read(columns=list(columns), use_threads=False)
        dataset = path.split("/", 1)[0]
        later = {column.name: column.default for column in schema.describe(dataset) if column.since > 1}
        types = schema.arrow(dataset)
        for name in columns:
            if name not in table.column_names and name in later:
                filled = pa.array([later[name]] * table.num_rows, types.field(name).type)
                table = table.append_column(types.field(name), filled)
        if table.num_columns != len(columns):
            raise Damaged(f"{path} is damaged: its columns are not those of schema version {schema.SCHEMA_VERSION}")
        table = table.select(list(columns))
        tables.insert(0, table.slice(max(table.num_rows - missing, 0)))
        missing -= table.num_rows
    return pa.concat_tables(tables)


def trial_rows(answer: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """The rows of a query of the view `trials`, with the trial itself under `planned` in place of its `config`.

    `answer` has, beside what else it selects, `experiment, trial_id, config, model, max_generations,
    checkpoint_every`.

    Raises:
        Damaged: a value is missing, or the configuration is none.
    """
    names = [column[0] for column in answer.description]
    rows = [dict(zip(names, row, strict=True)) for row in answer.fetchall()]
    for row in rows:
        for name, value in row.items():
            if value is None:
                path = f"the newest event of {row['experiment']}/{row['trial_id']}"
                raise Damaged(f"{path} is damaged: its {name} is missing")
        config = TrialConfig.from_json(row.pop("config"), row["trial_id"])
        name = row["model"].rpartition("@")[0]
        row["planned"] = PlannedTrial(config, name, row["max_generations"], row.pop("checkpoint_every"))
    return rows


def whole(table: pa.Table, experiment: str, trial_id: str) -> pa.Table:
    """The texts of a trial, none of their values missing and none of their numbers infinite or nan: none is written so.

    Raises:
        Damaged: one is.
    """
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.null_count or (
            pa.types.is_floating(column.type) and not pc.all(pc.is_finite(column), min_count=0).as_py()
        ):
            raise Damaged(f"the texts of {experiment}/{trial_id} are damaged: a {name} is no value, see `verify`")
    return table


def last_event(storage: Storage, experiment: str, trial_id: str) -> dict[str, Any] | None:
    """The newest event of a trial that is as it was written; None if it has none."""
    return read_events(storage, experiment, trial_id).last


def drivers(storage: Storage) -> Drivers:
    """What this process has seen of a storage's leases: nothing is watched twice."""
    return _DRIVERS.setdefault(str(storage), Drivers(storage))


_DRIVERS: dict[str, Drivers] = {}


def _without_driver(storage: Storage, connection: duckdb.DuckDBPyConnection, *, wait: bool) -> list[str]:
    """Experiments whose driver is gone, or never had a lease."""
    known = {name: drivers(storage).look(name) for name in {name for name, _ in _trials_of(storage, "trials")}}
    unknown = [name for name, has_driver in known.items() if has_driver is None]
    if wait and unknown:  # those alone whose trials would be shown as something else
        newest = f"SELECT experiment, status FROM {_NEWEST}"
        going_on = f"SELECT DISTINCT experiment FROM ({newest}) WHERE status IN {_GOING_ON}"
        rows = connection.execute(f"{going_on} AND experiment IN ({quoted(unknown)})").fetchall()
        known |= drivers(storage).watch(name for (name,) in rows)
    return sorted(name for name, has_driver in known.items() if has_driver is False)


def _check_versions(connection: duckdb.DuckDBPyConnection, storage: Storage, events: Sequence[str]) -> None:
    """Raises `Newer` if a trial's newest event is of a newer version of the schema: so may its rows be."""
    newest = {path.rpartition("/")[0]: path for path in events}
    if newest:
        root = readable_root(storage)
        listed = quoted([f"{root}/{path}" for path in newest.values()])
        source = f"read_parquet([{listed}], filename = true, hive_partitioning = false)"
        with contextlib.suppress(duckdb.Error):  # a damaged event is for whoever reads it
            newer = f"SELECT min(filename) FROM {source} WHERE schema_version > {schema.SCHEMA_VERSION}"
            (path,) = connection.execute(newer).fetchall()[0]
            if path is not None:
                raise Newer(path.removeprefix(root).lstrip("/"))


def _create_view(connection: duckdb.DuckDBPyConnection, storage: Storage, dataset: str, found: Sequence[str]) -> None:
    """Create the view of a dataset over these of its parts."""
    view = "trial_events" if dataset == "trials" else dataset
    columns = schema.arrow(dataset)
    later = [column for column in schema.describe(dataset) if column.since > 1]
    never_original = dataset == "steps"
    names = ", ".join([*_KEYS, *(_BETA if name == "beta" and not never_original else name for name in columns.names)])
    empty = pa.schema([*_KEYS.items(), *zip(columns.names, columns.types, strict=True)]).empty_table()
    source = f"{view}_empty"
    if found:
        # By name only where versions may differ: DuckDB then opens every file before it answers.
        source = files(storage, found, by_name=bool(later))
    if later or not found:
        connection.register(f"{view}_empty", empty)
    if later and found:
        filled = ", ".join(f"coalesce({c.name}, {literal(c.default)}) AS {c.name}" for c in later)
        source = f"(SELECT * REPLACE ({filled}) FROM (FROM {view}_empty UNION ALL BY NAME FROM {source}))"
    connection.execute(f"CREATE VIEW {view} AS SELECT {names} FROM {source}")


_BETA = f"CASE WHEN algorithm <> '{ORIGINAL}' THEN beta END AS beta"
"""The original has no coefficient: the 0 that is stored for it would pass for a trial without a KL penalty."""


def _trials_of(storage: Storage, dataset: str) -> set[tuple[str, str]]:
    """(experiment, trial id) of what has a part in a dataset."""
    return _pairs(_PART, storage.list(dataset))


def _pairs(pattern: re.Pattern[str], paths: Iterable[str]) -> set[tuple[str, str]]:
    return {(match["experiment"], match["trial_id"]) for match in map(pattern.fullmatch, paths) if match is not None}
