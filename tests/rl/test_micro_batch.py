"""`--micro-batch`: a group's update in pieces is that of the whole group, to rounding, and is named as what it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_update_rules import RULES, trainer_of
from trainers import ENDS, distance, update_of, with_ends
from trials import assert_resumed_replayed_and_verified, planned

from rl_alliteration.config import TrialConfig
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.rl.objective import Group
from rl_alliteration.rl.trainer import Step, Trainer
from rl_alliteration.rl.update import UpdateRule

NUMBERS = ("lm_cross_entropy", "original_lm_cross_entropy", "kl_penalty", "reward", "advantage")
Make = Callable[..., TrialConfig]


def compared(whole: Step, pieces: Step, tolerance: float) -> None:
    """Same texts; same numbers to rounding."""
    for one, other in zip(whole.texts, pieces.texts, strict=True):
        assert one | dict.fromkeys(NUMBERS) == other | dict.fromkeys(NUMBERS)
        assert [other[name] for name in NUMBERS] == pytest.approx([one[name] for name in NUMBERS], tolerance, tolerance)
    for name in ("loss", "grad_norm", "entropy", "kl_k3"):
        assert update_of(pieces)[name] == pytest.approx(update_of(whole)[name], tolerance, tolerance)


def gradients(trainer: Trainer) -> dict[str, Any]:
    return {name: parameter.grad for name, parameter in trainer.policy.model.named_parameters()}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.credit}-{rule.kl}")
@pytest.mark.parametrize("name", ["tiny_gpt_neo", "tiny_llama", "tiny_opt"])
def test_the_whole_group_in_float64(
    name: str, rule: UpdateRule, request: pytest.FixtureRequest, make_config: Make, float64_throughout: None
) -> None:
    loaded = with_ends(request.getfixturevalue(name), ENDS[name], torch.float64)
    config = make_config(loaded, dtype="float64", max_length=16, learning_rate=1e-4, group_size=5)
    whole = trainer_of(loaded, config, rule)
    first = whole.step()
    for size in (1, 2, 4):  # the last piece of 1, 1 and 1
        pieces = trainer_of(loaded, dataclasses.replace(config, micro_batch=size), rule)
        compared(first, pieces.step(), 1e-10)
        for parameter, gradient in gradients(pieces).items():
            assert distance(gradient, gradients(whole)[parameter]) < 1e-10, parameter


@pytest.mark.parametrize(
    "changes",
    [
        {"credit": "to-go", "kl": "exact", "optimizer": "adamw"},
        {"momentum": 0.9, "target_kl": 0.1},
        {"algorithm": "grpo", "dtype": "bfloat16"},
    ],
)
def test_several_steps(changes: dict[str, Any], tiny_llama: LoadedModel, make_config: Make) -> None:
    loaded = with_ends(tiny_llama, ENDS["tiny_llama"])
    config = make_config(loaded, group_size=6, **changes)
    rule = UpdateRule.of(config)
    whole, pieces = (trainer_of(loaded, dataclasses.replace(config, micro_batch=size), rule) for size in (0, 4))
    for _ in range(1 if config.dtype == "bfloat16" else 3):  # whose rounding soon makes other texts
        compared(whole.step(), pieces.step(), 0.1 if config.dtype == "bfloat16" else 2e-3)


def test_an_algorithms_own_loss_has_the_whole_group(tiny_gpt_neo: LoadedModel, make_config: Make) -> None:
    def of_the_greatest(group: Group) -> torch.Tensor:
        return (group.log_p * group.mask).sum(-1).max() * group.advantages.max()

    found = []
    for size in (0, 3):
        trainer = trainer_of(tiny_gpt_neo, make_config(tiny_gpt_neo, micro_batch=size), UpdateRule())
        assert trainer.algorithm is not None
        trainer.algorithm = dataclasses.replace(trainer.algorithm, loss=of_the_greatest)
        trainer.step()
        found.append(gradients(trainer))
    for name, gradient in found[0].items():
        assert distance(found[1][name], gradient) < 1e-4


def test_only_a_piece_is_scored_at_a_time_and_nothing_is_recorded(
    tiny_llama: LoadedModel, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tiny_llama, group_size=5, micro_batch=2)
    trainer = trainer_of(tiny_llama, config, UpdateRule.of(config))
    seen = []
    logits = trainer.policy.forward.logits

    def spied(token_ids: torch.Tensor) -> Any:
        seen.append((len(token_ids), torch.is_grad_enabled()))
        return logits(token_ids)

    monkeypatch.setattr(trainer.policy.forward, "logits", spied)
    trainer.step()
    assert seen == [(2, False), (2, False), (1, False), (2, True), (2, True), (1, True)]
    assert trainer.policy.forward._activations is None


def test_its_default_and_no_fewer_texts_than_a_group_are_the_same_trial(
    tiny_llama: LoadedModel, make_config: Make
) -> None:
    config = make_config(tiny_llama, group_size=4)
    assert "micro_batch" not in config.identity
    for size in (4, 5, 100):
        assert dataclasses.replace(config, micro_batch=size) == config
    assert dataclasses.replace(config, micro_batch=3).trial_id != config.trial_id
    assert dataclasses.replace(config, micro_batch=3).original() == config.original()


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_opt"])
def test_a_trial_in_pieces_is_resumed_replayed_and_verified_bit_for_bit(
    name: str, request: pytest.FixtureRequest, make_config: Make, tmp_path: Path
) -> None:
    loaded = request.getfixturevalue(name)
    trial = planned(make_config(loaded, micro_batch=3, max_length=12, learning_rate=1e-2, kl="exact"), 24)
    assert_resumed_replayed_and_verified(tmp_path, trial, loaded)
