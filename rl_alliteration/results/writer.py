"""Write a trial's rows as immutable parts, and a sweep's event log."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rl_alliteration.config import TrialConfig, canonical_json
from rl_alliteration.errors import Failure
from rl_alliteration.results import schema
from rl_alliteration.results.storage import Storage

Row = Mapping[str, Any]
_PART_NAME = re.compile(r"part-\d{8,}\.parquet")


def encode_part(rows: Sequence[Row], columns: pa.Schema) -> bytes:
    """Rows as one Parquet file in memory, zstd."""
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=columns)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def row_digest(row: Row) -> str:
    """Checksum of one row (16 hex digits): of its values, so that files written anew compare equal.

    `run_id` and durations are left out: they say who wrote a row, not what it is.
    """
    values = {k: v for k, v in row.items() if k not in ("run_id", "sample_seconds", "train_seconds")}
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class TrialWriter:
    """Collects a trial's rows and writes them, a part an interval. Parts are never changed.

    A trial that resumes computes some parts again. Each old part stays if the new rows equal its own; if they
    differ (other hardware or versions) it and all later ones are removed, from the last backwards, and replaced.
    """

    def __init__(self, storage: Storage, experiment: str, trial_id: str, run_id: str) -> None:
        self.storage = storage
        self.experiment = experiment
        self.trial_id = trial_id
        self.run_id = run_id
        self.diverged_at: int | None = None
        """First generation whose rows differed from those stored before."""
        self._texts: list[Row] = []
        self._updates: list[Row] = []
        self._stored = stored_parts(storage, experiment, trial_id)

    @property
    def pending(self) -> int:
        """Texts added since the last part."""
        return len(self._texts)

    @property
    def edges(self) -> set[int]:
        """First generations and ends of the parts that are there: where a part must end again."""
        return {edge for first, count in self._stored.items() for edge in (first, first + count)}

    def boundaries(self) -> set[int]:
        """Ends of the parts that follow on one another from generation 0: where a trial may go on."""
        ends, end = {0}, 0
        while end in self._stored and self._stored[end] > 0:
            end += self._stored[end]
            ends.add(end)
        return ends

    def add(self, texts: Sequence[Row], update: Row | None) -> None:
        """Keep one step's rows until the part is written."""
        stamp = {"schema_version": schema.SCHEMA_VERSION, "run_id": self.run_id}
        self._texts += [{**stamp, **row} for row in texts]
        if update is not None:
            self._updates.append({**stamp, **update})

    def write_part(self, before_removal: Callable[[int], None] = lambda generation: None) -> None:
        """Publish what was added since the last part: updates, texts, then their checksums.

        Args:
            before_removal: called with the first generation of parts that are about to be replaced.

        Raises:
            Failure: the storage refused; nothing is forgotten, and it can be tried again.
        """
        if not self._texts:
            return
        first = int(self._texts[0]["generation"])
        rows = {"steps": self._updates, "generations": self._texts}
        digests = {dataset: [row_digest(row) for row in part] for dataset, part in rows.items() if part}
        if first in self._stored:
            difference = self._difference(first, digests)
            if difference is not None:
                if self.diverged_at is None:
                    self.diverged_at = difference
                before_removal(first)
                self._remove_from(first)
        kept = first in self._stored
        parts: dict[str, Any] = {}
        # Updates first: a reader who joins never finds texts whose update is missing.
        for dataset, part in digests.items():
            path = schema.part_path(dataset, self.experiment, self.trial_id, first)
            data = self.storage.get(path) if kept else encode_part(rows[dataset], schema.DATASETS[dataset])
            if not kept:
                self.storage.put(path, data)
            parts[dataset] = {"sha256": hashlib.sha256(data).hexdigest(), "rows": part}
        manifest = {"first_generation": first, "generations": len(self._texts), "parts": parts}
        self.storage.put(schema.manifest_path(self.experiment, self.trial_id, first), json.dumps(manifest).encode())
        self._stored[first] = len(self._texts)
        self._texts, self._updates = [], []

    def _difference(self, first: int, digests: Mapping[str, Sequence[str]]) -> int | None:
        """First generation at which the stored part is not the rows of `digests`; None if it is."""
        firsts = {"steps": self._updates, "generations": self._texts}
        found = []
        for dataset, wanted in digests.items():
            path = schema.part_path(dataset, self.experiment, self.trial_id, first)
            try:
                stored = [row_digest(row) for row in read_part(self.storage, path)]
            except (OSError, pa.ArrowException):
                return first
            for index, digest in enumerate(wanted):
                if index >= len(stored) or stored[index] != digest:
                    found.append(int(firsts[dataset][index]["generation"]))
                    break
            if len(stored) > len(wanted):
                found.append(first + len(self._texts))
        return min(found, default=None)

    def _remove_from(self, first: int) -> None:
        for number in sorted((n for n in self._stored if n >= first), reverse=True):
            for dataset in ("generations", "steps"):
                self.storage.delete(schema.part_path(dataset, self.experiment, self.trial_id, number))
            self.storage.delete(schema.manifest_path(self.experiment, self.trial_id, number))
            del self._stored[number]


def stored_parts(storage: Storage, experiment: str, trial_id: str) -> dict[int, int]:
    """The parts of texts that a trial has: number of texts by first generation.

    Its updates need no look: they are written before it and removed after it.

    Raises:
        Failure: a part is damaged.
    """
    found = {}
    for path in part_paths(storage, "generations", experiment, trial_id):
        try:
            with storage.open(path) as file, pq.ParquetFile(file) as part:
                found[schema.part_number(path)] = part.metadata.num_rows
        except pa.ArrowException as error:
            raise Failure(
                f"{path} is damaged; delete it and run the same command again: it will be computed again"
            ) from error
    return found


def part_paths(storage: Storage, dataset: str, experiment: str, trial_id: str) -> list[str]:
    """Paths of a trial's parts, in the order of their numbers. Files of other names are not ours."""
    folder = schema.trial_folder(dataset, experiment, trial_id)
    return [path for path in storage.list(folder) if _PART_NAME.fullmatch(path.rsplit("/", 1)[1])]


def read_part(storage: Storage, path: str) -> list[dict[str, Any]]:
    """A part's rows, in the file's order, without the partition keys.

    Raises:
        OSError, pyarrow.ArrowException: it is not there, or no Parquet file.
    """
    with storage.open(path) as file, pq.ParquetFile(file) as part:
        rows: list[dict[str, Any]] = part.read(use_threads=False).to_pylist()
    return rows


@dataclasses.dataclass(frozen=True)
class PlannedTrial:
    """A trial as its sweep wants it."""

    config: TrialConfig
    model: str
    """Name of the model, as given."""
    max_generations: int
    checkpoint_every: int
    """Generations per part; fixed by the trial's first event."""

    @property
    def trial_id(self) -> str:
        """See `TrialConfig.trial_id`."""
        return self.config.trial_id


class EventLog:
    """The dataset `trials`: one row a change of a trial's state. Only a sweep's driver writes it."""

    def __init__(
        self,
        storage: Storage,
        experiment: str,
        run_id: str,
        versions: Mapping[str, str],
        may_write: Callable[[], None] = lambda: None,
    ) -> None:
        """`may_write` is asked before each event; it raises if another driver has taken over."""
        self.storage = storage
        self._may_write = may_write
        self.experiment = experiment
        self.run_id = run_id
        self.versions = canonical_json(dict(versions))
        self._next: dict[str, int] = {}

    def append(
        self,
        trial: PlannedTrial,
        status: str,
        *,
        generations: int = 0,
        host: str = "",
        device: str = "",
        reason: str = "",
        error: str = "",
    ) -> None:
        """Write one event; it is durable when this returns."""
        self._may_write()
        config = trial.config
        event = self._number(trial.trial_id)
        row = {
            "schema_version": schema.SCHEMA_VERSION,
            "run_id": self.run_id,
            "event": event,
            "written_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "status": status,
            "reason": reason,
            "error": error,
            "generations": generations,
            "max_generations": trial.max_generations,
            "host": host,
            "device": device,
            "threads": config.threads,
            "dtype": config.dtype,
            "versions": self.versions,
            "config": config.to_json(),
            "algorithm": config.algorithm,
            "beta": config.beta,
            "seed": config.seed,
            "group_size": config.group_size,
            "learning_rate": config.learning_rate,
            "reward_function": config.reward,
            "model": f"{trial.model}@{config.model_fingerprint}",
            "prompt": "\n".join(config.prompts),
            "max_length": config.max_length,
            "temperature": config.temperature,
            "top_k": config.top_k,
            "checkpoint_every": trial.checkpoint_every,
        }
        path = schema.part_path("trials", self.experiment, trial.trial_id, event)
        data = encode_part([row], schema.TRIALS)
        self.storage.put(path, data)
        self._list_event(trial.trial_id, event, data)
        self._next[trial.trial_id] = event + 1

    def _number(self, trial_id: str) -> int:
        if trial_id not in self._next:
            paths = part_paths(self.storage, "trials", self.experiment, trial_id)
            self._next[trial_id] = schema.part_number(paths[-1]) + 1 if paths else 0
            if paths:  # a kill may have come between the last event and its checksum
                last = schema.part_number(paths[-1])
                if not self.storage.exists(schema.event_manifest_path(self.experiment, trial_id, last)):
                    self._list_event(trial_id, last, self.storage.get(paths[-1]))
        return self._next[trial_id]

    def _list_event(self, trial_id: str, event: int, data: bytes) -> None:
        manifest = json.dumps({"sha256": hashlib.sha256(data).hexdigest()})
        self.storage.put(schema.event_manifest_path(self.experiment, trial_id, event), manifest.encode())
