"""Helpers: a trainer of a small model, and its weights."""

from __future__ import annotations

import copy
from typing import Any

import torch

from rl_alliteration.config import ORIGINAL, TrialConfig
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.lm.weights import as_transformers
from rl_alliteration.rl.advantages import get_algorithm
from rl_alliteration.rl.rewards import Reward, get_reward
from rl_alliteration.rl.trainer import Row, Step, Trainer

# End tokens frequent enough that of a few short texts some end early and some do not.
ENDS = {
    "storyteller": frozenset([14]),  # the full stop
    "tiny_gpt_neo": frozenset(range(0, 2048, 64)),
    "tiny_llama": frozenset(range(0, 2048, 64)),
    "tiny_opt": frozenset(range(0, 2048, 24)),
}


def with_ends(loaded: LoadedModel, end_tokens: frozenset[int], dtype: torch.dtype = torch.float32) -> LoadedModel:
    return LoadedModel(loaded.name, copy.deepcopy(loaded.model).to(dtype), loaded.pretrained_tokenizer, end_tokens)


def make_trainer(loaded: LoadedModel, config: TrialConfig, reward: Reward | None = None) -> Trainer:
    algorithm = None if config.algorithm == ORIGINAL else get_algorithm(config.algorithm)
    return Trainer(config, loaded, reward or get_reward(config.reward), algorithm)


def update_of(step: Step) -> Row:
    """The row of an update; the original has none."""
    assert step.update is not None
    return step.update


def move_away(trainer: Trainer, size: float = 0.02) -> None:
    """As after some training: policy and reference differ, so that the KL penalty counts."""
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trainer.policy.model.parameters():
            parameter += size * torch.randn(parameter.shape, generator=noise).to(parameter)


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def plain_copy(loaded: LoadedModel, weights: dict[str, torch.Tensor]) -> Any:
    """The policy as transformers has it: nothing fused."""
    model = as_transformers(loaded.model).eval().requires_grad_(True)
    model.load_state_dict(weights, strict=False)  # tied weights are listed once
    assert all(torch.equal(parameter, weights[name]) for name, parameter in model.named_parameters())
    return model


def distance(ours: Any, plain: Any) -> float:
    return float((ours - plain).norm() / plain.norm())
