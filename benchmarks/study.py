"""Keep what the study's run measured, and draw its figures and table of claims again from that.

    python -m tune_jobs.study --storage STORAGE          # the run
    python benchmarks/study.py keep STORAGE              # → benchmarks/results/study.json.gz
    python benchmarks/study.py draw                      # that file → claims.md and PNG files beside it

The summary has every window of every trial: all metrics, intervals, letters and curves, but no texts.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from rl_alliteration.analysis.claims import check_claims
from rl_alliteration.analysis.seeds import Estimate
from rl_alliteration.analysis.windows import Analysis, Original, Trial, measure
from rl_alliteration.report.drawing import save_png
from rl_alliteration.report.page import main_figures
from rl_alliteration.results.reader import connect
from rl_alliteration.results.storage import open_storage

FOLDER = Path(__file__).parent / "results"
SUMMARY = FOLDER / "study.json.gz"


def keep(analysis: Analysis, path: Path) -> None:
    """Write the summary; the same analysis gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dataclasses.asdict(analysis), default=_plain, separators=(",", ":"))
    with open(path, "wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as file:
        file.write(text.encode())


def load(path: Path) -> Analysis:
    """The analysis that `keep` wrote."""
    told = json.loads(gzip.decompress(path.read_bytes()))
    return Analysis([_trial(trial) for trial in told["trials"]], told["window"])


def draw(analysis: Analysis, folder: Path) -> None:
    """The figures as PNG files, and the claims as Markdown."""
    lines = ["| finding | rule | figure | |", "|---|---|---|---|"]
    lines += [f"| {c.finding} | {c.rule} | {c.figure} | {c.verdict} |" for c in check_claims(analysis)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "claims.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for path in [folder / "claims.md", *save_png(main_figures(analysis), folder)]:
        print(path)


def _plain(value: Any) -> Any:
    """Five digits: more than the intervals are worth, and what keeps the file small."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return [_plain(row) for row in value] if value.ndim > 1 else [float(f"{number:.5g}") for number in value]
    return value.tolist()


def _trial(told: dict[str, Any]) -> Trial:
    arrays = {name: np.array(told[name]) for name in ("first", "texts", "spread", "by_letter")}
    groups = {name: {key: np.array(v, dtype=float) for key, v in told[name].items()} for name in ("metrics", "curve")}
    intervals = {key: (np.array(low), np.array(high)) for key, (low, high) in told["intervals"].items()}
    original = None
    if told["original"] is not None:
        estimates = {name: Estimate(**told["original"][name]) for name in ("raw_reward", "alliteration", "repetition")}
        original = Original(**{**told["original"], **estimates, "by_letter": np.array(told["original"]["by_letter"])})
    return Trial(**{**told, **arrays, **groups, "intervals": intervals, "original": original})


def main(arguments: list[str]) -> None:
    """`keep STORAGE` or `draw`."""
    match arguments:
        case ["keep", storage]:
            keep(measure(connect(open_storage(storage))), SUMMARY)
            print(SUMMARY)
        case ["draw"]:
            draw(load(SUMMARY), FOLDER)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
