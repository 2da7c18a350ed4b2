"""Whether bfloat16 changes what the study finds: the same trials in both precisions, five seeds, curves together.

    python benchmarks/precision.py --storage FOLDER          the table and figure under benchmarks/results/

RLOO of the shipped model at quickstart's learning rate, beta 0 (collapses) and 100 (does not). The same command again
goes on where it was stopped.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import tyro
from scipy import stats

from rl_alliteration.analysis.summary import summarise
from rl_alliteration.results import reader
from rl_alliteration.results.storage import open_storage

matplotlib.use("Agg")
from matplotlib import pyplot as plt

RESULTS = Path(__file__).parent / "results"
WINDOW = 100
COLOURS = {"float32": "#1f77b4", "bfloat16": "#d62728"}


@dataclasses.dataclass(frozen=True)
class Precision:
    """The same trials in float32 and in bfloat16."""

    storage: str
    seeds: int = 5
    texts: int = 1200


def main() -> None:
    """Run the sweeps, then write the table and the figure."""
    asked = tyro.cli(Precision)
    for dtype in COLOURS:
        command = [sys.executable, "-m", "rl_alliteration.cli", "sweep", "--experiment", "precision"]
        command += ["--storage", asked.storage, "--dtype", dtype, "--beta", "0", "100", "--learning-rate", "0.0015"]
        command += ["--seed", *map(str, range(asked.seeds)), "--max-generations", str(asked.texts)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    storage = open_storage(asked.storage)
    sql = f"""SELECT t.dtype, g.beta, g.seed, g.generation // {WINDOW} AS part, avg(g.raw_reward), avg(g.kl_penalty)
              FROM generations g JOIN trials t USING (experiment, trial_id) WHERE g.algorithm = 'rloo'
              GROUP BY ALL ORDER BY ALL"""
    rows = np.array(
        [(list(COLOURS).index(row[0]), *row[1:]) for row in reader.run_query(storage, sql)[1]], dtype=np.float64
    )
    dtypes = dict(reader.run_query(storage, "SELECT trial_id, dtype FROM trials")[1])
    variety = {
        (dtypes[s.trial_id], s.beta, s.seed): s.variety
        for s in summarise(storage, "precision")
        if s.algorithm == "rloo"
    }
    gaps = reader.run_query(
        storage,
        "SELECT t.dtype, avg(s.sampler_gap), avg(s.sample_seconds + s.train_seconds) FROM steps s "
        "JOIN trials t USING (experiment, trial_id) GROUP BY ALL ORDER BY ALL DESC",
    )[1]
    RESULTS.mkdir(exist_ok=True)
    table = _table(rows, variety, gaps)
    print(table)
    (RESULTS / "precision.md").write_text(table)
    _figure(rows, RESULTS / "precision.png")


def _table(rows: np.ndarray, variety: dict[tuple[str, float, int], float], gaps: list[tuple[Any, ...]]) -> str:
    lines = [
        "# bfloat16 against float32: RLOO, shipped model, five seeds, the last 100 texts of each trial",
        "",
        "| beta | | float32 | bfloat16 | difference (95% interval, Welch) |",
        "|---:|---|---:|---:|---:|",
    ]
    last = rows[:, 3].max()
    for beta in (0.0, 100.0):
        for name, column in (("raw reward", 4), ("KL penalty", 5), ("variety", None)):
            if column is None:
                values = [np.array([v for (d, b, _), v in variety.items() if d == t and b == beta]) for t in COLOURS]
            else:
                values = [rows[(rows[:, 0] == d) & (rows[:, 1] == beta) & (rows[:, 3] == last), column] for d in (0, 1)]
            interval = stats.ttest_ind(values[1], values[0], equal_var=False).confidence_interval()
            shown = " | ".join(f"{v.mean():.3g} ± {v.std(ddof=1):.2g}" for v in values)
            lines.append(f"| {beta:g} | {name} | {shown} | {interval.low:.3g} … {interval.high:.3g} |")
    lines += ["", "| | mean sampler gap, nats | mean seconds an update |", "|---|---:|---:|"]
    lines += [f"| {dtype} | {gap:.2g} | {seconds:.3f} |" for dtype, gap, seconds in gaps]
    return "\n".join(lines) + "\n"


def _figure(rows: np.ndarray, path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharex=True)
    for axis, column, title in zip(axes, (4, 5), ("raw reward", "KL penalty"), strict=True):
        for (dtype, colour), number in zip(COLOURS.items(), (0, 1), strict=True):
            for beta, style in ((0.0, "-"), (100.0, "--")):
                chosen = rows[(rows[:, 0] == number) & (rows[:, 1] == beta)]
                for seed in np.unique(chosen[:, 2]):
                    line = chosen[chosen[:, 2] == seed]
                    label = f"{dtype}, beta {beta:g}" if seed == 0 else None
                    axis.plot(WINDOW * line[:, 3], line[:, column], style, color=colour, alpha=0.6, label=label)
        axis.set(title=title, xlabel="texts")
    axes[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
