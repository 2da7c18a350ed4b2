"""Copy results with one part a trial; remove a trial or an experiment."""

from __future__ import annotations

import hashlib
import json
import time

from rl_alliteration.errors import UserError
from rl_alliteration.results import schema
from rl_alliteration.results.lease import is_live, lease_path, read_lease
from rl_alliteration.results.reader import parts, trial_ids
from rl_alliteration.results.storage import Storage
from rl_alliteration.results.writer import encode_part, read_part, row_digest, stored_parts


def compact(source: Storage, target: Storage) -> int:
    """Copy all results with one part a trial and dataset; the source is not touched.

    Returns:
        The number of trials.

    Raises:
        UserError: the target holds results already.
    """
    if any(target.list(dataset) for dataset in schema.DATASETS):
        raise UserError(f"--output: {str(target)!r} holds results already; give a new folder")
    trials = trial_ids(source)
    for experiment, trial_id in trials:
        recorded = {}
        generations = 0
        for dataset in ("steps", "generations", "trials"):
            if dataset == "trials":  # small, and each event has a checksum of its own
                events = parts(source, dataset, experiment, trial_id)
                listed = [p for p in source.list(f"manifests/{experiment}/{trial_id}") if "/event-" in p]
                for path in events + listed:
                    target.put(path, source.get(path))
                continue
            rows = [row for path in parts(source, dataset, experiment, trial_id) for row in read_part(source, path)]
            if not rows:
                continue
            data = encode_part(rows, schema.DATASETS[dataset])
            target.put(schema.part_path(dataset, experiment, trial_id, 0), data)
            digests = [row_digest(row) for row in rows]
            recorded[dataset] = {"sha256": hashlib.sha256(data).hexdigest(), "rows": digests}
            if dataset == "generations":
                generations = len(rows)
        if recorded:
            manifest = {"first_generation": 0, "generations": generations, "parts": recorded}
            target.put(schema.manifest_path(experiment, trial_id, 0), json.dumps(manifest).encode())
    for folder in ("models", "runs"):
        for path in source.list(folder):
            target.put(path, source.get(path))
    return len(trials)


def removal(storage: Storage, experiment: str, trial_id: str | None) -> list[str]:
    """Files of an experiment, or of one of its trials, in the order in which to delete them.

    Texts go from the last backwards, so that a reader sees a prefix; events go last, so that a removal that was
    broken off can be repeated.

    Raises:
        UserError: there is no such trial, or a sweep is running.
    """
    known = [name for _, name in trial_ids(storage, experiment)]
    if trial_id is not None and trial_id not in known:
        raise UserError(f"--trial: {trial_id!r} is not in {experiment!r}; there is: {', '.join(known)}")
    holder = read_lease(storage, experiment)
    if holder is not None and is_live(holder, time.time()):
        raise UserError(f"--experiment: {experiment!r} is being run by process {holder.pid} on {holder.host}; stop it")
    chosen = known if trial_id is None else [trial_id]
    files: list[str] = []
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
    if trial_id is None:
        files += [path for folder in ("runs", "tune") for path in storage.list(f"{folder}/{experiment}")]
        files += [path for path in storage.list("leases") if path.startswith(lease_path(experiment))]
    return files


def texts_by_trial(storage: Storage, experiment: str, trial_id: str | None) -> dict[tuple[str, str], int]:
    """How many texts each trial has."""
    return {
        (name, trial): sum(stored_parts(storage, name, trial).values())
        for name, trial in trial_ids(storage, experiment)
        if trial_id in (None, trial)
    }
