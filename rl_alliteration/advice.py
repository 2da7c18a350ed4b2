"""Commands that people are told to try."""

from __future__ import annotations

import shlex

from rl_alliteration.config import SHIPPED_MODELS

_NAME = 57  # of an experiment's 64 characters, so that there is room for what is added


def search_command(
    storage: str,
    experiment: str,
    betas: tuple[float, float] | None,
    reward: str = "alliteration",
    model: str = SHIPPED_MODELS[0],
) -> str:
    """A search beside an experiment, as one types it; the preset `frontier` where no betas are given."""
    words = ["rl-alliteration", "search", "--storage", storage, "--experiment", f"{experiment[:_NAME]}_search"]
    words += ["--preset", "frontier"] if betas is None else ["--beta", *(f"{beta:g}" for beta in betas)]
    words += ["--model", model] if model != SHIPPED_MODELS[0] else []
    words += ["--reward", reward] if reward != "alliteration" else []
    return shlex.join(words)
