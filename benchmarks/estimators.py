"""Gradient estimators beside one another: the noise of each, and what a step takes.

    python benchmarks/estimators.py                    the table under benchmarks/results/

The shipped model, reward `alliteration`, groups of ten, one thread; the same groups for all. Noise: of the update's
ascent direction in units of the objective J = mean `reward`, that is divided by the group's size and without the
division by the greatest length, the root of the mean squared distance from its mean. Half of its square is what
twice the texts an update would give.
Times: processor time of whole steps, which other programs disturb less than that of the clock; medians, in turn.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import tyro
from torch import Tensor

from rl_alliteration.flags import CREDITS, KL_TERMS
from rl_alliteration.lm.loading import LoadedModel, load_model
from rl_alliteration.rl.advantages import get_algorithm
from rl_alliteration.rl.rewards import get_reward
from rl_alliteration.rl.trainer import Trainer
from rl_alliteration.rl.update import UpdateRule
from rl_alliteration.tune.plan import Sweep, plan, resolve

RESULTS = Path(__file__).parent / "results"
RULES = [UpdateRule(credit=credit, kl=kl) for credit in CREDITS for kl in KL_TERMS]


@dataclasses.dataclass(frozen=True)
class Estimators:
    """Noise and times of the gradient estimators."""

    beta: float = 100.0
    groups: int = 60
    """Of which gradients are compared."""
    trained: int = 600
    """Texts of the study's training before the second table."""
    repetitions: int = 30
    """Of whole steps, for the times."""


def main() -> None:
    """Print the tables and store them."""
    asked = tyro.cli(Estimators)
    torch.set_num_threads(1)
    loaded = load_model("storyteller")
    trainer = trainer_of(loaded, asked.beta, UpdateRule())
    while trainer.generation < asked.trained:
        trainer.step()
    untrained = trainer_of(loaded, asked.beta, UpdateRule())
    lines = [
        f"# Gradient estimators: shipped model, groups of 10, beta {asked.beta:g}",
        "",
        f"Noise over {asked.groups} groups. At generation 0 policy and reference are one: there is no KL, and its four "
        "terms have one gradient.",
        *_noise(loaded, asked, untrained, "At generation 0", RULES[:: len(KL_TERMS)]),
        *_noise(loaded, asked, trainer, f"After {asked.trained} texts of the study's training", RULES),
        *_times(loaded, asked),
    ]
    table = "\n".join(lines) + "\n"
    print(table)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "estimators.md").write_text(table, encoding="utf-8")


def trainer_of(loaded: LoadedModel, beta: float, rule: UpdateRule) -> Trainer:
    """Of a trial of the default sweep, with another rule."""
    sweep = resolve(Sweep(storage="unused", experiment="bench", beta=(beta,), max_generations=10))
    config = plan(sweep, loaded)[-1].config
    config = dataclasses.replace(config, **vars(rule))
    return Trainer(config, loaded, get_reward("alliteration"), get_algorithm("rloo"))


def _noise(loaded: LoadedModel, asked: Estimators, at: Trainer, where: str, rules: Sequence[UpdateRule]) -> list[str]:
    lines = ["", f"### {where}", "", "| credit | KL | noise | its square, of the study's |", "|---|---|---:|---:|"]
    weights, study = at.state().weights, 0.0
    for rule in rules:
        trainer = trainer_of(loaded, asked.beta, rule)
        trainer.load_state(weights, 0, {})
        trainer.optimizer.step = lambda: None  # type: ignore[method-assign]
        total, squares = torch.zeros(1, dtype=torch.float64), 0.0
        for _ in range(asked.groups):
            trainer.step()
            gradient = _direction(trainer)
            total, squares = total + gradient, squares + float(gradient.square().sum())
        variance = (squares - float(total.square().sum()) / asked.groups) / (asked.groups - 1)
        study = study or variance
        kl = rule.kl if len(rules) > len(CREDITS) else "any"
        lines.append(f"| {rule.credit} | {kl} | {variance**0.5:.0f} | {variance / study:.2f} |")
        print(lines[-1], flush=True)
    return lines


def _direction(trainer: Trainer) -> Tensor:
    scale = (trainer.config.max_length - 1) / trainer.config.group_size
    gradients = [p.grad.flatten() for p in trainer.policy.model.parameters() if p.grad is not None]
    return -scale * torch.cat(gradients).double()


def _times(loaded: LoadedModel, asked: Estimators) -> list[str]:
    rules = [*RULES, UpdateRule(credit="to-go", kl="exact", optimizer="adamw")]
    trainers = [trainer_of(loaded, asked.beta, rule) for rule in rules]
    for trainer in trainers:
        trainer.config = dataclasses.replace(trainer.config, learning_rate=1e-12)  # so that all have the same groups
    seconds: list[list[float]] = [[] for _ in rules]
    warm_up = 2
    for repetition in range(warm_up + asked.repetitions):
        for trainer, taken in zip(trainers, seconds, strict=True):
            started = time.process_time()
            trainer.step()
            if repetition >= warm_up:
                taken.append(time.process_time() - started)
    lines = ["", "### Processor time of a step", "", "| credit | KL | optimizer | ms | of the study's |"]
    lines.append("|---|---|---|---:|---:|")
    for rule, taken in zip(rules, seconds, strict=True):
        ratio = statistics.median(one / base for one, base in zip(taken, seconds[0], strict=True))
        milliseconds = 1000 * statistics.median(taken)
        lines.append(f"| {rule.credit} | {rule.kl} | {rule.optimizer} | {milliseconds:.0f} | {ratio:.3f} |")
    return lines


if __name__ == "__main__":
    main()
