"""The three datasets: their columns, types and paths. A contract: readers outside of this package rely on it."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from rl_alliteration.identifiers import EXPERIMENT as EXPERIMENT
from rl_alliteration.rows import Column, Event, Record, Text, Update, columns_of, version_of

RECORDS: dict[str, type[Record]] = {record.dataset: record for record in (Text, Update, Event)}
"""What a row of each dataset is: see `rows`."""

DATASETS = tuple(RECORDS)

SCHEMA_VERSION = version_of(list(RECORDS.values()))

_ARROW = {
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
    bool: pa.bool_(),
    list[int]: pa.list_(pa.int32()),
    list[float]: pa.list_(pa.float32()),
}


def describe(dataset: str) -> tuple[Column, ...]:
    """The columns of a dataset, each with its type, meaning, unit and version."""
    return columns_of(RECORDS[dataset])


def arrow(dataset: str, version: int | None = None) -> pa.Schema:
    """The columns that the parts of a dataset have at a version; at the newest one by default."""
    return pa.schema([(c.name, _ARROW[c.type]) for c in describe(dataset) if version is None or c.since <= version])


def defaults(dataset: str, version: int) -> dict[str, Any]:
    """What rows of a version are taken to have in the columns that came later."""
    return {c.name: c.default for c in describe(dataset) if c.since > version}


TRIAL_ID = r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,199}"
"""What a trial's id is like, as a regular expression: others in a storage are not ours."""

PLANNED, RUNNING, STOPPED, FINISHED, FAILED = "planned", "running", "stopped", "finished", "failed"
STATES = (PLANNED, RUNNING, STOPPED, FINISHED, FAILED)
STALLED = "stalled"  # shown, never stored: a running trial whose driver's lease has run out


def trial_folder(dataset: str, experiment: str, trial_id: str) -> str:
    """Where a trial's parts of one dataset are, relative to the storage."""
    return f"{dataset}/experiment={experiment}/trial_id={trial_id}"


def part_path(dataset: str, experiment: str, trial_id: str, number: int) -> str:
    """Path of the part that begins with `number` (a generation; in `trials` an event)."""
    return f"{trial_folder(dataset, experiment, trial_id)}/part-{number:08d}.parquet"


def part_number(path: str) -> int:
    """The number in the name of a part, an event, or the checksums of one."""
    return int(path.rsplit("-", 1)[1].split(".")[0])


def manifest_path(experiment: str, trial_id: str, number: int) -> str:
    """Path of the checksums of the part that begins with generation `number`."""
    return f"manifests/{experiment}/{trial_id}/part-{number:08d}.json"


def event_manifest_path(experiment: str, trial_id: str, number: int) -> str:
    """Path of the checksum of event `number`."""
    return f"manifests/{experiment}/{trial_id}/event-{number:08d}.json"
