"""A model's weights without transformers' code for its kind, whose import takes longer than reading them."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rl_alliteration.lm.architectures import describe
from rl_alliteration.lm.checks import not_finite
from rl_alliteration.lm.description import Parameters, Unsupported
from rl_alliteration.lm.known import PlainConfig

FILE, GENERATION = "model.safetensors", "generation_config.json"


class Weights(torch.nn.Module):
    """Parameters under transformers' names for them, and the configuration: all that a description needs."""

    def __init__(
        self, config: Any, parameters: Mapping[str, Tensor], generation: Mapping[str, Any] | None = None
    ) -> None:
        """`parameters`: by dotted name; a tied one once. `generation`: of generation_config.json."""
        super().__init__()
        self.config = config
        self.generation = None if generation is None else dict(generation)
        for name, value in parameters.items():
            *modules, last = name.split(".")
            inner: torch.nn.Module = self
            for module in modules:
                if module not in inner._modules:
                    inner.add_module(module, torch.nn.Module())
                inner = inner.get_submodule(module)
            inner.register_parameter(last, torch.nn.Parameter(value))

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""
        return next(self.parameters()).dtype

    def save_pretrained(self, folder: Path | str, **options: Any) -> None:
        """As transformers saves it."""
        as_transformers(self).save_pretrained(folder, **options)


def as_transformers(model: Any) -> Any:
    """A copy of a model that transformers' own code runs."""
    if not isinstance(model, Weights):
        return copy.deepcopy(model)
    from transformers import AutoModelForCausalLM, GenerationConfig

    known = model.config
    config = known.in_transformers() if isinstance(known, PlainConfig) else copy.deepcopy(known)
    plain: Any = AutoModelForCausalLM.from_config(config, dtype=model.dtype).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            plain.get_parameter(name).requires_grad_(parameter.requires_grad).copy_(parameter)
    if model.generation is not None:
        plain.generation_config = GenerationConfig.from_dict(copy.deepcopy(model.generation))
    return plain.to(next(model.parameters()).device)


def copy_in(model: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """A frozen copy of a model on a device with its matrices in `dtype`; its vectors, of norms and biases, stay."""
    memo: dict[int, Any] = {
        id(parameter): torch.nn.Parameter(
            parameter.detach().to(device, dtype if parameter.ndim > 1 else parameter.dtype, copy=True),
            requires_grad=False,
        )
        for parameter in model.parameters()
    }
    return copy.deepcopy(model, memo).to(device)


def read_weights(folder: Path, config: Any) -> Weights | None:
    """A model that has a description, from one safetensors file with just its weights, as float32.

    Returns:
        None if it is anything else, or anything is wrong with it: transformers then tells what.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(folder / FILE)
        parameters = Parameters({name: tensor.float() for name, tensor in tensors.items()})
        describe(config, parameters)
        generation = json.loads((folder / GENERATION).read_text("utf-8")) if (folder / GENERATION).exists() else None
        copies = {name: tensor.clone() for name, tensor in parameters.taken.items()}  # each with its own alignment
        weights = Weights(config, copies, generation)
    except (OSError, SafetensorError, Unsupported, AttributeError, TypeError, ValueError, RecursionError):
        return None
    return weights.eval() if not_finite(weights) is None else None
