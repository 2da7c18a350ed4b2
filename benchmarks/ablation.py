"""Which of the three changes of the preset `efficient` does what, at beta 100: the ablation.

    python benchmarks/ablation.py rates STORAGE     the first stage, about an hour on two cores
    python benchmarks/ablation.py finals STORAGE    the last one, about two hours
    python benchmarks/ablation.py table             → benchmarks/results/ablation.md

Each stage may be run again to go on. The ends of its trials are kept in benchmarks/results/ablation-STAGE.json, and
what is there is not run again, whatever the storage: the stages may be run on different days.

The rules, written before any of it was run. The shipped model, beta 100, groups of 10 (the study's), five updates: the
study's, each change alone, and all three. Each at the best of its own rates, chosen on seeds 0 to 4: all rates on seeds
0 and 1, then the two best of these on seeds 2 to 4; best is the highest mean J over the last 300 of 3,600 texts. Then
seeds 100 to 104 for 3,600 and for 14,400 texts (a falling rate makes two trials of these, a constant one is extended);
every trial is reported, none is run a second time.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from efficient import interval

from rl_alliteration import Sweep, open_results, run
from rl_alliteration.analysis.types import FINAL_TEXTS

RESULTS = Path(__file__).parent / "results"
UPDATES: dict[str, dict[str, Any]] = {
    "the study's": {},
    "falling rate": {"schedule": ("linear",)},
    "to-go": {"credit": ("to-go",)},
    "exact KL": {"kl": ("exact",)},
    "all three": {"schedule": ("linear",), "credit": ("to-go",), "kl": ("exact",)},
}
RATES = (5e-4, 1e-3, 2e-3, 4e-3)
LENGTHS = (3_600, 14_400)
"""Texts of a trial."""
FIRST, SECOND, FINAL = (0, 1), (2, 3, 4), (100, 101, 102, 103, 104)
"""Seeds of the stages."""
BETA, GROUP = 100.0, 10
RATES_OF, FINALS = "rates", "finals"
"""The stages: what their experiments begin with."""


@dataclasses.dataclass(frozen=True, order=True)
class End:
    """Means over the last texts of a trial; of one at a constant rate also as it was shorter."""

    update: str
    rate: float
    texts: int
    seed: int
    j: float
    raw: float
    kl: float
    variety: float
    repetition: float
    collapsed: bool


def sweep(storage: str, stage: str, name: str, rates: Sequence[float], seeds: Sequence[int], texts: int) -> None:
    """Run what is missing of one update's trials, and keep their ends."""
    there = {(end.rate, end.seed) for end in kept(stage) if (end.update, end.texts) == (name, texts)}
    missing = tuple(seed for seed in seeds if any((rate, seed) not in there for rate in rates))
    if missing:
        run(
            Sweep(
                storage=storage, experiment=f"{stage}_{texts}", beta=(BETA,), seed=missing, learning_rate=tuple(rates),
                group_size=(GROUP,), max_generations=texts, original_texts=20_000, **UPDATES[name],
            )
        )  # fmt: skip
        keep(storage, stage)


def ends(storage: str, stage: str) -> list[End]:
    """Those of the finished trials of a stage."""
    rows = open_results(storage).query(f"""
        SELECT t.config, length AS texts, avg(w.objective) AS j, avg(w.raw_reward) AS raw, avg(w.kl_per_text) AS kl,
            avg(w.variety) AS variety, avg(w.repetition) AS repetition, bool_or(w.collapsed) AS collapsed
        FROM windows w JOIN trials t USING (experiment, trial_id), (SELECT unnest({list(LENGTHS)}) AS length)
        WHERE w.algorithm <> 'original' AND t.status = 'finished' AND starts_with(experiment, '{stage}')
            AND (length = t.generations OR length < t.generations AND t.config ->> 'schedule' = 'constant')
            AND w.first_generation >= length - {FINAL_TEXTS} AND w.last_generation < length
        GROUP BY ALL
    """)
    found = []
    for row in rows.to_pylist():
        config = json.loads(row.pop("config"))
        changes = {name: (config[name],) for name in ("schedule", "credit", "kl")}
        study = {"schedule": ("constant",), "credit": ("text",), "kl": ("sampled",)}
        update = next(name for name, change in UPDATES.items() if {**study, **change} == changes)
        found.append(End(update=update, rate=config["learning_rate"], seed=config["seed"], **row))
    return sorted(found)


def keep(storage: str, stage: str) -> None:
    """Write what `kept` reads: what it has read before, and what is new."""
    known = {(end.update, end.rate, end.texts, end.seed): end for end in [*ends(storage, stage), *kept(stage)]}
    lines = [json.dumps(dataclasses.asdict(end)) for end in sorted(known.values())]
    _kept_in(stage).write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


def kept(stage: str) -> list[End]:
    """The ends that were kept of a stage; none if it was not run."""
    path = _kept_in(stage)
    return [End(**row) for row in json.loads(path.read_text(encoding="utf-8"))] if path.exists() else []


def _kept_in(stage: str) -> Path:
    return RESULTS / f"ablation-{stage}.json"


def best_rates(found: Sequence[End], seeds: tuple[int, ...], count: int) -> dict[str, list[float]]:
    """Of each update the rates with the highest mean J over these seeds, best first."""
    best = {}
    for name in UPDATES:
        by_rate = {rate: {end.seed: end.j for end in found if (end.update, end.rate) == (name, rate)} for rate in RATES}
        means = {
            rate: statistics.mean(by_seed[seed] for seed in seeds)
            for rate, by_seed in by_rate.items()
            if by_seed.keys() >= set(seeds)
        }
        best[name] = sorted(means, key=lambda rate: -means[rate])[:count]
    return best


def run_rates(storage: str) -> None:
    """The first stage: which rate each update is run at."""
    for name in UPDATES:
        sweep(storage, RATES_OF, name, RATES, FIRST, LENGTHS[0])
    for name, rates in best_rates(kept(RATES_OF), FIRST, 2).items():
        sweep(storage, RATES_OF, name, rates, SECOND, LENGTHS[0])


def run_finals(storage: str) -> None:
    """The last stage, at those rates; the short trials at a constant rate are the beginnings of the long ones."""
    for name, rates in best_rates(kept(RATES_OF), FIRST + SECOND, 1).items():
        for texts in LENGTHS if "schedule" in UPDATES[name] else LENGTHS[-1:]:
            sweep(storage, FINALS, name, rates, FINAL, texts)


def table(found: Sequence[End]) -> list[str]:
    """Lines of Markdown, a row a setting."""
    lines = [
        "| update | rate | texts | seeds | J | raw reward | KL, nats a text | variety | collapsed |",
        "|---|---:|---:|---:|---|---|---|---|---:|",
    ]
    for name in UPDATES:
        of_update = [end for end in found if end.update == name]
        for (rate, texts), group in itertools.groupby(of_update, key=lambda end: (end.rate, end.texts)):
            seeds = list(group)
            cells = [interval([getattr(end, column) for end in seeds]) for column in ("j", "raw", "kl")]
            variety = statistics.mean(end.variety for end in seeds)
            collapsed = sum(end.collapsed for end in seeds)
            lines.append(
                f"| {name} | {rate:g} | {texts:,} | {len(seeds)} | {' | '.join(cells)} | {variety:.3f} "
                f"| {collapsed} of {len(seeds)} |"
            )
    return lines


def main(arguments: list[str]) -> None:
    """A stage, or the table."""
    match arguments:
        case ["rates", storage]:
            run_rates(storage)
        case ["finals", storage]:
            run_finals(storage)
        case ["table"]:
            parts = ["# What each change of the update does, at beta 100"]
            for stage, title in ((FINALS, "At the best rates, seeds 100 to 104"), (RATES_OF, "The choice of rates")):
                parts += ["", f"### {title}", "", *table(kept(stage))]
            (RESULTS / "ablation.md").write_text("\n".join(parts) + "\n", encoding="utf-8")
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
