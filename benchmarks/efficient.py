"""What the preset `efficient` comes to, beside the study's update: tables and figure of docs/yardsticks.md.

    python benchmarks/efficient.py keep STORAGE NAME    every window of its trials → benchmarks/results/NAME.json.gz
    python benchmarks/efficient.py draw                 those and study.json.gz → efficient.md, efficient.png

NAME is `efficient` for the run, `efficient-calibration` for what was chosen on.

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

import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import study

from rl_alliteration.analysis.measure import measure
from rl_alliteration.analysis.rules import collapsed, keeps_sense, keeps_variety
from rl_alliteration.analysis.seeds import student
from rl_alliteration.analysis.types import FINAL_TEXTS, Original, Trial
from rl_alliteration.results.reader import connect
from rl_alliteration.results.storage import open_storage

RESULTS = Path(__file__).parent / "results"
RUN, CALIBRATION = RESULTS / "efficient.json.gz", RESULTS / "efficient-calibration.json.gz"
SEEDS = range(100, 105)


def trials(path: Path, *, experiment: str = "", beta: float | None = None, first_seed: int = 0) -> list[Trial]:
    """Finished trials that `study.keep` kept, by beta and seed."""
    found = [
        trial
        for trial in study.load(path).trained
        if trial.generations == trial.max_generations
        and trial.experiment in (experiment, trial.experiment if not experiment else "")
        and trial.reward_function == "alliteration"
        and beta in (None, trial.beta)
        and trial.seed >= first_seed
    ]
    return sorted(found, key=lambda trial: (trial.beta, trial.seed))


def kept(trial: Trial) -> bool:
    """Whether each window of its end keeps variety and sense."""
    last = -(FINAL_TEXTS // trial.window)
    return bool((keeps_variety(trial) & keeps_sense(trial))[trial.full][last:].all())


def has_collapsed(trial: Trial) -> bool:
    """By its end."""
    return bool(collapsed(trial)[-1])


def interval(values: Sequence[float]) -> str:
    """Mean and, of several, its interval of 95% by Student's t."""
    return student(values).told(".1f")


def by_beta(found: Sequence[Trial], betas: Sequence[float]) -> list[str]:
    """A table of settings."""
    lines = [
        "| beta | seeds | J | raw reward | KL, nats a text | variety | collapsed | keep variety and sense |",
        "|---:|---:|---|---|---|---:|---:|---:|",
    ]
    for beta in betas:
        of_beta = [trial for trial in found if trial.beta == beta]
        if of_beta:
            cells = [interval([t.final(name) for t in of_beta]) for name in ("objective", "raw_reward", "kl_per_text")]
            counts = [f"{sum(map(holds, of_beta))} of {len(of_beta)}" for holds in (has_collapsed, kept)]
            variety = statistics.mean(trial.final("variety") for trial in of_beta)
            lines.append(f"| {beta:g} | {len(of_beta)} | {' | '.join([*cells, f'{variety:.2f}', *counts])} |")
    return lines


def by_trial(found: Sequence[Trial]) -> list[str]:
    """A table of trials."""
    names = ("raw_reward", "kl_per_text", "objective", "variety", "repetition")
    lines = [
        "| beta | seed | raw reward | KL, nats a text | J | variety | repetition | keeps variety and sense |",
        "|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for trial in found:
        reward, kl, objective, variety, repetition = (trial.final(name) for name in names)
        cells = f"{reward:.1f} | {kl:.1f} | {objective:.1f} | {variety:.3f} | {repetition:.4f}"
        lines.append(f"| {trial.beta:g} | {trial.seed} | {cells} | {'yes' if kept(trial) else 'no'} |")
    return lines


def at_reward(trial: Trial, reward: float) -> tuple[float, float]:
    """KL, nats a text, of the first full window with this raw reward, and least of all that have it; nan if none."""
    found = trial.metrics["kl_per_text"][(trial.metrics["raw_reward"] >= reward) & trial.full]
    return (float(found[0]), float(found.min())) if len(found) else (float("nan"), float("nan"))


def within(trial: Trial, nats: float) -> float:
    """Highest raw reward of a full window of at most so many nats a text."""
    low = (trial.metrics["kl_per_text"] <= nats) & trial.full
    return float(trial.metrics["raw_reward"][low].max()) if low.any() else float("nan")


def figures(run: Sequence[Trial], of_study: Sequence[Trial], original: Original) -> list[str]:
    """The figures that the run was made for, as items of a list."""
    j0 = original.metrics["objective"]
    lines = []
    betas = sorted({trial.beta for trial in run if trial.experiment == "efficient_betas"})
    short = [trial for trial in run if trial.experiment == "efficient_betas"]

    def of(found: Sequence[Trial], beta: float, number: Callable[[Trial], float]) -> list[float]:
        return [number(trial) for trial in found if trial.beta == beta]

    above = [beta for beta in betas if statistics.mean(of(short, beta, lambda t: t.final("objective"))) > j0]
    lines.append(f"- J above J0 ({j0:.2f}), the mean over seeds: {len(above)} of {len(betas)} betas")
    rewards = of(short, 100, lambda trial: within(trial, 2.0))
    lines.append(f"- beta 100, the best window of at most 2 nats a text: raw reward {interval(rewards)}")
    for beta in (60.0, 100.0):
        theirs = [trial for trial in of_study if trial.beta == beta]
        reward = statistics.mean(trial.final("raw_reward") for trial in theirs)
        cost = statistics.mean(trial.final("kl_per_text") for trial in theirs)
        first, least = (
            [100 * at_reward(trial, reward)[place] / cost for trial in short if trial.beta == beta] for place in (0, 1)
        )
        lines.append(
            f"- beta {beta:g}: the study's update ends with raw reward {reward:.1f} at {cost:.1f} nats a text; of that "
            f"KL the first window with as much reward has {interval(first)} %, the one with least {interval(least)} %"
        )
    long = [trial for trial in run if trial.experiment == "efficient_long"]
    if long:
        lines.append(
            f"- beta {long[0].beta:g} after {long[0].generations:,} texts: raw reward "
            f"{interval([trial.final('raw_reward') for trial in long])} at the end, "
            f"{sum(map(kept, long))} of {len(long)} keep variety and sense, "
            f"{sum(map(has_collapsed, long))} collapsed"
        )
    return lines


def draw() -> None:
    """Tables and figure."""
    run, of_study = trials(RUN), trials(study.SUMMARY, experiment="study_betas", first_seed=SEEDS[0])
    betas = sorted({trial.beta for trial in run if trial.experiment == "efficient_betas"})
    long = [trial for trial in run if trial.experiment == "efficient_long"]
    original = run[0].original
    assert original is not None
    j0, texts = original.metrics["objective"], of_study[0].generations
    lines = [
        "# The preset `efficient` on the shipped model",
        "",
        f"The unmodified model: J0 {j0:.2f}, variety {original.metrics['variety']:.2f}. Means over the last "
        f"{FINAL_TEXTS} texts of each trial, over seeds 100 to 104 with intervals of 95%.",
        "",
        "### `efficient`, 3,600 texts", "", *by_beta(run, betas), "",
        f"### The study's update, {texts:,} texts", "", *by_beta(of_study, betas), "",
        "### Figures", "", *figures(run, of_study, original), "",
        "### The long trials, beta 105, 14,400 texts", "", *by_trial(long), "",
        "### What beta 105 was chosen on", "", *by_trial(trials(CALIBRATION)),
    ]  # fmt: skip
    (RESULTS / "efficient.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    theirs = [trial for trial in of_study if trial.beta == 100]
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for found, color, name in (
        (theirs, "#d55e00", "the study's update, beta 100"),
        (long, "#0072b2", "efficient, beta 105"),
    ):
        for place, trial in enumerate(found):
            full = trial.full
            label = name if place == 0 else None
            axes[0].plot(
                trial.first[full] + trial.window, trial.metrics["raw_reward"][full], color=color, lw=1, label=label
            )
            axes[1].plot(trial.metrics["kl_per_text"][full], trial.metrics["raw_reward"][full], ".", ms=3, color=color)
    for axis in axes:
        axis.axhline(original.metrics["raw_reward"], color="#555555", ls="--", lw=1, label="the unmodified model")
        axis.set_ylabel("raw reward, alliterating pairs a text")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_xlabel("texts")
    axes[1].set_xlabel("KL divergence, nats a text")
    axes[0].legend(frameon=False)
    figure.savefig(RESULTS / "efficient.png", dpi=150)
    print(RESULTS / "efficient.md", RESULTS / "efficient.png")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["keep", storage, name]:
            study.keep(measure(connect(open_storage(storage))), RESULTS / f"{name}.json.gz")
        case ["draw"]:
            draw()
        case _:
            sys.exit(__doc__)
