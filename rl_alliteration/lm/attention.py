"""Attention for CPUs that tells its normalisers, and gradients of what decoding has computed already.

B texts, T tokens, H heads, D width of a head, C = H · D width.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from rl_alliteration.lm.linear import gradients_of_product


def window_mask(length: int, window: int | None, like: Tensor) -> Tensor | None:
    """What is added to the scores where a window hides some earlier token; None where being causal is all."""
    if window is None or length <= window:
        return None
    seen = torch.ones(length, length, dtype=torch.bool, device=like.device).tril().triu(1 - window)
    return torch.zeros(length, length, dtype=like.dtype, device=like.device).masked_fill_(~seen, -torch.inf)


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Attention, (B, H, T, D); and the logarithms of its normalisers, (B, H, T), which only `flash_attention` tells.

    The scores are not scaled: GPT-Neo's are not.
    """
    causal = causal and mask is None
    if query.device.type != "cpu" or not flash_attention():
        attended = F.scaled_dot_product_attention(query, key, value, mask, is_causal=causal, scale=1.0)
        return attended, attended[..., 0]
    found: tuple[Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default(
        query, key, value, 0.0, causal, attn_mask=mask, scale=1.0
    )
    return found


def known_attention(
    x: Tensor,
    weight: Tensor,
    heads: Tensor,
    attended: Tensor,
    normalisers: Tensor,
    *,
    window: int | None,
    dtype: torch.dtype,
) -> Tensor:
    """Causal attention and the products before it, whose results are known: x, (T · B, C) → (T · B, C).

    Args:
        x: what goes in.
        weight: of the three products, (3C, C).
        heads: of `Activations`, a layer's; so are the next two.
        attended: see there.
        normalisers: see there.
        window: see `window_mask`.
        dtype: of products.
    """
    merged: Tensor = _KnownAttention.apply(  # type: ignore[no-untyped-call]  # PyTorch's is not annotated
        x, weight, heads, attended, normalisers, window, dtype
    )
    return merged


def known_gelu(before: Tensor, activation: Tensor) -> Tensor:
    """The tanh GELU of `before`, known to be `activation`: for its gradient."""
    known: Tensor = _KnownGelu.apply(before, activation)  # type: ignore[no-untyped-call]  # as above
    return known


class _KnownAttention(torch.autograd.Function):
    """See `known_attention`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        heads: Tensor,
        attended: Tensor,
        normalisers: Tensor,
        window: int | None,
        dtype: torch.dtype,
    ) -> Tensor:
        ctx.save_for_backward(x.to(dtype), weight.to(dtype), heads, attended, normalisers)
        ctx.window, ctx.dtypes = window, (x.dtype, weight.dtype)
        return attended.detach().flatten(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None, None, None]:
        x, weight, heads, attended, normalisers = ctx.saved_tensors
        texts, _, count, length, width = heads.shape
        by_head = [part.view(length, texts, count, width).permute(1, 2, 0, 3) for part in (gradient, attended)]
        query, key, value = heads.unbind(1)
        mask = window_mask(length, ctx.window, query)
        found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default(
            by_head[0], query, key, value, by_head[1], normalisers.permute(1, 2, 0), 0.0, mask is None,
            attn_mask=mask, scale=1.0,
        )  # fmt: skip
        of_heads = torch.empty(length, texts, 3, count, width, dtype=x.dtype)
        for part, of_part in enumerate(found):
            of_heads[:, :, part] = of_part.permute(2, 0, 1, 3)
        of_x, of_weight = gradients_of_product(of_heads.view(len(x), -1), x, weight, *ctx.dtypes)
        return of_x, of_weight, None, None, None, None, None


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
