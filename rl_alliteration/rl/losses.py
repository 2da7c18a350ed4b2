"""The loss of an update rule: what a step is taken on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rl_alliteration.rl import kl_estimators
from rl_alliteration.rl.advantages import Algorithm
from rl_alliteration.rl.credit import Array, Scored
from rl_alliteration.rl.objective import Group, Loss, policy_gradient
from rl_alliteration.rl.update import UpdateRule


def loss_of(rule: UpdateRule, algorithm: Algorithm, scored: Callable[[], Scored]) -> Loss:
    """The algorithm's loss, or with another credit or KL term −Σ weight · log p + Σ price · KL, see `credit.Credit`.

    `scored` is asked for what the algorithm's own loss need not know.
    """
    if rule.is_study:
        return algorithm.loss or policy_gradient
    given = rule.credit_of(algorithm, scored())
    kl = _TERMS.get(rule.kl)

    def loss(group: Group) -> Tensor:
        total = -(_like(given.weights, group) * group.log_p).sum()
        return total if kl is None else total + (_like(given.prices, group) * kl(group)).sum()

    return loss


def _divergence(group: Group) -> Tensor:
    assert group.divergence is not None
    return group.divergence


_TERMS: dict[str, Callable[[Group], Tensor]] = {
    "exact": _divergence,
    "k2": lambda group: kl_estimators.k2(group.log_p - group.log_q),
    "k3": lambda group: kl_estimators.k3(group.log_p - group.log_q),
}
"""The KL of each position in the loss, (B, T − 1), by `UpdateSettings.kl`; `sampled` is in the weights."""


def _like(values: Array, group: Group) -> Tensor:
    return torch.from_numpy(values).to(group.log_p)
