"""What decoding computes of a group, of which an update's forward pass then need not compute most again."""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class LayerActivations:
    """Of a layer; by token, then by text, as they are decoded.

    B texts, T tokens, A heads of queries, keys and values together, H of queries, D width of a head, C width of the
    residual stream, V vocabulary.
    """

    heads: Tensor
    """Queries, keys and values as attention reads them: (B, A, T, D)."""
    attended: Tensor
    """(T, B, H · D)."""
    normalisers: Tensor
    """Of attention, their logarithms: (T, B, H)."""
    middle: Tensor
    """Between the layer's halves: (T, B, C)."""
    hidden: Tensor
    """Of the feed-forward network, see `Description.records_activation`: (T, B, rows of `expand`)."""
    output: Tensor
    """(T, B, C)."""

    @property
    def by_token(self) -> tuple[Tensor, ...]:
        """All but `heads`."""
        return self.attended, self.normalisers, self.middle, self.hidden, self.output


@dataclasses.dataclass(frozen=True)
class Activations:
    """Of all layers. Each layer has memory of its own, which a backward pass may free once it is through with it."""

    layers: list[LayerActivations]
    logits: Tensor
    """(T, B, V)."""

    @classmethod
    def empty(
        cls, cache: Tensor, *, heads: int, width: int, hidden: int, vocabulary: int, stream: torch.dtype,
        products: torch.dtype,
    ) -> Activations:  # fmt: skip
        """Memory for the texts whose queries, keys and values `cache` is to hold, (L, B, A, T, D).

        `stream`: the precision of the residual stream, `products` that of products.
        """
        texts, _, length, head_width = cache.shape[1:]
        new = functools.partial(cache.new_empty, length, texts)
        layers = [
            LayerActivations(
                of_layer,
                attended=new(heads * head_width),
                normalisers=new(heads),
                middle=new(width, dtype=stream),
                hidden=new(hidden, dtype=products),
                output=new(width, dtype=stream),
            )
            for of_layer in cache
        ]
        return cls(layers, new(vocabulary, dtype=products))

    @property
    def bytes(self) -> int:
        """In memory, what `heads` are part of aside."""
        return sum(part.nbytes for layer in self.layers for part in layer.by_token) + self.logits.nbytes

    def rows(self) -> list[tuple[Tensor, ...]]:
        """By token: of each layer in turn what is after `heads`, then the logits; (B, …) each."""
        of_layers = [part for layer in self.layers for part in layer.by_token]
        return list(zip(*(part.unbind() for part in (*of_layers, self.logits)), strict=True))

    def until(self, length: int) -> Activations:
        """Of the first `length` tokens."""
        layers = [
            LayerActivations(layer.heads[..., :length, :], *(part[:length] for part in layer.by_token))
            for layer in self.layers
        ]
        return Activations(layers, self.logits[:length])
