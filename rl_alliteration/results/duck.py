"""How DuckDB reads a storage: the one place that hands it paths."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from rl_alliteration.results.storage import Storage

_LINKS: dict[str, tempfile.TemporaryDirectory[str]] = {}
_PROTOCOL = "results"


def readable_root(storage: Storage) -> str:
    """The storage as DuckDB may be given it.

    A folder whose name would be read as a pattern, or as partition keys, goes by a link to it; an object store by a
    file system of its own, see `attach`.
    """
    root = str(storage)
    if storage.folder("") is None:
        return f"{_PROTOCOL}://"
    if not _MISREAD.search(root):
        return root
    if root not in _LINKS:
        places = [place for place in (tempfile.gettempdir(), "/tmp", "/dev/shm") if not _MISREAD.search(place)]
        _LINKS[root] = tempfile.TemporaryDirectory(prefix="rl_alliteration-", dir=places[0])
        Path(_LINKS[root].name, "results").symlink_to(root, target_is_directory=True)
    return f"{_LINKS[root].name}/results"


_MISREAD = re.compile(r"[*?\[\\=]")


def attach(connection: duckdb.DuckDBPyConnection, storage: Storage) -> None:
    """Let DuckDB read an object store through pyarrow: its own extension for that would have to be downloaded.

    Paths begin at the storage's root: what stands above it is no partition key.
    """
    if storage.folder("") is None:
        import pyarrow.fs
        from fsspec.implementations.arrow import ArrowFSWrapper

        class Wrapped(ArrowFSWrapper):  # type: ignore[misc]  # fsspec has no types
            protocol = _PROTOCOL

        filesystem, path = storage.pyarrow()
        connection.register_filesystem(Wrapped(pyarrow.fs.SubTreeFileSystem(path, filesystem)))


def quoted(names: Sequence[str]) -> str:
    """Names as a list of SQL."""
    return ", ".join(map(quote, names)) or "NULL"


def literal(value: object) -> str:
    """A column's default in SQL."""
    return quote(value) if isinstance(value, str) else f"'{value}'::DOUBLE" if isinstance(value, float) else str(value)


def quote(text: str) -> str:
    """A text in SQL."""
    return "'" + text.replace("'", "''") + "'"


def files(storage: Storage, paths: Sequence[str], *, by_name: bool = False) -> str:
    """Parts as a table of SQL: listed by us, not by a pattern, as DuckDB takes a folder that it cannot list for an
    empty one, and follows links."""
    root = readable_root(storage)
    listed = ", ".join(quote(f"{root}/{path}") for path in paths)
    types = "{'experiment': VARCHAR, 'trial_id': VARCHAR}"
    named = ", union_by_name = true" if by_name else ", filename = true"
    return f"read_parquet([{listed}], hive_partitioning = true, hive_types = {types}{named})"


class Parts:
    """DuckDB over parts that the caller names: it lists nothing, and opens no other. Of threads as many as there are
    may ask at a time."""

    def __init__(self, storage: Storage, memory: str) -> None:
        """`memory`: most of a question, in DuckDB's words: `400MB`."""
        self._storage = storage
        self._connection = duckdb.connect(
            ":memory:",
            config={"autoinstall_known_extensions": False, "memory_limit": memory, "temp_directory": ""},
        )
        attach(self._connection, storage)

    def close(self) -> None:
        """Answer no more."""
        self._connection.close()

    def query(self, sql: str, paths: Sequence[str], values: Mapping[str, Any] | None = None) -> pa.Table:
        """The answer to one SELECT of ours over `parts`: columns of the first schema version, `experiment`, `trial_id`,
        `filename`.

        Args:
            sql: the SELECT; what comes from elsewhere is in `values`.
            paths: of the parts, all of one dataset; at least one.
            values: its parameters, by name.
        """
        with self._connection.cursor() as cursor:
            cursor.execute(f"CREATE OR REPLACE TEMP VIEW parts AS FROM {files(self._storage, paths)}")
            return cursor.sql(sql, params=dict(values or {})).to_arrow_table()
