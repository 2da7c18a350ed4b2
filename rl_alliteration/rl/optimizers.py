"""Optimizers, and their state as named tensors for a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def make_optimizer(name: str, model: Any, rate: float, momentum: float = 0.0) -> torch.optim.Optimizer:
    """`sgd` or `adamw` for a model's parameters. AdamW has PyTorch's constants, and no weight decay: it would pull
    towards 0, not towards the reference."""
    if name == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    return torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum)


def optimizer_state(optimizer: torch.optim.Optimizer, model: Any) -> dict[str, Tensor]:
    """Its state on the CPU, by `WHAT/PARAMETER`; nothing for plain SGD, or before the first step."""
    return {
        f"{what}/{name}": value.detach().cpu().contiguous().clone()
        for name, parameter in model.named_parameters()
        for what, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def load_optimizer_state(optimizer: torch.optim.Optimizer, model: Any, state: Mapping[str, Tensor]) -> None:
    """The inverse of `optimizer_state`.

    Raises:
        ValueError: it is the state of another optimizer or another model.
    """
    optimizer.state.clear()
    kinds = _kinds(optimizer)
    parameters = dict(model.named_parameters())
    named = {key.partition("/")[2] for key in state}
    if state.keys() != {f"{kind}/{name}" for kind in kinds for name in named} or bool(state) != bool(kinds):
        raise ValueError(f"the optimizer's state is not one of {', '.join(kinds) or 'nothing'}")
    for key, value in state.items():
        kind, _, name = key.partition("/")
        if name not in parameters or value.shape != (() if kind == "step" else parameters[name].shape):
            raise ValueError("the optimizer's state is another model's")
        # PyTorch keeps a count of steps on the CPU.
        kept = value.clone() if kind == "step" else value.to(parameters[name], copy=True)
        optimizer.state[parameters[name]][kind] = kept


def _kinds(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """What it keeps of each parameter."""
    if isinstance(optimizer, torch.optim.AdamW):
        return "step", "exp_avg", "exp_avg_sq"
    return ("momentum_buffer",) if optimizer.param_groups[0]["momentum"] else ()
