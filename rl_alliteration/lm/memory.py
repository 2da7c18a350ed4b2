"""How much memory a trial takes, before it does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rl_alliteration.lm.architectures import describe
from rl_alliteration.lm.description import Description, Parameters, Unsupported

_PROCESS = 500 * 2**20
"""Of a trial's process before it has a model: PyTorch, Ray, transformers (measured)."""
_NUMBER = 4
"""Bytes: weights and updates are float32."""


def step_bytes(model: Any, group: int, length: int) -> int | None:
    """About the most bytes of a trial on a CPU, in a step of a group of `group` texts of `length` tokens.

    SmolLM2-135M with 10 texts of 100 tokens: 3.0 GiB by this, 3.1 measured.

    Returns:
        None for a model that has no description.
    """
    try:
        description = describe(model.config, Parameters.of(model))
    except Unsupported:
        return None
    parameters = sum(parameter.numel() for parameter in model.parameters())
    copies = 3  # policy and reference; gradients, or before them the weights as decoding wants them
    vocabulary = description.head.shape[0]
    logits = 2 * vocabulary  # recorded ones, and the reference's
    numbers: int = copies * parameters + group * length * (_per_token(description) + logits)
    return _PROCESS + _NUMBER * numbers


def _per_token(description: Description) -> int:
    """Numbers that decoding keeps of a token, see `Activations`."""
    width = description.head.shape[1]
    attention = (description.all_heads + description.heads) * description.head_width + description.heads
    return len(description.blocks) * (attention + 2 * width + description.blocks[0].expand.shape[0])


def machine_bytes() -> int | None:
    """Memory of this machine, or what its container may use of it; None if it does not say."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(path).read_text("ascii")))
        except (OSError, ValueError):  # another system, or no limit
            continue
    return total
