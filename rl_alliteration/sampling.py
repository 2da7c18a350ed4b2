"""Sample a group of texts from the exact distribution, and score texts.

B texts, T tokens, V vocabulary. Random numbers are a function of (seed, generation, position), so that a text
depends on nothing but its trial's configuration and its place in it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from rl_alliteration.gpt_neo import Activations, GPTNeoForward
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
    activations: Activations | None = None
    """What was computed on the way, for `score`; None if that was not asked for, or not to be had."""


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


_BELOW_ONE = 1.0 - 2.0**-52


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
    target = (uniform.clamp(max=_BELOW_ONE) * total)[:, None]  # below the total, whatever is rounded
    tokens = torch.searchsorted(cumulative, target, right=True).clamp_(max=logits.shape[-1] - 1)
    return tokens[:, 0], shifted.gather(-1, tokens)[:, 0] - log_normaliser


def sample(
    model: LanguageModel,
    prompt_ids: list[int],
    uniform: NDArray[np.float64],
    *,
    end_tokens: frozenset[int],
    temperature: float = 1.0,
    top_k: int = 0,
    record: bool = False,
) -> Rollout:
    """Sample a group in one batch; the loop stops when every text has ended.

    Args:
        model: the policy.
        prompt_ids: what every text begins with.
        uniform: (B, T), T being the greatest length: column p decides the token at position p.
        end_tokens: ids that end a text.
        temperature: sampling temperature.
        top_k: 0 for the full distribution.
        record: keep the activations, where the model's code can.
    """
    texts, max_length = uniform.shape
    start = len(prompt_ids)
    device = model.device
    prompt = torch.tensor(prompt_ids, device=device)
    if device.type == "cuda" and isinstance(model.forward, GPTNeoForward):
        loop = DeviceLoop.of(model.forward, texts, max_length, temperature, top_k)
        return _rollout(*loop.run(prompt, uniform), start, end_tokens)
    with torch.inference_mode():
        chances = torch.from_numpy(uniform).to(device)
        ids, log_probabilities = [*prompt.expand(texts, -1).unbind(1)], []
        unended = set(range(texts))
        logits = model.forward.start(prompt, texts, max_length, record=record)
        for position in range(start, max_length):
            tokens, chosen = choose_tokens(logits, chances[:, position], temperature, top_k)
            ids.append(tokens)
            log_probabilities.append(chosen)
            if end_tokens:
                unended.difference_update(text for text, token in enumerate(tokens.tolist()) if token in end_tokens)
                if not unended:
                    break
            if position + 1 < max_length:
                logits = model.forward.advance(tokens)
    activations = model.forward.finish()
    return _rollout(torch.stack(ids, 1), torch.stack(log_probabilities, 1), start, end_tokens, activations)


def _rollout(
    token_ids: Tensor,
    sampled: Tensor,
    start: int,
    end_tokens: frozenset[int],
    activations: Activations | None = None,
) -> Rollout:
    """Texts up to their first end token; what no text reaches is cut off."""
    ids = token_ids.cpu().numpy()
    ends = np.isin(ids, sorted(end_tokens))
    ends[:, :start] = False  # an end token in the prompt ends nothing
    ended: NDArray[np.bool_] = np.any(ends, axis=1)
    lengths = np.where(ended, ends.argmax(1) + 1, ids.shape[1])
    reached = int(lengths.max())
    sampled = sampled[:, : reached - start].clone()
    return Rollout(token_ids[:, :reached].clone(), lengths, ended, start, sampled, activations)


class DeviceLoop:
    """The loop of `sample` with no number passing between host and device; on a GPU, one CUDA graph a token.

    Its buffers and the graph stay for the next group of the same shape. The numbers are those of `sample`'s own
    loop to rounding: attention runs over the whole cache under a mask.
    """

    def __init__(self, forward: GPTNeoForward, texts: int, max_length: int, temperature: float, top_k: int) -> None:
        self._forward = forward
        self._sampling = temperature, top_k
        device = forward.model.device
        self._logits = forward.start(torch.zeros(1, dtype=torch.long, device=device), texts, max_length).clone()
        self._chances = torch.zeros(texts, max_length, dtype=torch.float64, device=device)
        self._token_ids = torch.zeros(texts, max_length, dtype=torch.long, device=device)
        self._log_probabilities = torch.zeros(texts, max_length, dtype=self._logits.dtype, device=device)
        self._places = torch.arange(max_length, device=device)
        self._position = torch.ones(1, dtype=torch.long, device=device)
        self._graph = self._captured() if device.type == "cuda" else None

    @classmethod
    def of(cls, forward: GPTNeoForward, texts: int, max_length: int, temperature: float, top_k: int) -> DeviceLoop:
        """The model's own loop for groups of this shape."""
        shape = (texts, max_length, temperature, top_k)
        kept = forward.loop
        if kept is None or kept[0] != shape:
            kept = forward.loop = shape, cls(forward, texts, max_length, temperature, top_k)
        loop: DeviceLoop = kept[1]
        return loop

    @torch.inference_mode()
    def run(self, prompt: Tensor, uniform: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        """Token ids, (B, T), and log-probabilities of the sampled ones, (B, T − prompt), of one group."""
        texts, max_length = uniform.shape
        start = len(prompt)
        self._chances.copy_(torch.from_numpy(uniform))
        self._token_ids[:, :start] = prompt
        self._position.fill_(start)
        self._logits.copy_(self._forward.start(prompt, texts, max_length))
        for _ in range(start, max_length):
            if self._graph is None:
                self._step()
            else:
                self._graph.replay()
        return self._token_ids, self._log_probabilities[:, start:]

    def _step(self) -> None:
        """One token of each text, from the buffers into the buffers."""
        here = self._places == self._position
        chance = self._chances.index_select(1, self._position)[:, 0]
        tokens, chosen = choose_tokens(self._logits, chance, *self._sampling)
        self._token_ids.copy_(torch.where(here, tokens[:, None], self._token_ids))
        self._log_probabilities.copy_(torch.where(here, chosen[:, None], self._log_probabilities))
        self._logits.copy_(self._forward.advance_at(tokens, self._position))
        self._position += 1

    def _captured(self) -> torch.cuda.CUDAGraph:
        """The step as a graph, after a few on another stream, as PyTorch's notes on CUDA graphs ask for."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._step()
                self._position.fill_(1)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        return graph


def score(model: LanguageModel, token_ids: Tensor, activations: Activations | None = None) -> tuple[Tensor, Tensor]:
    """Log-probabilities of given tokens, without materialising a log-softmax.

    Args:
        model: the policy.
        token_ids: (B, T). Padding needs no mask: attention is causal, and callers mask by length.
        activations: of the rollout that has sampled just these, by the same weights; they can be used once.

    Returns:
        Log-probability of each token but the first, (B, T − 1), nats, full softmax at temperature 1,
        differentiable once; and the entropy of the distribution that each was drawn from, (B, T − 1), nats, detached.
    """
    if activations is not None:
        assert isinstance(model.forward, GPTNeoForward), "no other records any"
        logits = model.forward.decoded_logits(token_ids[:, :-1], activations)
        log_p, entropy = _TokenScores.apply(logits, token_ids[:, 1:].t().flatten())
        return log_p.view(-1, len(token_ids)).t(), entropy.view(-1, len(token_ids)).t()
    logits = model.forward.logits(token_ids[:, :-1])
    log_p, entropy = _TokenScores.apply(logits.flatten(0, 1), token_ids[:, 1:].flatten())
    shape = logits.shape[:2]
    return log_p.view(shape), entropy.view(shape)


class _TokenScores(torch.autograd.Function):
    """Logits, (N, V), and tokens, (N,) → log-probabilities and entropies, (N,).

    The logits' own memory becomes the probabilities, and in the backward pass their gradient: nothing of that size
    is allocated, and `exp` is taken once. Rows go in pieces that fit into a processor's cache.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        memory = logits.detach()
        exact = torch.promote_types(logits.dtype, torch.float32)
        log_p = torch.empty(len(logits), dtype=exact, device=logits.device)
        entropy = torch.empty_like(log_p)
        rows = max(1, _PIECE[logits.device.type] // logits.shape[1])
        for begin in range(0, len(logits), rows):
            piece = slice(begin, begin + rows)
            shifted = memory[piece].to(exact)
            shifted = shifted - shifted.amax(-1, keepdim=True)
            weights = shifted.exp()
            total = weights.sum(-1)
            log_total = total.log()
            log_p[piece] = shifted.gather(-1, tokens[piece, None])[:, 0] - log_total
            entropy[piece] = log_total - torch.linalg.vecdot(weights, shifted) / total
            if ctx.needs_input_grad[0]:
                memory[piece] = weights.div_(total[:, None])
        if ctx.needs_input_grad[0]:
            ctx.probabilities = memory
            ctx.save_for_backward(tokens, log_p)
        ctx.mark_non_differentiable(entropy)
        return log_p, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None]:
        tokens, log_p = ctx.saved_tensors
        memory, ctx.probabilities = ctx.probabilities, None  # it can be had once
        gradient = gradient.to(memory.dtype)
        memory.mul_(-gradient[:, None])
        # 1 − p from log p: the difference would lose a low precision's last bits where p is near 1.
        at_token = (gradient * -torch.expm1(log_p)).to(memory.dtype)
        return memory.scatter_(1, tokens[:, None], at_token[:, None]), None


# Logits at a time: half a megabyte fits a CPU's cache, a GPU wants few kernels.
_PIECE = {"cpu": 2**17, "cuda": 2**26}


@torch.inference_mode()
def log_probabilities(model: LanguageModel, token_ids: Tensor) -> Tensor:
    """As `score`, for a model that is not trained: log-probabilities alone, (B, T − 1). A cacheful at a time."""
    logits = model.forward.logits(token_ids[:, :-1])
    rows = max(1, _PIECE[logits.device.type] // logits.shape[-1])
    found = []
    for piece, tokens in zip(logits.flatten(0, 1).split(rows), token_ids[:, 1:].flatten().split(rows), strict=True):
        piece = piece.to(torch.promote_types(piece.dtype, torch.float32))
        found.append(piece.log_softmax(-1).gather(-1, tokens[:, None])[:, 0])
    return torch.cat(found).view(logits.shape[:2])
