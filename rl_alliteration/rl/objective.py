"""Losses: pure functions of what a group's texts and their log-probabilities are; and the study's own.

B texts in the group, T tokens of its longest text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Group:
    """A sampled group as a loss sees it. All but `mask` in the precision of `log_p`; only `log_p` has a gradient.

    Columns are a text's tokens but its first, of which no distribution is known: the prompt's and the sampled ones.
    """

    log_p: Tensor
    """(B, T − 1): log-probability of each token under the policy, nats; 0 beyond a text's end. The policy of the
    loss is the one that has sampled the group: the old policy's, of a ratio, are `log_p.detach()`."""
    log_q: Tensor
    """(B, T − 1): the same under the reference, the frozen weights before RL."""
    mask: Tensor
    """(B, T − 1), bool: whether there is a token."""
    sampled: Tensor
    """(B, T − 1), bool: whether there is one that was sampled, the prompt's left out."""
    advantages: Tensor
    """(B,): what the algorithm made of the rewards, in units of reward."""
    rewards: Tensor
    """(B,): raw reward + beta · KL penalty."""
    raw_rewards: Tensor
    """(B,): the reward function's numbers."""
    beta: float
    """The KL coefficient, in units of reward per nat of mean cross-entropy."""
    divergence: Tensor | None = None
    """(B, T − 1): with `--kl exact`, the KL divergence of the distribution that each token was drawn from, nats; 0
    where none was sampled. It has a gradient too."""


Loss = Callable[[Group], Tensor]
"""A group → the scalar to minimise, differentiable in `log_p`. One step of plain SGD is taken on it: a sum over the
group, not a mean, has the study's scale. Called once a group; nothing else of the policy may be used."""


def cross_entropy(log_p: Tensor, mask: Tensor) -> Tensor:
    """Mean of −log p over each text's tokens, (B, T − 1) → (B,), nats a token."""
    return -(log_p * mask).sum(-1) / mask.sum(-1)


def policy_gradient(group: Group) -> Tensor:
    """Σ over the group of advantage · mean cross-entropy: the study's loss, and that of every shipped algorithm.

    Its gradient is the policy gradient of the reward, weighed by text (study: "REINFORCE vs RLOO").
    """
    return (group.advantages * cross_entropy(group.log_p, group.mask)).sum()


def token_weights(loss: Loss, group: Group) -> tuple[Tensor, Tensor, Tensor | None]:
    """A loss, (), and its derivatives by each log-probability and by each divergence, (B, T − 1), per nat; the first is
    0 beyond a text's end, the second None without divergences.

    All that the backward pass through a model needs to know of a loss.

    Raises:
        ValueError: the loss is no scalar, or no function of `log_p`.
    """
    log_p = group.log_p.detach().requires_grad_()
    divergence = None if group.divergence is None else group.divergence.detach().requires_grad_()
    with torch.enable_grad():
        value = loss(dataclasses.replace(group, log_p=log_p, divergence=divergence))
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
        raise ValueError(f"it gave {_described(value)}, not a scalar tensor that depends on group.log_p")
    wanted = [log_p] if divergence is None else [log_p, divergence]
    weights, *of_divergence = torch.autograd.grad(value.sum(), wanted)
    return value.detach(), torch.where(group.mask, weights, 0.0), of_divergence[0] if of_divergence else None


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}{'' if value.requires_grad else ' without a gradient'}"
    return f"a {type(value).__name__}"
