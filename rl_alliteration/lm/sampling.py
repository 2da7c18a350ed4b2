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

from rl_alliteration.flags import Sampling
from rl_alliteration.lm.forward import Decoded, DeviceForward
from rl_alliteration.lm.inversion import inverse_of
from rl_alliteration.lm.language_model import LanguageModel


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
    decoded: Decoded | None = None
    """What was computed on the way, for `score`; None if that was not asked for, or the model's code records none."""


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


_PLAIN = Sampling()
"""The full distribution at temperature 1."""


def choose_tokens(logits: Tensor, uniform: Tensor, sampling: Sampling = _PLAIN) -> tuple[Tensor, Tensor]:
    """Draw one token a row by inversion of the cumulative distribution.

    Args:
        logits: (B, V).
        uniform: (B,), float64, in [0, 1).
        sampling: temperature and truncation of the distribution; by default none.

    Returns:
        Tokens (B,), and their log-probabilities (B,) in nats at temperature 1 over the full distribution.
    """
    shifted = logits - logits.amax(-1, keepdim=True)
    weights = shifted.exp()
    log_normaliser = weights.sum(-1).log()
    if sampling.temperature != 1.0:
        weights = (shifted / sampling.temperature).exp()
    if 0 < sampling.top_k < logits.shape[-1]:
        weights = weights.masked_fill(weights < weights.topk(sampling.top_k).values[:, -1:], 0.0)
    tokens = inverse_of(logits.device)(weights, uniform)
    return tokens, shifted.gather(-1, tokens[:, None])[:, 0] - log_normaliser


def sample(
    model: LanguageModel,
    prompt_ids: list[int],
    uniform: NDArray[np.float64],
    *,
    end_tokens: frozenset[int],
    sampling: Sampling = _PLAIN,
    record: bool = False,
) -> Rollout:
    """Sample a group in one batch; the loop stops when every text has ended.

    Args:
        model: the policy.
        prompt_ids: what every text begins with.
        uniform: (B, T), T being the greatest length: column p decides the token at position p.
        end_tokens: ids that end a text.
        sampling: from which distribution; its greatest length is that of `uniform`.
        record: keep what is computed for `score`, where the model's code can.
    """
    texts, max_length = uniform.shape
    start = len(prompt_ids)
    device = model.device
    prompt = torch.tensor(prompt_ids, device=device)
    if device.type == "cuda" and isinstance(model.forward, DeviceForward):
        loop = DeviceLoop.of(model, texts, max_length, sampling)
        return _rollout(*loop.run(prompt, uniform), start, end_tokens)
    with torch.inference_mode():
        chances = torch.from_numpy(uniform).to(device)
        ids, log_probabilities = [*prompt.expand(texts, -1).unbind(1)], []
        unended = set(range(texts))
        logits = model.forward.start(prompt, texts, max_length, record=record)
        for position in range(start, max_length):
            tokens, chosen = choose_tokens(logits, chances[:, position], sampling)
            ids.append(tokens)
            log_probabilities.append(chosen)
            if end_tokens:
                unended.difference_update(text for text, token in enumerate(tokens.tolist()) if token in end_tokens)
                if not unended:
                    break
            if position + 1 < max_length:
                logits = model.forward.advance(tokens)
    decoded = model.forward.finish()
    return _rollout(torch.stack(ids, 1), torch.stack(log_probabilities, 1), start, end_tokens, decoded)


def _rollout(
    token_ids: Tensor,
    sampled: Tensor,
    start: int,
    end_tokens: frozenset[int],
    decoded: Decoded | None = None,
) -> Rollout:
    """Texts up to their first end token; what no text reaches is cut off."""
    ids = token_ids.cpu().numpy()
    ends = np.isin(ids, sorted(end_tokens))
    ends[:, :start] = False  # an end token in the prompt ends nothing
    ended: NDArray[np.bool_] = np.any(ends, axis=1)
    lengths = np.where(ended, ends.argmax(1) + 1, ids.shape[1])
    reached = int(lengths.max())
    sampled = sampled[:, : reached - start].clone()
    return Rollout(token_ids[:, :reached].clone(), lengths, ended, start, sampled, decoded)


class DeviceLoop:
    """The loop of `sample` with no number passing between host and device; on a GPU, one CUDA graph a token.

    Its buffers and the graph stay for the next group of the same shape. The numbers are those of `sample`'s own
    loop to rounding: attention runs over the whole cache under a mask.
    """

    def __init__(self, model: LanguageModel, texts: int, max_length: int, sampling: Sampling) -> None:
        forward, device = model.forward, model.device
        if not isinstance(forward, DeviceForward):
            raise TypeError(f"{type(forward).__name__} cannot decode on a device")
        self._forward = forward
        self._sampling = sampling
        self._logits = forward.start(torch.zeros(1, dtype=torch.long, device=device), texts, max_length).clone()
        self._chances = torch.zeros(texts, max_length, dtype=torch.float64, device=device)
        self._token_ids = torch.zeros(texts, max_length, dtype=torch.long, device=device)
        self._log_probabilities = torch.zeros(texts, max_length, dtype=self._logits.dtype, device=device)
        self._places = torch.arange(max_length, device=device)
        self._position = torch.ones(1, dtype=torch.long, device=device)
        self._graph = self._captured() if device.type == "cuda" else None

    @classmethod
    def of(cls, model: LanguageModel, texts: int, max_length: int, sampling: Sampling) -> DeviceLoop:
        """The model's own loop for groups of this shape."""
        shape = (texts, max_length, sampling)
        kept = model.device_loop
        if kept is None or kept[0] != shape:
            kept = model.device_loop = shape, cls(model, texts, max_length, sampling)
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
        tokens, chosen = choose_tokens(self._logits, chance, self._sampling)
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


def score(model: LanguageModel, token_ids: Tensor, decoded: Decoded | None = None) -> tuple[Tensor, Tensor]:
    """Log-probabilities of given tokens, without materialising a log-softmax.

    Args:
        model: the policy.
        token_ids: (B, T). Padding needs no mask: attention is causal, and callers mask by length.
        decoded: of the rollout that has sampled just these, by the same weights; it can be used once.

    Returns:
        Log-probability of each token but the first, (B, T − 1), nats, full softmax at temperature 1,
        differentiable once; and the entropy of the distribution that each was drawn from, (B, T − 1), nats, detached.
    """
    log_p, entropy, _ = _scores(model, token_ids, decoded, None)
    return log_p, entropy


def score_against(
    reference: Tensor, model: LanguageModel, token_ids: Tensor, decoded: Decoded | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """As `score`, and the KL divergence of the policy's distributions from a reference's.

    Args:
        reference: its distributions, as `log_distributions` gives them; they can be used once.
        model, token_ids, decoded: as for `score`.

    Returns:
        What `score` gives; and the divergence of the distribution that each token was drawn from, (B, T − 1), nats,
        differentiable in one backward pass with the log-probabilities.
    """
    log_p, entropy, divergence = _scores(model, token_ids, decoded, reference)
    assert divergence is not None
    return log_p, entropy, divergence


def _scores(
    model: LanguageModel, token_ids: Tensor, decoded: Decoded | None, reference: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    by_token = decoded is not None  # and in each token by text
    logits = decoded(token_ids[:, :-1]) if decoded is not None else model.forward.logits(token_ids[:, :-1])
    tokens = token_ids[:, 1:]
    if by_token:
        tokens, reference = tokens.t(), None if reference is None else reference.transpose(0, 1)
    rows = None if reference is None else reference.flatten(0, 1)

    def shaped(x: Tensor) -> Tensor:
        return x.view(tokens.shape).t() if by_token else x.view(tokens.shape)

    log_p, entropy, divergence = _token_scores(logits.flatten(0, -2), tokens.flatten(), rows)
    return shaped(log_p), shaped(entropy), None if divergence is None else shaped(divergence)


def _token_scores(
    logits: Tensor, tokens: Tensor, reference: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Logits, (N, V), tokens, (N,), and a reference's log-probabilities, (N, V), or None → log-probabilities,
    entropies and, with a reference, KL divergences, (N,).
    """
    scores: tuple[Tensor, Tensor, Tensor | None]
    scores = _TokenScores.apply(logits, tokens, reference)  # type: ignore[no-untyped-call]  # PyTorch's
    return scores


class _TokenScores(torch.autograd.Function):
    """See `_token_scores`.

    The logits' own memory becomes the probabilities, and in the backward pass their gradient: nothing of that size
    is allocated, and `exp` is taken once. The reference's becomes the gradient of the divergence. Rows go in pieces
    that fit into a processor's cache.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, tokens: Tensor, reference: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        memory = logits.detach()
        divergence = None
        exact = torch.promote_types(logits.dtype, torch.float32)
        log_p = torch.empty(len(logits), dtype=exact, device=logits.device)
        entropy = torch.empty_like(log_p)
        if reference is not None:
            divergence = torch.empty_like(log_p)
        rows = max(1, _PIECE[logits.device.type] // logits.shape[1])
        for begin in range(0, len(logits), rows):
            piece = slice(begin, begin + rows)
            shifted = memory[piece].to(exact)
            shifted = shifted - shifted.amax(-1, keepdim=True)
            weights = shifted.exp()
            total = weights.sum(-1)
            log_total = total.log()
            log_p[piece] = shifted.gather(-1, tokens[piece, None])[:, 0] - log_total
            shifted.clamp_(min=torch.finfo(exact).min)  # a logit of -inf: 0 · log 0 is 0, not 0 · inf
            entropy[piece] = log_total - torch.linalg.vecdot(weights, shifted) / total
            if ctx.needs_input_grad[0] or reference is not None:
                weights.div_(total[:, None])
            if reference is not None and divergence is not None:
                # log p − log q, of which nothing comes where p is 0; where q alone is 0 the divergence is infinite.
                excess = shifted.sub_(log_total[:, None]).sub_(reference[piece].to(exact)).masked_fill_(weights == 0, 0)
                divergence[piece] = torch.linalg.vecdot(weights, excess)
                reference[piece] = excess.sub_(divergence[piece, None]).mul_(weights)
            if ctx.needs_input_grad[0]:
                memory[piece] = weights
        if ctx.needs_input_grad[0]:
            ctx.probabilities, ctx.excess = memory, reference
            ctx.save_for_backward(tokens, log_p)
        ctx.mark_non_differentiable(entropy)
        return log_p, entropy, divergence

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor, of_divergence: Tensor | None) -> tuple[Tensor, None, None]:
        tokens, log_p = ctx.saved_tensors
        memory, ctx.probabilities = ctx.probabilities, None  # it can be had once
        gradient = gradient.to(memory.dtype)
        memory.mul_(-gradient[:, None])
        # 1 − p from log p: the difference would lose a low precision's last bits where p is near 1.
        at_token = (gradient * -torch.expm1(log_p)).to(memory.dtype)
        memory.scatter_(1, tokens[:, None], at_token[:, None])
        if of_divergence is not None and ctx.excess is not None:
            memory.addcmul_(ctx.excess, of_divergence[:, None].to(memory.dtype))
        ctx.excess = None
        return memory, None, None


# Logits at a time: half a megabyte fits a CPU's cache, a GPU wants few kernels.
_PIECE = {"cpu": 2**17, "cuda": 2**26}
MOST_LOGITS = 2**25
"""Of a model that is not trained, in memory at once: 128 MiB of float32, half of 10 texts of SmolLM2."""


@torch.inference_mode()
def log_probabilities(model: LanguageModel, token_ids: Tensor) -> Tensor:
    """As `score`, for a model that is not trained: log-probabilities alone, (B, T − 1). A cacheful at a time."""
    found, tokens = [], token_ids[:, 1:].flatten()
    for logits in model.forward.logits_by_texts(token_ids[:, :-1], MOST_LOGITS):
        rows = max(1, _PIECE[logits.device.type] // logits.shape[-1])
        for piece in logits.flatten(0, 1).split(rows):
            piece = piece.to(torch.promote_types(piece.dtype, torch.float32))
            of_piece, tokens = tokens[: len(piece), None], tokens[len(piece) :]
            found.append(piece.log_softmax(-1).gather(-1, of_piece)[:, 0])
    return torch.cat(found).view(len(token_ids), -1)


@torch.no_grad()
def entropies(model: LanguageModel, token_ids: Tensor) -> Tensor:
    """As `score`, for a model that is not trained: entropies alone, (B, T − 1). A text at a time, for its memory."""
    return torch.cat([score(model, ids[None])[1] for ids in token_ids])


@torch.no_grad()  # no inference mode: `score` writes over them
def log_distributions(model: LanguageModel, token_ids: Tensor) -> Tensor:
    """Of a model that is not trained: the log-probability of every token in each place but the first, (B, T − 1, V).

    In memory they go token by token, and in each text by text: the order in which `score` reads them.
    """
    texts, length = token_ids.shape
    found = torch.empty(0)
    begin = 0
    for logits in model.forward.logits_by_texts(token_ids[:, :-1], MOST_LOGITS):
        exact = torch.promote_types(logits.dtype, torch.float32)
        if not begin:
            found = torch.empty(length - 1, texts, logits.shape[-1], dtype=exact, device=logits.device)
        of_texts = found[:, begin : begin + len(logits)]
        rows = max(1, _PIECE[logits.device.type] // logits[:, 0].numel())
        for piece, of_piece in zip(logits.transpose(0, 1).split(rows), of_texts.split(rows), strict=True):
            torch.log_softmax(piece.to(exact), -1, out=of_piece)
        begin += len(logits)
    return found.transpose(0, 1)
