"""The three datasets: their columns, types and paths. A contract: readers outside of this package rely on it."""

from __future__ import annotations

import pyarrow as pa

SCHEMA_VERSION = 1

_REAL, _COUNT, _TEXT = pa.float64(), pa.int64(), pa.string()

GENERATIONS = pa.schema(
    {
        "schema_version": _COUNT,
        "run_id": _TEXT,
        "generation": _COUNT,
        "step": _COUNT,
        "sample": _COUNT,
        "prompt": _TEXT,
        "text": _TEXT,
        "token_ids": pa.list_(pa.int32()),
        "num_tokens": _COUNT,
        "num_prompt_tokens": _COUNT,
        "num_words": _COUNT,
        "ended": pa.bool_(),
        "raw_reward": _REAL,
        "lm_cross_entropy": _REAL,
        "original_lm_cross_entropy": _REAL,
        "kl_penalty": _REAL,
        "reward": _REAL,
        "advantage": _REAL,
        "algorithm": _TEXT,
        "beta": _REAL,
        "seed": _COUNT,
        "group_size": _COUNT,
        "learning_rate": _REAL,
        "reward_function": _TEXT,
        "model": _TEXT,
    }
)
"""One row a text."""

STEPS = pa.schema(
    {
        "schema_version": _COUNT,
        "run_id": _TEXT,
        "step": _COUNT,
        "generation": _COUNT,
        "loss": _REAL,
        "grad_norm": _REAL,
        "entropy": _REAL,
        "kl_k3": _REAL,
        "sampler_gap": _REAL,
        "sample_seconds": _REAL,
        "train_seconds": _REAL,
        "tokens": _COUNT,
        "algorithm": _TEXT,
        "beta": _REAL,
        "seed": _COUNT,
        "group_size": _COUNT,
        "learning_rate": _REAL,
    }
)
"""One row an update."""

TRIALS = pa.schema(
    {
        "schema_version": _COUNT,
        "run_id": _TEXT,
        "event": _COUNT,
        "written_at": _TEXT,
        "status": _TEXT,
        "reason": _TEXT,
        "error": _TEXT,
        "generations": _COUNT,
        "max_generations": _COUNT,
        "host": _TEXT,
        "device": _TEXT,
        "threads": _COUNT,
        "dtype": _TEXT,
        "versions": _TEXT,
        "config": _TEXT,
        "algorithm": _TEXT,
        "beta": _REAL,
        "seed": _COUNT,
        "group_size": _COUNT,
        "learning_rate": _REAL,
        "reward_function": _TEXT,
        "model": _TEXT,
        "prompt": _TEXT,
        "max_length": _COUNT,
        "temperature": _REAL,
        "top_k": _COUNT,
        "checkpoint_every": _COUNT,
    }
)
"""One row a change of a trial's state. `written_at` is ISO 8601 in UTC, so that it sorts as text."""

DATASETS = {"generations": GENERATIONS, "steps": STEPS, "trials": TRIALS}

PLANNED, RUNNING, STOPPED, FINISHED, FAILED = "planned", "running", "stopped", "finished", "failed"
STALLED = "stalled"  # shown, never stored: a running trial whose driver's lease has run out


def trial_folder(dataset: str, experiment: str, trial_id: str) -> str:
    """Where a trial's parts of one dataset are, relative to the storage."""
    return f"{dataset}/experiment={experiment}/trial_id={trial_id}"


def part_path(dataset: str, experiment: str, trial_id: str, number: int) -> str:
    """Path of the part that begins with `number` (a generation; in `trials` an event)."""
    return f"{trial_folder(dataset, experiment, trial_id)}/part-{number:08d}.parquet"


def part_number(path: str) -> int:
    """The number in a part's name."""
    return int(path.rsplit("part-", 1)[1].removesuffix(".parquet"))


def manifest_path(experiment: str, trial_id: str, number: int) -> str:
    """Path of the checksums of the part that begins with generation `number`."""
    return f"manifests/{experiment}/{trial_id}/part-{number:08d}.json"


def event_manifest_path(experiment: str, trial_id: str, number: int) -> str:
    """Path of the checksum of event `number`."""
    return f"manifests/{experiment}/{trial_id}/event-{number:08d}.json"
