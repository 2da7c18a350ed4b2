"""What the preset `efficient` comes to, trial by trial: the table of docs/yardsticks.md.

    python benchmarks/efficient.py STORAGE [EXPERIMENT]    → benchmarks/results/efficient.md

The rules of the run, written before it:

Chosen on seeds 0 to 3 are the preset (credit, KL, schedule, group, rate), at beta 100, and the beta of a long trial:
the lowest of 103, 105 and 120 at which all four trials keep variety and sense over their last 300 texts. It is 105.

Then, on seeds 100 to 104, which nothing was chosen on, each trial reported and none run a second time:

    S="--storage STORAGE --seed 100 101 102 103 104 --original-texts 20000"
    python -m tune_jobs.efficient $S --experiment efficient_betas --beta 10 20 30 60 80 100 --max-generations 3600
    python -m tune_jobs.efficient $S --experiment efficient_long --beta 105

The study's update at the same betas, seeds and 3,600 texts is `python -m tune_jobs.study`, of which
`benchmarks/results/study.json.gz` keeps the figures. A trial's end is its last 300 texts; an interval is a mean over
seeds with Student's t.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rl_alliteration import open_results

OUTPUT = Path(__file__).parent / "results" / "efficient.md"
AT_THE_END = 300
"""Texts that the figures of a trial's end are of."""

WINDOWS = f"""
    SELECT w.beta, w.seed, w.first_generation, w.raw_reward, w.kl_per_text, w.objective, w.nats_wasted, w.variety,
        w.repetition, w.original_lm_cross_entropy, w.keeps_variety AND w.keeps_sense AS kept, w.alliteration,
        w.first_generation >= t.generations - {AT_THE_END} AS at_the_end
    FROM windows w JOIN trials t USING (experiment, trial_id)
    WHERE w.algorithm <> 'original' AND t.status = 'finished'
"""
ENDS = f"""
    SELECT beta, seed, avg(raw_reward), avg(kl_per_text), avg(objective), avg(variety), avg(repetition), bool_and(kept)
    FROM ({WINDOWS}) WHERE at_the_end GROUP BY ALL ORDER BY ALL
"""
BEST = f"""
    SELECT beta, seed, arg_max(raw_reward, alliteration), arg_max(kl_per_text, alliteration),
        arg_max(objective, alliteration), arg_max(variety, alliteration), arg_max(repetition, alliteration),
        arg_max(first_generation, alliteration) FROM ({WINDOWS}) WHERE kept GROUP BY ALL ORDER BY ALL
"""
ORIGINAL = """
    SELECT avg(raw_reward), avg(variety), avg(repetition) FROM windows WHERE algorithm = 'original'
"""
HEAD = "| beta | seed | raw reward | KL, nats a text | J | variety | repetition |"


def table(storage: str, experiment: str) -> str:
    """As Markdown."""
    results = open_results(storage, experiment)

    def rows(sql: str) -> list[tuple[object, ...]]:
        return [tuple(row.values()) for row in results.query(sql).to_pylist()]

    ((j0, variety, repetition),) = rows(ORIGINAL)
    lines = [
        "# The preset `efficient` on the shipped model",
        "",
        f"The unmodified model: raw reward, and so J0, {j0:.2f}; variety {variety:.3f}; repetition {repetition:.4f}.",
        "",
        f"### At the end, the last {AT_THE_END} texts",
        "",
        f"{HEAD} keeps variety and sense |",
        "|---:|---:|---:|---:|---:|---:|---:|---|",
        *(f"{_cells(*row[:7])} {'yes' if row[7] else 'no'} |" for row in rows(ENDS)),
        "",
        "### The window of 100 texts that alliterates most, of those that keep variety and sense",
        "",
        f"{HEAD} from text |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
        *(f"{_cells(*row[:7])} {row[7]:,} |" for row in rows(BEST)),
    ]
    return "\n".join(lines) + "\n"


def _cells(
    beta: object, seed: object, reward: object, kl: object, objective: object, variety: object, repetition: object
) -> str:
    return f"| {beta:g} | {seed} | {reward:.1f} | {kl:.1f} | {objective:.1f} | {variety:.3f} | {repetition:.4f} |"


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    OUTPUT.write_text(table(sys.argv[1], (sys.argv[2:] or ["efficient"])[0]), encoding="utf-8")
    print(OUTPUT)
