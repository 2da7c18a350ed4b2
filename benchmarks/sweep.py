"""How much of a sweep's wall clock × slots its trials spend in their steps, and what Ray Tune costs a trial.

    python benchmarks/sweep.py                     eight trials of 2,000 texts on the shipped model, 2 cores

The rest is Python's and Ray's start, an actor's imports and model, and what Tune does between trials.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tyro

from rl_alliteration.results import reader
from rl_alliteration.results.storage import open_storage


@dataclasses.dataclass(frozen=True)
class Share:
    """Share of a sweep's time that its trials spend at work."""

    trials: int = 8
    texts: int = 2000
    slots: int = os.cpu_count() or 1
    dtype: str = "float32"


def main() -> None:
    """Run the sweep and print where its time went."""
    share = tyro.cli(Share)
    with tempfile.TemporaryDirectory() as folder:
        betas = [str(10 * number) for number in range(share.trials)]
        command = [sys.executable, "-m", "rl_alliteration.cli", "sweep", "--experiment", "bench", "--storage", folder]
        command += ["--beta", *betas, "--max-generations", str(share.texts), "--dtype", share.dtype]
        started = time.time()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        wall = time.time() - started
        inside = _seconds_in_steps(folder) + _seconds_of_original(folder)
    slots = wall * share.slots
    print(f"{share.trials} trials of {share.texts} texts and the original, {share.slots} slots: {wall:.1f} s")
    print(f"inside trial steps: {100 * inside / slots:.1f}% of wall clock × slots")
    print(f"the rest, a trial: {(slots - inside) / (share.trials + 1):.2f} s")


def _seconds_in_steps(folder: str) -> float:
    """Of sampling, scoring and updating, as the dataset `steps` has it; the original's groups are not in it."""
    sql = "SELECT sum(sample_seconds + train_seconds) FROM steps"
    return float(reader.run_query(open_storage(folder), sql)[1][0][0])


def _seconds_of_original(folder: str) -> float:
    """Of the texts between its first part and its last one, by when they were written, and as many for the first."""
    written = sorted(part.stat().st_mtime for part in Path(folder).glob("generations/*/trial_id=original-*/*.parquet"))
    return (written[-1] - written[0]) * len(written) / (len(written) - 1)


if __name__ == "__main__":
    main()
