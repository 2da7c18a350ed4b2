"""What of a trial's files is missing or damaged: its events, parts and checkpoints, by their checksums. No rows."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from rl_alliteration.foreign import Damaged, read_record
from rl_alliteration.results import schema
from rl_alliteration.results.parts import StoredPart, decode_part, part_paths, stored_parts, whole_ends
from rl_alliteration.results.records import CheckpointState, EventManifest
from rl_alliteration.results.storage import Storage

Row = dict[str, Any]

WEIGHTS = "weights.safetensors"
OPTIMIZER = "optimizer.safetensors"
"""Of a checkpoint, where the optimizer keeps anything."""
STATE = "state.json"
_TENSORS = {WEIGHTS: "its weights are", OPTIMIZER: "its optimizer's state is"}
"""What a checkpoint may have beside its state, and what is said of one that is damaged."""
_MOST_GAPS = 1000
"""Events that are told of one by one if they are missing; of more a file name lies."""
_EVENT_MANIFEST = re.compile(r"event-\d{8,}\.json")
_CHECKPOINT = re.compile(r"generation-(\d{8,})/state\.json")


@dataclasses.dataclass(frozen=True)
class Events:
    """The event log of a trial as it is found."""

    rows: dict[int, Row]
    """Those that can be relied on, by number, ascending."""
    problems: Mapping[str, str]
    """What is wrong, by path."""
    unlisted: str | None
    """The last event's path if it has no checksum yet: a kill came between the two."""

    @property
    def first(self) -> Row | None:
        """The oldest; what it fixed stays."""
        return next(iter(self.rows.values()), None)

    @property
    def last(self) -> Row | None:
        """The newest."""
        return next(reversed(self.rows.values()), None)


@dataclasses.dataclass(frozen=True)
class Survey:
    """All files of a trial but the model's."""

    events: Events
    parts: Mapping[int, StoredPart]
    checkpoints: Mapping[int, str | None]
    """What is wrong with each, by generation; None: nothing."""

    @property
    def whole(self) -> int:
        """Generations that are there, from the first on, in whole parts."""
        return max(whole_ends(self.parts))

    @property
    def _ours(self) -> dict[int, StoredPart]:
        """The parts that follow on others, or have checksums: a file's name alone says nothing."""
        found: dict[int, StoredPart] = {}
        end = 0
        for number, part in self.parts.items():
            if number > end and part.manifest is None:
                break
            found[number] = part
            end = max(end, number if part.end is None else part.end)
        return found

    @property
    def reach(self) -> int:
        """The generation after the last of which anything is there."""
        parts = self._ours.values()
        return max([self._covered, *(part.first if part.end is None else part.end for part in parts)])

    @property
    def _covered(self) -> int:
        """Generations that a checkpoint covers: their parts were there before it."""
        return max((generation for generation, problem in self.checkpoints.items() if problem is None), default=0)

    @property
    def overlap(self) -> str | None:
        """What is wrong if two parts have the same generations, as two processes of one trial would leave them."""
        before: StoredPart | None = None
        for part in self._ours.values():
            if before is not None and before.end is not None and part.first < before.end:
                return f"its parts at generation {before.first} and {part.first} overlap: two processes have written it"
            before = part
        return None

    def was_whole(self, number: int) -> bool:
        """Whether a part was whole once, though it is not now: its checksums came after its rows, or there is a later
        part, or a checkpoint that covers it, or an event that tells of it."""
        part = self._ours.get(number)
        if (part is not None and part.manifest is not None) or number < max(self._ours, default=0):
            return True
        end = number + 1 if part is None or part.end is None else part.end
        told = [row["generations"] for row in self.events.rows.values() if row["status"] == schema.FINISHED]
        return max([*told, *self.checkpoints]) >= end if told or self.checkpoints else False

    @property
    def damaged_parts(self) -> dict[int, dict[str, str]]:
        """What is wrong, by path, of each part that is not whole; a part that is missing altogether among them."""
        found = {number: dict(part.problems) for number, part in self._ours.items() if part.problems}
        end: int | None = 0
        for number, part in self._ours.items():
            if end is not None and number > end:
                found.setdefault(end, {})[f"generation {end}"] = "is missing"
            end = part.end
        if end is not None and end < self._covered:
            found.setdefault(end, {})[f"generation {end}"] = "is missing"
        return found


def survey(storage: Storage, experiment: str, trial_id: str) -> Survey:
    """Look at each file of a trial.

    Raises:
        Failure: the storage cannot be read.
    """
    return Survey(
        read_events(storage, experiment, trial_id),
        stored_parts(storage, experiment, trial_id),
        _checkpoints(storage, experiment, trial_id),
    )


def _checkpoints(storage: Storage, experiment: str, trial_id: str) -> dict[int, str | None]:
    """What is wrong with each. Only the newest is read whole: an older one is of use only if that is torn."""
    found: dict[int, str | None] = {}
    for generation in reversed(checkpoint_generations(storage, experiment, trial_id)):
        whole = not found
        found[generation] = checkpoint_problem(storage, experiment, trial_id, generation, with_weights=whole)
    return dict(reversed(found.items()))


def read_events(storage: Storage, experiment: str, trial_id: str) -> Events:
    """The event log of a trial, each event compared with its checksum.

    Raises:
        Failure: the storage cannot be read.
    """
    paths = {schema.part_number(path): path for path in part_paths(storage, "trials", experiment, trial_id)}
    folder = f"manifests/{experiment}/{trial_id}"
    listed = [path for path in storage.list(folder) if _EVENT_MANIFEST.fullmatch(path.rsplit("/", 1)[1])]
    manifests = {schema.part_number(path): path for path in listed}
    rows, problems, unlisted = {}, {}, None
    last = max([*paths, *manifests], default=-1)
    there = sorted({*paths, *manifests})
    gaps = last + 1 - len(there)
    if gaps > _MOST_GAPS:
        problems[schema.part_path("trials", experiment, trial_id, there[0])] = f"has {gaps:,} missing beside it"
    for number in there if gaps > _MOST_GAPS else range(last + 1):
        path = schema.part_path("trials", experiment, trial_id, number)
        manifest_path = schema.event_manifest_path(experiment, trial_id, number)
        checksum = None
        if number in manifests:
            try:
                checksum = read_record(EventManifest, storage.get(manifest_path), manifest_path).sha256
            except Damaged as damaged:
                problems[manifest_path] = str(damaged).removeprefix(f"{manifest_path} ")
        elif number < last:
            problems[manifest_path] = "is missing: it is an event's checksum"
        else:
            unlisted = path
        if number not in paths:
            problems[path] = "is missing"
            continue
        data = storage.get(path)
        if checksum is not None and hashlib.sha256(data).hexdigest() != checksum:
            problems[path] = "is not what was written there"
            continue
        try:
            rows[number] = _event(data, path)
        except (pa.ArrowException, ValueError) as error:
            problems[path] = f"is not an event that was written ({' '.join(str(error).split())[:100]})"
    return Events(rows, problems, unlisted)


def _event(data: bytes, path: str) -> Row:
    """The event in a file's bytes.

    Raises:
        Newer: it is of a newer version.
        ValueError, pyarrow.ArrowException: it is none.
    """
    rows = decode_part(data, path)
    if len(rows) != 1:
        raise ValueError(f"it has {len(rows)} rows")
    (row,) = rows
    if row["event"] != schema.part_number(path) or row["status"] not in schema.STATES:
        raise ValueError("its number or its status is wrong")
    if row["generations"] < 0 or row["max_generations"] < 1 or row["checkpoint_every"] < 1:
        raise ValueError("its numbers are none that a trial has")
    return row


def checkpoint_folder(experiment: str, trial_id: str, generation: int) -> str:
    """Where the checkpoint after `generation` texts is."""
    return f"checkpoints/{experiment}/{trial_id}/generation-{generation:08d}"


def checkpoint_generations(storage: Storage, experiment: str, trial_id: str) -> list[int]:
    """Generations that have a checkpoint, ascending. Folders of other names are not ours."""
    folder = f"checkpoints/{experiment}/{trial_id}/"
    matches = (_CHECKPOINT.fullmatch(path.removeprefix(folder)) for path in storage.list(folder.rstrip("/")))
    return sorted(int(match[1]) for match in matches if match is not None)


def read_state(storage: Storage, experiment: str, trial_id: str, generation: int) -> CheckpointState:
    """A checkpoint's state.

    Raises:
        Damaged: it is not there, not whole, or another trial's.
        Failure: the storage cannot be read.
    """
    folder = checkpoint_folder(experiment, trial_id, generation)
    try:
        state = read_record(CheckpointState, storage.get(f"{folder}/{STATE}"), f"{folder}/{STATE}")
    except FileNotFoundError as error:
        raise Damaged(f"{folder} is torn: {STATE} is missing") from error
    except Damaged as damaged:
        raise Damaged(f"{folder} is torn: {str(damaged).removeprefix(f'{folder}/')}") from damaged
    whole = {WEIGHTS} <= state.sha256.keys() <= _TENSORS.keys()
    if (state.trial_id, state.generation) != (trial_id, generation) or not whole:
        raise Damaged(f"{folder} is torn: it is one of {state.trial_id} at generation {state.generation}")
    return state


def read_checkpoint(
    storage: Storage, experiment: str, trial_id: str, generation: int
) -> tuple[CheckpointState, dict[str, bytes]]:
    """A checkpoint's state and the bytes of its other files, by name.

    Raises:
        Damaged, Failure: as for `read_state`; the files are checked too.
    """
    state = read_state(storage, experiment, trial_id, generation)
    folder = checkpoint_folder(experiment, trial_id, generation)
    files = {}
    for name, digest in state.sha256.items():
        try:
            files[name] = storage.get(f"{folder}/{name}")
        except FileNotFoundError as error:
            raise Damaged(f"{folder} is torn: {name} is missing") from error
        if hashlib.sha256(files[name]).hexdigest() != digest:
            raise Damaged(f"{folder} is torn: {_TENSORS[name]} not what was written there")
    return state, files


def checkpoint_problem(
    storage: Storage, experiment: str, trial_id: str, generation: int, *, with_weights: bool = True
) -> str | None:
    """What is wrong with a checkpoint; None if nothing is. Files are read in pieces: there may be gigabytes."""
    folder = checkpoint_folder(experiment, trial_id, generation)
    try:
        state = read_state(storage, experiment, trial_id, generation)
    except Damaged as damaged:
        return None if not storage.exists(f"{folder}/{STATE}") else str(damaged)  # a running sweep prunes
    if not with_weights:
        return None
    for name, written in state.sha256.items():
        try:
            with storage.open(f"{folder}/{name}") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        except FileNotFoundError:
            return None if not storage.exists(f"{folder}/{STATE}") else f"{folder} is torn: {name} is missing"
        if digest != written:
            return f"{folder} is torn: {_TENSORS[name]} not what was written there"
    return None
