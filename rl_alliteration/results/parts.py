"""A part of a dataset as a file: written and read, with the checksums of its rows; what a trial has of them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rl_alliteration.foreign import Damaged, Newer, read_record
from rl_alliteration.results import schema
from rl_alliteration.results.records import Manifest
from rl_alliteration.results.storage import Storage
from rl_alliteration.rows import Column

Row = Mapping[str, Any]
_PART_NAME = re.compile(r"part-\d{8,}\.parquet")
_MANIFEST = re.compile(r"part-\d{8,}\.json")


def encode_part(rows: Sequence[Row], dataset: str) -> bytes:
    """Rows as one Parquet file in memory, zstd; its columns are those of the newest version among them.

    Raises:
        ValueError: a row has a column too many or too few.
    """
    columns = schema.arrow(dataset, max(int(row["schema_version"]) for row in rows))
    known = {column.name for column in schema.describe(dataset)}
    whole = [_filled(row, dataset) for row in rows]
    for row in whole:
        if row.keys() != known and (wrong := (row.keys() - known) | (set(columns.names) - row.keys())):
            raise ValueError(f"a row of {dataset} has unknown columns, or lacks some: {', '.join(sorted(wrong))}")
    table = pa.Table.from_pylist(whole, schema=columns)
    sink = io.BytesIO()
    # Arrow's own copy of the schema says nothing that the file's does not, and takes 2 to 4 KB.
    pq.write_table(table, sink, compression="zstd", store_schema=False, **_encodings(columns, dataset))
    return sink.getvalue()


def _encodings(columns: pa.Schema, dataset: str) -> dict[str, Any]:
    """Lists of tokens' numbers: of reals hardly two are alike, so that a dictionary would only add to them, and they go
    byte by byte; places rise, and go by their differences. What is least of them helps no reader."""
    found = {}
    for column in schema.describe(dataset):
        if column.name in columns.names and column.since > 1 and column.type in _ENCODED:
            found[f"{column.name}.list.element"] = _ENCODED[column.type]
    lists = {field.name for field in columns if pa.types.is_list(field.type)}
    leaves = [f"{name}.list.element" if name in lists else name for name in columns.names]
    others = [leaf for leaf in leaves if leaf not in found]
    return {"use_dictionary": others, "write_statistics": others, "column_encoding": found or None}


_ENCODED: dict[Any, str] = {list[float]: "BYTE_STREAM_SPLIT", list[int]: "DELTA_BINARY_PACKED"}


def decode_part(data: bytes, path: str) -> list[dict[str, Any]]:
    """The rows in the bytes of a part's file, each with all of today's columns.

    Args:
        data: of the file.
        path: of the part, which begins with its dataset.

    Raises:
        Newer: it is of a newer version of the schema.
        pyarrow.ArrowException: they are no such file: its columns are not those of its version, or a value is missing.
    """
    dataset = path.split("/", 1)[0]
    try:
        with pq.ParquetFile(io.BytesIO(data)) as part:
            table = part.read(use_threads=False)
        newest = pc.max(table["schema_version"]).as_py() if "schema_version" in table.column_names else None
        if isinstance(newest, int) and newest > schema.SCHEMA_VERSION:
            raise Newer(path)
        rows: list[dict[str, Any]] = table.to_pylist()
    except (OSError, ValueError) as error:  # what Arrow raises for damaged pages, and Python for text that is none
        raise pa.ArrowInvalid(str(error)) from error
    version = newest if isinstance(newest, int) else schema.SCHEMA_VERSION
    columns = schema.arrow(dataset, version)
    if dict(zip(table.column_names, table.schema.types, strict=True)) != dict(
        zip(columns.names, columns.types, strict=True)
    ):
        raise pa.ArrowInvalid(f"its columns are not those of schema version {version}")
    if any(column.null_count for column in table.columns):
        raise pa.ArrowInvalid("a value is missing")
    return [_filled(row, dataset) for row in rows]


def _filled(row: Row, dataset: str) -> dict[str, Any]:
    """The row with the columns that came after its version, as they are declared for it."""
    version = row["schema_version"]
    return dict(row) if version == schema.SCHEMA_VERSION else {**schema.defaults(dataset, version), **row}


def row_digest(row: Row, dataset: str, version: int | None = None) -> str:
    """Checksum of one row (16 hex digits): of its values, so that files written anew compare equal.

    Who wrote a row, and how long it took, is left out: see `Column.compared`.

    Args:
        row: with or without its `schema_version`.
        dataset: that it is of.
        version: of the schema whose columns count, if not the row's own: an earlier version had fewer.
    """
    version = version or row.get("schema_version", schema.SCHEMA_VERSION)
    counts = _compared(schema.describe(dataset), version)
    values = {name: value for name, value in row.items() if name in counts}
    if "schema_version" in values:
        values["schema_version"] = version
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def _compared(columns: tuple[Column, ...], version: int) -> frozenset[str]:
    return frozenset(c.name for c in columns if c.compared and c.since <= version)


def first_difference(rows: Sequence[Row], dataset: str, digests: Sequence[str]) -> int | None:
    """The first place at which rows are not those of the checksums, which may be of any version; None if none is.

    One of the two may be longer: what is beyond the shorter is not compared.
    """
    for place, (row, digest) in enumerate(zip(rows, digests, strict=False)):
        versions = range(schema.SCHEMA_VERSION, 0, -1)
        if all(row_digest(row, dataset, version) != digest for version in versions):
            return place
    return None


def read_part(storage: Storage, path: str) -> list[dict[str, Any]]:
    """A part's rows, in the file's order, without the partition keys.

    Raises:
        FileNotFoundError: it is not there.
        Damaged: it is no part of its dataset.
        Newer: it is of a newer version.
    """
    try:
        return decode_part(storage.get(path), path)
    except pa.ArrowException as error:
        raise Damaged(f"{path} is damaged: {' '.join(str(error).split())[:100]}") from error


def part_paths(storage: Storage, dataset: str, experiment: str, trial_id: str) -> list[str]:
    """Paths of a trial's parts, in the order of their numbers. Files of other names are not ours."""
    folder = schema.trial_folder(dataset, experiment, trial_id)
    return [path for path in storage.list(folder) if _PART_NAME.fullmatch(path.rsplit("/", 1)[1])]


@dataclasses.dataclass(frozen=True)
class StoredPart:
    """A part as it is found: its files compared with their checksums."""

    first: int
    generations: int | None
    """Number of texts; None if nothing tells it."""
    manifest: Manifest | None
    problems: Mapping[str, str]
    """What is wrong with it, by path; a part without one is whole."""

    @property
    def end(self) -> int | None:
        """The generation after its last one."""
        return None if self.generations is None else self.first + self.generations


def stored_parts(storage: Storage, experiment: str, trial_id: str) -> dict[int, StoredPart]:
    """The parts of a trial by first generation, with what is missing of each, or damaged. Reads all of its files.

    Raises:
        Failure: the storage cannot be read.
    """
    paths = {
        dataset: {schema.part_number(path): path for path in part_paths(storage, dataset, experiment, trial_id)}
        for dataset in ("steps", "generations")
    }
    folder = f"manifests/{experiment}/{trial_id}"
    listed = [path for path in storage.list(folder) if _MANIFEST.fullmatch(path.rsplit("/", 1)[1])]
    manifests = {schema.part_number(path): path for path in listed}
    has_updates = bool(paths["steps"])
    found = {}
    for number in sorted({*paths["steps"], *paths["generations"], *manifests}):
        problems: dict[str, str] = {}
        manifest = None
        path = schema.manifest_path(experiment, trial_id, number)
        try:
            manifest = read_record(Manifest, storage.get(path), path)
            texts = manifest.parts.get("generations")
            if manifest.first_generation != number or (texts and len(texts.rows) != manifest.generations):
                raise Damaged(f"{path} is damaged: it is the one of another part")
            has_updates = has_updates or "steps" in manifest.parts
        except FileNotFoundError:
            problems[path] = "is missing"
        except Damaged as damaged:
            problems[path] = str(damaged).removeprefix(f"{path} ")
        counts = [manifest.generations] if manifest else []
        for dataset in ("generations", "steps"):
            path = schema.part_path(dataset, experiment, trial_id, number)
            recorded = manifest.parts.get(dataset) if manifest else None
            if number not in paths[dataset]:
                expected = recorded is not None if manifest else (dataset == "generations" or has_updates)
                if expected:
                    problems[path] = "is missing"
                continue
            data = storage.get(path)
            if recorded is not None and hashlib.sha256(data).hexdigest() != recorded.sha256:
                problems[path] = "is damaged: it is not what was written there"
                continue
            try:
                with pq.ParquetFile(io.BytesIO(data)) as part:
                    if dataset == "generations":
                        counts.append(part.metadata.num_rows)
            except (pa.ArrowException, OSError):
                problems[path] = "is damaged: it is no Parquet file"
        found[number] = StoredPart(number, counts[-1] if counts else None, manifest, problems)
    return found


def stored_generations(storage: Storage, experiment: str, trial_id: str) -> int:
    """Texts that a trial has, without a gap from the first, by their files' own word."""
    end = 0
    for path in part_paths(storage, "generations", experiment, trial_id):
        if schema.part_number(path) != end:
            break
        try:
            with storage.open(path) as file, pq.ParquetFile(file) as part:
                end += part.metadata.num_rows
        except (pa.ArrowException, Damaged):
            break
    return end


def model_of(storage: Storage, experiment: str, trial_id: str) -> str | None:
    """The column `model` of a trial's texts: it keeps the name that its model was first given by; None without any."""
    for path in part_paths(storage, "generations", experiment, trial_id):
        with contextlib.suppress(pa.ArrowException, Damaged, OSError, KeyError, IndexError):
            with storage.open(path) as file, pq.ParquetFile(file) as part:
                return str(part.read(columns=["model"], use_threads=False)["model"][0].as_py())
    return None


def whole_ends(found: Mapping[int, StoredPart]) -> set[int]:
    """Generation 0, and the ends of the whole parts that follow on one another from it."""
    ends, end = {0}, 0
    while end in found and not found[end].problems and (found[end].generations or 0) > 0:
        end += found[end].generations or 0
        ends.add(end)
    return ends
