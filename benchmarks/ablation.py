"""Which of the three changes of the preset `efficient` does what, at beta 100: the ablation.

    python benchmarks/ablation.py rates STORAGE     the first stage, about an hour on two cores
    python benchmarks/ablation.py finals STORAGE    the last one, about three hours
    python benchmarks/ablation.py table STORAGE     → benchmarks/results/ablation.md

The rules, written before any of it was run. The shipped model, beta 100, groups of 10 (the study's), five updates: the
study's, each change alone, and all three. Each at the best of its own rates, chosen on seeds 0 to 4: all rates on seeds
0 and 1, then the two best of these on seeds 2 to 4; best is the highest mean J over the last 300 of 3,600 texts. Then
seeds 100 to 104 for 3,600 and for 14,400 texts (a falling rate makes two trials of these, a constant one is extended);
every trial is reported, none is run a second time.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from efficient import interval

from rl_alliteration import Sweep, open_results, run
from rl_alliteration.analysis.types import FINAL_TEXTS

OUTPUT = Path(__file__).parent / "results" / "ablation.md"
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
RATES_OF, FINALS = "ablation_rates", "ablation_finals"
"""What the experiments of a stage begin with."""
Setting = tuple[str, float, int]
"""Update, rate, and texts of a trial."""


def sweep(
    storage: str, experiment: str, name: str, rates: tuple[float, ...], seeds: tuple[int, ...], texts: int
) -> None:
    """Run what is missing of one update's trials."""
    run(
        Sweep(
            storage=storage, experiment=experiment, beta=(BETA,), seed=seeds, learning_rate=rates, group_size=(GROUP,),
            max_generations=texts, original_texts=20_000, **UPDATES[name],
        )
    )  # fmt: skip


def ends(storage: str, stage: str) -> dict[Setting, dict[int, dict[str, float]]]:
    """By setting and seed: means over the last texts of a trial, and of one at a constant rate as it was shorter."""
    rows = open_results(storage).query(f"""
        SELECT t.config, texts, avg(w.objective) AS j, avg(w.raw_reward) AS raw, avg(w.kl_per_text) AS kl,
            avg(w.variety) AS variety, avg(w.repetition) AS repetition, bool_or(w.collapsed) AS collapsed
        FROM windows w JOIN trials t USING (experiment, trial_id), (SELECT unnest({list(LENGTHS)}) AS texts)
        WHERE w.algorithm <> 'original' AND t.status = 'finished' AND starts_with(experiment, '{stage}')
            AND (texts = t.generations OR texts < t.generations AND t.config ->> 'schedule' = 'constant')
            AND w.first_generation >= texts - {FINAL_TEXTS} AND w.last_generation < texts
        GROUP BY ALL
    """)
    found: dict[Setting, dict[int, dict[str, float]]] = defaultdict(dict)
    for row in rows.to_pylist():
        config = json.loads(row.pop("config"))
        changes = {name: (config[name],) for name in ("schedule", "credit", "kl")}
        study = {"schedule": ("constant",), "credit": ("text",), "kl": ("sampled",)}
        update = next(name for name, change in UPDATES.items() if {**study, **change} == changes)
        found[update, config["learning_rate"], row.pop("texts")][config["seed"]] = row
    return found


def best_rates(storage: str, seeds: tuple[int, ...], count: int) -> dict[str, list[float]]:
    """Of each update the rates with the highest mean J over these seeds, best first."""
    found = ends(storage, RATES_OF)
    best = {}
    for name in UPDATES:
        means = {
            rate: statistics.mean(by_seed[seed]["j"] for seed in seeds)
            for (update, rate, _), by_seed in found.items()
            if update == name and all(seed in by_seed for seed in seeds)
        }
        best[name] = sorted(means, key=lambda rate: -means[rate])[:count]
    return best


def run_rates(storage: str) -> None:
    """The first stage: which rate each update is run at."""
    for name in UPDATES:
        sweep(storage, RATES_OF, name, RATES, FIRST, LENGTHS[0])
    for name, rates in best_rates(storage, FIRST, 2).items():
        sweep(storage, RATES_OF, name, tuple(rates), SECOND, LENGTHS[0])


def run_finals(storage: str) -> None:
    """The last stage, at those rates."""
    for name, (rate,) in best_rates(storage, FIRST + SECOND, 1).items():
        for texts in LENGTHS if "schedule" in UPDATES[name] else LENGTHS[-1:]:
            sweep(storage, f"{FINALS}_{texts}", name, (rate,), FINAL, texts)


def table(storage: str, stage: str) -> list[str]:
    """Lines of Markdown, a row a setting."""
    lines = [
        "| update | rate | texts | seeds | J | raw reward | KL, nats a text | variety | collapsed |",
        "|---|---:|---:|---:|---|---|---|---|---:|",
    ]
    found = ends(storage, stage)
    for name in UPDATES:
        for (update, rate, texts), by_seed in sorted(found.items()):
            if update == name:
                cells = [interval([row[key] for row in by_seed.values()]) for key in ("j", "raw", "kl")]
                variety = statistics.mean(row["variety"] for row in by_seed.values())
                collapsed = sum(bool(row["collapsed"]) for row in by_seed.values())
                lines.append(
                    f"| {name} | {rate:g} | {texts:,} | {len(by_seed)} | {' | '.join(cells)} | {variety:.3f} "
                    f"| {collapsed} of {len(by_seed)} |"
                )
    return lines


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("rates", "finals", "table"):
        sys.exit(__doc__)
    if sys.argv[1] == "rates":
        run_rates(sys.argv[2])
    elif sys.argv[1] == "finals":
        run_finals(sys.argv[2])
    else:
        parts = ["# What each change of the update does, at beta 100"]
        for stage, title in ((FINALS, "At the best rates, seeds 100 to 104"), (RATES_OF, "The choice of rates")):
            parts += ["", f"### {title}", "", *table(sys.argv[2], stage)]
        OUTPUT.write_text("\n".join(parts) + "\n", encoding="utf-8")
        print(OUTPUT)
