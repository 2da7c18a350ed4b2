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

from rl_alliteration.linear import Packed, linear, pack


class GPTNeoForward:
    """Logits of a `GPTNeoForCausalLM`: of whole texts with gradients, or of one more token a text with a cache.

    Dropout is never applied: policy and reference are in evaluation mode (design: "update").
    """

    def __init__(self, model: Any) -> None:
        config = model.config
        self.model = model
        self.heads = config.num_heads
        self.head_width = config.hidden_size // config.num_heads
        self.width = config.hidden_size
        self.windows = [config.window_size if kind == "local" else None for kind in config.attention_layers]
        self.blocks = list(model.transformer.h)
        self.fused = [_fuse_query_key_value(block.attn.attention) for block in self.blocks]
        self._decoding: list[_Layer] = []
        self._output: Callable[[Tensor], Tensor] = model.lm_head
        self._cache: Tensor | None = None
        self._position = 0

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
            projected = linear(block.ln_1(x), weight).view(texts, length, 3, self.heads, self.head_width)
            query, key, value = projected.permute(2, 0, 3, 1, 4)
            attended = _causal_attention(query, key, value, window)
            merged = attended.transpose(1, 2).reshape(texts, length, self.width)
            x = x + linear(merged, attention.out_proj.weight, attention.out_proj.bias)
            hidden = F.gelu(linear(block.ln_2(x), mlp.c_fc.weight, mlp.c_fc.bias), approximate="tanh")
            x = x + linear(hidden, mlp.c_proj.weight, mlp.c_proj.bias)
        return linear(transformer.ln_f(x), self.model.lm_head.weight)

    @torch.no_grad()
    def start(self, prompt_ids: Tensor, texts: int, max_length: int) -> Tensor:
        """Read the prompt, (T,), once for all `texts`; logits of the first token to sample, (B, V)."""
        length = len(prompt_ids)
        shape = (len(self.blocks), 2, texts, self.heads, max_length, self.head_width)
        cache = self._cache
        if cache is None or cache.shape != shape:
            cache = self._cache = self.model.transformer.wte.weight.new_empty(shape)
        # An update since the last group has changed the weights in place: what was made of them is made anew.
        self._decoding = [_Layer.of(block, fused, texts) for block, fused in zip(self.blocks, self.fused, strict=True)]
        self._output = pack(self.model.lm_head.weight, None, texts)
        transformer = self.model.transformer
        x = transformer.wte.weight[prompt_ids] + transformer.wpe.weight[:length]
        for layer, fused, block, window, (keys, values) in zip(
            self._decoding, self.fused, self.blocks, self.windows, cache, strict=True
        ):
            projected = F.linear(block.ln_1(x), fused).view(length, 3, self.heads, self.head_width)
            query, key, value = projected.permute(1, 2, 0, 3)
            keys[:, :, :length] = key
            values[:, :, :length] = value
            attended = _causal_attention(query[None], key[None], value[None], window)[0]
            x = layer.after_attention(x, attended.transpose(0, 1).reshape(length, self.width))
        self._position = length
        return self._output(transformer.ln_f(x[-1:])).expand(texts, -1)

    @torch.no_grad()
    def advance(self, tokens: Tensor) -> Tensor:
        """Append one token to each text, (B,); logits of the next, (B, V)."""
        assert self._cache is not None, "start comes first"
        transformer = self.model.transformer
        texts, position = len(tokens), self._position
        x = transformer.wte.weight[tokens] + transformer.wpe.weight[position]
        for layer, window, (keys, values) in zip(self._decoding, self.windows, self._cache, strict=True):
            projected = layer.query_key_value(layer.norm_1(x)).view(texts, 3, self.heads, 1, self.head_width)
            query, key, value = projected.unbind(1)
            keys[:, :, position : position + 1] = key
            values[:, :, position : position + 1] = value
            first = 0 if window is None else max(0, position + 1 - window)
            # GPT-Neo does not scale its attention scores.
            attended = F.scaled_dot_product_attention(
                query, keys[:, :, first : position + 1], values[:, :, first : position + 1], scale=1.0
            )
            x = layer.after_attention(x, attended.reshape(texts, self.width))
        self._position += 1
        return self._output(transformer.ln_f(x))


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
    def of(cls, block: Any, fused: Tensor, rows: int) -> _Layer:
        output, mlp = block.attn.attention.out_proj, block.mlp
        return cls(
            block.ln_1,
            block.ln_2,
            pack(fused, None, rows),
            pack(output.weight, output.bias, rows),
            pack(mlp.c_fc.weight, mlp.c_fc.bias, rows, gelu=True),
            pack(mlp.c_proj.weight, mlp.c_proj.bias, rows),
        )

    def after_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.output(attended)
        return x + self.contract(self.expand(self.norm_2(x)))


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
    if window is None or length <= window:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=1.0)
    past = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    return F.scaled_dot_product_attention(query, key, value, attn_mask=past.triu(1 - window), scale=1.0)
