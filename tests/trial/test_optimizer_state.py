"""What an optimizer keeps is in a checkpoint as the weights are: whole, or the checkpoint is none."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from trials import EXPERIMENT

from rl_alliteration.config import TrialConfig
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.results.integrity import checkpoint_problem
from rl_alliteration.results.storage import Storage
from rl_alliteration.rl.advantages import get_algorithm
from rl_alliteration.rl.rewards import get_reward
from rl_alliteration.rl.trainer import Row, Trainer
from rl_alliteration.rl.update import UpdateRule
from rl_alliteration.trial.checkpoints import CheckpointStore, Torn


def trained(loaded: LoadedModel, config: TrialConfig, rule: UpdateRule, steps: int) -> tuple[Trainer, list[Row]]:
    config = dataclasses.replace(config, **vars(rule))
    trainer = Trainer(config, loaded, get_reward("alliteration"), get_algorithm("rloo"))
    texts = [text for _ in range(steps) for text in trainer.step().texts]
    return trainer, texts


@pytest.mark.parametrize("rule", [UpdateRule(momentum=0.9), UpdateRule(credit="to-go", kl="exact", optimizer="adamw")])
def test_a_checkpoint_has_what_the_optimizer_keeps(
    rule: UpdateRule, tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig], tmp_path: Path
) -> None:
    config = make_config(tiny_gpt_neo, learning_rate=1e-2)
    checkpoints = CheckpointStore(Storage(tmp_path), EXPERIMENT, config.trial_id)
    trainer, _ = trained(tiny_gpt_neo, config, rule, 2)
    checkpoints.save(trainer.state(), 8, end=False)
    rest = [text for _ in range(2) for text in trainer.step().texts]
    again, _ = trained(tiny_gpt_neo, config, rule, 1)
    assert checkpoints.resume(again, {8}) == 8
    assert [text for _ in range(2) for text in again.step().texts] == rest
    for one, other in zip(trainer.policy.model.parameters(), again.policy.model.parameters(), strict=True):
        assert torch.equal(one, other)
    checkpoints.delete(8)
    assert not [path for path in tmp_path.rglob("*.*") if path.is_file()]


@pytest.mark.parametrize("damage", ["missing", "flipped", "unlisted"])
def test_one_that_is_torn_is_noticed(
    damage: str, tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig], tmp_path: Path
) -> None:
    config = make_config(tiny_gpt_neo)
    storage = Storage(tmp_path)
    checkpoints = CheckpointStore(storage, EXPERIMENT, config.trial_id)
    trainer, _ = trained(tiny_gpt_neo, config, UpdateRule(optimizer="adamw"), 1)
    state = trainer.state()
    if damage == "unlisted":
        state.optimizer.clear()
    checkpoints.save(state, 4, end=False)
    (folder,) = tmp_path.rglob("generation-00000004")
    file = folder / "optimizer.safetensors"
    if damage == "missing":
        file.unlink()
    elif damage == "flipped":
        file.write_bytes(file.read_bytes()[:-1] + bytes([file.read_bytes()[-1] ^ 1]))
    told = {
        "missing": "optimizer.safetensors is missing",
        "flipped": "its optimizer's state is not what was written there",
        "unlisted": "the optimizer's state is not one of step, exp_avg, exp_avg_sq",
    }[damage]
    with pytest.raises(Torn, match=told):
        checkpoints.load(4, trainer)
    if damage != "unlisted":
        assert told in str(checkpoint_problem(storage, EXPERIMENT, config.trial_id, 4))


def test_plain_sgd_keeps_nothing(
    tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig], tmp_path: Path
) -> None:
    config = make_config(tiny_gpt_neo)
    trainer, _ = trained(tiny_gpt_neo, config, UpdateRule(), 1)
    CheckpointStore(Storage(tmp_path), EXPERIMENT, config.trial_id).save(trainer.state(), 4, end=False)
    assert {path.name for path in tmp_path.rglob("*.*") if path.is_file()} == {"weights.safetensors", "state.json"}
