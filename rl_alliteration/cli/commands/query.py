"""`rl-alliteration query`: SQL over the results."""

from __future__ import annotations

import csv
import dataclasses
import decimal
import json
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import tyro

from rl_alliteration.cli.commands import Command
from rl_alliteration.errors import UserError
from rl_alliteration.results import reader
from rl_alliteration.results.storage import open_storage
from rl_alliteration.terminal import Data, Grid, Screen


@dataclasses.dataclass(frozen=True)
class Query(Command):
    """Answer one SELECT over the views generations, steps, trials (newest event of each), trial_events and windows."""

    place: ClassVar[int] = 70

    sql: tyro.conf.Positional[str]
    """DuckDB's SQL."""
    storage: str
    """Folder of the results. Default: $RL_ALLITERATION_STORAGE."""
    format: Literal["table", "csv", "json"] = "table"
    """How the answer is written."""

    def run(self) -> int:
        from rl_alliteration.analysis.table import VIEWS  # every command imports this file; few measure

        columns, rows = reader.run_query(open_storage(self.storage), self.sql, VIEWS)
        if self.format == "json":
            twice = sorted({name for name in columns if columns.count(name) > 1})
            if twice:
                raise UserError(
                    f"query: two columns are named {twice[0]!r}; name them apart with AS, JSON has room for one"
                )
            out = Data()
            for row in rows:
                named = _without_nan(dict(zip(columns, row, strict=True)))
                out.write(json.dumps(named, default=str, allow_nan=False) + "\n")
        elif self.format == "csv":
            csv.writer(Data(), lineterminator="\n").writerows([columns, *rows])
        else:
            _print_rows(Screen(), columns, rows)
        return 0


def _print_rows(console: Screen, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    if console.width < _COLUMN_WIDTH * len(columns):  # a table would lose what is in it
        for row in rows:
            for name, value in zip(columns, row, strict=True):
                console.say(f"{name}: {_cell(value)}")
            console.print()
        return
    table = Grid(several_lines=True)
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(_cell, row))
    console.print(table)


_COLUMN_WIDTH = 6  # with its border


def _without_nan(value: Any) -> Any:
    """The value with null for numbers that JSON does not know."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    if isinstance(value, decimal.Decimal):
        return float(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
