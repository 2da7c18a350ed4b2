"""Matrix products on CPUs by oneDNN, where PyTorch would take MKL.

PyTorch takes MKL for float32, which on AMD processors runs at less than half of oneDNN's speed (measured: 100
against 230 GFLOP/s a core on an EPYC with AVX-512); on Intel the two are alike. The numbers are exact float32
sums in both, in another order. N rows, C and D widths.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Packed = Callable[[Tensor], Tensor]

_FEW_ROWS = 4  # below it a product is bound by memory, and MKL has less overhead


@functools.cache
def available() -> bool:
    """Whether this build of PyTorch can, and gets it right: the operator is its own compiler's, not public."""
    try:
        x, weight = torch.ones(8, 16), torch.full((24, 16), 0.5)
        return bool(torch.allclose(_product(x, weight, None), F.linear(x, weight)))
    except (AttributeError, RuntimeError, NotImplementedError):
        return False


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`, (…, C) and (D, C) → (…, D); differentiable."""
    rows = x.shape[:-1].numel()
    if x.device.type != "cpu" or x.dtype != torch.float32 or rows < _FEW_ROWS or not available():
        return F.linear(x, weight, bias)
    product: Tensor = _Linear.apply(x.reshape(rows, -1), weight, bias)
    return product.view(*x.shape[:-1], -1)


def pack(weight: Tensor, bias: Tensor | None, rows: int, *, gelu: bool = False) -> Packed:
    """x → `F.linear(x, weight, bias)`, then the tanh GELU if asked for: for many products of `rows` rows.

    The weights are laid out anew for that, so that a later change of them does not show.
    """
    if weight.device.type == "cpu" and weight.dtype == torch.float32 and rows >= _FEW_ROWS and available():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        after = ("gelu", "tanh") if gelu else ("none", "")
        return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, bias, after[0], [], after[1])
    if gelu:
        return lambda x: F.gelu(F.linear(x, weight, bias), approximate="tanh")
    return lambda x: F.linear(x, weight, bias)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


class _Linear(torch.autograd.Function):
    """`F.linear` on two-dimensional float32 tensors."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        x, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        return (
            _product(gradient, weight.t(), None),
            _product(gradient.t(), x.t(), None),
            gradient.sum(0) if ctx.has_bias else None,
        )
