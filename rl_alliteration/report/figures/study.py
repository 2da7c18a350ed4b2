"""The study's figures: raw reward and KL penalty over time, REINFORCE against RLOO, the extended run."""

from __future__ import annotations

from rl_alliteration.report.base import (
    GENERATIONS,
    GOLD,
    Figure,
    Series,
    Shown,
    by_generation,
    curve,
    references,
    setting_of,
    settings_of,
    style_of,
    together,
)


def raw_reward(shown: Shown, reward: str) -> Figure:
    """Raw reward by generation."""
    return by_generation(
        shown, reward, "raw_reward", f"raw_reward_{reward}", f"Raw reward by generation, reward {reward}",
        f"Mean raw reward of {shown.analysis.window} texts. Thick: the interquartile mean over seeds; thin: each "
        "trial. A high reward does not say that the texts still vary or make sense: see variety and sense below.",
    )  # fmt: skip


def kl_penalty(shown: Shown, reward: str) -> Figure:
    """KL divergence by generation."""
    return by_generation(
        shown, reward, "kl_penalty", f"kl_penalty_{reward}", f"KL divergence by generation, reward {reward}",
        f"Log p of the policy minus that of the original model, nats per token, mean of {shown.analysis.window} texts. "
        "0: the policy is the original model.",
    )  # fmt: skip


def algorithms(shown: Shown, reward: str) -> Figure | None:
    """At the smallest beta that all algorithms have, or the smallest at all: each trial a line, as in the study."""
    trials = shown.trials(reward)
    names = list(dict.fromkeys(trial.algorithm for trial in trials))
    if len(names) < 2:
        return None
    betas = set.intersection(*({t.beta for t in trials if t.algorithm == name} for name in names))
    beta = min(betas or {trial.beta for trial in trials})
    series: list[Series] = []
    for trial in trials:
        if trial.beta == beta and trial.target_kl is None:
            name = trial.algorithm.upper() if trial.algorithm in ("reinforce", "rloo") else trial.algorithm
            first = name not in {one.group for one in series}
            x, y = curve(trial, "raw_reward")
            colour, dash, _ = style_of(trial.algorithm)
            series.append(Series(name if first else trial.name, x, y, colour, group=name, quiet=not first, dash=dash))
    return Figure(
        f"algorithms_{reward}", f"REINFORCE against RLOO, reward {reward}",
        f"Raw reward at beta {beta:g}, means of ten texts; each line is a seed. REINFORCE weighs a text by its reward, "
        "RLOO by how far that is above the rest of its group.",
        GENERATIONS, "Raw reward", series, references(trials, "raw_reward"), digits=1,
    )  # fmt: skip


def extended(shown: Shown, reward: str) -> Figure | None:
    """Trials that were run further than most others, and where they collapse."""
    trials = shown.trials(reward)
    lengths = sorted(trial.max_generations for trial in trials)
    chosen = [trial for trial in trials if trial.max_generations > 1.5 * lengths[len(lengths) // 2]]
    if not chosen:
        return None
    colour = shown.colour
    series = []
    for trial in chosen:
        x, y = curve(trial, "raw_reward")
        series.append(Series(trial.name, x, y, colour(setting_of(trial)), group=trial.coefficient, faint=True))
    for setting, found in settings_of(chosen).items():
        series.append(together(found, "raw_reward", setting[1], colour(setting)))
        at = [(trial, trial.collapse) for trial in found if trial.collapse is not None]
        if at:
            heights = [float(trial.metrics["raw_reward"][trial.first == place][0]) for trial, place in at]
            series.append(
                Series(
                    "collapses", [float(place) for _, place in at], heights, GOLD, "points", star=True,
                    targets=[(trial.name, place) for trial, place in at],
                )
            )  # fmt: skip
    return Figure(
        f"extended_{reward}", f"The extended run, reward {reward}",
        "Trials that went on for longer than the others: raw reward, and where each collapses.",
        GENERATIONS, "Raw reward", series, references(trials, "raw_reward"), digits=1,
    )  # fmt: skip
