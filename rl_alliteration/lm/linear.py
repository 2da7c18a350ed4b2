"""Matrix products in a chosen precision; on CPUs by oneDNN, where PyTorch would take MKL.

PyTorch takes MKL for float32, which on AMD processors runs at less than half of oneDNN's speed (measured: 100
against 230 GFLOP/s a core on an EPYC with AVX-512); on Intel the two are alike. The numbers are exact float32
sums in both, in another order. N rows, C and D widths.

The weights stay in float32; in bfloat16 each product rounds its two factors, sums in float32 and rounds its result.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_PIECE = 8192
_FEW_ROWS = 4  # below it a product is bound by memory, and MKL has less overhead


@functools.cache
def available(dtype: torch.dtype) -> bool:
    """Whether this build of PyTorch can, and gets it right: the operator is its own compiler's, not public."""
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    try:
        x, weight = torch.ones(8, 16, dtype=dtype), torch.full((24, 16), 0.5, dtype=dtype)
        return bool(torch.allclose(_onednn(x, weight, None), F.linear(x, weight)))
    except (AttributeError, RuntimeError, NotImplementedError):
        return False


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, dtype: torch.dtype | None = None, gelu: bool = False
) -> Tensor:
    """`F.linear` and, if asked for, the tanh GELU: (…, C) and (D, C) → (…, D) in `dtype`; differentiable.

    Args:
        x: any precision.
        weight: as kept; a gradient has its precision.
        bias: (D,).
        dtype: of the product; None: `x`'s own.
        gelu: apply the activation.
    """
    dtype = dtype or x.dtype
    rows = x.shape[:-1].numel()
    differentiable = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if _by_onednn(weight, dtype, rows):
        flat = x.reshape(rows, -1)
        fused = gelu and not differentiable
        with torch.no_grad():  # the operator has no gradient of its own
            product = _onednn(flat.to(dtype), weight.to(dtype), _to(bias, dtype), fused)
        if differentiable:
            product = known_linear(flat, weight, bias, product, dtype=dtype)
        product, gelu = product.view(*x.shape[:-1], -1), gelu and not fused
    else:
        product = F.linear(x.to(dtype), weight.to(dtype), _to(bias, dtype))
    return F.gelu(product, approximate="tanh") if gelu else product


def known_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    result: Tensor,
    *,
    dtype: torch.dtype,
    added_to: Tensor | None = None,
) -> Tensor:
    """`added_to + linear(x, weight, bias, dtype=dtype)`, (N, D), known to be `result`: for its gradients."""
    known: Tensor = _KnownLinear.apply(  # type: ignore[no-untyped-call]  # PyTorch's is not annotated
        x, weight, bias, result, dtype, added_to
    )
    return known


def known_linear_of(
    function: Callable[..., Tensor],
    x: Tensor,
    inner: tuple[Tensor, ...],
    weight: Tensor,
    bias: Tensor | None,
    result: Tensor,
    *,
    dtype: torch.dtype,
    added_to: Tensor | None = None,
) -> Tensor:
    """`known_linear` of `function(x, *inner)`, (N, C), which the backward pass computes: nothing before needs it."""
    known: Tensor = _KnownLinearOf.apply(  # type: ignore[no-untyped-call]  # as above
        function, x, weight, bias, result, dtype, added_to, *inner
    )
    return known


class Packed:
    """x → `linear(x, weight, bias)` without gradients: for many products of `rows` rows.

    On a CPU the weights are laid out anew for that, and a later change of them does not show before `refresh`.
    """

    def __init__(
        self, kept: Callable[[], tuple[Tensor, Tensor | None]], rows: int, *, dtype: torch.dtype, gelu: bool = False
    ) -> None:
        """`kept` gives weight and bias as they are, without gradients."""
        self._kept = kept
        self._dtype, self._rows, self._gelu = dtype, rows, gelu
        self._by_onednn = _by_onednn(kept()[0], dtype, rows)
        self._weight, self._bias = self._made()

    def refresh(self) -> None:
        """Follow the weights; in the same memory, as a CUDA graph needs it."""
        if self._by_onednn:
            self._weight, self._bias = self._made()
            return
        for copy, kept in zip((self._weight, self._bias), self._kept(), strict=True):
            if copy is not None and kept is not None and copy.data_ptr() != kept.data_ptr():
                copy.copy_(kept)

    def __call__(self, x: Tensor) -> Tensor:
        """(N, C) → (N, D) in the precision given."""
        if x.dtype != self._dtype:
            x = x.to(self._dtype)
        if self._by_onednn:
            return _onednn(x, self._weight, self._bias, self._gelu)
        product = F.linear(x, self._weight, self._bias)
        return F.gelu(product, approximate="tanh") if self._gelu else product

    def _made(self) -> tuple[Tensor, Tensor | None]:
        weight, bias = self._kept()
        weight = weight.to(self._dtype)
        if self._by_onednn:
            weight = torch.ops.mkldnn._reorder_linear_weight(weight, self._rows)
        return weight, _to(bias, self._dtype)


def _by_onednn(weight: Tensor, dtype: torch.dtype, rows: int) -> bool:
    return weight.device.type == "cpu" and rows >= _FEW_ROWS and available(dtype)


def _to(bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if bias is None else bias.to(dtype)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return _onednn(x, weight, bias) if available(x.dtype) else F.linear(x, weight, bias)


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> Tensor:
    after = ("gelu", "tanh") if gelu else ("none", "")
    product: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, after[0], [], after[1])
    return product


class _KnownLinear(torch.autograd.Function):
    """A product, or its sum with an earlier result, that has been computed already."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        result: Tensor,
        dtype: torch.dtype,
        added_to: Tensor | None,
    ) -> Tensor:
        ctx.has_bias, ctx.is_added = bias is not None, added_to is not None
        ctx.dtypes = x.dtype, weight.dtype
        ctx.save_for_backward(x.to(dtype), weight.to(dtype))
        return result.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None, None, Tensor | None]:
        (gradient,) = gradients
        of_x, of_weight = gradients_of_product(gradient, *ctx.saved_tensors, *ctx.dtypes)
        of_bias = gradient.sum(0, dtype=ctx.dtypes[1]) if ctx.has_bias else None
        return of_x, of_weight, of_bias, None, None, gradient if ctx.is_added else None


class _KnownLinearOf(torch.autograd.Function):
    """See `known_linear_of`."""

    @staticmethod
    def forward(
        ctx: Any,
        function: Callable[..., Tensor],
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        result: Tensor,
        dtype: torch.dtype,
        added_to: Tensor | None,
        *inner: Tensor,
    ) -> Tensor:
        ctx.function, ctx.dtype, ctx.weight_dtype = function, dtype, weight.dtype
        ctx.has_bias, ctx.is_added = bias is not None, added_to is not None
        ctx.save_for_backward(x, weight.to(dtype), *inner)
        return result.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *inner = ctx.saved_tensors
        with torch.enable_grad():
            leaves = [tensor.detach().requires_grad_() for tensor in (x, *inner)]
            source = ctx.function(*leaves)
        given = source.detach().to(ctx.dtype)
        of_source, of_weight = gradients_of_product(gradient, given, weight, source.dtype, ctx.weight_dtype)
        of_bias = gradient.sum(0, dtype=ctx.weight_dtype) if ctx.has_bias else None
        with torch.enable_grad():
            surrogate = (source * of_source).sum()  # for given gradients PyTorch would import sympy
        of_x, *of_inner = torch.autograd.grad(surrogate, leaves)
        return None, of_x, of_weight, of_bias, None, None, gradient if ctx.is_added else None, *of_inner


def gradients_of_product(
    gradient: Tensor, x: Tensor, weight: Tensor, x_dtype: torch.dtype, weight_dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Of x, (N, C), and of weight, (D, C), from that of their product, (N, D); computed in `x`'s own precision."""
    gradient = gradient.to(x.dtype).contiguous()
    of_weight = torch.empty(weight.shape, dtype=weight_dtype)
    # The copies that a whole vocabulary wants need not be in memory all at once.
    pieces = [slice(begin, begin + _PIECE) for begin in range(0, len(weight), _PIECE)]
    for piece in pieces:
        of_weight[piece] = _gradient_of_weight(gradient[:, piece], x)
    parts = (_product(gradient[:, piece], weight[piece].t()).to(x_dtype) for piece in pieces)
    return functools.reduce(torch.add, parts), of_weight


def _gradient_of_weight(gradient: Tensor, x: Tensor) -> Tensor:
    """(N, D) and (N, C) → (D, C): the sum over rows of their products."""
    if gradient.dtype != torch.float32:  # PyTorch's own product is by oneDNN here, and copies no factor
        return gradient.t() @ x
    # Of columns of a wider matrix (a vocabulary in pieces) oneDNN took 25 s where it takes 0.05 s of a copy (measured).
    gradient = gradient.contiguous()
    if gradient.shape[1] > x.shape[1]:  # the operator copies its transposed first factor: the smaller one
        return _product(x.t(), gradient.t()).t()
    return _product(gradient.t(), x.t())
