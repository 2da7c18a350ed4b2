"""`search --preset frontier` against the grid of `beta_fine`, seed by seed, at no more texts.

    python benchmarks/search.py --storage FOLDER       runs what is missing; the table under benchmarks/results/

Both are judged by what they recommend: the window with the most alliteration that keeps 90% of the original's variety
and its sense. A window was chosen for being high, so each recommended model is also had again and asked for new texts.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import tyro

from rl_alliteration.analysis.alliteration import alliterating_pairs
from rl_alliteration.analysis.diversity import mean_variety, overlaps, repetitions
from rl_alliteration.analysis.frontier import Recommendation, recommended
from rl_alliteration.analysis.measure import measure, until
from rl_alliteration.analysis.rules import KEEP_VARIETY
from rl_alliteration.analysis.types import Analysis
from rl_alliteration.analysis.words import Words
from rl_alliteration.lm.sampling import sample, uniforms
from rl_alliteration.results.reader import connect
from rl_alliteration.results.storage import Storage, open_storage
from rl_alliteration.rl.trainer import Trainer, decode_text
from rl_alliteration.trial.replay import open_trial, replay
from rl_alliteration.tune.presets import PRESETS

RESULTS = Path(__file__).parent / "results"
NEW_SEED = 2**40
"""Of the new texts: no trial's."""


@dataclasses.dataclass(frozen=True)
class Compare:
    """Search against grid."""

    storage: str
    """Of the searches."""
    grid_storage: str | None = None
    """Of the grid; default: the same."""
    grid: str = "beta_fine"
    """Experiment that has the grid's trials, among others perhaps."""
    seeds: tuple[int, ...] = (100, 101, 102, 103, 104)
    new_texts: int = 500


@dataclasses.dataclass(frozen=True)
class NewTexts:
    """What new texts of a recommended model come to."""

    pairs: float
    """Alliterating ones per 100 words."""
    error: float
    """Standard error of these."""
    variety: float
    """As a share of the original's."""
    repetition: float
    """Mean over texts, as a share of what texts of sense have at most."""


@dataclasses.dataclass(frozen=True)
class Found:
    """What one of the two came to."""

    texts: int
    recommendation: Recommendation
    new: NewTexts


def main() -> None:
    """Run both for each seed, then write the table."""
    asked = tyro.cli(Compare)
    grid_storage = asked.grid_storage or asked.storage
    seeds = list(map(str, asked.seeds))
    _run("sweep", "--preset", "beta_fine", "--experiment", asked.grid, "--storage", grid_storage, "--seed", *seeds)
    for name in seeds:
        _run("search", "--preset", "frontier", "--experiment", f"frontier-{name}", "--storage", asked.storage,
             "--seed", name)  # fmt: skip
    fine = PRESETS["beta_fine"]
    grid = measure(connect(open_storage(grid_storage)), asked.grid)
    grid_trials = [t for t in grid.trained if t.beta in fine.beta and t.max_generations >= fine.max_generations]
    rows = []
    for seed in asked.seeds:
        of_seed = [trial for trial in grid_trials if trial.seed == seed]
        assert len(of_seed) == len(fine.beta)
        cut = Analysis(of_seed, grid.window)
        one = found_in(open_storage(grid_storage), cut, fine.max_generations, asked.new_texts)
        searched = measure(connect(open_storage(asked.storage)), f"frontier-{seed}")
        other = found_in(open_storage(asked.storage), searched, None, asked.new_texts)
        rows.append((seed, one, other))
    table = _table(rows, asked)
    print(table)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "search.md").write_text(table)


def _run(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "rl_alliteration.cli", *arguments], check=True, stdout=subprocess.DEVNULL)


def found_in(storage: Storage, analysis: Analysis, length: int | None, new_texts: int) -> Found:
    """What an analysis recommends, and new texts of it.

    Args:
        length: only so many texts of each trial count, and windows within them.

    Raises:
        Failure: no window keeps variety and sense.
    """
    trials = analysis.trained
    if length is not None:  # a trial may have been extended since
        trials = [until(trial, length) for trial in trials]
    best = recommended(Analysis(trials, analysis.window))
    stored = open_trial(storage, best.trial.experiment, best.trial.trial_id)
    trainer = replay(stored, best.generation, lambda line: None)
    words = Words.of(_new_texts(trainer, new_texts))
    pairs, _, _ = alliterating_pairs(words)
    rates = 100.0 * pairs / np.maximum(words.lengths, 1)
    original = best.trial.original
    assert original is not None
    new = NewTexts(
        pairs=float(rates.mean()),
        error=float(rates.std(ddof=1) / len(rates) ** 0.5),
        variety=mean_variety(overlaps(words)) / original.metrics["variety"],
        repetition=float(repetitions(words).mean()) / original.repetition_limit,
    )
    return Found(sum(int(trial.texts.sum()) for trial in trials), best, new)


def _new_texts(trainer: Trainer, count: int) -> list[str]:
    config = trainer.config
    prompt = trainer.prompt_ids[config.prompt]
    texts: list[str] = []
    for first in range(0, count, 50):
        chances = uniforms(NEW_SEED, first, 50, config.max_length)
        rollout = sample(trainer.policy, prompt, chances, end_tokens=trainer.end_tokens)
        pairs = zip(rollout.token_ids.tolist(), rollout.lengths, strict=True)
        texts += [decode_text(trainer.tokenizer, ids[:n], trainer.end_tokens) for ids, n in pairs]
    return texts


def _table(rows: list[tuple[int, Found, Found]], asked: Compare) -> str:
    lines = [
        "# Search against the grid of `beta_fine`, shipped model",
        "",
        f"`python benchmarks/search.py --storage FOLDER`. Alliterating pairs per 100 words of the recommended window, "
        f"and of {asked.new_texts} new texts of its model (± standard error; in brackets their variety as a share of "
        f"the original's: windows keep {KEEP_VARIETY:.0%}).",
        "",
        "| seed | grid: texts | window | new texts | from | search: texts | window | new texts | from | as good |",
        "|---:|---:|---:|---:|---|---:|---:|---:|---|---|",
    ]
    for seed, grid, search in rows:
        better = search.recommendation.point.alliteration >= grid.recommendation.point.alliteration
        cells = [str(seed), *_cells(grid), *_cells(search), "yes" if better else "no"]
        lines.append(f"| {' | '.join(cells)} |")
    wins = sum(s.recommendation.point.alliteration >= g.recommendation.point.alliteration for _, g, s in rows)
    new = sum(s.new.pairs >= g.new.pairs for _, g, s in rows)
    lines += ["", f"At least as good in {wins} of {len(rows)} repetitions; by new texts in {new} of {len(rows)}."]
    return "\n".join(lines) + "\n"


def _cells(found: Found) -> list[str]:
    trial, new = found.recommendation.trial, found.new
    where = f"{trial.algorithm}, {trial.coefficient}, rate {trial.learning_rate:g}, group {trial.group_size}"
    return [
        f"{found.texts:,}",
        f"{found.recommendation.point.alliteration:.1f}",
        f"{new.pairs:.1f} ± {new.error:.1f} ({new.variety:.0%})",
        f"{where}, after {found.recommendation.generation:,}",
    ]


if __name__ == "__main__":
    main()
