"""The KL divergence of policy and reference over the whole vocabulary, and its gradient."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from trainers import with_ends

from rl_alliteration.lm import sampling
from rl_alliteration.lm.language_model import LanguageModel
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.lm.sampling import log_distributions, log_probabilities, sample, score, score_against, uniforms


def moved(loaded: LoadedModel) -> tuple[LoadedModel, LanguageModel, LanguageModel]:
    """The model as after some training, in float64, and itself."""
    loaded = with_ends(loaded, frozenset(range(0, 2048, 64)), torch.float64)
    policy, reference = loaded.policy(), loaded.reference()
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=noise).to(parameter)
    return loaded, policy, reference


@pytest.mark.parametrize("record", [True, False])
@pytest.mark.parametrize("name", ["tiny_gpt_neo", "tiny_llama"])
def test_divergences_and_their_gradients_are_those_of_plain_autograd(
    name: str, record: bool, request: pytest.FixtureRequest, float64_throughout: None
) -> None:
    loaded, policy, reference = moved(request.getfixturevalue(name))
    for seed in (0, 1):  # the second group finds the memory of the first
        policy.model.zero_grad()
        chances = uniforms(seed, 0, 5, 30)
        prompt = loaded.encode("Once upon a time")
        rollout = sample(policy, prompt, chances, end_tokens=loaded.end_tokens, record=record)
        ids = rollout.token_ids
        found = score_against(log_distributions(reference, ids), policy, ids, rollout.decoded)
        plain = copy.deepcopy(policy.model)
        log_p = plain(input_ids=ids).logits[:, :-1].log_softmax(-1)
        with torch.no_grad():
            log_q = loaded.model(input_ids=ids).logits[:, :-1].log_softmax(-1)
        chosen = log_p.gather(-1, ids[:, 1:, None])[..., 0]
        divergence = (log_p.exp() * (log_p - log_q)).sum(-1)
        assert divergence.min() > 0.01
        for ours, expected in zip(found, (chosen, -(log_p.exp() * log_p).sum(-1), divergence), strict=True):
            torch.testing.assert_close(ours, expected, rtol=0, atol=1e-11)
        weights = torch.randn(2, *chosen.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        torch.autograd.backward([found[0], found[2]], [weights[0], weights[1]])
        (weights[0] * chosen + weights[1] * divergence).sum().backward()
        for parameter_name, parameter in policy.model.named_parameters():
            other = plain.get_parameter(parameter_name).grad
            torch.testing.assert_close(parameter.grad, other, rtol=1e-9, atol=1e-11)


def test_a_reference_changes_no_score(tiny_gpt_neo: LoadedModel) -> None:
    policy, ids = tiny_gpt_neo.policy(), torch.randint(2048, (3, 20), generator=torch.Generator().manual_seed(0))
    found = []
    for reference in (None, log_distributions(tiny_gpt_neo.reference(), ids)):
        policy.model.zero_grad()
        scores = score(policy, ids) if reference is None else score_against(reference, policy, ids)
        scores[0].sum().backward()
        found.append([*scores[:2], *(parameter.grad for parameter in policy.model.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("name", ["tiny_gpt_neo", "tiny_llama"])
def test_distributions_at_the_tokens_are_their_log_probabilities(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name).reference()
    ids = torch.randint(2048, (3, 20), generator=torch.Generator().manual_seed(0))
    chosen = log_distributions(model, ids).gather(-1, ids[:, 1:, None])[..., 0]
    assert torch.equal(chosen, log_probabilities(model, ids))


class Table:
    """A model whose logits are given."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.given, self.forward = logits, self
        self.rows = logits.clone().requires_grad_()

    def logits(self, token_ids: torch.Tensor) -> torch.Tensor:
        return self.rows[None, : token_ids.shape[1]] * 1

    def logits_by_texts(self, token_ids: torch.Tensor, most: int) -> list[torch.Tensor]:
        return [self.logits(token_ids)]


@pytest.mark.parametrize(
    "policy, reference, expected",
    [
        ([0.0, -math.inf], [0.0, -math.inf], 0.0),  # barred by both
        ([0.0, -math.inf], [0.0, 0.0], math.log(2)),
        ([0.0, 0.0], [0.0, -math.inf], math.inf),
    ],
)
def test_tokens_without_a_chance(policy: list[float], reference: list[float], expected: float) -> None:
    ids = torch.zeros(1, 2, dtype=torch.long)
    model: Any = Table(torch.tensor([policy]))
    other: Any = Table(torch.tensor([reference]))
    _, _, divergence = score_against(log_distributions(other, ids), model, ids)
    assert divergence.item() == pytest.approx(expected)
    if expected < math.inf:
        divergence.sum().backward()
        assert model.rows.grad.abs().max() < 1e-6


@pytest.mark.parametrize("name", ["tiny_gpt_neo", "tiny_llama", "tiny_opt"])
def test_a_reference_is_scored_some_texts_at_a_time(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = request.getfixturevalue(name).reference()
    ids = torch.randint(2048, (5, 9), generator=torch.Generator().manual_seed(0))
    whole = log_probabilities(reference, ids), log_distributions(reference, ids)
    for texts in (1, 2):
        monkeypatch.setattr(sampling, "MOST_LOGITS", texts * 8 * 2048 + 1)
        sizes = [len(logits) for logits in reference.forward.logits_by_texts(ids[:, :-1], sampling.MOST_LOGITS)]
        assert sizes == ([5] if name == "tiny_opt" else [texts] * (5 // texts) + [1] * (5 % texts))
        assert log_probabilities(reference, ids).equal(whole[0])
        assert log_distributions(reference, ids).equal(whole[1])


def test_bfloat16_is_near_float32(storyteller: LoadedModel) -> None:
    ids = sample(storyteller.policy(), storyteller.encode("Once upon a time"), uniforms(0, 0, 4, 30),
                 end_tokens=frozenset()).token_ids  # fmt: skip
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        model = storyteller.policy(dtype=dtype)
        with torch.no_grad():
            model.model.transformer.wte.weight.mul_(1.5)
        _, _, divergence = score_against(log_distributions(storyteller.reference(), ids), model, ids)
        divergence.mean().backward()
        found.append((divergence.detach(), model.model.transformer.wte.weight.grad))
    assert (found[0][0] - found[1][0]).abs().mean() < 0.05 * found[0][0].mean()
    assert (found[0][1] - found[1][1]).norm() < 0.1 * found[0][1].norm()
