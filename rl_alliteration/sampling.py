"""Sample a group of texts from the exact distribution, and score texts.

B texts, T tokens, V vocabulary. Random numbers are a function of (seed, generation, position), so that a text
depends on nothing but its trial's configuration and its place in it.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl_alliteration.language_model import LanguageModel


@dataclasses.dataclass(frozen=True)
class Rollout:
    """A sampled group."""

    token_ids: Tensor
    """(B, T), the prompt included; what lies beyond `lengths` is padding of no meaning."""
    lengths: NDArray[np.int64]
    """(B,): tokens of each text, prompt and sampled end token included."""
    ended: NDArray[np.bool_]
    """(B,): whether the text's last token is a sampled end token."""
    prompt_length: int
    log_probabilities: Tensor
    """(B, T − prompt_length): of the sampled tokens, nats, at temperature 1 over the full distribution."""


def uniforms(seed: int, generation: int, texts: int, positions: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) for `texts` generations from `generation` on, (texts, positions).

    Row i, column p depends on (seed, generation + i, p) alone: a counter-based generator (Philox 4x64) keyed by
    seed and generation; its raw stream is fixed by definition, unlike numpy's distributions.
    """
    rows = [
        np.random.Philox(key=np.array([seed, generation + text], dtype=np.uint64)).random_raw(positions)
        for text in range(texts)
    ]
    numbers: NDArray[np.float64] = (np.stack(rows) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return numbers


def choose_tokens(logits: Tensor, uniform: Tensor, temperature: float = 1.0, top_k: int = 0) -> tuple[Tensor, Tensor]:
    """Draw one token a row by inversion of the cumulative distribution.

    Args:
        logits: (B, V).
        uniform: (B,), float64, in [0, 1).
        temperature: divides the logits.
        top_k: keep the k likeliest tokens; 0 keeps all.

    Returns:
        Tokens (B,), and their log-probabilities (B,) in nats at temperature 1 over the full distribution.
    """
    shifted = logits - logits.amax(-1, keepdim=True)
    weights = shifted.exp()
    log_normaliser = weights.sum(-1).log()
    if temperature != 1.0:
        weights = (shifted / temperature).exp()
    if 0 < top_k < logits.shape[-1]:
        weights = weights.masked_fill(weights < weights.topk(top_k).values[:, -1:], 0.0)
    # float64: a float32 sum over 50,257 tokens would never reach the rarest ones.
    cumulative = weights.cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1]
    below_total = torch.nextafter(total, torch.zeros_like(total))
    target = torch.minimum(uniform * total, below_total)[:, None]
    tokens = torch.searchsorted(cumulative, target, right=True).clamp_(max=logits.shape[-1] - 1)
    return tokens[:, 0], shifted.gather(-1, tokens)[:, 0] - log_normaliser


@torch.no_grad()
def sample(
    model: LanguageModel,
    prompt_ids: list[int],
    uniform: NDArray[np.float64],
    *,
    end_tokens: frozenset[int],
    temperature: float = 1.0,
    top_k: int = 0,
) -> Rollout:
    """Sample a group in one batch; the loop stops when every text has ended.

    Args:
        model: the policy.
        prompt_ids: what every text begins with.
        uniform: (B, T), T being the greatest length: column p decides the token at position p.
        end_tokens: ids that end a text.
        temperature: sampling temperature.
        top_k: 0 for the full distribution.
    """
    texts, max_length = uniform.shape
    start = len(prompt_ids)
    device = model.device
    prompt = torch.tensor(prompt_ids, device=device)
    chances = torch.from_numpy(uniform).to(device)
    token_ids = torch.zeros(texts, max_length, dtype=torch.long, device=device)
    token_ids[:, :start] = prompt
    log_probabilities = torch.zeros(
        texts, max_length - start, device=device, dtype=next(model.model.parameters()).dtype
    )
    ends = torch.tensor(sorted(end_tokens), device=device)
    ended = torch.zeros(texts, dtype=torch.bool, device=device)
    lengths = torch.full((texts,), max_length, device=device)

    logits = model.forward.start(prompt, texts, max_length)
    reached = max_length
    for position in range(start, max_length):
        tokens, chosen = choose_tokens(logits, chances[:, position], temperature, top_k)
        token_ids[:, position] = tokens
        log_probabilities[:, position - start] = chosen
        if end_tokens:
            ends_now = torch.isin(tokens, ends) & ~ended
            lengths.masked_fill_(ends_now, position + 1)
            ended |= ends_now
            if bool(ended.all()):
                reached = position + 1
                break
        if position + 1 < max_length:
            logits = model.forward.advance(tokens)
    return Rollout(
        token_ids[:, :reached].clone(),
        lengths.cpu().numpy(),
        ended.cpu().numpy(),
        start,
        log_probabilities[:, : reached - start].clone(),
    )


def score(model: LanguageModel, token_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of given tokens, without materialising a log-softmax.

    Args:
        model: policy or reference.
        token_ids: (B, T). Padding needs no mask: attention is causal, and callers mask by length.

    Returns:
        Log-probability of each token but the first, (B, T − 1), nats, full softmax at temperature 1,
        differentiable; and the entropy of the distribution that each was drawn from, (B, T − 1), nats, detached.
    """
    logits = model.forward.logits(token_ids[:, :-1])
    normaliser = logits.logsumexp(-1)
    chosen = logits.gather(-1, token_ids[:, 1:, None])[..., 0]
    with torch.no_grad():
        probabilities = (logits - normaliser[..., None]).exp_()
        entropy = normaliser - torch.linalg.vecdot(probabilities, logits)
    return chosen - normaliser, entropy
