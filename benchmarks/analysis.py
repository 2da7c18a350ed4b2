"""What analysing and reporting a study's worth of texts costs: 20 trials of 3,600, made up, through the real writer.

    python benchmarks/analysis.py [FOLDER]

The results are made once (a minute) and kept in FOLDER (default: a temporary one). Each stage runs in a process of
its own, so that its memory is its own too.
"""

from __future__ import annotations

import dataclasses
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

BETAS = (0.0, 1.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 80.0, 100.0)


def make(folder: Path) -> None:
    """20 trials: the smaller the beta, the sooner it collapses."""
    from made_up import MadeUp, write_results

    from rl_alliteration.results.storage import Storage

    trials = [
        MadeUp(beta=beta, seed=seed, generations=3600, falls_at=600 + 60 * beta) for beta in BETAS for seed in (0, 1)
    ]
    write_results(Storage(folder), trials)


def stage(name: str, folder: Path) -> None:
    """Run one stage and print its time and memory."""
    started = time.perf_counter()
    from rl_alliteration.analysis.measure import measure
    from rl_alliteration.results.reader import connect
    from rl_alliteration.results.storage import open_storage

    print(f"{name}: import {time.perf_counter() - started:.2f} s", end="; ")
    connection = connect(open_storage(str(folder)))
    started = time.perf_counter()
    analysis = measure(connection)
    texts = sum(int(trial.texts.sum()) for trial in analysis.trained)
    print(f"analysis of {texts:,} texts {time.perf_counter() - started:.1f} s", end="; ")
    if name == "report":
        started = time.perf_counter()
        from rl_alliteration.report.base import Shown
        from rl_alliteration.report.page import build_page

        page = build_page(Shown(analysis), connection, title="Benchmark")
        print(f"page of {len(page.encode()) / 1e6:.1f} MB {time.perf_counter() - started:.1f} s", end="; ")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What analysing and reporting 72,000 texts costs."""

    folder: tyro.conf.Positional[Path | None] = None
    """Where the results are, or are made. Default: a temporary folder."""


def main() -> None:
    """Make the results, then run each stage."""
    if sys.argv[1:2] == ["--stage"]:
        stage(sys.argv[2], Path(sys.argv[3]))
        return
    asked = tyro.cli(Analysis)
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        if not (folder / "generations").exists():
            make(folder)
        for name in ("analysis", "report"):
            subprocess.run([sys.executable, __file__, "--stage", name, str(folder)], check=True)


if __name__ == "__main__":
    main()
