"""Optimizers, and their state as named tensors for a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


class SGD:
    """Plain gradient descent, which keeps no state: the numbers of PyTorch's own.

    That one brings PyTorch's compiler into the process: a quarter of the time in which a trial starts.
    """

    def __init__(self, parameters: Iterable[Tensor], rate: float) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": list(parameters), "lr": rate, "momentum": 0.0}]
        self.state: dict[Tensor, dict[str, Any]] = {}

    @torch.no_grad()
    def step(self) -> None:
        """parameter − rate · gradient, where there is one."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.add_(parameter.grad, alpha=-group["lr"])

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None


Optimizer = SGD | torch.optim.Optimizer


def make_optimizer(name: str, model: Any, rate: float, momentum: float = 0.0) -> Optimizer:
    """`sgd` or `adamw` for a model's parameters. AdamW has PyTorch's constants, and no weight decay: it would pull
    towards 0, not towards the reference."""
    if name == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    if momentum:
        return torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum)
    return SGD(model.parameters(), rate)


def optimizer_state(optimizer: Optimizer, model: Any) -> dict[str, Tensor]:
    """Its state on the CPU, by `WHAT/PARAMETER`; nothing for plain SGD, or before the first step."""
    return {
        f"{what}/{name}": value.detach().cpu().contiguous().clone()
        for name, parameter in model.named_parameters()
        for what, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def load_optimizer_state(optimizer: Optimizer, model: Any, state: Mapping[str, Tensor]) -> None:
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


def _kinds(optimizer: Optimizer) -> tuple[str, ...]:
    """What it keeps of each parameter."""
    if isinstance(optimizer, torch.optim.AdamW):
        return "step", "exp_avg", "exp_avg_sq"
    return ("momentum_buffer",) if optimizer.param_groups[0]["momentum"] else ()
