"""What `--stop-on-collapse` saves, and whether it costs the recommendation: on trials that were not stopped.

    python benchmarks/stopping.py --storage FOLDER --experiment study_betas     the table under benchmarks/results/

Where a trial would have stopped is a function of its texts (`analysis.stopping.EarlyStopping`): no trial is run again.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import tyro

from rl_alliteration.analysis.frontier import Recommendation, recommended
from rl_alliteration.analysis.measure import measure, until
from rl_alliteration.analysis.stopping import COLLAPSE, EarlyStopping
from rl_alliteration.analysis.types import Analysis, Trial
from rl_alliteration.results.parts import read_part
from rl_alliteration.results.reader import connect, parts
from rl_alliteration.results.storage import Storage, open_storage
from rl_alliteration.tune.presets import PRESETS

RESULTS = Path(__file__).parent / "results"


@dataclasses.dataclass(frozen=True)
class Stopping:
    """With stopping against without."""

    storage: str
    experiment: str = "beta_coarse"
    texts: int = 2700
    """Of each trial that count."""


def main() -> None:
    """Write the table."""
    asked = tyro.cli(Stopping)
    storage = open_storage(asked.storage)
    analysis = measure(connect(storage), asked.experiment)
    betas = PRESETS["beta_coarse"].beta
    trials = [until(t, asked.texts) for t in analysis.trained if t.beta in betas and t.algorithm == "rloo"]
    lines = [
        "# `--stop-on-collapse` on the betas of `beta_coarse`, shipped model",
        "",
        f"`python benchmarks/stopping.py`, {asked.texts:,} texts a trial. Recommended: alliterating pairs per 100 "
        "words.",
        "",
        "| seed | texts without | with | | recommended without | with |",
        "|---:|---:|---:|---:|---|---|",
    ]
    of_all = np.zeros(2, dtype=int)
    for seed in sorted({trial.seed for trial in trials}):
        whole = [trial for trial in trials if trial.seed == seed]
        ends = [_stops_at(storage, trial, asked.texts) for trial in whole]
        stopped = [until(trial, end) for trial, end in zip(whole, ends, strict=True)]
        one, other = (recommended(Analysis(found, analysis.window)) for found in (whole, stopped))
        total, used = asked.texts * len(whole), sum(ends)
        of_all += total, used
        lines.append(f"| {seed} | {total:,} | {used:,} | {used / total:.0%} | {_told(one)} | {_told(other)} |")
    lines.append(f"| all | {of_all[0]:,} | {of_all[1]:,} | {of_all[1] / of_all[0]:.0%} | | |")
    table = "\n".join(lines) + "\n"
    print(table)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "stopping.md").write_text(table)


def _stops_at(storage: Storage, trial: Trial, length: int) -> int:
    watch = EarlyStopping((COLLAPSE,))
    size = trial.group_size
    rows = [
        row
        for path in parts(storage, "generations", trial.experiment, trial.trial_id)
        for row in read_part(storage, path)
    ][:length]
    for end in range(size, len(rows) + 1, size):
        watch.add(rows[end - size : end])
        if watch.reason:
            return end
    return len(rows)


def _told(found: Recommendation) -> str:
    point = found.point
    return f"{point.alliteration:.1f} (beta {found.trial.beta:g}, texts {point.first:,} to {point.first + 99:,})"


if __name__ == "__main__":
    main()
