"""What policy and reference say of a sampled group, and the backward pass: all at once, or some texts at a time.

B texts, T tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from rl_alliteration.lm.language_model import LanguageModel
from rl_alliteration.lm.sampling import Rollout, log_distributions, log_probabilities, score, score_against


@dataclasses.dataclass(frozen=True)
class Scores:
    """Of each token but a text's first, (B, T − 1) each, without gradients."""

    log_p: Tensor
    """Its log-probability under the policy, nats."""
    log_q: Tensor
    """The same under the reference."""
    entropy: Tensor
    """Of the policy's distribution that it was drawn from, nats."""
    divergence: Tensor | None
    """KL divergence of that from the reference's, nats; None if it was not asked for."""
    backward: Callable[[Tensor, Tensor | None], None]
    """Given w and v, (B, T − 1) each, adds the gradient of Σ w · log p + Σ v · KL to the policy's. Called once."""


def scores_of(
    policy: LanguageModel, reference: LanguageModel, rollout: Rollout, *, exact: bool, micro_batch: int = 0
) -> Scores:
    """Scores of a group that the policy has just sampled.

    In pieces the sums are the same to rounding, and only one piece's activations are in memory. What the tokens weigh
    in the loss is known once the whole group is scored, so that each piece is scored again for its backward pass.

    Args:
        policy: to be trained.
        reference: the frozen weights.
        rollout: its record is used up, where there is one.
        exact: whether divergences are asked for.
        micro_batch: texts of a piece, of the last one what is left; 0: the whole group at once.
    """
    if not micro_batch:
        log_q, graph = _scored(policy, reference, rollout, exact)
        return _scores(graph, log_q, lambda *weights: _backward(graph, *weights))
    pieces = [dataclasses.replace(rollout, token_ids=ids, decoded=None) for ids in rollout.token_ids.split(micro_batch)]

    def backward(weights: Tensor, of_divergence: Tensor | None) -> None:
        for index, piece in enumerate(pieces):
            texts = slice(index * micro_batch, (index + 1) * micro_batch)
            graph = _graph(policy, piece, log_distributions(reference, piece.token_ids) if exact else None)
            _backward(graph, weights[texts], None if of_divergence is None else of_divergence[texts])

    with torch.no_grad():
        of_pieces, graphs = zip(*(_scored(policy, reference, piece, exact) for piece in pieces), strict=True)
    log_p, entropy, divergence = zip(*graphs, strict=True)
    whole = torch.cat(log_p), torch.cat(entropy), torch.cat(divergence) if exact else None
    return _scores(whole, torch.cat(of_pieces), backward)


_Graph = tuple[Tensor, Tensor, Tensor | None]
"""Log-probabilities, entropies and divergences, (B, T − 1) each."""


def _scored(policy: LanguageModel, reference: LanguageModel, rollout: Rollout, exact: bool) -> tuple[Tensor, _Graph]:
    """Log-probabilities under the reference, (B, T − 1), and what `_graph` gives."""
    if not exact:
        return log_probabilities(reference, rollout.token_ids), _graph(policy, rollout, None)
    distributions = log_distributions(reference, rollout.token_ids)
    log_q = distributions.gather(-1, rollout.token_ids[:, 1:, None])[..., 0]
    return log_q, _graph(policy, rollout, distributions)


def _graph(policy: LanguageModel, rollout: Rollout, reference: Tensor | None) -> _Graph:
    """Of the policy; divergences from the reference's distributions, where they are given."""
    if reference is None:
        return *score(policy, rollout.token_ids, rollout.decoded), None
    return score_against(reference, policy, rollout.token_ids, rollout.decoded)


def _scores(graph: _Graph, log_q: Tensor, backward: Callable[[Tensor, Tensor | None], None]) -> Scores:
    log_p, entropy, divergence = graph
    return Scores(log_p.detach(), log_q, entropy, None if divergence is None else divergence.detach(), backward)


def _backward(graph: _Graph, weights: Tensor, of_divergence: Tensor | None) -> None:
    log_p, _, divergence = graph
    # Of a number, since for given gradients PyTorch imports sympy, which takes longer than the step.
    surrogate = (log_p * weights).sum()
    if divergence is not None and of_divergence is not None:
        surrogate = surrogate + (divergence * of_divergence).sum()
    surrogate.backward()
