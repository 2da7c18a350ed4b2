"""Attention for CPUs that tells its normalisers, rotary positions, and gradients of what decoding has computed.

B texts, T tokens, H heads, K heads of keys and of values (H is a multiple of it: arXiv 2305.13245), A = H + 2K,
D width of a head, C width of the residual stream.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from rl_alliteration.lm.linear import gradients_of_product


@dataclasses.dataclass(frozen=True)
class Kind:
    """What attention is like in one layer."""

    heads: int
    key_value_heads: int
    scale: float
    """Of the scores."""
    window: int | None
    """Most tokens that are seen, the token itself included; None: all."""

    def split(self, heads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(…, A, T, D) → queries, keys and values."""
        query, key, value = heads.split([self.heads, self.key_value_heads, self.key_value_heads], -3)
        return query, key, value

    def for_each_query(self, keys: Tensor) -> Tensor:
        """Keys or values once for each head of queries: (…, K, T, D) → (…, H, T, D)."""
        shared = self.heads // self.key_value_heads
        return keys if shared == 1 else keys.repeat_interleave(shared, -3)


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn heads by their positions' angles: (…, T, D); the tables, see `Rotary`, are of the widths that turn."""
    turned = cosines.shape[-1]
    if turned < x.shape[-1]:
        return torch.cat([rotate(x[..., :turned], cosines, sines), x[..., turned:]], -1)
    return torch.addcmul(x * cosines, x.roll(turned // 2, -1), sines)


def window_mask(length: int, window: int | None, like: Tensor) -> Tensor | None:
    """What is added to the scores where a window hides some earlier token; None where being causal is all."""
    if window is None or length <= window:
        return None
    seen = torch.ones(length, length, dtype=torch.bool, device=like.device).tril().triu(1 - window)
    return torch.zeros(length, length, dtype=like.dtype, device=like.device).masked_fill_(~seen, -torch.inf)


def attend(
    query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None = None, *, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Attention, (B, H, T, D); and the logarithms of its normalisers, (B, H, T), which only `flash_attention` tells."""
    causal = causal and mask is None
    if query.device.type != "cpu" or not flash_attention():
        attended = F.scaled_dot_product_attention(query, key, value, mask, is_causal=causal, scale=scale)
        return attended, attended[..., 0]
    found: tuple[Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default(
        query, key, value, 0.0, causal, attn_mask=mask, scale=scale
    )
    return found


def attend_to_all(heads: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
    """Causal attention of whole texts, (B, A, T, D) → (B, H, T, D), and normalisers as in `attend`."""
    query, key, value = kind.split(heads)
    mask = window_mask(heads.shape[-2], kind.window, heads)
    return attend(query, kind.for_each_query(key), kind.for_each_query(value), kind.scale, mask, causal=True)


def known_attention(heads: Tensor, attended: Tensor, normalisers: Tensor, kind: Kind) -> Tensor:
    """`attend_to_all`, whose result is known: differentiable in `heads`, (B, A, T, D) → (T · B, H · D).

    Args:
        heads: queries, keys and values as attention reads them.
        attended: of `Activations`, a layer's, (T, B, H · D); so is the next.
        normalisers: (T, B, H).
        kind: of this layer.
    """
    merged: Tensor = _KnownAttention.apply(  # type: ignore[no-untyped-call]  # PyTorch's is not annotated
        heads, attended, normalisers, kind
    )
    return merged


def known_attention_and_product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rotation: tuple[Tensor, Tensor] | None,
    heads: Tensor,
    attended: Tensor,
    normalisers: Tensor,
    kind: Kind,
    dtype: torch.dtype,
) -> Tensor:
    """Causal attention, and before it product and rotation, whose results are known: (T · B, C) → (T · B, H · D).

    Args:
        x: what goes in.
        weight: of the product, (A · D, C).
        bias: (A · D,).
        rotation: tables for `rotate`; None: nothing turns.
        heads: of `Activations`, a layer's; so are the next two.
        attended: see there.
        normalisers: see there.
        kind: of this layer.
        dtype: of products.
    """
    merged: Tensor = _KnownAttentionAndProduct.apply(  # type: ignore[no-untyped-call]  # as above
        x, weight, bias, rotation, heads, attended, normalisers, kind, dtype
    )
    return merged


def known_gelu(before: Tensor, activation: Tensor) -> Tensor:
    """The tanh GELU of `before`, known to be `activation`: for its gradient."""
    known: Tensor = _KnownGelu.apply(before, activation)  # type: ignore[no-untyped-call]  # as above
    return known


def _gradients(
    gradient: Tensor, heads: Tensor, attended: Tensor, normalisers: Tensor, kind: Kind
) -> tuple[Tensor, Tensor, Tensor]:
    """Of queries, keys and values, (B, …, T, D) each, from that of the result, (T · B, H · D)."""
    texts, _, length, width = heads.shape
    by_head = [part.view(length, texts, kind.heads, width).permute(1, 2, 0, 3) for part in (gradient, attended)]
    query, key, value = kind.split(heads)
    mask = window_mask(length, kind.window, query)
    of_query, of_key, of_value = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default(
        by_head[0], query, kind.for_each_query(key), kind.for_each_query(value), by_head[1],
        normalisers.permute(1, 2, 0), 0.0, mask is None, attn_mask=mask, scale=kind.scale,
    )  # fmt: skip
    if kind.heads != kind.key_value_heads:
        of_key, of_value = (part.unflatten(1, (kind.key_value_heads, -1)).sum(2) for part in (of_key, of_value))
    return of_query, of_key, of_value


class _KnownAttention(torch.autograd.Function):
    """See `known_attention`."""

    @staticmethod
    def forward(ctx: Any, heads: Tensor, attended: Tensor, normalisers: Tensor, kind: Kind) -> Tensor:
        ctx.save_for_backward(heads, attended, normalisers)
        ctx.kind = kind
        return attended.detach().flatten(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        heads, attended, normalisers = ctx.saved_tensors
        found = _gradients(gradient.contiguous(), heads, attended, normalisers, ctx.kind)
        return torch.cat(found, 1), None, None, None


class _KnownAttentionAndProduct(torch.autograd.Function):
    """See `known_attention_and_product`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        rotation: tuple[Tensor, Tensor] | None,
        heads: Tensor,
        attended: Tensor,
        normalisers: Tensor,
        kind: Kind,
        dtype: torch.dtype,
    ) -> Tensor:
        ctx.save_for_backward(x.to(dtype), weight.to(dtype), heads, attended, normalisers)
        ctx.kind, ctx.dtypes, ctx.rotation, ctx.has_bias = kind, (x.dtype, weight.dtype), rotation, bias is not None
        return attended.detach().flatten(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, heads, attended, normalisers = ctx.saved_tensors
        texts, count, length, width = heads.shape
        of_query, of_key, of_value = _gradients(gradient, heads, attended, normalisers, ctx.kind)
        if ctx.rotation is not None:  # back by the same angles
            cosines, sines = ctx.rotation
            of_query, of_key = (rotate(part, cosines, -sines) for part in (of_query, of_key))
        of_heads = torch.empty(length, texts, count, width, dtype=x.dtype)
        for part, of_part in zip(ctx.kind.split(of_heads.transpose(1, 2)), (of_query, of_key, of_value), strict=True):
            part.copy_(of_part.permute(2, 1, 0, 3))
        of_product = of_heads.view(len(x), -1)
        of_x, of_weight = gradients_of_product(of_product, x, weight, *ctx.dtypes)
        of_bias = of_product.sum(0, dtype=ctx.dtypes[1]) if ctx.has_bias else None
        return of_x, of_weight, of_bias, None, None, None, None, None, None


class _KnownGelu(torch.autograd.Function):
    """See `known_gelu`."""

    @staticmethod
    def forward(ctx: Any, before: Tensor, activation: Tensor) -> Tensor:
        ctx.save_for_backward(before)
        return activation.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (before,) = ctx.saved_tensors
        return torch.ops.aten.gelu_backward.default(gradient, before, approximate="tanh"), None


@functools.cache
def flash_attention() -> bool:
    """Whether this build has PyTorch's attention for CPUs as an operator, as this code calls it: it is not public."""
    parts = torch.arange(3 * 4 * 8, dtype=torch.float32).sin().view(3, 1, 2, 4, 4)
    scores = (parts[0] @ parts[1].mT).masked_fill(torch.ones(4, 4, dtype=torch.bool).triu(1), -torch.inf)
    try:
        found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default(
            *parts, 0.0, True, attn_mask=None, scale=1.0
        )
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default(
            found[0], *parts, *found, 0.0, True, attn_mask=None, scale=1.0
        )
    except (AttributeError, RuntimeError, NotImplementedError, ValueError):
        return False
    expected = scores.softmax(-1) @ parts[2], scores.logsumexp(-1)
    return all(torch.allclose(one, other, atol=1e-5) for one, other in zip(found, expected, strict=True))
