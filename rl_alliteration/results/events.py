"""Write the event log of a sweep's trials."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime

from rl_alliteration.config import PlannedTrial, canonical_json
from rl_alliteration.foreign import encode_record
from rl_alliteration.results import schema
from rl_alliteration.results.parts import (
    Row,
    encode_part,
    part_paths,
)
from rl_alliteration.results.records import EventManifest
from rl_alliteration.results.storage import Storage
from rl_alliteration.rows import Event


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
        event = self._number(trial.trial_id)
        record = Event.of(
            trial.config,
            event=event,
            written_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            status=status,
            reason=reason,
            error=error,
            generations=generations,
            max_generations=trial.max_generations,
            host=host,
            device=device,
            versions=self.versions,
            model=f"{trial.model}@{trial.config.model_fingerprint}",
            checkpoint_every=trial.checkpoint_every,
        )
        row = {"schema_version": schema.SCHEMA_VERSION, "run_id": self.run_id, **record.row()}
        self._next.pop(trial.trial_id)  # if this fails, it may be there all the same: the next comes after it
        self._put(trial.trial_id, event, row)
        self._next[trial.trial_id] = event + 1

    def restore(
        self, trial_id: str, rows: Mapping[int, Row], problems: Collection[str], unlisted: str | None
    ) -> list[str]:
        """Put checksums back that are lost, and a stand-in for each event that is: its neighbour's, which says so.

        Args:
            trial_id: whose.
            rows: the events that can be relied on, by number.
            problems: paths of the events and checksums that are missing or damaged.
            unlisted: an event that a kill has kept from its checksum.

        Returns:
            What was done, a line each.
        """
        if not rows or not (problems or unlisted):
            return []
        self._may_write()
        done = []
        lost = {schema.part_number(path) for path in problems if path.endswith(".parquet")}
        for number in sorted(lost):
            before = [n for n in rows if n < number]
            row = {**rows[max(before) if before else min(rows)], "run_id": self.run_id, "event": number}
            self._put(trial_id, number, {**row, "reason": "lost", "error": ""})
            path = schema.part_path("trials", self.experiment, trial_id, number)
            done.append(f"{path}: what this event said is lost; a stand-in takes its place")
        for path in sorted({path for path in problems if path.endswith(".json")} | ({unlisted} if unlisted else set())):
            number = schema.part_number(path)
            if number not in lost:
                data = self.storage.get(schema.part_path("trials", self.experiment, trial_id, number))
                self._list_event(trial_id, number, data)
                done.append(f"{schema.event_manifest_path(self.experiment, trial_id, number)}: written again")
        return done

    def _put(self, trial_id: str, event: int, row: Row) -> None:
        data = encode_part([row], "trials")
        self.storage.put(schema.part_path("trials", self.experiment, trial_id, event), data)
        self._list_event(trial_id, event, data)

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
        manifest = EventManifest(hashlib.sha256(data).hexdigest())
        self.storage.put(schema.event_manifest_path(self.experiment, trial_id, event), encode_record(manifest))
