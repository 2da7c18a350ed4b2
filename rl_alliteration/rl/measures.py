"""What is measured of a sampled group: masks, cross-entropies, diagnostics, and what a loss sees."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl_alliteration.lm.sampling import Rollout
from rl_alliteration.rl.kl_estimators import k3
from rl_alliteration.rl.objective import Group

Array = NDArray[np.float64]


def unpadded(rollout: Rollout) -> list[list[int]]:
    """Token ids of each text up to its length."""
    return [ids[:length] for ids, length in zip(rollout.token_ids.tolist(), rollout.lengths, strict=True)]


def token_mask(rollout: Rollout, device: torch.device) -> Tensor:
    """(B, T − 1): true where a token, the first of each text left out, belongs to its text. From lengths alone."""
    positions = torch.arange(1, rollout.token_ids.shape[1], device=device)
    return positions < torch.from_numpy(rollout.lengths).to(device)[:, None]


def mean_negative(log_p: Tensor, mask: Tensor, lengths: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean of −log p over each text's tokens but the first, (B,), summed in float64."""
    total = torch.where(mask, log_p.double(), 0.0).sum(-1).cpu().numpy()  # what lies beyond may be -inf
    result: NDArray[np.float64] = -total / (lengths - 1)
    return result


def diagnostics_of(rollout: Rollout, log_p: Tensor, log_q: Tensor, entropy: Tensor, mask: Tensor) -> dict[str, float]:
    """Means over the sampled tokens of a group."""
    first = rollout.prompt_length - 1
    sampled = mask[:, first:]
    count = sampled.sum()
    divergence = k3((log_p - log_q)[:, first:].double())
    gap = (rollout.log_probabilities - log_p[:, first:]).double().abs()
    # What lies beyond a text may be anything, such as infinite.
    totals = [torch.where(sampled, values.double(), 0.0).sum() for values in (entropy[:, first:], divergence, gap)]
    means = torch.stack(totals) / count
    return dict(zip(("entropy", "kl_k3", "sampler_gap"), means.tolist(), strict=True))


def group_of(
    rollout: Rollout,
    log_p: Tensor,
    log_q: Tensor,
    mask: Tensor,
    divergence: Tensor | None,
    beta: float,
    **numbers: Array,
) -> Group:
    """What a loss sees. `numbers`: of each text, (B,)."""
    columns = torch.arange(mask.shape[1], device=mask.device)
    sampled = mask & (columns >= rollout.prompt_length - 1)
    return Group(
        log_p=torch.where(mask, log_p, 0.0),  # what lies beyond may be -inf
        log_q=torch.where(mask, log_q, 0.0),
        mask=mask,
        sampled=sampled,
        beta=beta,
        divergence=None if divergence is None else torch.where(sampled, divergence.detach(), 0.0),
        **{name: torch.from_numpy(values).to(log_p) for name, values in numbers.items()},
    )
