"""GPT-Neo, the architecture of TinyStories-33M and of the shipped model, without transformers' overhead.

The weights stay in the transformers module: here are only faster ways through them. Shapes below:
B texts, T tokens, H heads, D width of a head, C = H · D width, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rl_alliteration.linear import Packed, linear


class GPTNeoForward:
    """Logits of a `GPTNeoForCausalLM`: of whole texts with gradients, or of one more token a text with a cache.

    Dropout is never applied: policy and reference are in evaluation mode (design: "update").
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
        self.loop: Any = None
        """Of the sampler on a GPU: what it keeps from group to group."""

    @staticmethod
    def supports(model: Any) -> bool:
        """Whether `model` is a GPT-Neo with the activation that this code knows."""
        config = model.config
        return config.model_type == "gpt_neo" and config.activation_function == "gelu_new"

    def logits(self, token_ids: Tensor) -> Tensor:
        """Logits after each token, (B, T) → (B, T, V); differentiable in the model's parameters."""
        texts, length = token_ids.shape
        transformer = self.model.transformer
        positions = torch.arange(length, device=token_ids.device)
        x = transformer.wte(token_ids) + transformer.wpe(positions)
        for block, window in zip(self.blocks, self.windows, strict=True):
            attention, mlp = block.attn.attention, block.mlp
            weight = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
            projected = linear(block.ln_1(x), weight, dtype=self.dtype)
            query, key, value = projected.view(texts, length, 3, self.heads, self.head_width).permute(2, 0, 3, 1, 4)
            attended = _causal_attention(query, key, value, window)
            merged = attended.transpose(1, 2).reshape(texts, length, self.width)
            x = x + linear(merged, attention.out_proj.weight, attention.out_proj.bias, dtype=self.dtype)
            hidden = linear(block.ln_2(x), mlp.c_fc.weight, mlp.c_fc.bias, dtype=self.dtype, gelu=True)
            x = x + linear(hidden, mlp.c_proj.weight, mlp.c_proj.bias, dtype=self.dtype)
        return linear(transformer.ln_f(x), self.model.lm_head.weight, dtype=self.dtype)

    @torch.inference_mode()
    def start(self, prompt_ids: Tensor, texts: int, max_length: int) -> Tensor:
        """Read the prompt, (T,), once for all `texts`; logits of the first token to sample, (B, V)."""
        length = len(prompt_ids)
        self._prepare(texts, max_length)
        transformer = self.model.transformer
        x = transformer.wte.weight[prompt_ids] + transformer.wpe.weight[:length]
        for layer, window, cache in zip(self._layers, self.windows, self._cache, strict=True):
            projected = self._projected(layer, x).transpose(1, 2)
            cache[..., :length, :] = projected[1:, None]
            query, key, value = projected[:, None]
            attended = _causal_attention(query, key, value, window)[0]
            x = layer.after_attention(x, attended.transpose(0, 1).reshape(length, self.width))
        self._position = length
        return self._logits(x[-1:]).expand(texts, -1)

    @torch.inference_mode()
    def advance(self, tokens: Tensor) -> Tensor:
        """Append one token to each text, (B,); logits of the next, (B, V)."""
        transformer = self.model.transformer
        position, end = self._position, self._position + 1
        x = transformer.wte.weight[tokens] + transformer.wpe.weight[position]
        for layer, window, cache in zip(self._layers, self.windows, self._cache, strict=True):
            projected = self._projected(layer, x)
            cache.select(-2, position).copy_(projected[1:])
            first = 0 if window is None else max(0, end - window)
            keys, values = cache[..., first:end, :]
            # GPT-Neo does not scale its attention scores.
            attended = F.scaled_dot_product_attention(projected[0][:, :, None], keys, values, scale=1.0)
            x = layer.after_attention(x, attended.reshape(-1, self.width))
        self._position = end
        return self._logits(x)

    @torch.inference_mode()
    def advance_at(self, tokens: Tensor, position: Tensor) -> Tensor:
        """`advance`, its position, (1,), on the device: the same operations at any position, for a CUDA graph."""
        transformer = self.model.transformer
        places = torch.arange(self._cache.shape[-2], device=position.device)
        here = (places == position)[:, None]
        x = transformer.wte.weight[tokens] + F.embedding(position, transformer.wpe.weight)
        for layer, window, cache in zip(self._layers, self.windows, self._cache, strict=True):
            projected = self._projected(layer, x)[..., None, :]
            cache.copy_(torch.where(here, projected[1:], cache))
            seen = places <= position
            if window is not None:
                seen = seen & (places > position - window)
            keys, values = cache
            attended = F.scaled_dot_product_attention(projected[0], keys, values, attn_mask=seen[None], scale=1.0)
            x = layer.after_attention(x, attended.reshape(-1, self.width))
        return self._logits(x)

    def finish(self) -> None:
        """Free the copies of the weights that decoding wanted; a GPU keeps them, for its graph."""
        if self._cache.device.type == "cpu":
            self._layers, self._output = [], None

    def _prepare(self, texts: int, max_length: int) -> None:
        """Cache and weights for decoding. An update has changed the weights in place since the last group."""
        weights = self.model.transformer.wte.weight
        shape = (len(self.blocks), 2, texts, self.heads, max_length, self.head_width)
        if self._cache.shape != shape:
            # Zeros: `advance_at` reads the whole cache, and nothing masked may be NaN.
            self._cache = torch.zeros(shape, dtype=self.attention_dtype, device=weights.device)
            self._layers, self._output = [], None
        if self._output is None:
            self._layers = [
                _Layer.of(block, fused, texts, self.dtype) for block, fused in zip(self.blocks, self.fused, strict=True)
            ]
            self._output = Packed(self.model.lm_head.weight, None, texts, dtype=self.dtype)
        else:
            for packed in (self._output, *(packed for layer in self._layers for packed in layer.packed)):
                packed.refresh()

    def _projected(self, layer: _Layer, x: Tensor) -> Tensor:
        """Query, key and value, (B, C) → (3, B, H, D)."""
        projected = layer.query_key_value(layer.norm_1(x)).to(self.attention_dtype)
        return projected.view(len(x), 3, self.heads, self.head_width).transpose(0, 1)

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

    def after_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.output(attended)
        return x + self.contract(self.expand(self.norm_2(x)))


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


def _causal_attention(query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Tensor:
    """Attention to all earlier tokens, or to the last `window` ones; (B, H, T, D) each."""
    length = query.shape[-2]
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and length <= _SHORT:
        return _short_attention(query, key, value, window)
    if window is None or length <= window:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=1.0)
    past = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    return F.scaled_dot_product_attention(query, key, value, attn_mask=past.triu(1 - window), scale=1.0)


# Up to this length the scores of all pairs of tokens fit into memory with ease.
_SHORT = 256


def _short_attention(query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Tensor:
    """The same as plain products, with the softmax in float32: in bfloat16 on CPUs twice to six times as fast."""
    shape = query.shape
    length = shape[-2]
    query, key, value = (part.reshape(-1, length, shape[-1]) for part in (query, key, value))
    hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
    if window is not None:
        hidden |= torch.ones_like(hidden).tril(-window)
    mask = torch.zeros(length, length).masked_fill_(hidden, -torch.inf)
    scores = torch.bmm(query, key.transpose(1, 2)).float() + mask
    return torch.bmm(scores.softmax(-1).to(value.dtype), value).view(shape)
