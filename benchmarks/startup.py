"""From the command to the first stored texts: of the original, and of the first trial that is trained.

    python benchmarks/startup.py                     five sweeps of the shipped model, and five with its original there
    python benchmarks/startup.py --against ../other  the same with another checkout's code, in turn

Wall clock is of a machine that does nothing else; processor time, of all processes until then, hardly depends on that.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import tyro

HERE = Path(__file__).resolve().parents[1]
_LOOK_SECONDS = 0.05


@dataclasses.dataclass(frozen=True)
class Startup:
    """Time until a sweep's first texts are stored."""

    repetitions: int = 5
    texts: int = 10
    """Of the trial, and of a part of each."""
    model: str = "storyteller"
    against: str = ""
    """A checkout of other code."""


@dataclasses.dataclass(frozen=True)
class Start:
    """Seconds of one sweep."""

    original: float
    """Wall clock until the original's first part; NaN if it was there."""
    trial: float
    """Until the trial's."""
    processor: float
    """Processor time of all its processes until the trial's."""


def main() -> None:
    """Run the sweeps in turn and print their medians."""
    given = tyro.cli(Startup)
    codes = [HERE, *([Path(given.against).resolve()] if given.against else [])]
    found: dict[tuple[Path, bool], list[Start]] = {(code, there): [] for there in (False, True) for code in codes}
    for _ in range(given.repetitions):
        for code in codes:
            with tempfile.TemporaryDirectory() as storage:
                for there in (False, True):
                    found[code, there].append(start(given, code, storage, there))
    print("| code | original | s to its first part | s to the trial's first part | processor s until then |")
    print("|---|---|---:|---:|---:|")
    for (code, there), starts in found.items():
        numbers = [_told([getattr(one, field.name) for one in starts]) for field in dataclasses.fields(Start)]
        print(f"| {code.name} | {'there' if there else 'to be made'} | {' | '.join(numbers)} |")


def _told(seconds: Sequence[float]) -> str:
    if any(value != value for value in seconds):
        return ""
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"


def start(given: Startup, code: Path, storage: str, original_there: bool) -> Start:
    """One sweep of one trial; another beta where the original is there, from the sweep before."""
    command = [sys.executable, "-m", "rl_alliteration.cli", "sweep", "--experiment", "startup", "--storage", storage]
    command += ["--model", given.model, "--beta", "20" if original_there else "10", "--seed", "0"]
    command += ["--max-generations", str(given.texts), "--checkpoint-every", str(given.texts)]
    command += ["--original-texts", str(given.texts)]
    environment = {**os.environ, "PYTHONPATH": str(code), "RAY_USAGE_STATS_ENABLED": "0"}
    there = set(_parts(storage))
    began = time.perf_counter()
    process = psutil.Popen(command, env=environment, cwd=code, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds: dict[str, float] = {}
    used: dict[int, float] = {}
    processor = float("nan")
    while process.poll() is None:
        _add_processor_time(process, used)
        for trial in set(_parts(storage)) - there:
            seconds.setdefault("original" if trial.startswith("original") else "trial", time.perf_counter() - began)
        if "trial" in seconds and processor != processor:
            processor = sum(used.values())
        time.sleep(_LOOK_SECONDS)
    if process.returncode or "trial" not in seconds:
        raise SystemExit(f"the sweep ended with {process.returncode}; try it by hand: {' '.join(command)}")
    return Start(seconds.get("original", float("nan")), seconds["trial"], processor)


def _add_processor_time(process: psutil.Popen, used: dict[int, float]) -> None:
    """Of the process and of all below it, those that have ended since included."""
    try:
        living = [process, *process.children(recursive=True)]
    except psutil.Error:
        return
    for one in living:
        try:
            times = one.cpu_times()
        except psutil.Error:
            continue
        used[one.pid] = times.user + times.system


def _parts(storage: str) -> list[str]:
    """Trials with a stored part."""
    return [part.parent.name.removeprefix("trial_id=") for part in Path(storage).glob("generations/*/*/part-*.parquet")]


if __name__ == "__main__":
    main()
