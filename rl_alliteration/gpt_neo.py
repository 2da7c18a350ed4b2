"""GPT-Neo, the architecture of TinyStories-33M and of the shipped model, without transformers' overhead.

The weights stay in the transformers module: here are only faster ways through them. Shapes below:
B texts, T tokens, H heads, D width of a head, C = H · D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


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
            attention = block.attn.attention
            weight = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
            projected = F.linear(block.ln_1(x), weight).view(texts, length, 3, self.heads, self.head_width)
            query, key, value = projected.permute(2, 0, 3, 1, 4)
            attended = _causal_attention(query, key, value, window)
            x = x + attention.out_proj(attended.transpose(1, 2).reshape(texts, length, self.width))
            x = x + _feed_forward(block, x)
        return self.model.lm_head(transformer.ln_f(x))

    @torch.no_grad()
    def start(self, prompt_ids: Tensor, texts: int, max_length: int) -> Tensor:
        """Read the prompt, (T,), once for all `texts`; logits of the first token to sample, (B, V)."""
        length = len(prompt_ids)
        shape = (len(self.blocks), 2, texts, self.heads, max_length, self.head_width)
        cache = self._cache
        if cache is None or cache.shape != shape:
            cache = self._cache = self.model.transformer.wte.weight.new_empty(shape)
        transformer = self.model.transformer
        x = transformer.wte.weight[prompt_ids] + transformer.wpe.weight[:length]
        for block, window, weight, (keys, values) in zip(self.blocks, self.windows, self.fused, cache, strict=True):
            projected = F.linear(block.ln_1(x), weight).view(length, 3, self.heads, self.head_width)
            query, key, value = projected.permute(1, 2, 0, 3)
            keys[:, :, :length] = key
            values[:, :, :length] = value
            attended = _causal_attention(query[None], key[None], value[None], window)[0]
            x = x + block.attn.attention.out_proj(attended.transpose(0, 1).reshape(length, self.width))
            x = x + _feed_forward(block, x)
        self._position = length
        logits: Tensor = self.model.lm_head(transformer.ln_f(x[-1:]))
        return logits.expand(texts, -1)

    @torch.no_grad()
    def advance(self, tokens: Tensor) -> Tensor:
        """Append one token to each text, (B,); logits of the next, (B, V)."""
        assert self._cache is not None, "start comes first"
        transformer = self.model.transformer
        texts, position = len(tokens), self._position
        x = transformer.wte.weight[tokens] + transformer.wpe.weight[position]
        for block, window, weight, (keys, values) in zip(
            self.blocks, self.windows, self.fused, self._cache, strict=True
        ):
            projected = F.linear(block.ln_1(x), weight).view(texts, 3, self.heads, 1, self.head_width)
            query, key, value = projected.unbind(1)
            keys[:, :, position : position + 1] = key
            values[:, :, position : position + 1] = value
            first = 0 if window is None else max(0, position + 1 - window)
            # GPT-Neo does not scale its attention scores.
            attended = F.scaled_dot_product_attention(
                query, keys[:, :, first : position + 1], values[:, :, first : position + 1], scale=1.0
            )
            x = x + block.attn.attention.out_proj(attended.reshape(texts, self.width))
            x = x + _feed_forward(block, x)
        self._position += 1
        logits: Tensor = self.model.lm_head(transformer.ln_f(x))
        return logits


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


def _feed_forward(block: Any, x: Tensor) -> Tensor:
    hidden = F.gelu(block.mlp.c_fc(block.ln_2(x)), approximate="tanh")
    projected: Tensor = block.mlp.c_proj(hidden)
    return projected
