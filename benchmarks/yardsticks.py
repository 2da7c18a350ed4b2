"""What the unmodified model's texts and the study's windows say without training: the tables of docs/yardsticks.md.

python benchmarks/yardsticks.py sample FILE 20000    texts of the shipped model before RL, a line of JSON each
python benchmarks/yardsticks.py draw FILE            with benchmarks/results/study.json.gz → yardsticks.md beside it
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from study import SUMMARY, load

from rl_alliteration.analysis.best_of_n import BestOfN, kl_bound, weighted_variety
from rl_alliteration.analysis.diversity import repetitions
from rl_alliteration.analysis.envelope import EnvelopeWindow, envelope
from rl_alliteration.analysis.rules import SENSE_NATS
from rl_alliteration.analysis.seeds import Estimate
from rl_alliteration.analysis.tilted import at_least, optimum, tilt
from rl_alliteration.analysis.words import Words
from rl_alliteration.analysis.worth import envelope_windows

RESULTS = Path(__file__).parent / "results"
COLUMNS = ("text", "raw_reward", "num_tokens", "original_lm_cross_entropy")
OF_THE_STUDY = 1000
"""Texts that the study's `original` has: the first ones."""


def sample(path: Path, texts: int) -> None:
    """Write texts of the shipped model, as the trial `original` samples them."""
    import torch

    from rl_alliteration.lm.loading import load_model
    from rl_alliteration.rl.rewards import get_reward
    from rl_alliteration.rl.trainer import Trainer
    from rl_alliteration.tune.plan import Sweep, plan, resolve

    torch.set_num_threads(1)
    loaded = load_model("storyteller")
    config = plan(resolve(Sweep(storage="unused", experiment="original", beta=(40.0,))), loaded)[0].config
    trainer = Trainer(config, loaded, get_reward("alliteration"), None)
    with open(path, "w", encoding="utf-8") as file:
        while trainer.generation < texts:
            for row in trainer.step().texts:
                file.write(json.dumps({name: row[name] for name in COLUMNS}) + "\n")


def best_of_n(rows: list[dict[str, Any]]) -> list[str]:
    """Rows of a table over n."""
    texts = [row["text"] for row in rows]
    best = BestOfN([row["raw_reward"] for row in rows])
    repetition = repetitions(Words.of(texts))
    cross_entropy = [row["original_lm_cross_entropy"] for row in rows]
    lines = [
        "| n | raw reward | KL at most, nats a text | variety | repetition | cross-entropy, nats a token |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    for n in (1, 2, 4, 16, 64, 256):
        means = f"{best.mean(n, repetition).value:.3f} | {best.mean(n, cross_entropy).value:.2f}"
        seen = f"{_words(best.mean(n))} | {kl_bound(n):.2f} | {weighted_variety(texts, best.weights(n)):.2f}"
        lines.append(f"| {n} | {seen} | {means} |")
    return lines


def optima(rows: list[dict[str, Any]]) -> list[str]:
    """Rows of a table over beta."""
    raw = np.array([row["raw_reward"] for row in rows])
    tokens = np.array([row["num_tokens"] for row in rows]) - 1
    nothing = BestOfN(raw).mean(1)
    lines = [
        "| beta | effective sample | J* | its raw reward | its KL, nats a text | J* at least | J0 |",
        "|---:|---:|---|---|---|---:|---|",
    ]
    for beta in (60, 80, 100, 150, 200, 300, 400, 600, 1000):
        found = optimum(raw, tokens, beta)
        told = "– | – | –" if found is None else " | ".join(map(_words, (found.objective, found.raw, found.kl)))
        sample = f"{tilt(raw, tokens, beta).effective_sample:,.0f}"
        bound = at_least(raw, tokens, beta)
        told += f" | {bound:.1f}" if bound > nothing.high else " | J0"
        lines.append(f"| {beta} | {sample} | {told} | {_words(nothing)} |")
    return lines


def of_the_study(rows: list[dict[str, Any]]) -> list[str]:
    """Rows of a table over beta, and a line on the transition."""
    windows = _windows()
    nothing = BestOfN([row["raw_reward"] for row in rows[:OF_THE_STUDY]]).mean(1)
    found = envelope(windows, nothing, np.arange(0.0, 121.0))
    lines = [
        "| beta | J of the best window | its raw reward, variety | beside it | collapsed | not collapsed | J0 |",
        "|---:|---:|---|---:|---:|---:|---|",
    ]
    for point in found.points[::10]:
        best = "doing nothing" if point.best is None else f"{point.best.raw:.1f}, {point.best.variety:.2f}"
        numbers = f"{point.beside:.1f} | {point.collapsed:.1f} | {point.varied:.1f}"
        lines.append(f"| {point.beta:g} | {point.objective:.1f} | {best} | {numbers} | {_words(nothing)} |")
    answers = ", ".join(f"{beta:g}" for beta in found.answers) or "none"
    transition = f"{found.transition.value:.0f} [{found.transition.low:.0f}, {found.transition.high:.0f}]"
    return [*lines, "", f"Transition at beta {transition}, of {len(windows):,} windows. Betas answered: {answers}."]


def _windows() -> list[EnvelopeWindow]:
    trials = [trial for trial in load(SUMMARY).trained if trial.reward_function == "alliteration" and trial.original]
    return [one for trial in trials for one in envelope_windows(trial, f"{trial.algorithm} {trial.beta:g}", SENSE_NATS)]


def _words(found: Estimate) -> str:
    interval = "" if np.isnan(found.low) else f" [{found.low:.2f}, {found.high:.2f}]"
    return f"{found.value:.2f}{interval}"


def draw(path: Path) -> None:
    """Write the tables."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    parts = ["# Yardsticks of the shipped model"]
    for count in (OF_THE_STUDY, len(rows)):
        parts += ["", f"### Best-of-n, {count:,} texts", "", *best_of_n(rows[:count])]
    for count in (OF_THE_STUDY, len(rows)):
        parts += ["", f"### The optimum, {count:,} texts", "", *optima(rows[:count])]
    parts += ["", "### The study's run", "", *of_the_study(rows)]
    (RESULTS / "yardsticks.md").write_text("\n".join(parts) + "\n", encoding="utf-8")
    print(RESULTS / "yardsticks.md")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["sample", file, texts]:
            sample(Path(file), int(texts))
        case ["draw", file]:
            draw(Path(file))
        case _:
            sys.exit(__doc__)
