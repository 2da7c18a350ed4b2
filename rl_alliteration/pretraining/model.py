"""The model, its optimizers and their schedule."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rl_alliteration.pretraining.settings import Pretraining


def new_model(settings: Pretraining, vocabulary: int) -> Any:
    """GPT-Neo, the architecture of TinyStories-33M, with the seed's first weights."""
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    torch.manual_seed(settings.seed)
    model: Any = GPTNeoForCausalLM(
        GPTNeoConfig(
            vocab_size=vocabulary,
            hidden_size=settings.width,
            num_layers=settings.layers,
            num_heads=settings.heads,
            attention_types=[[["global"], settings.layers]],
            max_position_embeddings=settings.context,
            window_size=settings.context,
            embed_dropout=settings.dropout,
            resid_dropout=settings.dropout,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )
    )
    for block in model.transformer.h:
        block.attn.attention._attn = _fused_attention
    return model


def _fused_attention(query: Tensor, key: Tensor, value: Tensor, _: Tensor | None = None) -> tuple[Tensor, None]:
    """Causal attention as one kernel, unscaled as GPT-Neo's is; transformers computes all (T, T) scores at length."""
    query, key = query.to(value.dtype), key.to(value.dtype)
    return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=1.0), None


def optimizers_of(model: Any, settings: Pretraining) -> list[tuple[torch.optim.Optimizer, float]]:
    """Muon for the matrices inside the blocks, AdamW for the rest, each with its greatest learning rate."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".h." in name]
    chosen = set(map(id, matrices))
    rest = [p for p in model.parameters() if id(p) not in chosen]
    groups = [
        {"params": [p for p in rest if p.ndim == 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in rest if p.ndim != 2], "weight_decay": 0.0},
    ]
    muon = torch.optim.Muon(matrices, lr=settings.matrix_learning_rate, weight_decay=settings.weight_decay)
    adamw = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.95))
    return [(muon, settings.matrix_learning_rate), (adamw, settings.learning_rate)]


def schedule(update: int, updates: int) -> float:
    """Share of the greatest learning rate: up in the first hundredth, then down to 0 in a line."""
    warm_up = max(updates // 100, 1)
    return min((update + 1) / warm_up, 1 - update / updates)
