"""Gradient estimators on a model whose texts can all be listed: the mean over them is the gradient of an objective.

In the comments w = 1 / (n − 1) of a text of n tokens, W = 1 / (N − 1) of one of the greatest length, D its sum of
log p − log q and K that of the divergences over the vocabulary.
"""

from __future__ import annotations

import doctest
import functools
from typing import Any

import numpy as np
import pytest
import torch
from toy import Toy

from rl_alliteration.errors import UserError
from rl_alliteration.rl import kl_estimators, schedules
from rl_alliteration.rl.advantages import Algorithm, get_algorithm
from rl_alliteration.rl.credit import advantages_by_position
from rl_alliteration.rl.schedules import rate_factor
from rl_alliteration.rl.update import UpdateRule

TOYS = {
    "ends early": functools.cache(lambda: Toy(3, (1,), ends=True)),
    "ends early, longer prompt": functools.cache(lambda: Toy(4, (1, 2), ends=True)),
    "one length": functools.cache(lambda: Toy(3, (2,), ends=False)),
}
CASES = [
    *((name, "reinforce", 1) for name in TOYS),
    *((name, "rloo", 2) for name in TOYS),
    ("ends early", "rloo", 3),  # of which two, one or none of the others reach a position
]


def log_ratio(toy: Toy, logits: torch.Tensor) -> torch.Tensor:
    """D, (texts,): what the prompt adds is a constant, since no token of it is sampled."""
    ratio = toy.log_probabilities(logits) - toy.log_q
    sampled = torch.from_numpy(toy.sampled)
    return torch.where(sampled, ratio, ratio.detach()).sum(-1)


def mean_reward(toy: Toy, logits: torch.Tensor) -> torch.Tensor:
    """J: the mean of raw reward + beta · KL penalty."""
    rewards = toy.rewards.sum(-1) - toy.beta * toy.own_share * log_ratio(toy, logits)
    return (toy.probability(logits) * rewards).sum()


def whole_probability(toy: Toy, logits: torch.Tensor) -> torch.Tensor:
    """Of a text with its prompt, as the study's loss has it: the prompt's factor is 1 and has a gradient."""
    log_p = toy.log_probabilities(logits).sum(-1)
    of_prompt = torch.where(torch.from_numpy(toy.sampled), 0.0, toy.log_probabilities(logits)).sum(-1)
    return (log_p - of_prompt.detach()).exp()


def study(toy: Toy, logits: torch.Tensor, algorithm: str, kl: str) -> torch.Tensor:
    """What credit by text ascends: E[w (r − b) − β w² (D − 1)], or with K in place of D − 1; b, the baseline, is the
    mean reward, held constant. Where all texts have one length it is J / (N − 1), but for a constant."""
    probability, share = whole_probability(toy, logits), toy.own_share
    if kl == "sampled":
        cost = (toy.log_probabilities(logits) - toy.log_q).sum(-1)
    else:
        cost = toy.divergence(logits).sum(-1)
    rewards = toy.rewards.sum(-1) - toy.beta * share * cost
    baseline = float((probability * rewards).sum().detach()) if algorithm == "rloo" else 0.0
    bonus = toy.beta * share**2 if kl == "sampled" else 0.0
    return (probability * (share * (rewards - baseline) + bonus)).sum()


@pytest.mark.parametrize("kl", ["sampled", "exact"])
@pytest.mark.parametrize("name, algorithm, group_size", CASES)
def test_credit_to_go_has_the_gradient_of_the_mean_reward(name: str, algorithm: str, group_size: int, kl: str) -> None:
    toy = TOYS[name]()
    mean, _ = toy.moments(UpdateRule(credit="to-go", kl=kl), algorithm, group_size)
    expected = toy.gradient(lambda logits: mean_reward(toy, logits) * toy.share)
    assert expected.norm() > 0.05
    torch.testing.assert_close(mean, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kl", ["sampled", "exact"])
@pytest.mark.parametrize("name, algorithm, group_size", CASES)
def test_credit_by_text_has_the_gradient_of_the_studys_objective(
    name: str, algorithm: str, group_size: int, kl: str
) -> None:
    toy = TOYS[name]()
    mean, _ = toy.moments(UpdateRule(kl=kl), algorithm, group_size)
    expected = toy.gradient(lambda logits: study(toy, logits, algorithm, kl))
    torch.testing.assert_close(mean, expected, rtol=0, atol=1e-10)
    of_mean_reward = toy.gradient(lambda logits: mean_reward(toy, logits) * toy.share)
    if name == "one length":
        torch.testing.assert_close(mean, of_mean_reward, rtol=0, atol=1e-10)
    else:
        assert (mean - of_mean_reward).norm() > 0.03 * of_mean_reward.norm()


def divergence_of_prefixes(toy: Toy, logits: torch.Tensor, *, reverse: bool) -> torch.Tensor:
    """Mean over texts of Σ KL at their prefixes, which are those of the policy as it is: held constant."""
    log_p, log_q = logits.log_softmax(-1), toy.reference.log_softmax(-1)
    if reverse:
        log_p, log_q = log_q, log_p
    found = (log_p.exp() * (log_p - log_q)).sum(-1)[toy.rows] * torch.from_numpy(toy.sampled)
    return (toy.probability(toy.policy) * found.sum(-1)).sum()


@pytest.mark.parametrize("kl, reverse", [("k2", False), ("k3", True)])
@pytest.mark.parametrize("name, credit", [*((name, "to-go") for name in TOYS), ("one length", "text")])
def test_what_k2_and_k3_as_a_loss_descend(name: str, credit: str, kl: str, reverse: bool) -> None:
    """k2: KL(p‖q) at the prefixes, not what tokens do to them. k3: KL(q‖p) there: biased for KL(p‖q) itself."""
    toy = TOYS[name]()
    mean, _ = toy.moments(UpdateRule(credit=credit, kl=kl), "rloo", 2)
    of_reward = toy.gradient(lambda logits: (toy.probability(logits) * toy.rewards.sum(-1)).sum() * toy.share)
    price = toy.beta * toy.share**2
    descended = toy.gradient(lambda logits: price * divergence_of_prefixes(toy, logits, reverse=reverse))
    torch.testing.assert_close(mean, of_reward - descended, rtol=0, atol=1e-10)
    exact = toy.gradient(lambda logits: mean_reward(toy, logits) * toy.share)
    assert (mean - exact).norm() > 0.05 * exact.norm()
    if kl == "k3":
        at_prefixes = toy.gradient(lambda logits: price * divergence_of_prefixes(toy, logits, reverse=False))
        assert (descended - at_prefixes).norm() > 0.1 * at_prefixes.norm()


def test_k1_as_a_loss_descends_nothing() -> None:
    toy = TOYS["ends early"]()
    of_log_p = toy.jacobian(toy.log_probabilities)[torch.from_numpy(toy.sampled)]
    chances = toy.probability(toy.policy)[:, None].expand(toy.sampled.shape)[torch.from_numpy(toy.sampled)]
    assert float((chances[:, None] * of_log_p).sum(0).abs().max()) < 1e-12


def test_credit_to_go_and_exact_kl_have_less_variance() -> None:
    toy = TOYS["one length"]()
    text, to_go, exact = (
        toy.moments(UpdateRule(credit=credit, kl=kl), "rloo", 2)[1]
        for credit, kl in (("text", "sampled"), ("to-go", "sampled"), ("to-go", "exact"))
    )
    assert exact < to_go < text


def test_estimators_of_a_divergence() -> None:
    random = torch.Generator().manual_seed(0)
    log_p, log_q = torch.randn(2, 5, generator=random, dtype=torch.float64).log_softmax(-1)
    probability, ratio = log_p.exp(), log_p - log_q
    exact = float(kl_estimators.exact(log_p, log_q))
    assert exact == pytest.approx(float((probability * ratio).sum()))
    assert float((probability * kl_estimators.k1(ratio)).sum()) == pytest.approx(exact)
    assert float((probability * kl_estimators.k3(ratio)).sum()) == pytest.approx(exact)
    assert float((probability * kl_estimators.k2(ratio)).sum()) != pytest.approx(exact, rel=1e-3)
    for estimator in (kl_estimators.k2, kl_estimators.k3):
        assert (estimator(ratio) >= 0).all()
        assert float(estimator(torch.zeros(()))) == 0


def test_a_position_that_too_few_texts_reach_is_compared_with_nothing() -> None:
    returns = np.array([[6.0, 5.0, 4.0], [2.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    reached = np.array([[True, True, True], [True, True, False], [True, False, False]])
    found = advantages_by_position(get_algorithm("rloo"), returns, reached)
    assert found.tolist() == [[4.5, 4.0, 4.0], [-1.5, -4.0, 0.0], [-3.0, 0.0, 0.0]]
    assert advantages_by_position(get_algorithm("reinforce"), returns, reached).tolist() == (returns * reached).tolist()


@pytest.mark.parametrize(
    "given, told",
    [
        ({"credit": "later"}, "--credit: 'later' is not accepted; give text or to-go"),
        ({"kl": "k4"}, "--kl: 'k4' is not accepted; give sampled or exact or k2 or k3"),
        ({"optimizer": "lion"}, "--optimizer: 'lion' is not accepted; give sgd or adamw"),
        ({"momentum": 1.0}, "--momentum: 1.0 is not accepted; give a number of at least 0 and below 1"),
        ({"optimizer": "adamw", "momentum": 0.9}, "--momentum: 0.9 is not accepted; give 0: adamw has its own"),
        ({"schedule": "step"}, "--schedule: 'step' is not accepted; give constant or linear or cosine"),
        ({"warm_up": -1}, "--warm-up: -1 is not accepted; give a number of texts, 0 or more"),
        (
            {"schedule": "linear", "warm_up": 100, "schedule_length": 100},
            "--warm-up: 100 is not accepted; give fewer",
        ),
    ],
)
def test_a_rule_that_is_none_is_refused(given: Any, told: str) -> None:
    with pytest.raises(UserError) as caught:
        UpdateRule(**given)
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "algorithm, told",
    [
        (get_algorithm("reinforce_baseline"), "compares with rewards of earlier groups"),
        (Algorithm("own", lambda rewards: rewards, 4, loss=lambda group: group.log_p.sum()), "has a loss of its own"),
    ],
)
def test_an_algorithm_that_cannot_take_the_rule_is_refused(algorithm: Algorithm, told: str) -> None:
    UpdateRule(optimizer="adamw", schedule="linear", schedule_length=100).check_algorithm(algorithm)
    with pytest.raises(UserError, match=rf"^--credit: 'to-go' is not accepted for .*, which {told}; [^\n]*$"):
        UpdateRule(credit="to-go").check_algorithm(algorithm)
    with pytest.raises(UserError, match=r"^--kl: 'k3' is not accepted for"):
        UpdateRule(kl="k3").check_algorithm(algorithm)


def test_the_rate_rises_and_falls() -> None:
    assert doctest.testmod(schedules).failed == 0
    for schedule in ("linear", "cosine"):
        factor = functools.partial(rate_factor, schedule, length=1000, group_size=10, warm_up=100)
        factors = [factor(generation) for generation in range(0, 1000, 10)]
        assert factors[:10] == sorted(factors[:10])
        assert factors[9] == factors[10] == max(factors) == 1
        assert factors[10:] == sorted(factors[10:], reverse=True)
        assert min(factors) > 0
    assert {rate_factor("constant", generation, 0, group_size=10) for generation in (0, 50, 10**6)} == {1.0}
    assert rate_factor("linear", 2000, 1000, group_size=10) == 0
    assert UpdateRule(schedule="linear", schedule_length=40).rate(0.1, 20, 10) == 0.05
