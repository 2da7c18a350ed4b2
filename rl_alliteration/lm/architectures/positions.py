"""Rotary positions, as a configuration of transformers has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from rl_alliteration.lm.description import Rotary, Unsupported

_OF_ANY_LENGTH = ("default", "linear", "llama3", "yarn")
"""Kinds whose angles do not change with the length of a text."""


def rotary(config: Any, parameters: Mapping[str, Any], layer_type: str | None = None) -> Rotary:
    """Of a configuration and its `rope_parameters`, those of `layer_type` where it has several.

    Raises:
        Unsupported: the angles change with the length of a text, or their kind is not known.
    """
    kind = parameters["rope_type"]
    if kind not in _OF_ANY_LENGTH:
        raise Unsupported(f"its rope_type is {kind!r}, not one of {', '.join(_OF_ANY_LENGTH)}")
    if kind == "default":
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        turned = int(width * parameters.get("partial_rotary_factor", 1.0))
        frequencies = 1.0 / (parameters["rope_theta"] ** (torch.arange(0, turned, 2, dtype=torch.float32) / turned))
        return Rotary(tuple(frequencies.tolist()))
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    of_layer = {} if layer_type is None else {"layer_type": layer_type}
    frequencies, scaling = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), **of_layer)
    return Rotary(tuple(frequencies.tolist()), float(scaling))
