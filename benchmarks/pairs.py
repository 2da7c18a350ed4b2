"""Alliterating pairs per 100 words of new texts of the models that a sweep recommends, seed by seed and by setting.

    python benchmarks/pairs.py --storage FOLDER --experiment NAME    → benchmarks/results/pairs-NAME.md

Of each trial the window with the most alliteration that keeps 90% of the variety, and the sense, is taken; its model is
had again and asked for new texts, since a window was chosen for being high. A mean over seeds has Student's interval.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro
from search import Found, found_in

from rl_alliteration.analysis.measure import measure
from rl_alliteration.analysis.rules import KEEP_VARIETY
from rl_alliteration.analysis.seeds import student
from rl_alliteration.analysis.types import Analysis, Trial
from rl_alliteration.errors import Failure
from rl_alliteration.results.reader import connect
from rl_alliteration.results.storage import open_storage

RESULTS = Path(__file__).parent / "results"


@dataclasses.dataclass(frozen=True)
class Pairs:
    """The experiment, and how many new texts."""

    storage: str
    experiment: str
    new_texts: int = 500


def main() -> None:
    """Measure each trial, print the table and keep it."""
    asked = tyro.cli(Pairs)
    storage = open_storage(asked.storage)
    analysis = measure(connect(storage), asked.experiment)
    settings: dict[str, list[Found | None]] = {}
    for trial in sorted(analysis.trained, key=lambda trial: (trial.beta, trial.seed)):
        try:
            found = found_in(storage, Analysis([trial], analysis.window), None, asked.new_texts)
        except Failure:  # none of its windows keeps both
            found = None
        settings.setdefault(_setting(trial), []).append(found)
    lines = [
        f"# Pairs per 100 words, `{asked.experiment}`",
        "",
        f"`python benchmarks/pairs.py`: {asked.new_texts} new texts of each model. Variety of these as a share of the "
        f"original's (windows keep {KEEP_VARIETY:.0%}); repetition as a share of what texts of sense have at most.",
        "",
        "| setting | seeds with such a window | its pairs | pairs of new texts | variety | repetition | after |",
        "|---|---:|---|---|---|---|---|",
    ]
    for name, all_found in settings.items():
        there = [found for found in all_found if found is not None]
        cells = [name, f"{len(there)} of {len(all_found)}"]
        if there:
            cells += [
                student([found.recommendation.point.alliteration for found in there]).told(".1f"),
                student([found.new.pairs for found in there]).told(".1f"),
                student([found.new.variety for found in there]).told(".2f"),
                student([found.new.repetition for found in there]).told(".2f"),
                ", ".join(f"{found.recommendation.generation:,}" for found in there),
            ]
        else:
            cells += ["–"] * 5
        lines.append(f"| {' | '.join(cells)} |")
    table = "\n".join(lines) + "\n"
    print(table)
    (RESULTS / f"pairs-{asked.experiment}.md").write_text(table, encoding="utf-8")


def _setting(trial: Trial) -> str:
    return (
        f"{trial.algorithm} {trial.coefficient}, rate {trial.learning_rate:g}, group {trial.group_size}, "
        f"{trial.max_generations:,} texts, `{trial.reward_function}`"
    )


if __name__ == "__main__":
    main()
