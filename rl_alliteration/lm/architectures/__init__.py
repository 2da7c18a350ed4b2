"""The architectures that have a description here, by transformers' `model_type`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rl_alliteration.lm.architectures.gpt2 import gpt2
from rl_alliteration.lm.architectures.gpt_neo import gpt_neo
from rl_alliteration.lm.architectures.gpt_neox import gpt_neox
from rl_alliteration.lm.architectures.llama import gemma3, llama, mistral, qwen2, qwen3, smollm3
from rl_alliteration.lm.description import Description, Parameters, Unsupported

ARCHITECTURES: dict[str, Callable[[Any, Parameters], Description]] = {
    "gemma3_text": gemma3,
    "gpt2": gpt2,
    "gpt_neo": gpt_neo,
    "gpt_neox": gpt_neox,
    "llama": llama,
    "mistral": mistral,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "smollm3": smollm3,
}


def describe(config: Any, parameters: Parameters) -> Description:
    """A model with this configuration and these parameters, each of which it has a use for.

    Raises:
        Unsupported: no description can say what it is.
    """
    if config.model_type not in ARCHITECTURES:
        raise Unsupported(f"{config.model_type} has no description here")
    description = ARCHITECTURES[config.model_type](config, parameters)
    if parameters.untaken:
        raise Unsupported(f"it has other weights, such as {min(parameters.untaken)}")
    return description
