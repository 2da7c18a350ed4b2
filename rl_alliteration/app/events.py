"""What the newest events say of trials: of all that can be read, and a line for each that cannot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb
import pyarrow as pa

from rl_alliteration.analysis.measure import facts
from rl_alliteration.errors import Failure
from rl_alliteration.results import schema

Pair = tuple[str, str]
"""Experiment and trial id."""
UNREADABLE = (duckdb.Error, pa.ArrowException, Failure, OSError, UnicodeDecodeError)
"""What reading results that are damaged, foreign or out of reach may raise."""


def one_line(error: BaseException) -> str:
    """What an error says, in one line."""
    if isinstance(error, UnicodeDecodeError):
        return "a text is not UTF-8; `verify` says which"
    return " ".join(str(error).split())[:300]


def facts_of(rows: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """`measure.facts` of events; trials whose events are damaged apart, each with a line."""
    if not rows:
        return [], []
    connection = duckdb.connect(":memory:")
    pairs = {(row["experiment"], row["trial_id"]) for row in rows}
    unreadable: list[str] = []
    names = ["experiment", "trial_id", *schema.arrow("trials", 1).names]
    keys = [(name, pa.string()) for name in names[:2]]
    types = pa.schema([*keys, *((field.name, field.type) for field in schema.arrow("trials", 1))])
    found = _tried(connection, rows, types)
    if isinstance(found, list):
        return found, []
    good = []
    for pair in sorted(pairs):
        own = [row for row in rows if (row["experiment"], row["trial_id"]) == pair]
        result = _tried(connection, own, types)
        if isinstance(result, list):
            good += own
        else:
            unreadable.append(f"{'/'.join(pair)} cannot be read: {result}")
    last = _tried(connection, good, types) if good else []
    return (last if isinstance(last, list) else []), unreadable


def _tried(
    connection: duckdb.DuckDBPyConnection, rows: Sequence[dict[str, Any]], types: pa.Schema
) -> list[dict[str, Any]] | str:
    """`measure.facts`, or what is wrong."""
    try:
        newer = max((row["schema_version"] or 0) for row in rows)
        if newer > schema.SCHEMA_VERSION:
            return "it was written by a newer version of rl_alliteration; use that one"
        connection.register("trial_events", pa.Table.from_pylist(list(rows), types))
        connection.execute(
            "CREATE OR REPLACE TEMP VIEW trials AS SELECT * FROM trial_events "
            "QUALIFY row_number() OVER (PARTITION BY experiment, trial_id ORDER BY event DESC) = 1"
        )
        return facts(connection)
    except UNREADABLE as error:
        return one_line(error)
