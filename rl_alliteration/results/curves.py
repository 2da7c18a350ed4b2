"""What is drawn of a trial while it runs, by name and group: in TensorBoard, and in whatever `--log-to` names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TEXTS = {
    "raw_reward": "reward/raw_reward",
    "reward": "reward/reward",
    "kl_penalty": "kl/kl_penalty",
    "scaled_kl_penalty": "kl/scaled_kl_penalty",
    "lm_cross_entropy": "kl/lm_cross_entropy",
    "original_lm_cross_entropy": "kl/original_lm_cross_entropy",
    "advantage": "optim/advantage",
}
"""Of a text, by column."""

UPDATES = {
    "loss": "optim/loss",
    "grad_norm": "optim/grad_norm",
    "entropy": "diversity/entropy",
    "kl_k3": "kl/kl_k3",
    "sampler_gap": "optim/sampler_gap",
}
"""Of an update, by column."""

WINDOWS = {"variety": "diversity/variety", "repetition": "diversity/repetition"}
"""Of 100 texts, by metric; at the last of them."""

LOGGED = {"beta": "kl/beta", "learning_rate": "optim/learning_rate"}
"""Of what a step logs beside its columns; a reward's own numbers are `reward/NAME`."""

WORDS = {
    "kl/kl_penalty": "minus the KL divergence, nats a token: the study's sign, negative in the mean",
    "kl/scaled_kl_penalty": "beta times the KL penalty: minus the KL divergence in units of reward, negative in the "
    "mean",
    "diversity/variety": "1 − mean overlap of the word bigrams of each two of 100 texts",
    "diversity/repetition": "share of a text's word trigrams that occurred earlier in it, mean of 100 texts",
}
"""What is said beside the title of a chart."""

FIRST = ("reward/raw_reward", "kl/kl_penalty", "diversity/variety", "diversity/repetition", "reward/reward")
"""What a trial is judged by, the most important first."""

LAYOUT = {
    "The trade: reward for variety": FIRST,
    "KL divergence": ("kl/kl_k3", "kl/lm_cross_entropy", "kl/original_lm_cross_entropy", "kl/scaled_kl_penalty"),
    "The update": ("optim/loss", "optim/grad_norm", "diversity/entropy", "optim/advantage"),
}
"""Charts by section, the important ones first."""


def text_points(row: Mapping[str, Any]) -> dict[str, float]:
    """The points of one text."""
    values = {**row, "scaled_kl_penalty": row["beta"] * row["kl_penalty"]}
    return {tag: values[column] for column, tag in TEXTS.items()}


def update_points(row: Mapping[str, Any] | None) -> dict[str, float]:
    """The points of one update; none of the original."""
    return {} if row is None else {tag: row[column] for column, tag in UPDATES.items()}


def logged_points(logged: Mapping[str, float]) -> dict[str, float]:
    """The points of what a step logs beside its columns."""
    return {LOGGED.get(name, f"reward/{name}"): value for name, value in logged.items()}
