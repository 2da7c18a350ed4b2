"""An algorithm's own loss: against plain autograd through the model, in rows, in replay and in `verify`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from trainers import ENDS, distance, move_away, plain_copy, update_of, weights_of, with_ends
from trials import EXPERIMENT, planned, rows, run_trial

from rl_alliteration.config import TrialConfig
from rl_alliteration.errors import Failure, UserError
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.lm.weights import as_transformers
from rl_alliteration.results.storage import Storage
from rl_alliteration.results.verify import verify_trial
from rl_alliteration.rl import advantages
from rl_alliteration.rl.advantages import Algorithm, Rewards, algorithm, get_algorithm
from rl_alliteration.rl.objective import Group, Loss, policy_gradient
from rl_alliteration.rl.rewards import Reward
from rl_alliteration.rl.trainer import Row, Trainer
from rl_alliteration.trial.replay import StoredTrial, replay

REWARD = Reward("words", lambda text: float(len(text.split())))
FLOAT64 = {"dtype": "float64", "max_length": 40, "learning_rate": 1e-3, "group_size": 4, "beta": 40}


def rloo_with(loss: Loss | None) -> Algorithm:
    return dataclasses.replace(get_algorithm("rloo"), loss=loss)


def clipped_surrogate(group: Group) -> Tensor:
    """PPO's surrogate, its ratio here to the reference so that there is something to clip, less a k3 penalty.

    Normalised by the group's sampled tokens.
    """
    ratio = torch.exp(group.log_p - group.log_q)
    advantages = group.advantages[:, None]
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    k3 = torch.exp(group.log_q - group.log_p) - 1 - (group.log_q - group.log_p)
    return -((surrogate - 0.04 * k3) * group.sampled).sum() / group.sampled.sum()


def plain_clipped_surrogate(policy: Any, original: Any, texts: list[Row]) -> Tensor:
    """The same, token by token."""
    total, tokens, clipped = torch.zeros((), dtype=torch.float64), 0, 0
    least, most = torch.tensor([0.8, 1.2], dtype=torch.float64)
    for text in texts:
        ids = torch.tensor([text["token_ids"]])
        log_p = policy(input_ids=ids).logits[0].log_softmax(-1)
        with torch.no_grad():
            log_q = original(input_ids=ids).logits[0].log_softmax(-1)
        for place in range(text["num_prompt_tokens"], len(text["token_ids"])):
            token = text["token_ids"][place]
            log_ratio = log_p[place - 1, token] - log_q[place - 1, token]
            ratio = log_ratio.exp()
            bounded = min(max(ratio, least), most)
            clipped += bool(bounded != ratio)
            k3 = (-log_ratio).exp() - 1 + log_ratio
            total = total + min(ratio * text["advantage"], bounded * text["advantage"]) - 0.04 * k3
            tokens += 1
    assert 0 < clipped < tokens
    return -total / tokens


@pytest.mark.parametrize("name", ["tiny_gpt_neo", "tiny_opt"])  # by what sampling has computed, and without
def test_an_own_loss_has_the_gradients_of_plain_autograd(
    name: str, request: pytest.FixtureRequest, make_config: Callable[..., TrialConfig], float64_throughout: None
) -> None:
    loaded = with_ends(request.getfixturevalue(name), ENDS[name], torch.float64)
    trainer = Trainer(make_config(loaded, **FLOAT64), loaded, REWARD, rloo_with(clipped_surrogate))
    move_away(trainer)
    policy = plain_copy(loaded, weights_of(trainer.policy.model))
    step = trainer.step()
    assert len({text["num_tokens"] for text in step.texts}) > 1
    loss = plain_clipped_surrogate(policy, as_transformers(loaded.model), step.texts)
    loss.backward()
    assert update_of(step)["loss"] == pytest.approx(loss.item(), rel=1e-9)
    norm = math.sqrt(sum(float(parameter.grad.square().sum()) for parameter in policy.parameters()))
    assert update_of(step)["grad_norm"] == pytest.approx(norm, rel=1e-9)
    for name, parameter in policy.named_parameters():
        assert distance(trainer.policy.model.get_parameter(name).grad, parameter.grad) < 1e-9, name


def test_the_studys_loss_as_an_own_one_has_the_studys_gradients(
    tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig], float64_throughout: None
) -> None:
    def by_text(group: Group) -> Tensor:
        means = [(row * kept).sum() / kept.sum() for row, kept in zip(group.log_p, group.mask, strict=True)]
        loss: Tensor = -sum(advantage * mean for advantage, mean in zip(group.advantages, means, strict=True))
        return loss

    loaded = with_ends(tiny_gpt_neo, ENDS["tiny_gpt_neo"], torch.float64)
    trainers = [
        Trainer(make_config(loaded, **FLOAT64), loaded, REWARD, rloo_with(loss))
        for loss in (None, policy_gradient, by_text)
    ]
    steps = []
    for trainer in trainers:
        move_away(trainer)
        steps.append(trainer.step())
    for trainer, step in zip(trainers[1:], steps[1:], strict=True):
        assert step.texts == steps[0].texts
        assert update_of(step)["loss"] == pytest.approx(update_of(steps[0])["loss"], rel=1e-9)
        for ours, own in zip(trainers[0].policy.model.parameters(), trainer.policy.model.parameters(), strict=True):
            assert distance(own.grad, ours.grad) < 1e-9
    assert all(map(torch.equal, *(trainer.policy.model.parameters() for trainer in trainers[:2])))


def test_what_a_loss_sees(tiny_llama: LoadedModel, make_config: Callable[..., TrialConfig]) -> None:
    seen = []

    def loss(group: Group) -> Tensor:
        seen.append(group)
        return policy_gradient(group)

    loaded = with_ends(tiny_llama, ENDS["tiny_llama"])
    trainer = Trainer(make_config(loaded, max_length=40), loaded, REWARD, rloo_with(loss))
    move_away(trainer)
    texts = trainer.step().texts
    (group,) = seen
    lengths = torch.tensor([text["num_tokens"] for text in texts])
    assert lengths.min() < lengths.max()
    assert torch.equal(group.mask.sum(-1), lengths - 1)
    assert torch.equal(group.sampled.sum(-1), lengths - texts[0]["num_prompt_tokens"])
    assert not (group.sampled & ~group.mask).any()
    for name in ("log_p", "log_q"):
        assert not getattr(group, name)[~group.mask].any()
    for column, values in (
        ("lm_cross_entropy", -group.log_p.sum(-1) / group.mask.sum(-1)),
        ("original_lm_cross_entropy", -group.log_q.sum(-1) / group.mask.sum(-1)),
        ("advantage", group.advantages),
        ("reward", group.rewards),
        ("raw_reward", group.raw_rewards),
    ):
        assert values.tolist() == pytest.approx([text[column] for text in texts], rel=1e-5), column
    assert group.beta == 40


def test_a_gradient_beyond_a_texts_end_is_dropped(
    tiny_llama: LoadedModel, make_config: Callable[..., TrialConfig]
) -> None:
    loaded = with_ends(tiny_llama, ENDS["tiny_llama"])
    seen = []
    for loss in (lambda group: group.log_p.exp().sum(), lambda group: (group.log_p.exp() * group.mask).sum()):
        trainer = Trainer(make_config(loaded, max_length=40), loaded, REWARD, rloo_with(loss))
        trainer.step()
        seen.append(list(trainer.policy.model.parameters()))
    assert all(map(torch.equal, *seen))


def raising(group: Group) -> None:
    raise ZeroDivisionError("by nothing")


@pytest.mark.parametrize(
    "loss, told",
    [
        (raising, r"\(ZeroDivisionError: by nothing\)"),
        (lambda group: 3.0, "it gave a float, not a scalar tensor that depends on group.log_p"),
        (lambda group: group.log_p, r"it gave a tensor of shape \(4, \d+\), not a scalar"),
        (lambda group: group.log_q.sum(), r"it gave a tensor of shape \(\) without a gradient"),
    ],
)
def test_a_loss_that_fails_is_said_in_one_line_and_changes_nothing(
    loss: Loss, told: str, tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig]
) -> None:
    trainer = Trainer(make_config(tiny_gpt_neo), tiny_gpt_neo, REWARD, rloo_with(loss))
    before = weights_of(trainer.policy.model)
    with pytest.raises(Failure, match=rf"^the loss of the algorithm 'rloo' failed .*{told}[^\n]*$"):
        trainer.step()
    assert trainer.generation == 0
    assert all(torch.equal(value, before[name]) for name, value in weights_of(trainer.policy.model).items())


def test_an_algorithm_of_ones_own_with_its_loss_is_stored_replayed_and_verified(
    tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advantages, "ALGORITHMS", dict(advantages.ALGORITHMS))  # forgotten afterwards
    monkeypatch.setattr("trials.ALGORITHMS", advantages.ALGORITHMS)

    @algorithm("clipped", group_size=4, least_group_size=2, version=2, loss=clipped_surrogate)
    def clipped(rewards: Rewards) -> Rewards:
        centred: Rewards = rewards - rewards.mean()
        return centred

    config = make_config(tiny_gpt_neo, algorithm="clipped", algorithm_version=2, learning_rate=0.1)
    storage, trial = Storage(tmp_path), planned(config, 16)
    run = run_trial(storage, trial, tiny_gpt_neo)
    updates = rows(storage, trial, "steps")
    assert any(abs(update["loss"]) > 1e-4 for update in updates)
    verdict = verify_trial(storage, EXPERIMENT, trial.trial_id)
    assert verdict.problem is None
    assert verdict.notes == ("the algorithm 'clipped' has a loss of its own: losses were not computed again",)

    stored = StoredTrial(storage, EXPERIMENT, trial.trial_id, config, tiny_gpt_neo, 16)
    again = replay(stored, 12, lambda line: None)
    again.step()
    for one, other in zip(again.policy.model.parameters(), run.trainer.policy.model.parameters(), strict=True):
        assert torch.equal(one, other)

    algorithm("clipped", group_size=4, version=3)(clipped)
    verdict = verify_trial(storage, EXPERIMENT, trial.trial_id)
    assert verdict.problem is None
    assert any("'clipped' is not known here at version 2: advantages and losses" in note for note in verdict.notes)
    with pytest.raises(UserError, match="its algorithm 'clipped' is not registered here at version 2"):
        stored.trainer()
    with pytest.raises(UserError, match="the version of 'clipped' is 0"):
        algorithm("clipped", group_size=4, version=0)
