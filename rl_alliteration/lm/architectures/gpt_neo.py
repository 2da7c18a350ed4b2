"""GPT-Neo, the architecture of TinyStories-33M and of the shipped models, without transformers' overhead.

The weights stay in the transformers module: here are only faster ways through them. Shapes below:
B texts, T tokens, H heads, D width of a head, C = H · D width, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rl_alliteration.lm.attention import attend, flash_attention, known_attention, known_gelu, window_mask
from rl_alliteration.lm.forward import Decoded
from rl_alliteration.lm.linear import Packed, known_linear, linear


@dataclasses.dataclass(frozen=True)
class Activations:
    """What decoding computes of a group, of which an update's forward pass then need not compute most again.

    L layers; by token, then by text, as they are decoded. The memory is used again for the next group.
    """

    heads: Tensor
    """Query, key and value: (L, B, 3, H, T, D)."""
    attended: Tensor
    """(L, T, B, C)."""
    normalisers: Tensor
    """Of attention, their logarithms: (L, T, B, H)."""
    middle: Tensor
    """Between a layer's halves: (L, T, B, C)."""
    hidden: Tensor
    """After the activation function: (L, T, B, inner width)."""
    output: Tensor
    """Of a layer: (L, T, B, C)."""
    logits: Tensor
    """(T, B, V)."""

    @classmethod
    def empty(cls, heads: Tensor, inner_width: int, vocabulary: int, dtype: torch.dtype) -> Activations:
        """Memory for the texts whose queries, keys and values `heads` is to hold; `dtype`: of products."""
        layers, texts, _, count, length, width = heads.shape
        of_layers = functools.partial(heads.new_empty, layers, length, texts)
        return cls(
            heads,
            attended=of_layers(count * width),
            normalisers=of_layers(count),
            middle=of_layers(count * width),
            hidden=of_layers(inner_width, dtype=dtype),
            output=of_layers(count * width),
            logits=heads.new_empty(length, texts, vocabulary, dtype=dtype),
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


class GPTNeoForward:
    """Logits of a `GPTNeoForCausalLM`: of whole texts with gradients, or of one more token a text with a cache.

    Dropout is never applied: policy and reference are in evaluation mode.
    """

    def __init__(self, model: Any, dtype: torch.dtype | None = None) -> None:
        """`dtype`: of the matrix products; None: the weights' own. Norms and sums over layers keep the weights'."""
        config = model.config
        self.model = model
        weights = model.transformer.wte.weight
        self.dtype = dtype or weights.dtype
        # One token's attention in bfloat16 is slow on CPUs (measured: five times slower than in float32).
        self.attention_dtype = weights.dtype if weights.device.type == "cpu" else self.dtype
        self.heads = config.num_heads
        self.head_width = config.hidden_size // config.num_heads
        self.width = config.hidden_size
        self.windows = [config.window_size if kind == "local" else None for kind in config.attention_layers]
        self.blocks = list(model.transformer.h)
        self.fused = [_fuse_query_key_value(block.attn.attention) for block in self.blocks]
        self._layers: list[_Layer] = []
        self._output: Packed | None = None
        self._cache = torch.empty(0)
        self._position = 0
        self._activations: Activations | None = None
        self._rows: list[list[Tensor]] = []
        self._record = False

    @staticmethod
    def unsupported(config: Any) -> str | None:
        """See `Architecture.unsupported`."""
        if config.activation_function != "gelu_new":
            return f"its activation function is {config.activation_function!r}, not 'gelu_new'"
        return None

    def logits(self, token_ids: Tensor) -> Tensor:
        """Logits after each token, (B, T) → (B, T, V); differentiable in the model's parameters."""
        texts, length = token_ids.shape
        transformer = self.model.transformer
        positions = torch.arange(length, device=token_ids.device)
        x = transformer.wte(token_ids) + transformer.wpe(positions)
        for block, window in zip(self.blocks, self.windows, strict=True):
            attention, mlp = block.attn.attention, block.mlp
            weight = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
            projected = linear(block.ln_1(x), weight, dtype=self.dtype).to(self.attention_dtype)
            query, key, value = projected.view(texts, length, 3, self.heads, self.head_width).permute(2, 0, 3, 1, 4)
            attended, _ = attend(query, key, value, window_mask(length, window, query), causal=True)
            merged = attended.transpose(1, 2).reshape(texts, length, self.width)
            x = x + linear(merged, attention.out_proj.weight, attention.out_proj.bias, dtype=self.dtype)
            hidden = linear(block.ln_2(x), mlp.c_fc.weight, mlp.c_fc.bias, dtype=self.dtype, gelu=True)
            x = x + linear(hidden, mlp.c_proj.weight, mlp.c_proj.bias, dtype=self.dtype)
        return linear(transformer.ln_f(x), self.model.lm_head.weight, dtype=self.dtype)

    @torch.inference_mode()
    def start(self, prompt_ids: Tensor, texts: int, max_length: int, *, record: bool = False) -> Tensor:
        """Read the prompt, (T,), once for all `texts`; logits of the first token to sample, (B, V).

        `record`: have `finish` return what was computed.
        """
        length = len(prompt_ids)
        self._prepare(texts, max_length, record)
        transformer = self.model.transformer
        x = transformer.wte.weight[prompt_ids] + transformer.wpe.weight[:length]
        kept: list[Tensor] = []
        for layer, window, cache in zip(self._layers, self.windows, self._cache, strict=True):
            cache[..., :length, :] = self._projected(layer, x)[..., 0, :].permute(1, 2, 0, 3)
            query, key, value = cache[:1, ..., :length, :].unbind(1)
            attended, normalisers = attend(query, key, value, window_mask(length, window, query), causal=True)
            merged = attended[0].transpose(0, 1).reshape(length, self.width)
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
        transformer = self.model.transformer
        position, end = self._position, self._position + 1
        x = transformer.wte.weight.index_select(0, tokens) + transformer.wpe.weight[position]
        kept: list[Tensor] = []
        for layer, window, cache in zip(self._layers, self.windows, self._cache, strict=True):
            heads = self._projected(layer, x)
            cache.narrow(-2, position, 1).copy_(heads)
            first = 0 if window is None else max(0, end - window)
            _, keys, values = cache.narrow(-2, first, end - first).unbind(1)
            attended, normalisers = attend(heads.select(1, 0), keys, values)
            merged = attended.reshape(-1, self.width)
            middle, hidden, x = layer.after_attention(x, merged)
            kept += [merged, normalisers[..., 0], middle, hidden, x]
        self._position = end
        logits = self._logits(x)
        if self._record:
            torch._foreach_copy_(self._rows[position], [*kept, logits])
        return logits

    @torch.inference_mode()
    def advance_at(self, tokens: Tensor, position: Tensor) -> Tensor:
        """`advance`, its position, (1,), on the device: the same operations at any position, for a CUDA graph."""
        transformer = self.model.transformer
        places = torch.arange(self._cache.shape[-2], device=position.device)
        here = (places == position)[:, None]
        x = transformer.wte.weight[tokens] + F.embedding(position, transformer.wpe.weight)
        for layer, window, cache in zip(self._layers, self.windows, self._cache, strict=True):
            heads = self._projected(layer, x)
            cache.copy_(torch.where(here, heads, cache))
            seen = places <= position
            if window is not None:
                seen = seen & (places > position - window)
            _, keys, values = cache.unbind(1)
            attended = F.scaled_dot_product_attention(heads[:, 0], keys, values, attn_mask=seen[None], scale=1.0)
            _, _, x = layer.after_attention(x, attended.reshape(-1, self.width))
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
        return functools.partial(self._decoded_logits, self._activations.until(self._position))

    def _decoded_logits(self, kept: Activations, token_ids: Tensor) -> Tensor:
        """Of the tokens that have just been decoded, see `Decoded`.

        One product a layer is computed again: in decoding its result went straight into the activation function.
        """
        transformer = self.model.transformer
        positions = torch.arange(token_ids.shape[1], device=token_ids.device)
        x = (transformer.wte(token_ids.t()) + transformer.wpe(positions)[:, None]).flatten(0, 1)
        for index, (block, window) in enumerate(zip(self.blocks, self.windows, strict=True)):
            attention, mlp = block.attn.attention, block.mlp
            middle, hidden, output = (part[index].flatten(0, 1) for part in (kept.middle, kept.hidden, kept.output))
            known = kept.heads[index], kept.attended[index], kept.normalisers[index]
            weight = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
            merged = known_attention(block.ln_1(x), weight, *known, window=window, dtype=self.dtype)
            out = attention.out_proj
            x = known_linear(merged, out.weight, out.bias, middle, dtype=self.dtype, added_to=x)
            before = linear(block.ln_2(x), mlp.c_fc.weight, mlp.c_fc.bias, dtype=self.dtype)
            activation = known_gelu(before, hidden)
            x = known_linear(activation, mlp.c_proj.weight, mlp.c_proj.bias, output, dtype=self.dtype, added_to=x)
        logits = kept.logits.flatten(0, 1)
        return known_linear(transformer.ln_f(x), self.model.lm_head.weight, None, logits, dtype=self.dtype)

    def _prepare(self, texts: int, max_length: int, record: bool) -> None:
        """Cache and weights for decoding. An update has changed the weights in place since the last group."""
        weights = self.model.transformer.wte.weight
        shape = (len(self.blocks), texts, 3, self.heads, max_length, self.head_width)
        with torch.inference_mode(False):  # what a backward pass reads must be ordinary memory
            if self._cache.shape != shape:
                # Zeros: `advance_at` reads the whole cache, and nothing masked may be NaN.
                self._cache = torch.zeros(shape, dtype=self.attention_dtype, device=weights.device)
                self._layers, self._output, self._activations = [], None, None
            # On a GPU decoding is a graph, with other attention.
            self._record = record and weights.device.type == "cpu" and flash_attention()
            if self._record and self._activations is None:
                self._activations = Activations.empty(
                    self._cache, len(self.blocks[0].mlp.c_fc.weight), len(weights), self.dtype
                )
                self._rows = self._activations.rows()
        if self._output is None:
            self._layers = [
                _Layer.of(block, fused, texts, self.dtype) for block, fused in zip(self.blocks, self.fused, strict=True)
            ]
            self._output = Packed(self.model.lm_head.weight, None, texts, dtype=self.dtype)
        else:
            for packed in (self._output, *(packed for layer in self._layers for packed in layer.packed)):
                packed.refresh()

    def _projected(self, layer: _Layer, x: Tensor) -> Tensor:
        """Query, key and value, (B, C) → (B, 3, H, 1, D)."""
        projected = layer.query_key_value(layer.norm_1(x)).to(self.attention_dtype)
        return projected.view(len(x), 3, self.heads, 1, self.head_width)

    def _logits(self, x: Tensor) -> Tensor:
        assert self._output is not None, "start comes first"
        return self._output(_norm(self.model.transformer.ln_f)(x)).to(x.dtype)


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A block's weights in the layout that decoding wants."""

    norm_1: Callable[[Tensor], Tensor]
    norm_2: Callable[[Tensor], Tensor]
    query_key_value: Packed
    output: Packed
    expand: Packed
    contract: Packed

    @classmethod
    def of(cls, block: Any, fused: Tensor, rows: int, dtype: torch.dtype) -> _Layer:
        output, mlp = block.attn.attention.out_proj, block.mlp
        return cls(
            _norm(block.ln_1),
            _norm(block.ln_2),
            Packed(fused, None, rows, dtype=dtype),
            Packed(output.weight, output.bias, rows, dtype=dtype),
            Packed(mlp.c_fc.weight, mlp.c_fc.bias, rows, dtype=dtype, gelu=True),
            Packed(mlp.c_proj.weight, mlp.c_proj.bias, rows, dtype=dtype),
        )

    @property
    def packed(self) -> tuple[Packed, ...]:
        return self.query_key_value, self.output, self.expand, self.contract

    def after_attention(self, x: Tensor, attended: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Between the layer's halves, after the activation function, and the layer's output."""
        middle = x + self.output(attended)
        hidden = self.expand(self.norm_2(middle))
        return middle, hidden, middle + self.contract(hidden)


def _norm(module: Any) -> Callable[[Tensor], Tensor]:
    """The module's layer norm without the module's overhead, which a step of decoding feels."""
    width, weight, bias, epsilon = module.normalized_shape, module.weight, module.bias, module.eps
    return lambda x: torch.layer_norm(x, width, weight, bias, epsilon)


def _fuse_query_key_value(attention: Any) -> Tensor:
    """One matrix for q, k and v, (3C, C), that shares its memory with the three parameters.

    Updates and `load_state_dict` work in place, so the matrix follows them without a copy.
    """
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    with torch.no_grad():
        fused = torch.cat([projection.weight for projection in projections])
        for projection, part in zip(projections, fused.chunk(3), strict=True):
            projection.weight.data = part
    return fused
