"""Any model that a `Description` describes, without transformers' overhead.

Shapes: B texts, T tokens, A heads of queries, keys and values together, H of queries, K of keys, D width of a head,
C width of the residual stream, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from rl_alliteration.lm.activations import Activations
from rl_alliteration.lm.attention import (
    Kind,
    attend,
    attend_to_all,
    flash_attention,
    known_attention,
    known_attention_and_product,
    known_gelu,
    rotate,
)
from rl_alliteration.lm.description import Block, Description, Matrix, Norm, Rotary
from rl_alliteration.lm.forward import Decoded
from rl_alliteration.lm.linear import Packed, known_linear, known_linear_of, linear

_KEPT = 2**26
"""Bytes of activations up to which the next group has the same memory: what is new is paid for page by page, which a
small model's step notices."""


class DecoderForward:
    """Logits of whole texts with gradients, or of one more token a text with a preallocated cache.

    Dropout is never applied: policy and reference are in evaluation mode.
    """

    def __init__(self, description: Description, dtype: torch.dtype | None = None) -> None:
        """`dtype`: of the matrix products; None: that of norms and of sums over layers, which the description says."""
        self.description = description
        stream = description.stream_dtype
        self.dtype = dtype or stream
        # One token's attention in bfloat16 is slow on CPUs (measured: five times slower than in float32).
        self.attention_dtype = stream if description.embedding.device.type == "cpu" else self.dtype
        self._tables: dict[Rotary, tuple[Tensor, Tensor]] = {}
        self._layers: list[_Layer] = []
        self._output: Packed | None = None
        self._cache = torch.empty(0)
        self._position = 0
        self._activations: Activations | None = None
        self._rows: list[tuple[Tensor, ...]] = []
        self._record = False

    def logits(self, token_ids: Tensor) -> Tensor:
        """Logits after each token, (B, T) → (B, T, V); differentiable in the model's parameters."""
        return self._product(self.description.head, self._last(token_ids))

    def logits_by_texts(self, token_ids: Tensor, most: int) -> Iterator[Tensor]:
        """As of the protocol: the last product alone is taken in pieces."""
        last = self._last(token_ids)
        of_text = last.shape[1] * self.description.head.shape[0]
        for piece in last.split(max(1, most // of_text)):
            yield self._product(self.description.head, piece)

    def _last(self, token_ids: Tensor) -> Tensor:
        """What the last product reads, (B, T, C)."""
        model, (texts, length) = self.description, token_ids.shape
        x = self._embedded(token_ids)
        if model.positions is not None:
            x = x + F.embedding(torch.arange(length, device=token_ids.device), model.positions)
        for block, kind in zip(model.blocks, model.kinds, strict=True):
            projected = self._product(block.query_key_value, block.attention_norm(x)).to(self.attention_dtype)
            heads = projected.view(texts, length, model.all_heads, model.head_width).transpose(1, 2)
            attended, _ = attend_to_all(self._placed(block, kind, heads, 0, length), kind)
            merged = attended.transpose(1, 2).reshape(texts, length, -1)
            added = self._product(block.output, merged)
            middle = x + (added if block.output_norm is None else block.output_norm(added))
            source = block.feed_forward_norm(x if model.parallel else middle)
            if model.records_activation:
                hidden = self._product(block.expand, source, gelu=True)
            else:
                hidden = model.activate(self._product(block.expand, source))
            added = self._product(block.contract, hidden)
            x = middle + (added if block.contract_norm is None else block.contract_norm(added))
        return model.norm(x)

    @torch.inference_mode()
    def start(self, prompt_ids: Tensor, texts: int, max_length: int, *, record: bool = False) -> Tensor:
        """Read the prompt, (T,), once for all `texts`; logits of the first token to sample, (B, V).

        `record`: have `finish` return what was computed.
        """
        model, length = self.description, len(prompt_ids)
        self._prepare(texts, max_length, record)
        x = self._embedded(prompt_ids)
        if model.positions is not None:
            x = x + model.positions[:length]
        kept: list[Tensor] = []
        for block, kind, layer, cache in zip(model.blocks, model.kinds, self._layers, self._cache, strict=True):
            heads = self._projected(layer, x)[..., 0, :].transpose(0, 1)
            cache[..., :length, :] = self._placed(block, kind, heads, 0, length)
            attended, normalisers = attend_to_all(cache[:1, ..., :length, :], kind)
            merged = attended[0].transpose(0, 1).reshape(length, -1)
            *later, x = layer.after_attention(x, merged)
            kept += [merged, normalisers[0].t(), *later, x]
        self._position = length
        logits = self._logits(x if self._record else x[-1:])
        if self._record:
            for position in range(length):
                for row, part in zip(self._rows[position], (*kept, logits), strict=True):
                    row.copy_(part[position])
        return logits[-1:].expand(texts, -1)

    @torch.inference_mode()
    def advance(self, tokens: Tensor) -> Tensor:
        """Append one token to each text, (B,); logits of the next, (B, V)."""
        model = self.description
        position, end = self._position, self._position + 1
        x = self._embedded(tokens)
        if model.positions is not None:
            x = x + model.positions[position]
        kept: list[Tensor] = []
        for block, kind, layer, cache in zip(model.blocks, model.kinds, self._layers, self._cache, strict=True):
            heads = self._placed(block, kind, self._projected(layer, x), position, 1)
            cache.narrow(-2, position, 1).copy_(heads)
            first = 0 if block.window is None else max(0, end - block.window)
            _, keys, values = kind.split(cache.narrow(-2, first, end - first))
            attended, normalisers = attend(self._one_query(heads), keys, values, block.scale)
            merged = attended.reshape(len(tokens), -1)
            middle, hidden, x = layer.after_attention(x, merged)
            kept += [merged, normalisers.flatten(1), middle, hidden, x]
        self._position = end
        logits = self._logits(x)
        if self._record:
            torch._foreach_copy_(self._rows[position], [*kept, logits])
        return logits

    @torch.inference_mode()
    def advance_at(self, tokens: Tensor, position: Tensor) -> Tensor:
        """`advance`, its position, (1,), on the device: the same operations at any position, for a CUDA graph."""
        model = self.description
        places = torch.arange(self._cache.shape[-2], device=position.device)
        here = (places == position)[:, None]
        x = self._embedded(tokens)
        if model.positions is not None:
            x = x + F.embedding(position, model.positions)
        for block, kind, layer, cache in zip(model.blocks, model.kinds, self._layers, self._cache, strict=True):
            heads = self._placed(block, kind, self._projected(layer, x), position, 1)
            cache.copy_(torch.where(here, heads, cache))
            seen = places <= position
            if block.window is not None:
                seen = seen & (places > position - block.window)
            _, keys, values = kind.split(cache)
            attended = F.scaled_dot_product_attention(
                self._one_query(heads), keys, values, attn_mask=seen[None], scale=block.scale
            )
            _, _, x = layer.after_attention(x, attended.reshape(len(tokens), -1))
        return self._logits(x)

    def finish(self) -> Decoded | None:
        """Free the copies of the weights that decoding needed; a GPU keeps them, for its graph.

        Returns:
            What `start` was asked to record; None where this code cannot: on a GPU, and without `flash_attention`.
        """
        if self._cache.device.type == "cpu":
            self._layers, self._output = [], None
        if not self._record or self._activations is None:
            return None
        kept = [self._activations.until(self._position)]
        if self._activations.bytes > _KEPT:  # from now on it is the backward pass's, which frees it layer by layer
            self._activations, self._rows = None, []
        return lambda token_ids: self._decoded_logits(kept.pop(), token_ids)

    def _decoded_logits(self, kept: Activations, token_ids: Tensor) -> Tensor:
        """Of the tokens that have just been decoded, see `Decoded`.

        Computed again is what goes through a norm, or into an activation function that was part of its product.
        """
        model = self.description
        length = token_ids.shape[1]
        x = self._embedded(token_ids.t())
        if model.positions is not None:
            x = x + F.embedding(torch.arange(length, device=token_ids.device), model.positions)[:, None]
        x = x.flatten(0, 1)
        for block, kind, layer in zip(model.blocks, model.kinds, kept.layers, strict=True):
            middle, hidden, output = (part.flatten(0, 1) for part in (layer.middle, layer.hidden, layer.output))
            known = layer.heads, layer.attended, layer.normalisers, kind
            normed = block.attention_norm(x)
            if block.query_norm is None:
                weight, bias = block.query_key_value.weight(), block.query_key_value.bias()
                rotation = self._rotation(block, 0, length)
                merged = known_attention_and_product(normed, weight, bias, rotation, *known, self.dtype)
            else:
                projected = self._product(block.query_key_value, normed).to(self.attention_dtype)
                heads = projected.view(length, -1, model.all_heads, model.head_width).permute(1, 2, 0, 3)
                merged = known_attention(self._placed(block, kind, heads, 0, length), *known[1:])
            middle = self._known_sum(x, block.output, merged, block.output_norm, middle)
            norm, source = block.feed_forward_norm, x if model.parallel else middle
            expand = block.expand.weight(), block.expand.bias()
            if model.records_activation:
                activation = known_gelu(linear(norm(source), *expand, dtype=self.dtype), hidden)
                x = self._known_sum(middle, block.contract, activation, block.contract_norm, output)
                continue
            before = known_linear_of(norm.of, source, norm.parameters, *expand, hidden, dtype=self.dtype)
            contract = block.contract.weight(), block.contract.bias()
            if block.contract_norm is None:
                x = known_linear_of(model.activate, before, (), *contract, output, dtype=self.dtype, added_to=middle)
            else:
                x = middle + block.contract_norm(linear(model.activate(before), *contract, dtype=self.dtype))
        logits = kept.logits.flatten(0, 1)
        return known_linear(model.norm(x), model.head.weight(), model.head.bias(), logits, dtype=self.dtype)

    def _known_sum(self, x: Tensor, matrix: Matrix, source: Tensor, norm: Norm | None, known: Tensor) -> Tensor:
        """`x` and a product, or its norm: known where nothing comes between them."""
        if norm is not None:
            return x + norm(self._product(matrix, source))
        return known_linear(source, matrix.weight(), matrix.bias(), known, dtype=self.dtype, added_to=x)

    def _prepare(self, texts: int, max_length: int, record: bool) -> None:
        """Cache and weights for decoding. An update has changed the weights in place since the last group."""
        model = self.description
        device = model.embedding.device
        shape = (len(model.blocks), texts, model.all_heads, max_length, model.head_width)
        with torch.inference_mode(False):  # what a backward pass reads must be ordinary memory
            if self._cache.shape != shape:
                # Zeros: `advance_at` reads the whole cache, and nothing masked may be NaN.
                self._cache = torch.zeros(shape, dtype=self.attention_dtype, device=device)
                self._layers, self._output, self._activations = [], None, None
            # On a GPU decoding is a graph, with other attention.
            self._record = record and device.type == "cpu" and flash_attention()
            if self._record and self._activations is None:
                vocabulary, width = model.head.shape
                self._activations = Activations.empty(
                    self._cache, heads=model.heads, width=width, hidden=model.blocks[0].expand.shape[0],
                    vocabulary=vocabulary, stream=model.stream_dtype, products=self.dtype,
                )  # fmt: skip
                self._rows = self._activations.rows()
            self._rotation_tables(max_length)
        if self._output is None:
            self._layers = [_Layer.of(model, block, texts, self.dtype) for block in model.blocks]
            self._output = _packed(model.head, texts, self.dtype)
        else:
            for packed in (self._output, *(packed for layer in self._layers for packed in layer.packed)):
                packed.refresh()

    def _product(self, matrix: Matrix, x: Tensor, *, gelu: bool = False) -> Tensor:
        return linear(x, matrix.weight(), matrix.bias(), dtype=self.dtype, gelu=gelu)

    def _embedded(self, token_ids: Tensor) -> Tensor:
        model = self.description
        x = F.embedding(token_ids, model.embedding).to(model.stream_dtype)
        return x if model.embedding_scale == 1.0 else x * model.embedding_scale

    def _projected(self, layer: _Layer, x: Tensor) -> Tensor:
        """Queries, keys and values of one token each, (B, C) → (B, A, 1, D)."""
        projected = layer.query_key_value(layer.block.attention_norm(x)).to(self.attention_dtype)
        return projected.view(len(x), self.description.all_heads, 1, self.description.head_width)

    def _placed(self, block: Block, kind: Kind, heads: Tensor, position: int | Tensor, length: int) -> Tensor:
        """Queries, keys and values as attention reads them, (…, A, T, D): normed and turned, where the model does so.

        `position`: of the first of the T tokens.
        """
        if block.rotary is None and block.query_norm is None:
            return heads
        rotation = self._rotation(block, position, length)
        query, key, value = kind.split(heads)
        turning = heads.narrow(-3, 0, kind.heads + kind.key_value_heads)
        if block.query_norm is not None and block.key_norm is not None:
            turning = torch.cat([block.query_norm(query), block.key_norm(key)], -3).to(heads.dtype)
        return torch.cat([turning if rotation is None else rotate(turning, *rotation), value], -3)

    def _rotation(self, block: Block, position: int | Tensor, length: int) -> tuple[Tensor, Tensor] | None:
        """Tables of the positions, (T, width that turns); None if nothing turns."""
        if block.rotary is None:
            return None
        end = length if isinstance(position, Tensor) else position + length
        tables = self._rotation_tables(end)[block.rotary]
        if isinstance(position, Tensor):
            return tables[0].index_select(0, position), tables[1].index_select(0, position)
        return tables[0].narrow(0, position, length), tables[1].narrow(0, position, length)

    def _rotation_tables(self, length: int) -> dict[Rotary, tuple[Tensor, Tensor]]:
        """Of all positions up to a length at least, computed once."""
        if not self._tables or len(next(iter(self._tables.values()))[0]) < length:
            like = torch.empty(0, dtype=self.attention_dtype, device=self.description.embedding.device)
            kinds = {block.rotary for block in self.description.blocks if block.rotary is not None}
            with torch.inference_mode(False):
                self._tables = {rotary: rotary.table(length, like) for rotary in kinds}
        return self._tables

    def _one_query(self, heads: Tensor) -> Tensor:
        """Queries of one token each, (B, A, 1, D) → (B, K, H / K, D): those that share keys are read together."""
        model = self.description
        return heads[:, : model.heads].reshape(len(heads), model.key_value_heads, -1, model.head_width)

    def _logits(self, x: Tensor) -> Tensor:
        assert self._output is not None, "start comes first"
        return self._output(self.description.norm(x)).to(x.dtype)


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A block's weights in the layout that decoding wants."""

    description: Description
    block: Block
    query_key_value: Packed
    output: Packed
    expand: Packed
    contract: Packed

    @classmethod
    def of(cls, description: Description, block: Block, rows: int, dtype: torch.dtype) -> _Layer:
        gelu = description.records_activation
        return cls(
            description,
            block,
            _packed(block.query_key_value, rows, dtype),
            _packed(block.output, rows, dtype),
            _packed(block.expand, rows, dtype, gelu=gelu),
            _packed(block.contract, rows, dtype),
        )

    @property
    def packed(self) -> tuple[Packed, ...]:
        return self.query_key_value, self.output, self.expand, self.contract

    def after_attention(self, x: Tensor, attended: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Between the layer's halves, of the feed-forward network (see `records_activation`), the layer's output."""
        model, block = self.description, self.block
        added = self.output(attended)
        middle = x + (added if block.output_norm is None else block.output_norm(added))
        hidden = self.expand(block.feed_forward_norm(x if model.parallel else middle))
        added = self.contract(hidden if model.records_activation else model.activate(hidden))
        return middle, hidden, middle + (added if block.contract_norm is None else block.contract_norm(added))


def _packed(matrix: Matrix, rows: int, dtype: torch.dtype, *, gelu: bool = False) -> Packed:
    return Packed(matrix.detached, rows, dtype=dtype, gelu=gelu)
