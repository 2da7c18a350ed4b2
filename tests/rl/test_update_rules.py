"""Every credit, KL term, optimizer and schedule through the trainer, against the slow loop and formulas by hand."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from slow_update import slow_loss
from trainers import ENDS, distance, move_away, plain_copy, update_of, weights_of, with_ends

from rl_alliteration.config import TrialConfig
from rl_alliteration.errors import Failure
from rl_alliteration.flags import CREDITS, KL_TERMS
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.lm.weights import as_transformers
from rl_alliteration.rl.advantages import get_algorithm
from rl_alliteration.rl.credit import Scored
from rl_alliteration.rl.rewards import Reward, get_reward
from rl_alliteration.rl.trainer import Diverged, Trainer
from rl_alliteration.rl.update import UpdateRule

RULES = [UpdateRule(credit=credit, kl=kl) for credit, kl in itertools.product(CREDITS, KL_TERMS)]
REWARD = "20*alliteration - 0.3*a_words_per_100_words"


def trainer_of(loaded: LoadedModel, config: TrialConfig, rule: UpdateRule, reward: Reward | None = None) -> Trainer:
    config = dataclasses.replace(config, **vars(rule))
    trainer = Trainer(config, loaded, reward or get_reward(REWARD), get_algorithm(config.algorithm))
    move_away(trainer)
    return trainer


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.credit}-{rule.kl}")
@pytest.mark.parametrize("name", ["storyteller", "tiny_opt"])  # by what sampling has computed, and without
def test_the_slow_loop_in_float64(
    name: str,
    rule: UpdateRule,
    request: pytest.FixtureRequest,
    make_config: Callable[..., TrialConfig],
    float64_throughout: None,
) -> None:
    loaded = with_ends(request.getfixturevalue(name), ENDS[name], torch.float64)
    config = make_config(loaded, dtype="float64", max_length=20, learning_rate=1e-4, group_size=5)
    trainer = trainer_of(loaded, config, rule)
    policy = plain_copy(loaded, weights_of(trainer.policy.model))
    step = trainer.step()
    assert len({text["num_tokens"] for text in step.texts}) > 2
    assert any(text["raw_reward"] for text in step.texts)
    decode = lambda ids: loaded.tokenizer.decode(ids, skip_special_tokens=True)  # noqa: E731
    loss = slow_loss(policy, as_transformers(loaded.model), step.texts, get_reward(REWARD), decode, config, rule)
    loss.backward()
    if not rule.is_study:
        assert update_of(step)["loss"] == pytest.approx(loss.item(), rel=1e-9)
    for parameter_name, parameter in policy.named_parameters():
        found = trainer.policy.model.get_parameter(parameter_name).grad
        assert distance(found, parameter.grad) < 1e-9, parameter_name


@pytest.mark.parametrize("rule", RULES[1:], ids=lambda rule: f"{rule.credit}-{rule.kl}")
def test_a_rule_changes_no_row_of_the_first_group(
    rule: UpdateRule, tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig]
) -> None:
    loaded = with_ends(tiny_gpt_neo, ENDS["tiny_gpt_neo"])
    config = make_config(loaded)
    first, other = (trainer_of(loaded, config, one).step() for one in (UpdateRule(), rule))
    assert first.texts == other.texts
    same = ("entropy", "kl_k3", "sampler_gap")
    assert [update_of(first)[name] for name in same] == [update_of(other)[name] for name in same]
    assert update_of(first)["grad_norm"] != update_of(other)["grad_norm"]


def test_the_studys_rule_asks_for_no_credit(
    tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scored, "__init__", None)
    trainer_of(tiny_gpt_neo, make_config(tiny_gpt_neo), UpdateRule(optimizer="adamw")).step()


# Optimizers.


def by_hand(
    rule: UpdateRule, rates: list[float], gradients: list[NDArray[np.float64]], weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The weights after these gradients, in numpy."""
    momentum = np.zeros_like(weight)
    first, second = np.zeros_like(weight), np.zeros_like(weight)
    for count, (rate, gradient) in enumerate(zip(rates, gradients, strict=True), 1):
        if rule.optimizer == "sgd":
            momentum = rule.momentum * momentum + gradient
            weight = weight - rate * momentum
        else:
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            corrected = first / (1 - 0.9**count)
            weight = weight - rate * corrected / (np.sqrt(second / (1 - 0.999**count)) + 1e-8)
    return weight


@pytest.mark.parametrize(
    "rule, rates",
    [
        (UpdateRule(momentum=0.9), 3 * [1e-3]),
        (UpdateRule(optimizer="adamw"), 3 * [1e-3]),
        (UpdateRule(optimizer="adamw", schedule="linear", schedule_length=16), [1e-3, 0.75e-3, 0.5e-3]),
        (UpdateRule(schedule="cosine", schedule_length=12, warm_up=8), [0.5e-3, 1e-3, 1e-3]),
        (UpdateRule(warm_up=8), [0.5e-3, 1e-3, 1e-3]),
    ],
)
def test_steps_by_hand(
    rule: UpdateRule, rates: list[float], tiny_llama: LoadedModel, make_config: Callable[..., TrialConfig]
) -> None:
    loaded = with_ends(tiny_llama, ENDS["tiny_llama"], torch.float64)
    trainer = trainer_of(loaded, make_config(loaded, dtype="float64", learning_rate=1e-3), rule)
    parameters = dict(trainer.policy.model.named_parameters())
    before = {name: parameter.detach().numpy().copy() for name, parameter in parameters.items()}
    gradients, logged = [], []
    for _ in rates:
        step = trainer.step()
        gradients.append({name: parameter.grad.numpy().copy() for name, parameter in parameters.items()})
        logged.append(step.logged.get("learning_rate", 1e-3))
        assert update_of(step)["learning_rate"] == 1e-3
    assert logged == pytest.approx(rates)
    for name, parameter in parameters.items():
        expected = by_hand(rule, rates, [of_step[name] for of_step in gradients], before[name])
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=0, atol=1e-11, err_msg=name)


@pytest.mark.parametrize(
    "rule",
    [
        UpdateRule(momentum=0.9),
        UpdateRule(credit="to-go", kl="exact", optimizer="adamw", schedule="linear", warm_up=4, schedule_length=40),
    ],
)
@pytest.mark.parametrize("name", ["tiny_gpt_neo", "tiny_llama"])
def test_a_trial_goes_on_from_its_state_bit_for_bit(
    name: str, rule: UpdateRule, request: pytest.FixtureRequest, make_config: Callable[..., TrialConfig]
) -> None:
    loaded = request.getfixturevalue(name)
    config = make_config(loaded)
    whole = trainer_of(loaded, config, rule)
    for _ in range(2):
        whole.step()
    state = whole.state()
    kinds = {key.partition("/")[0] for key in state.optimizer}
    assert kinds == ({"momentum_buffer"} if rule.momentum else {"step", "exp_avg", "exp_avg_sq"})
    kept = copy.deepcopy(state.optimizer)
    rest = [whole.step().texts for _ in range(2)]
    assert all(torch.equal(value, kept[key]) for key, value in state.optimizer.items()), "a state does not move"
    again = trainer_of(loaded, config, rule)
    again.step()
    again.load_state(state.weights, state.generation, state.counters, state.optimizer)
    assert [again.step().texts for _ in range(2)] == rest
    for one, other in zip(whole.policy.model.parameters(), again.policy.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert all(torch.equal(value, whole.state().optimizer[key]) for key, value in again.state().optimizer.items())


def test_a_state_of_another_optimizer_is_refused(
    tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig]
) -> None:
    config = make_config(tiny_gpt_neo)
    states = {}
    for rule in (UpdateRule(), UpdateRule(momentum=0.5), UpdateRule(optimizer="adamw")):
        trainer = trainer_of(tiny_gpt_neo, config, rule)
        trainer.step()
        states[rule] = trainer.state()
    for rule, (other, state) in itertools.product(states, states.items()):
        trainer = trainer_of(tiny_gpt_neo, config, rule)
        given = state.weights, state.generation, state.counters, state.optimizer
        if rule == other:
            trainer.load_state(*given)
            continue
        with pytest.raises(ValueError, match="the optimizer's state is not one of"):
            trainer.load_state(*given)
    with pytest.raises(ValueError, match="another model's"):
        trainer.load_state(*given[:3], {key: value[..., None] for key, value in given[3].items()})


# What goes wrong.


@pytest.mark.parametrize(
    "parts, told",
    [
        (lambda text: [(1.0, 0)], r"ValueError: its parts' sum is 1, its number 3\)"),
        (lambda text: [(3.0, -2)], r"ValueError: a part lies at character -2\)"),
        (lambda text: 1 / 0, r"ZeroDivisionError: "),
    ],
)
def test_parts_that_are_not_the_rewards_are_told(
    parts: Any, told: str, tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig]
) -> None:
    config, reward = make_config(tiny_gpt_neo), Reward("odd", lambda text: 3.0, parts=parts)
    trainer = trainer_of(tiny_gpt_neo, config, UpdateRule(credit="to-go"), reward)
    before = weights_of(trainer.policy.model)
    with pytest.raises(Failure, match=rf"^the parts of the reward 'odd' failed \({told}[^\n]*$"):
        trainer.step()
    assert trainer.generation == 0
    assert all(torch.equal(value, before[key]) for key, value in weights_of(trainer.policy.model).items())
    trainer_of(tiny_gpt_neo, config, UpdateRule(), reward).step()  # by text nobody asks for them


def test_a_reference_that_bars_what_the_policy_says_ends_the_trial(
    tiny_llama: LoadedModel, make_config: Callable[..., TrialConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(tiny_llama, make_config(tiny_llama), UpdateRule(credit="to-go", kl="exact"))
    trainer.reference = copy.copy(trainer.reference)
    trainer.reference.forward = copy.copy(trainer.reference.forward)
    given = trainer.reference.forward.logits_by_texts
    barred = torch.zeros(2048).index_fill(0, torch.tensor([2047]), -torch.inf)
    monkeypatch.setattr(
        trainer.reference.forward, "logits_by_texts", lambda *asked: (logits + barred for logits in given(*asked))
    )
    with pytest.raises(Diverged, match="generation 0: a KL divergence is not finite"):
        trainer.step()
