"""The norm by the root of the mean square (arXiv 1910.07467), with its gradient in few passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """x / √(mean x² + ε) · weight over the last dimension, (…, C) → (…, C); differentiable once.

    PyTorch's own takes three times as long, both ways, on a CPU (measured: 1.9 ms for (1000, 576), 0.6 ms here).
    """
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        norm: Tensor = _RMSNorm.apply(x, weight, epsilon)  # type: ignore[no-untyped-call]  # PyTorch's
        return norm
    return x * _factor(x, epsilon) * weight


def _factor(x: Tensor, epsilon: float) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return length.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()


class _RMSNorm(torch.autograd.Function):
    """See `rms_norm`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        factor = _factor(x, epsilon)
        ctx.save_for_backward(x, factor, weight)  # what is computed again takes a pass, to keep it takes memory
        return x * factor * weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, factor, weight = ctx.saved_tensors
        normalised = x * factor
        product = gradient * normalised
        along = (product @ weight).div_(-len(weight)).unsqueeze(-1)
        of_x = torch.mul(normalised, along).addcmul_(gradient, weight).mul_(factor)
        return of_x, product.flatten(0, -2).sum(0), None
