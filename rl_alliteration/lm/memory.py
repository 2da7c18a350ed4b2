"""How much memory a trial takes, before it does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rl_alliteration.config import ORIGINAL, TrialConfig
from rl_alliteration.lm.architectures import describe
from rl_alliteration.lm.description import Description, Parameters, Unsupported
from rl_alliteration.lm.sampling import MOST_LOGITS

_PROCESS = 500 * 2**20
"""Of a trial's process before it has a model: PyTorch, Ray, transformers (measured)."""
_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2}
_GRAPH = 3
"""What scoring a text anew keeps for its gradients, as a multiple of what decoding would have kept (measured)."""
_KEPT_BY = {"adamw": 2}
"""Copies of the weights that an optimizer keeps; SGD with momentum keeps one."""


def step_bytes(model: Any, config: TrialConfig) -> int | None:
    """About the most bytes of a trial on a CPU: of a step whose texts are all as long as they may be.

    SmolLM2-135M with 10 texts of 100 tokens in float32: 2.9 GiB by this and measured.

    Returns:
        None for a model that has no description.
    """
    try:
        description = describe(model.config, Parameters.of(model))
    except Unsupported:
        return None
    parameters: int = sum(parameter.numel() for parameter in model.parameters())
    products, weights = _BYTES[config.dtype], _BYTES["float32"]
    trains = config.algorithm != ORIGINAL
    length, vocabulary = config.max_length, description.head.shape[0]
    kept = _BYTES[config.reference_dtype] if trains else weights
    standing = parameters * (weights + kept)
    if trains:
        standing += parameters * weights * _KEPT_BY.get(config.optimizer, int(config.momentum > 0))
    at_once = config.micro_batch or config.group_size
    of_reference = min(at_once * length * vocabulary, max(MOST_LOGITS, length * vocabulary)) * products
    if config.kl == "exact":
        of_reference += at_once * length * vocabulary * weights
    decoding = parameters * products  # the weights as decoding wants them; gradients come later
    if not trains:
        return _PROCESS + standing + decoding + of_reference
    of_token = _per_token(description, products, weights) + vocabulary * products
    gradients = parameters * weights
    if products < weights:
        gradients += parameters * products  # the rounded weights, for the backward pass
    if config.micro_batch:
        gradients += at_once * length * of_token * _GRAPH
        return _PROCESS + standing + max(decoding, gradients) + of_reference
    # What decoding keeps is freed by the backward pass, layer by layer, while the gradients come.
    record = at_once * length * of_token
    return _PROCESS + standing + max(decoding + record + of_reference, gradients + record // 2)


def _per_token(description: Description, products: int, stream: int) -> int:
    """Bytes that decoding keeps of a token, the logits aside, see `Activations`."""
    width = description.head.shape[1]
    attention = (description.all_heads + description.heads) * description.head_width + description.heads
    hidden = description.blocks[0].expand.shape[0]
    return len(description.blocks) * ((attention + 2 * width) * stream + hidden * products)


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
