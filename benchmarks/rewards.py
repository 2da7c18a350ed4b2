"""Which letters alliterate under `rare_alliteration`? Both rewards, same betas and seeds, at equal KL divergence.

python benchmarks/rewards.py --storage FOLDER       runs what is missing; table and figure under benchmarks/results/
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import tyro

from rl_alliteration.analysis.letters import entropy_by_kl
from rl_alliteration.analysis.measure import measure
from rl_alliteration.report.base import Shown
from rl_alliteration.report.drawing import save_png
from rl_alliteration.report.figures import letters
from rl_alliteration.results.reader import connect
from rl_alliteration.results.storage import open_storage

RESULTS = Path(__file__).parent / "results"
REWARDS = ("alliteration", "rare_alliteration")


@dataclasses.dataclass(frozen=True)
class Rewards:
    """Letters under two rewards."""

    storage: str
    betas: tuple[float, ...] = (10.0, 40.0)
    seeds: tuple[int, ...] = (100, 101, 102, 103, 104)
    texts: int = 2700


def main() -> None:
    """Run the sweeps, then write table and figures."""
    asked = tyro.cli(Rewards)
    for reward in REWARDS:
        command = [sys.executable, "-m", "rl_alliteration.cli", "sweep", "--storage", asked.storage]
        command += ["--experiment", f"letters-{reward.replace('_', '-')}", "--reward", reward]
        command += ["--beta", *map(str, asked.betas), "--seed", *map(str, asked.seeds)]
        command += ["--max-generations", str(asked.texts), "--checkpoint-every", "900"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    analysis = measure(connect(open_storage(asked.storage)))
    found = {
        reward: entropy_by_kl([trial for trial in analysis.trained if trial.reward_function == reward])
        for reward in REWARDS
    }
    lines = [
        "# Entropy of alliterating initials, nats, at equal KL divergence from the original model",
        "",
        f"`python benchmarks/rewards.py --storage FOLDER`: RLOO, shipped model, beta "
        f"{', '.join(f'{beta:g}' for beta in asked.betas)}, seeds {asked.seeds[0]} to {asked.seeds[-1]}, "
        f"{asked.texts:,} texts each. Interquartile mean over trials, 95% bootstrap interval.",
        "",
        f"| KL divergence, nats a token | {' | '.join(REWARDS)} | apart |",
        "|---|---|---|---|",
    ]
    for name in found["alliteration"]:
        plain, rare = (found[reward][name] for reward in REWARDS)
        lines.append(f"| {name} | {plain} | {rare} | {'yes' if rare.low > plain.high else 'no'} |")
    table = "\n".join(lines) + "\n"
    print(table)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "letters.md").write_text(table)
    shown = Shown(analysis)
    figures = [*letters.by_kl(shown), *(letters.by_beta(shown, reward) for reward in REWARDS)]
    for path in save_png(figures, RESULTS):
        print(path)


if __name__ == "__main__":
    main()
