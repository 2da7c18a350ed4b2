"""What decoding computes of a group, of which an update's forward pass then need not compute most again."""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Activations:
    """Of L layers; by token, then by text, as they are decoded. The memory is used again for the next group.

    B texts, T tokens, A heads of queries, keys and values together, H of queries, D width of a head, C width of the
    residual stream, V vocabulary.
    """

    heads: Tensor
    """Queries, keys and values as attention reads them: (L, B, A, T, D)."""
    attended: Tensor
    """(L, T, B, H · D)."""
    normalisers: Tensor
    """Of attention, their logarithms: (L, T, B, H)."""
    middle: Tensor
    """Between a layer's halves: (L, T, B, C)."""
    hidden: Tensor
    """Of the feed-forward network, see `Description.records_activation`: (L, T, B, rows of `expand`)."""
    output: Tensor
    """Of a layer: (L, T, B, C)."""
    logits: Tensor
    """(T, B, V)."""

    @classmethod
    def empty(
        cls, cache: Tensor, *, heads: int, width: int, hidden: int, vocabulary: int, weights: torch.dtype,
        products: torch.dtype,
    ) -> Activations:  # fmt: skip
        """Memory for the texts whose queries, keys and values `cache` is to hold, (L, B, A, T, D).

        `weights`: the precision of the residual stream, `products` that of products.
        """
        layers, texts, _, length, head_width = cache.shape
        of_layers = functools.partial(cache.new_empty, layers, length, texts)
        return cls(
            cache,
            attended=of_layers(heads * head_width),
            normalisers=of_layers(heads),
            middle=of_layers(width, dtype=weights),
            hidden=of_layers(hidden, dtype=products),
            output=of_layers(width, dtype=weights),
            logits=cache.new_empty(length, texts, vocabulary, dtype=products),
        )

    def rows(self) -> list[list[Tensor]]:
        """By token: of each layer in turn what is after `heads`, then the logits; (B, …) each."""
        of_layers = [getattr(self, name)[layer] for layer in range(len(self.heads)) for name in _OF_LAYERS]
        return [list(rows) for rows in zip(*(part.unbind() for part in (*of_layers, self.logits)), strict=True)]

    def until(self, length: int) -> Activations:
        """Of the first `length` tokens."""
        of_layers = {name: getattr(self, name)[:, :length] for name in _OF_LAYERS}
        return Activations(self.heads[..., :length, :], logits=self.logits[:length], **of_layers)


_OF_LAYERS = ("attended", "normalisers", "middle", "hidden", "output")
