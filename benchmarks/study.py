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

from rl_alliteration.analysis.claims import check_claims, markdown
from rl_alliteration.analysis.measure import measure
from rl_alliteration.analysis.seeds import Estimate
from rl_alliteration.analysis.types import Analysis, Original, Trial
from rl_alliteration.report.base import Shown
from rl_alliteration.report.drawing import save_png
from rl_alliteration.report.sections import main_figures
from rl_alliteration.results.reader import connect
from rl_alliteration.results.storage import open_storage

FOLDER = Path(__file__).parent / "results"
SUMMARY = FOLDER / "study.json.gz"


def keep(analysis: Analysis, path: Path) -> None:
    """Write the summary; the same analysis gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    originals = list({id(trial.original): trial.original for trial in analysis.trials if trial.original}.values())
    places = {id(original): place for place, original in enumerate(originals)}
    trials = [
        dataclasses.asdict(dataclasses.replace(trial, original=None)) | {"original": places.get(id(trial.original))}
        for trial in analysis.trials
    ]
    told = {"originals": [dataclasses.asdict(original) for original in originals], "trials": trials}
    text = json.dumps(told | {"window": analysis.window}, default=_plain, separators=(",", ":"))
    with open(path, "wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as file:
        file.write(text.encode())


def load(path: Path) -> Analysis:
    """The analysis that `keep` wrote."""
    told = json.loads(gzip.decompress(path.read_bytes()))
    originals = [_original(original) for original in told.get("originals", [])]
    return Analysis([_trial(trial, originals) for trial in told["trials"]], told["window"])


def draw(analysis: Analysis, folder: Path) -> None:
    """The figures as PNG files, and the claims as Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "claims.md").write_text(markdown(check_claims(analysis)), encoding="utf-8")
    for path in [folder / "claims.md", *save_png(main_figures(Shown(analysis)), folder)]:
        print(path)


def _plain(value: Any) -> Any:
    """Five digits: more than the intervals are worth, and what keeps the file small."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return [_plain(row) for row in value] if value.ndim > 1 else [float(f"{number:.5g}") for number in value]
    return value.tolist()


def _original(told: dict[str, Any]) -> Original:
    estimates = {name: Estimate(**told[name]) for name in ("raw_reward", "alliteration", "repetition")}
    arrays = {name: np.array(told.get(name, ())) for name in ("by_letter", "rewards", "tokens")}
    metrics = {"objective": told["metrics"]["raw_reward"]} | told["metrics"]  # kept before there was an objective
    return Original(**{**told, **estimates, **arrays, "metrics": metrics})


def _trial(told: dict[str, Any], originals: list[Original]) -> Trial:
    arrays = {name: np.array(told[name]) for name in ("first", "texts", "spread", "by_letter")}
    groups = {name: {key: np.array(v, dtype=float) for key, v in told[name].items()} for name in ("metrics", "curve")}
    intervals = {key: (np.array(low), np.array(high)) for key, (low, high) in told["intervals"].items()}
    original = None
    if told["original"] is not None:
        is_place = isinstance(told["original"], int)
        original = originals[told["original"]] if is_place else _original(told["original"])
    metrics = groups["metrics"]
    if "objective" not in metrics:  # kept before it was one, and before the divergence per text was positive
        metrics["objective"] = metrics["raw_reward"] + told["beta"] * metrics["kl_penalty"]
        metrics["kl_per_text"] = -metrics["kl_per_text"]
    told.setdefault("name", told["trial_id"])  # kept before trials had names
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
