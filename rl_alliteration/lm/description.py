"""A decoder-only transformer, described by data: what its parts are, and which of the model's parameters they read.

An architecture (`rl_alliteration.lm.architectures`) is a function from a configuration and its parameters to a
`Description`; `rl_alliteration.lm.decoder` runs any of them. The parameters stay the model's own. Shapes: C width of
the residual stream, H heads, K heads of keys and values, D width of a head, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from rl_alliteration.lm.attention import Kind
from rl_alliteration.lm.norms import rms_norm

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
    "gelu": F.gelu,
    "silu": F.silu,
    "relu": F.relu,
}

_NAMES = {
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
}
"""Activation functions by transformers' names for them."""


class Unsupported(Exception):
    """What a configuration or its weights ask for that no description can say, for people."""


def activation(name: str) -> str:
    """Its name in `ACTIVATIONS`, by transformers' own.

    Raises:
        Unsupported: it is none of these.
    """
    if name not in _NAMES:
        raise Unsupported(f"its activation function is {name!r}, not one of {', '.join(_NAMES)}")
    return _NAMES[name]


@dataclasses.dataclass(frozen=True)
class Norm:
    """A layer norm, or the norm by the root of the mean square (arXiv 1910.07467)."""

    weight: Tensor
    bias: Tensor | None
    epsilon: float
    by_mean_square: bool = False
    """Without subtracting the mean."""
    added_to_weight: float = 0.0
    """Gemma keeps weight − 1."""

    def __call__(self, x: Tensor) -> Tensor:
        """Over the last dimension, in `x`'s precision."""
        return self.of(x, self.weight, self.bias)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """Weight and, if there is one, bias."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    def of(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The norm with these parameters instead of its own."""
        if not self.by_mean_square:
            return torch.layer_norm(x, weight.shape, weight, bias, self.epsilon)
        return rms_norm(x, weight + self.added_to_weight if self.added_to_weight else weight, self.epsilon)


class Matrix:
    """A product's weights, (D, C), and bias, (D,): of one parameter or of several, one under the other.

    Several share one memory: updates and `load_state_dict` work in place, so the whole follows them without a copy.
    """

    def __init__(
        self,
        *parts: Tensor,
        bias: tuple[Tensor, ...] = (),
        transposed: bool = False,
        by_head: int = 0,
    ) -> None:
        """Args:
        parts: (D, C) each.
        bias: one for each part, or none.
        transposed: the one part is (C, D), as GPT-2 keeps it.
        by_head: of so many heads the one part has query, key and value of the first, then of the next, as GPT-NeoX
            keeps them; here all queries come first, then all keys.
        """
        self.parts, self.bias_parts = parts, bias
        self._transposed, self._by_head = transposed, by_head
        self._whole = _in_one_memory(parts) if len(parts) > 1 else None

    @property
    def shape(self) -> tuple[int, int]:
        """(D, C)."""
        rows, columns = sum(len(part) for part in self.parts), self.parts[0].shape[1]
        return (columns, rows) if self._transposed else (rows, columns)

    def weight(self) -> Tensor:
        """As the parameters are now; differentiable in them."""
        whole: Tensor = self.parts[0]
        if self._whole is not None:
            whole = _Whole.apply(self._whole, *self.parts)  # type: ignore[no-untyped-call]  # PyTorch's
        return self._arranged(whole)

    def bias(self) -> Tensor | None:
        """As the parameters are now; differentiable in them."""
        if not self.bias_parts:
            return None
        return self._arranged(torch.cat(self.bias_parts) if len(self.bias_parts) > 1 else self.bias_parts[0])

    def detached(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias without gradients, and without a copy where there need be none."""
        with torch.no_grad():
            bias = self.bias()
            whole = self.weight() if self._whole is None else self._whole
            return whole.detach(), None if bias is None else bias.detach()

    def _arranged(self, x: Tensor) -> Tensor:
        if self._transposed and x.ndim == 2:
            x = x.t()
        if self._by_head:
            x = x.unflatten(0, (self._by_head, 3, -1)).transpose(0, 1).flatten(0, 2)
        return x


def _in_one_memory(parts: tuple[Tensor, ...]) -> Tensor:
    """The parameters one under the other, which become views of it."""
    with torch.no_grad():
        first, places = parts[0].detach(), [0, *itertools.accumulate(part.numel() for part in parts)]
        if all(
            part.is_contiguous()
            and part.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
            and part.storage_offset() == first.storage_offset() + place
            for part, place in zip(parts, places, strict=False)
        ):  # another description of the same model has seen to it
            return first.as_strided((places[-1] // first.shape[1], first.shape[1]), first.stride())
        whole = torch.cat(parts)
        for part, memory in zip(parts, whole.split([len(part) for part in parts]), strict=True):
            part.data = memory
    return whole


class _Whole(torch.autograd.Function):
    """Parts of one memory as that memory: no copy to be kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, *parts: Tensor) -> Tensor:
        ctx.rows = [len(part) for part in parts]
        return whole.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, *gradient.split(ctx.rows)


@dataclasses.dataclass(frozen=True)
class Rotary:
    """Rotary positions (arXiv 2104.09864): the first widths of a head turn, pair by pair, by angles of the position."""

    frequencies: tuple[float, ...]
    """Radians a position, of each pair (i, i + half the width that turns)."""
    scaling: float = 1.0
    """Of the turned widths (YaRN: arXiv 2309.00071)."""

    def table(self, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of positions, (T, width that turns), in `like`'s precision; computed in float32.

        The first half of the sines is negative: it is what the other of a pair is multiplied by.
        """
        frequencies = torch.tensor(self.frequencies, dtype=torch.float32, device=like.device)
        angles = torch.arange(length, dtype=torch.float32, device=like.device)[:, None] * frequencies
        cosines, sines = angles.cos() * self.scaling, angles.sin() * self.scaling
        return torch.cat([cosines, cosines], 1).to(like.dtype), torch.cat([-sines, sines], 1).to(like.dtype)


@dataclasses.dataclass(frozen=True)
class Block:
    """One layer: attention, then the feed-forward network, each added to what goes in."""

    attention_norm: Norm
    query_key_value: Matrix
    """((H + 2K) · D, C): all queries, then keys, then values."""
    output: Matrix
    """(C, H · D)."""
    feed_forward_norm: Norm
    expand: Matrix
    """(inner width, C); twice as many rows where it is gated: what the activation function takes, then its factor."""
    contract: Matrix
    """(C, inner width)."""
    scale: float
    """Of attention's scores."""
    window: int | None = None
    """Most tokens that attention sees, the token itself included; None: all."""
    rotary: Rotary | None = None
    query_norm: Norm | None = None
    """Of each head, (D,), before it turns; so is the next."""
    key_norm: Norm | None = None
    output_norm: Norm | None = None
    """Of what attention adds; the next of what the feed-forward network adds (Gemma 3)."""
    contract_norm: Norm | None = None


@dataclasses.dataclass(frozen=True)
class Description:
    """A whole model."""

    embedding: Tensor
    """(V, C)."""
    blocks: tuple[Block, ...]
    norm: Norm
    """Of the last layer's output."""
    head: Matrix
    """(V, C); the embedding itself where they are tied."""
    heads: int
    key_value_heads: int
    head_width: int
    activation: str
    """In `ACTIVATIONS`."""
    positions: Tensor | None = None
    """Learned, (positions, C); None: rotary, or none."""
    embedding_scale: float = 1.0
    gated: bool = False
    """The feed-forward network multiplies its activation by a second product."""
    parallel: bool = False
    """Both halves of a layer read what goes into it."""

    @property
    def stream_dtype(self) -> torch.dtype:
        """Of what is added up over layers, and of norms; matrices may be kept in a lower one."""
        return self.norm.weight.dtype

    @functools.cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """Of attention, a layer each."""
        return tuple(Kind(self.heads, self.key_value_heads, block.scale, block.window) for block in self.blocks)

    @functools.cached_property
    def all_heads(self) -> int:
        """Queries', keys' and values' heads together."""
        return self.heads + 2 * self.key_value_heads

    @functools.cached_property
    def records_activation(self) -> bool:
        """Whether decoding keeps what comes after the activation function, fused into a product, not before it."""
        return self.activation == "gelu_tanh" and not self.gated

    def activate(self, before: Tensor) -> Tensor:
        """The feed-forward network between its products: (…, rows of `expand`) → (…, inner width)."""
        function = ACTIVATIONS[self.activation]
        if not self.gated:
            return function(before)
        gate, factor = before.chunk(2, -1)
        return function(gate) * factor


class Parameters:
    """A model's parameters by name: each asked for with its shape."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._parameters = parameters
        self.taken: dict[str, Tensor] = {}
        """Those that were asked for, in that order."""

    @classmethod
    def of(cls, model: Any) -> Parameters:
        """Of a module; a tied one under the first of its names."""
        return cls(dict(model.named_parameters()))

    def __call__(self, name: str, *shape: int) -> Tensor:
        """The parameter.

        Raises:
            Unsupported: there is none, or it has another shape.
        """
        found = self._parameters.get(name)
        if found is None:
            raise Unsupported(f"it has no weights {name}")
        if tuple(found.shape) != shape:
            raise Unsupported(f"its weights {name} are of shape {tuple(found.shape)}, not {shape}")
        return self.taken.setdefault(name, found)

    def matrix(self, *names: str, rows: tuple[int, ...], columns: int, bias: bool = False, **how: Any) -> Matrix:
        """A `Matrix` of the weights, and biases, of linear modules with these names; `how` as there."""
        shapes = [(columns, count) if how.get("transposed") else (count, columns) for count in rows]
        weights = [self(f"{name}.weight", *shape) for name, shape in zip(names, shapes, strict=True)]
        biases = [self(f"{name}.bias", count) for name, count in zip(names, rows, strict=True)] if bias else []
        return Matrix(*weights, bias=tuple(biases), **how)

    def layer_norm(self, name: str, width: int, epsilon: float) -> Norm:
        """Of a module with this name."""
        return Norm(self(f"{name}.weight", width), self(f"{name}.bias", width), epsilon)

    def rms_norm(self, name: str, width: int, epsilon: float, added_to_weight: float = 0.0) -> Norm:
        """Of a module with this name."""
        weight = self(f"{name}.weight", width)
        return Norm(weight, None, epsilon, by_mean_square=True, added_to_weight=added_to_weight)

    def head(self, embedding: str, config: Any, *own: str) -> Matrix:
        """The product before the softmax: the embedding where the configuration ties them, else weights of its own.

        `own`: the names that versions of transformers have for these.
        """
        names = [embedding] if config.tie_word_embeddings else [*own] or ["lm_head.weight"]
        name = next((name for name in names if name in self._parameters), names[-1])
        return Matrix(self(name, config.vocab_size, config.hidden_size))

    @property
    def untaken(self) -> set[str]:
        """Names that nothing has asked for."""
        return set(self._parameters) - set(self.taken)
