"""How well a model predicts stories, in nats: a token, or a word for models of different tokenizers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

WORDS = 100
"""Models are compared over so many first words of each held-out story: about what the study samples."""


@torch.no_grad()
def nats(model: Any, stories: Sequence[list[int]], context: int, batch: int = 32) -> tuple[float, int]:
    """Sum of −log p over all tokens but the first of each story's first `context`, and how many they are."""
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    total, count = 0.0, 0
    cut = sorted((ids[:context] for ids in stories), key=len)
    for start in range(0, len(cut), batch):
        group = cut[start : start + batch]
        lengths = torch.tensor([len(ids) for ids in group], device=device)
        padded = torch.tensor([ids + [0] * (len(group[-1]) - len(ids)) for ids in group], device=device)
        log_p = model(input_ids=padded).logits[:, :-1].log_softmax(-1).gather(-1, padded[:, 1:, None])[..., 0]
        mask = torch.arange(1, padded.shape[1], device=device) < lengths[:, None]
        total -= float((log_p.double() * mask).sum())
        count += int(mask.sum())
    model.train(training)
    return total, count


def nats_per_word(model: Any, tokenizer: Any, stories: Sequence[str], context: int) -> float:
    """Mean −log p a word, over the first 100 words of each story but the first: for models of any tokenizer."""
    texts = [" ".join(story.split()[:WORDS]) for story in stories]
    encoded = [tokenizer.backend_tokenizer.encode(text).ids[:context] for text in texts]
    words = sum(len(tokenizer.decode(ids).split()) - 1 for ids in encoded)
    return nats(model, encoded, context)[0] / max(words, 1)
