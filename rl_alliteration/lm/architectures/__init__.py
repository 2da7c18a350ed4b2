"""The architectures that have code of their own here, by transformers' `model_type`."""

from __future__ import annotations

from typing import Any

from rl_alliteration.lm.architectures.gpt_neo import GPTNeoForward
from rl_alliteration.lm.forward import Architecture

ARCHITECTURES: dict[str, Architecture] = {
    "gpt_neo": Architecture(GPTNeoForward, GPTNeoForward.unsupported),
}


def architecture_of(model: Any) -> Architecture | None:
    """Whose code a transformers model goes through; None: transformers' own, see `generic`."""
    found = ARCHITECTURES.get(model.config.model_type)
    return None if found is None or found.unsupported(model.config) is not None else found
