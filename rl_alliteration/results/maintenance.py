"""Copy results with one part a trial; remove a trial or an experiment."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from rl_alliteration.errors import Failure, UserError
from rl_alliteration.foreign import encode_record
from rl_alliteration.names import find_trial
from rl_alliteration.results import schema
from rl_alliteration.results.heartbeat import heartbeat_path
from rl_alliteration.results.lease import Lease, LeaseState, await_free, holder, lease_path, read_lease
from rl_alliteration.results.notes import note_path
from rl_alliteration.results.parts import Row, encode_part, read_part, row_digest, stored_generations, stored_parts
from rl_alliteration.results.process import Process
from rl_alliteration.results.reader import all_trials, parts, trial_ids
from rl_alliteration.results.records import Manifest, PartDigest
from rl_alliteration.results.storage import Storage
from rl_alliteration.results.verify import verify_trial


def compact(source: Storage, target: Storage) -> int:
    """Copy all results with one part a trial and dataset; the source is not touched.

    Each trial is verified before, and again as it was copied.

    Returns:
        The number of trials.

    Raises:
        UserError: the target holds results already.
        Failure: a trial is not what it should be; the copy is left unfinished.
    """
    inside = source.folder("") is not None and target.folder("") is not None and _within(source.root, target.root)
    if inside:
        raise UserError(f"--output: {str(target)!r} is within the results, or they within it; give a folder elsewhere")
    if any(target.list(dataset) for dataset in schema.DATASETS):
        raise UserError(f"--output: {str(target)!r} holds results already; give a new folder")
    trials = all_trials(source)
    for experiment, trial_id in trials:
        _must_be_right(source, experiment, trial_id, "repair it with the sweep's own command")
    for folder in ("models", "runs", "notes"):
        for path in source.list(folder):
            if not path.endswith(".lock"):
                target.put(path, source.get(path))
    for experiment, trial_id in trials:
        _copy_trial(source, target, experiment, trial_id)
        _must_be_right(target, experiment, trial_id, "it changed while it was copied; compact into a new folder")
    return len(trials)


def _within(one: Path, other: Path) -> bool:
    """Whether one of two folders lies in the other."""
    return one == other or one in other.parents or other in one.parents


def _must_be_right(storage: Storage, experiment: str, trial_id: str, advice: str) -> None:
    problem = verify_trial(storage, experiment, trial_id).problem
    if problem is not None:
        raise Failure(f"{experiment}/{trial_id} in {storage} is WRONG: {problem}; {advice}")


def _copy_trial(source: Storage, target: Storage, experiment: str, trial_id: str) -> None:
    events = parts(source, "trials", experiment, trial_id)  # small, and each has a checksum of its own
    for path in events + [p for p in source.list(f"manifests/{experiment}/{trial_id}") if "/event-" in p]:
        target.put(path, source.get(path))
    found = stored_parts(source, experiment, trial_id)
    numbers = [number for number, part in found.items() if part.generations is not None]  # others are a kill's
    recorded = {}
    generations = 0
    for dataset in ("steps", "generations"):
        rows: list[Row] = []
        for number in numbers:
            path = schema.part_path(dataset, experiment, trial_id, number)
            manifest = found[number].manifest
            if dataset in manifest.parts if manifest is not None else source.exists(path):
                part = read_part(source, path)
                if manifest is not None and [row_digest(row, dataset) for row in part] != manifest.parts[dataset].rows:
                    raise Failure(f"{path} changed while it was copied; compact into a new folder")
                rows += part
        if rows:
            data = encode_part(rows, dataset)
            target.put(schema.part_path(dataset, experiment, trial_id, 0), data)
            recorded[dataset] = PartDigest(hashlib.sha256(data).hexdigest(), [row_digest(row, dataset) for row in rows])
            generations = len(rows)
    if recorded:
        manifest = Manifest(0, generations, recorded)
        target.put(schema.manifest_path(experiment, trial_id, 0), encode_record(manifest))


def whole_id(storage: Storage, experiment: str, given: str) -> str:
    """The id of the trial that a person means, see `find_trial`; also of one whose removal was broken off.

    Raises:
        UserError: there is none, or more than one.
    """
    return find_trial(given, _trials_of(storage, experiment), experiment)


def removal(storage: Storage, experiment: str, trial_id: str | None) -> list[str]:
    """Files of an experiment, or of one of its trials, in the order in which to delete them.

    Texts go from the last backwards, so that a reader sees a prefix; events go last, so that a removal that was
    broken off can be repeated.

    Raises:
        UserError: there is no such trial.
    """
    chosen = _trials_of(storage, experiment) if trial_id is None else [whole_id(storage, experiment, trial_id)]
    files: list[str] = []
    if trial_id is None:
        files += [path for folder in ("runs", "tune") for path in storage.list(f"{folder}/{experiment}")]
        files += [path for path in [heartbeat_path(experiment)] if storage.exists(path)]
    for name in chosen:
        for folder in (
            f"checkpoints/{experiment}/{name}",
            schema.trial_folder("generations", experiment, name),
            schema.trial_folder("steps", experiment, name),
            f"manifests/{experiment}/{name}",
            f"tensorboard/{experiment}/{name}",
            schema.trial_folder("trials", experiment, name),
        ):
            files += reversed(storage.list(folder))
        note = note_path(experiment, name)
        files += [path for path in storage.list(f"notes/{experiment}") if path in (note, f"{note}.lock")]
    return files


def await_no_driver(
    storage: Storage, experiment: str, say: Callable[[str], None]
) -> tuple[LeaseState | None, str | None]:
    """The lease of an experiment that nobody drives, for `remove`; a driver elsewhere is watched for 20 s.

    Raises:
        UserError: it is being run; or its driver, a process of this host, is stopped and may be continued.
        Failure: it is being run elsewhere.
    """
    state = read_lease(storage, experiment)
    if state is not None and not state.released:
        process = holder(state)
        if process is Process.STOPPED:
            raise UserError(
                f"--experiment: the driver of {experiment!r}, process {state.pid}, is stopped but alive: "
                "continue or end it first"
            )
        if process is Process.ALIVE:
            raise UserError(
                f"--experiment: {experiment!r} is being run by process {state.pid} on {state.host}; stop it"
            )
    return await_free(storage, experiment, say)


def remove(storage: Storage, experiment: str, trial_id: str | None, lease: Lease) -> None:
    """Delete an experiment, or one of its trials, under its lease: a driver that wakes up meanwhile is fenced off.

    Raises:
        UserError: there is no such trial.
        Failure: another driver has taken over, or the storage refused.
    """
    for path in removal(storage, experiment, trial_id):
        lease.check()
        storage.delete(path)
    if trial_id is None:
        lease.delete()


def _trials_of(storage: Storage, experiment: str) -> list[str]:
    """Ids of an experiment's trials; none if a removal was broken off after them, so that its lease is still there.

    Raises:
        UserError: there is no such experiment.
    """
    try:
        return [name for _, name in trial_ids(storage, experiment)]
    except UserError:
        lease = lease_path(experiment)
        if re.fullmatch(schema.EXPERIMENT, experiment) and (storage.exists(lease) or storage.exists(f"{lease}.lock")):
            return []
        raise


def texts_by_trial(storage: Storage, experiment: str, trial_id: str | None) -> dict[tuple[str, str], int]:
    """How many texts each trial has."""
    return {
        (experiment, trial): stored_generations(storage, experiment, trial)
        for trial in _trials_of(storage, experiment)
        if trial_id in (None, trial)
    }
