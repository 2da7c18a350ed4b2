"""Inversion of a cumulative distribution: from a uniform number to a token. B texts, V vocabulary."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

_BELOW_ONE = 1.0 - 2.0**-52


def inverse_of(device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """The inversion for a device: one choice, but for rounding, and on each device the same every time."""
    return invert if device.type == "cpu" else invert_in_fixed_order


def invert(weights: Tensor, uniform: Tensor) -> Tensor:
    """The first token up to which the weights, (B, V), add up to more than a share, (B,), of their sum: (B,)."""
    # float64: a float32 sum over 50,257 tokens would never reach the rarest ones.
    cumulative = weights.cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1]
    target = (uniform.clamp(max=_BELOW_ONE) * total)[:, None]  # below the total, whatever is rounded
    return torch.searchsorted(cumulative, target, right=True)[:, 0].clamp_(max=weights.shape[-1] - 1)


def invert_in_fixed_order(weights: Tensor, uniform: Tensor) -> Tensor:
    """As `invert`, without `cumsum`, whose order of additions on CUDA is not fixed.

    The sums are additions of whole tensors and the choice is a minimum, so that no kernel has an order to choose:
    within blocks of about √V tokens, then of blocks. Only tokens with a weight count, whatever is rounded.
    """
    texts, vocabulary = weights.shape
    size = math.isqrt(vocabulary - 1) + 1
    blocks = F.pad(weights.double(), (0, -vocabulary % size)).view(texts, -1, size)
    within = prefix_sums(blocks)
    through = prefix_sums(within[..., -1])
    before = F.pad(through[:, :-1], (1, 0))
    cumulative = (within + before[..., None]).masked_fill(blocks == 0, 0.0).flatten(1)
    target = (uniform.clamp(max=_BELOW_ONE) * cumulative.amax(-1))[:, None]
    places = torch.arange(cumulative.shape[1], device=weights.device)
    first = torch.where(cumulative > target, places, vocabulary).amin(-1)
    return first.clamp_(max=vocabulary - 1)  # NaN: `Trainer.step` says so


def prefix_sums(x: Tensor) -> Tensor:
    """Of the last dimension, by doubling (Hillis and Steele, 1986): additions of whole tensors alone."""
    reach = 1
    while reach < x.shape[-1]:
        x = torch.cat([x[..., :reach], x[..., reach:] + x[..., :-reach]], -1)
        reach *= 2
    return x
