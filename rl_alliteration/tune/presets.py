"""Experiments with their values: the study's, and `efficient`, whose update is not the study's."""

from __future__ import annotations

import dataclasses

from rl_alliteration.flags import STUDYS_UPDATE, UpdateSettings

MAX_GENERATIONS = 3600
CHECKPOINT_EVERY = 600


@dataclasses.dataclass(frozen=True)
class Preset:
    """An experiment with its values; the `storyteller_` ones serve a shipped model where it needs others."""

    algorithm: tuple[str, ...]
    beta: tuple[float, ...]
    seed: tuple[int, ...] = (0,)
    reward: str = "alliteration"
    max_generations: int = MAX_GENERATIONS
    storyteller_max_generations: int | None = None
    """Of every shipped model."""
    storyteller_learning_rate: float | None = None
    """Of `storyteller` itself."""
    checkpoint_every: int = CHECKPOINT_EVERY
    update: UpdateSettings = STUDYS_UPDATE
    group_size: tuple[int, ...] = ()
    """Of none, the algorithm's."""
    beside: tuple[Preset, ...] = ()
    """Sweeps of their own in the same command, with the same original; flags change each of them as they change the
    preset. One is left out where --algorithm asks for none of its own."""


STUDY_SEEDS = (100, 101, 102, 103, 104)
"""Of the study's one reported run; lengths and learning rates were chosen on seeds 0 to 4."""

_EFFICIENT = Preset(  # not the study's update: one that spends fewer nats on the same reward
    ("rloo",), (100.0,), max_generations=14_400, storyteller_learning_rate=3e-3, group_size=(20,),
    update=UpdateSettings(credit="to-go", kl="exact", schedule="linear"),
)  # fmt: skip

PRESETS: dict[str, Preset] = {
    "quickstart": Preset(
        ("rloo", "reinforce"), (0.0, 100.0), max_generations=1200,
        storyteller_learning_rate=1.5e-3, checkpoint_every=200,
        beside=(dataclasses.replace(_EFFICIENT, max_generations=1200, checkpoint_every=200),),
    ),
    "reinforce_vs_rloo": Preset(
        ("reinforce", "rloo"), (0.0,), (0, 1), "a_words",
        max_generations=1000, storyteller_max_generations=2500, checkpoint_every=500,
    ),
    "no_kl": Preset(("rloo",), (0.0,), max_generations=1800),
    "beta_coarse": Preset(("rloo",), (0.0, 0.01, 0.1, 1.0, 10.0, 100.0)),
    "beta_fine": Preset(("rloo",), (20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0)),
    "beta_extended": Preset(("rloo",), (40.0,), max_generations=8000),
    "study_a_words": Preset(
        ("reinforce", "rloo"), (0.0,), STUDY_SEEDS, "a_words",
        max_generations=1200, storyteller_max_generations=3000, checkpoint_every=500,
    ),
    "study_betas": Preset(
        ("rloo",), (0.0, 0.01, 0.1, 1.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 100.0), STUDY_SEEDS,
        storyteller_max_generations=2700, checkpoint_every=900,
    ),
    "efficient": _EFFICIENT,
}  # fmt: skip
