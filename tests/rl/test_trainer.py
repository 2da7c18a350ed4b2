"""One trial against a plain loop, and its promises: exact composites, no leak, divergence, repeatability."""

from __future__ import annotations

import copy
import math
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rloo_in_one_file
import torch
from trainers import ENDS, distance, make_trainer, move_away, plain_copy, update_of, weights_of, with_ends

from rl_alliteration.config import SHIPPED_MODELS, TrialConfig
from rl_alliteration.errors import Failure, UserError
from rl_alliteration.lm.decoder import DecoderForward
from rl_alliteration.lm.generic import TransformersForward
from rl_alliteration.lm.language_model import LanguageModel
from rl_alliteration.lm.loading import LoadedModel, load_model
from rl_alliteration.lm.sampling import log_probabilities
from rl_alliteration.lm.weights import as_transformers
from rl_alliteration.rl.advantages import get_algorithm
from rl_alliteration.rl.measures import diagnostics_of
from rl_alliteration.rl.rewards import Reward, alliteration
from rl_alliteration.rl.trainer import Diverged, Row, Trainer

# Large, with a wide spread: where advantages are nearly zero, 40 times the rounding of a cross-entropy would
# be most of them, in the plain float32 loop above all.
REWARD = Reward("alliteration_and_words", lambda text: 100 + 20 * alliteration(text) + len(text.split()))

LENGTHS = {"storyteller": 20, "tiny_gpt_neo": 40, "tiny_llama": 40, "tiny_opt": 40}


def plain_diagnostics(policy: Any, original: Any, texts: list[Row]) -> tuple[float, float]:
    """Entropy and k3, one sampled token at a time."""
    entropies, k3 = [], []
    with torch.no_grad():
        for text in texts:
            ids = torch.tensor([text["token_ids"]])
            log_p = policy(input_ids=ids).logits[0].log_softmax(-1)
            log_q = original(input_ids=ids).logits[0].log_softmax(-1)
            for position in range(text["num_prompt_tokens"], len(text["token_ids"])):
                row = log_p[position - 1]
                entropies.append(-(row.exp() * row).sum().item())
                token = text["token_ids"][position]
                log_ratio = (log_q[position - 1, token] - row[token]).item()
                k3.append(math.exp(log_ratio) - 1 - log_ratio)
    return float(np.mean(entropies)), float(np.mean(k3))


def compare(
    loaded: LoadedModel, config: TrialConfig, *, updates: int, tolerance: float, cross_entropy_tolerance: float
) -> None:
    """Trainer.step against the method in one file, `updates` times."""
    trainer = make_trainer(loaded, config, REWARD)
    move_away(trainer)
    ended = []
    for _ in range(updates):
        before = weights_of(trainer.policy.model)
        policy, original = plain_copy(loaded, before), as_transformers(loaded.model)
        step = trainer.step()
        entropy, k3 = plain_diagnostics(policy, original, step.texts)
        plain = rloo_in_one_file.update(
            policy,
            original,
            torch.optim.SGD(policy.parameters(), lr=config.learning_rate),
            [text["token_ids"] for text in step.texts],
            [REWARD(text["text"]) for text in step.texts],
            config.beta,
        )

        for column, values in {
            "lm_cross_entropy": plain.cross_entropy,
            "original_lm_cross_entropy": plain.reference_cross_entropy,
            "kl_penalty": plain.kl_penalty,
            "reward": plain.reward,
            "advantage": plain.advantage,
        }.items():
            ours = [text[column] for text in step.texts]
            scale = 1 if column.endswith("cross_entropy") else 1 + 2 * config.beta
            assert ours == pytest.approx(values.tolist(), rel=tolerance, abs=scale * cross_entropy_tolerance), column
        plain_parameters = dict(policy.named_parameters())
        for name, parameter in trainer.policy.model.named_parameters():
            assert distance(parameter.grad, plain_parameters[name].grad) <= tolerance, name
            rounding = 4 * torch.finfo(parameter.dtype).eps * float(parameter.detach().abs().max())
            moved = config.learning_rate * float(parameter.grad.abs().max())
            torch.testing.assert_close(
                parameter, plain_parameters[name], rtol=0, atol=rounding + tolerance * moved, msg=name
            )
            assert not torch.equal(parameter, before[name])

        norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in plain_parameters.values()))
        assert update_of(step)["grad_norm"] == pytest.approx(norm, rel=tolerance)
        assert update_of(step)["loss"] == pytest.approx(
            float(plain.loss), rel=tolerance, abs=100 * cross_entropy_tolerance
        )
        assert update_of(step)["entropy"] == pytest.approx(entropy, rel=tolerance)
        assert update_of(step)["kl_k3"] == pytest.approx(k3, rel=10 * tolerance)
        assert update_of(step)["sampler_gap"] < 1e-5
        assert update_of(step)["tokens"] == sum(len(text["token_ids"]) for text in step.texts)
        ended += [text["ended"] for text in step.texts]
    assert any(ended), ended
    assert not all(ended)


@pytest.mark.parametrize("beta", [0, 40])
@pytest.mark.parametrize("algorithm, group_size, updates", [("rloo", 6, 1), ("reinforce", 1, 8)])
@pytest.mark.parametrize("name", ["tiny_gpt_neo", "storyteller"])
def test_the_plain_loop_in_float64(
    name: str,
    algorithm: str,
    group_size: int,
    updates: int,
    beta: int,
    request: pytest.FixtureRequest,
    make_config: Callable[..., TrialConfig],
    float64_throughout: None,
) -> None:
    loaded = with_ends(request.getfixturevalue(name), ENDS[name], torch.float64)
    config = make_config(
        loaded,
        algorithm=algorithm,
        group_size=group_size,
        beta=beta,
        learning_rate=1e-5,
        max_length=LENGTHS[name],
        dtype="float64",
    )
    compare(loaded, config, updates=updates, tolerance=1e-9, cross_entropy_tolerance=1e-11)


@pytest.mark.parametrize("beta", [0, 40])
@pytest.mark.parametrize("algorithm, group_size, updates", [("rloo", 6, 1), ("reinforce", 1, 8)])
@pytest.mark.parametrize("name", ["tiny_gpt_neo", "storyteller", "tiny_llama", "tiny_opt"])
def test_the_plain_loop_in_float32(
    name: str,
    algorithm: str,
    group_size: int,
    updates: int,
    beta: int,
    request: pytest.FixtureRequest,
    make_config: Callable[..., TrialConfig],
) -> None:
    loaded = with_ends(request.getfixturevalue(name), ENDS[name])
    config = make_config(
        loaded,
        algorithm=algorithm,
        group_size=group_size,
        beta=beta,
        learning_rate=1e-5,
        max_length=LENGTHS[name],
    )
    compare(loaded, config, updates=updates, tolerance=1e-4, cross_entropy_tolerance=1e-5)


def test_no_gradient_flows_through_the_reward(
    tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig], float64_throughout: None
) -> None:
    loaded = with_ends(tiny_gpt_neo, ENDS["tiny_gpt_neo"], torch.float64)
    trainer = make_trainer(loaded, make_config(loaded, beta=40, dtype="float64"))
    move_away(trainer)
    policy = plain_copy(loaded, weights_of(trainer.policy.model))
    texts = trainer.step().texts
    losses = torch.stack([rloo_in_one_file.cross_entropy(policy, text["token_ids"]) for text in texts])
    raw, original = (
        torch.tensor([text[column] for text in texts], dtype=torch.float64)
        for column in ("raw_reward", "original_lm_cross_entropy")
    )
    rewards = raw + 40 * (losses - original)
    advantages = rloo_in_one_file.leave_one_out(rewards)
    ours = trainer.policy.model.transformer.h[0].mlp.c_fc.weight.grad
    weight = policy.transformer.h[0].mlp.c_fc.weight
    (detached,) = torch.autograd.grad((advantages.detach() * losses).sum(), weight, retain_graph=True)
    (leaking,) = torch.autograd.grad((advantages * losses).sum(), weight)
    assert distance(ours, detached) < 1e-9
    assert distance(ours, leaking) > 0.1


@pytest.mark.parametrize("algorithm, group_size", [("rloo", 4), ("reinforce", 1)])
def test_composites_are_exact_in_the_stored_terms(
    algorithm: str, group_size: int, tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig]
) -> None:
    loaded = with_ends(tiny_gpt_neo, ENDS["tiny_gpt_neo"])
    config = make_config(loaded, algorithm=algorithm, group_size=group_size, beta=0.1)
    trainer = make_trainer(loaded, config)
    move_away(trainer)
    for _ in range(3):
        texts = trainer.step().texts
        for text in texts:
            assert text["kl_penalty"] == text["lm_cross_entropy"] - text["original_lm_cross_entropy"]
            assert text["reward"] == text["raw_reward"] + text["beta"] * text["kl_penalty"]
            assert text["raw_reward"] == alliteration(text["text"])
        rewards = np.array([text["reward"] for text in texts])
        advantages = get_algorithm(algorithm).advantages(rewards)
        assert [text["advantage"] for text in texts] == advantages.tolist()
        assert any(text["kl_penalty"] != 0 for text in texts)


def test_rows_say_where_they_stand(storyteller: LoadedModel, make_config: Callable[..., TrialConfig]) -> None:
    loaded = with_ends(storyteller, ENDS["storyteller"])
    config = make_config(loaded, seed=3, max_length=16)
    trainer = make_trainer(loaded, config)
    steps = [trainer.step(), trainer.step()]
    texts = [text for step in steps for text in step.texts]
    assert [text["generation"] for text in texts] == list(range(8))
    assert [text["step"] for text in texts] == 4 * [0] + 4 * [1]
    assert [text["sample"] for text in texts] == 2 * [0, 1, 2, 3]
    assert [(update_of(step)["step"], update_of(step)["generation"]) for step in steps] == [(0, 0), (1, 4)]
    assert trainer.generation == 8
    assert trainer.step_index == 2
    for text in texts:
        ids = text["token_ids"]
        assert ids[:4] == storyteller.encode("Once upon a time")
        assert text["num_prompt_tokens"] == 4
        assert text["num_tokens"] == len(ids) <= 16
        assert text["ended"] == (ids[-1] in loaded.end_tokens)
        assert text["ended"] or len(ids) == 16
        assert not set(ids[:-1]) & loaded.end_tokens
        assert text["text"] == storyteller.tokenizer.decode(ids[:-1] if text["ended"] else ids)
        assert text["text"].startswith("Once upon a time")
        assert text["num_words"] == len(text["text"].split())
        assert (text["algorithm"], text["beta"], text["seed"], text["group_size"]) == ("rloo", 40.0, 3, 4)
        assert (text["learning_rate"], text["reward_function"]) == (1e-3, "alliteration")
        assert text["model"] == f"storyteller@{config.model_fingerprint}"
    assert any(text["ended"] for text in texts)
    assert not all(text["ended"] for text in texts)


def test_an_end_token_is_an_action_but_no_text(
    storyteller: LoadedModel, make_config: Callable[..., TrialConfig]
) -> None:
    # The full stop counts in the cross-entropy and is missing from the text; padding counts nowhere.
    loaded = with_ends(storyteller, ENDS["storyteller"])
    texts = make_trainer(loaded, make_config(loaded, max_length=20)).step().texts
    ended = [text for text in texts if text["ended"]]
    assert len({text["num_tokens"] for text in texts}) > 1
    for text in ended:
        assert not text["text"].endswith(".")
        ids = torch.tensor([text["token_ids"]])
        assert ids[0, -1] == 14
        with torch.no_grad():
            alone = as_transformers(storyteller.model)(input_ids=ids, labels=ids).loss.item()
        assert text["lm_cross_entropy"] == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("algorithm, group_size", [("rloo", 4), ("reinforce", 1)])
def test_every_parameter_moves_and_the_reference_does_not(
    algorithm: str, group_size: int, storyteller: LoadedModel, make_config: Callable[..., TrialConfig]
) -> None:
    trainer = make_trainer(storyteller, make_config(storyteller, algorithm=algorithm, group_size=group_size), REWARD)
    before = weights_of(storyteller.model)
    trainer.step()
    trainer.step()
    for name, parameter in trainer.policy.model.named_parameters():
        assert not torch.equal(parameter, before[name]), name
    for model in (trainer.reference.model, storyteller.model):
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, before[name]), name
            assert parameter.grad is None
    assert not trainer.policy.model.training
    assert not trainer.reference.model.training


@pytest.mark.parametrize("folder", ["tiny_gpt_neo_folder", "tiny_llama_folder"])
def test_dropout_is_never_applied(
    folder: str, request: pytest.FixtureRequest, make_config: Callable[..., TrialConfig]
) -> None:
    loaded = load_model(str(request.getfixturevalue(folder)))
    for module in loaded.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
        if hasattr(module, "attention_dropout"):  # Llama's is a number
            module.attention_dropout = 0.5
    loaded.model.train()
    config = make_config(loaded)
    first, second = (make_trainer(loaded, config).step() for _ in range(2))
    assert first.texts == second.texts
    assert update_of(first)["sampler_gap"] < 1e-5


@pytest.mark.parametrize("name", ["tiny_gpt_neo", "tiny_llama", "tiny_opt"])
def test_the_original(name: str, request: pytest.FixtureRequest, make_config: Callable[..., TrialConfig]) -> None:
    loaded = with_ends(request.getfixturevalue(name), ENDS[name])
    config = make_config(loaded).original()
    trainer = make_trainer(loaded, config)
    steps = [trainer.step(), trainer.step()]
    for step in steps:
        assert step.update is None
        assert len(step.texts) == 10
        for text in step.texts:
            assert text["kl_penalty"] == 0
            assert text["advantage"] == 0
            assert text["reward"] == text["raw_reward"]
            assert text["lm_cross_entropy"] == text["original_lm_cross_entropy"] > 0
    for parameter, before in zip(trainer.policy.model.parameters(), loaded.model.parameters(), strict=True):
        assert torch.equal(parameter, before)
    assert [text["generation"] for step in steps for text in step.texts] == list(range(20))


def test_the_original_writes_what_an_untrained_trial_writes(
    tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig]
) -> None:
    config = make_config(tiny_gpt_neo, seed=0, group_size=10)
    original = make_trainer(tiny_gpt_neo, config.original()).step().texts
    trained = make_trainer(tiny_gpt_neo, config).step().texts
    assert [text["token_ids"] for text in original] == [text["token_ids"] for text in trained]


# Divergence.


def reward_at(generation: int, value: Any) -> Reward:
    """`value`, raised if it can be, for that generation, 1 for the others."""
    calls = iter(range(10**6))

    def function(text: str) -> Any:
        if next(calls) != generation:
            return 1.0
        if isinstance(value, BaseException):
            raise value
        return value

    return Reward("broken", function)


@pytest.mark.parametrize(
    "value, told",
    [
        (math.nan, "diverged at generation 6: the reward 'broken' gave nan, not a finite number"),
        (-math.inf, "diverged at generation 6: the reward 'broken' gave -inf, not a finite number"),
        (None, "the reward 'broken' gave None, not a number, on"),
        (ZeroDivisionError("by nothing"), "the reward 'broken' raised ZeroDivisionError: by nothing"),
        (SystemExit(3), "the reward 'broken' raised SystemExit: 3"),
    ],
)
def test_a_reward_that_fails_names_its_text_and_changes_nothing(
    value: Any, told: str, tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig]
) -> None:
    trainer = make_trainer(tiny_gpt_neo, make_config(tiny_gpt_neo), reward_at(6, value))
    trainer.step()
    before = weights_of(trainer.policy.model)
    with pytest.raises(Failure) as caught:
        trainer.step()
    message = str(caught.value)
    assert message.startswith(told)
    assert isinstance(caught.value, Diverged) == isinstance(value, float)
    assert trainer.generation == 4
    for name, parameter in trainer.policy.model.named_parameters():
        assert torch.equal(parameter, before[name])
    trainer.reward = reward_at(10**6, 0)
    assert repr(trainer.step().texts[2]["text"][:150])[1:-1] in message


def test_a_gradient_that_is_not_finite(tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig]) -> None:
    # Finite in float64, infinite as a float32 weight of the loss.
    trainer = make_trainer(tiny_gpt_neo, make_config(tiny_gpt_neo), reward_at(1, 1e300))
    before = weights_of(trainer.policy.model)
    with pytest.raises(Diverged, match="generation 0"):
        trainer.step()
    for name, parameter in trainer.policy.model.named_parameters():
        assert torch.equal(parameter, before[name])


@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize("name", ["tiny_gpt_neo", "tiny_llama", "tiny_opt"])
@pytest.mark.parametrize("algorithm", ["rloo", "original"])
def test_weights_that_are_not_finite(
    value: Any, name: str, algorithm: str, request: pytest.FixtureRequest, make_config: Callable[..., TrialConfig]
) -> None:
    loaded = request.getfixturevalue(name)
    config = make_config(loaded)
    trainer = make_trainer(loaded, config.original() if algorithm == "original" else config)
    with torch.no_grad():
        trainer.policy.model.lm_head.weight[7] = value
    with pytest.raises(Diverged, match="generation 0") as caught:
        trainer.step()
    assert caught.value.generation == 0


def test_a_reference_that_is_not_finite(tiny_llama: LoadedModel, make_config: Callable[..., TrialConfig]) -> None:
    trainer = make_trainer(tiny_llama, make_config(tiny_llama, beta=0))
    trainer.reference = LanguageModel(copy.deepcopy(tiny_llama.model))
    trainer.reference.model.lm_head.weight[7] = math.nan
    with pytest.raises(Diverged, match="generation 0"):
        trainer.step()


def masking(loaded: LoadedModel, value: float = -math.inf) -> LoadedModel:
    """The same model, as some are that give a few tokens no chance at all."""

    def mask(module: Any, arguments: Any, output: Any) -> Any:
        barred = torch.zeros(output.logits.shape[-1]).index_fill(0, torch.arange(3, 90), value)
        output.logits = output.logits + barred
        return output

    model = copy.deepcopy(loaded.model)
    model.register_forward_hook(mask)
    return LoadedModel(loaded.name, model, loaded.pretrained_tokenizer, loaded.end_tokens)


def test_a_model_that_bars_tokens_has_the_numbers_of_one_without_them(
    tiny_opt: LoadedModel, make_config: Callable[..., TrialConfig]
) -> None:
    found = []
    for value in (-math.inf, -1e4):  # of which exp is 0, too
        loaded = masking(tiny_opt, value)
        trainer = make_trainer(loaded, make_config(loaded))
        steps = [trainer.step() for _ in range(2)]
        found.append([{k: v for k, v in update_of(step).items() if "seconds" not in k} for step in steps])
        assert not {token for step in steps for row in step.texts for token in row["token_ids"][4:]} & set(range(3, 90))
    assert found[0] == found[1]
    assert all(0 < update["entropy"] < math.log(2048) for update in found[0])


@pytest.mark.parametrize("name", ["entropy", "kl_k3", "sampler_gap"])
def test_a_diagnostic_that_is_not_finite_ends_the_trial_before_the_update(
    name: str, tiny_llama: LoadedModel, make_config: Callable[..., TrialConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rl_alliteration.rl import trainer as module

    monkeypatch.setattr(module, "diagnostics_of", lambda *given: diagnostics_of(*given) | {name: math.nan})
    trainer = make_trainer(tiny_llama, make_config(tiny_llama))
    before = weights_of(trainer.policy.model)
    with pytest.raises(Diverged, match=f"generation 0: .*{name} nan"):
        trainer.step()
    assert all(torch.equal(value, before[key]) for key, value in weights_of(trainer.policy.model).items())
    assert trainer.generation == 0


def test_what_lies_beyond_a_text_counts_in_no_number(
    tiny_llama: LoadedModel, make_config: Callable[..., TrialConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rl_alliteration.rl import trainer as module

    loaded = with_ends(tiny_llama, ENDS["tiny_llama"])
    plain = make_trainer(loaded, make_config(loaded)).step()
    assert len({row["num_tokens"] for row in plain.texts}) > 1
    given = log_probabilities

    def infinite_beyond(model: LanguageModel, token_ids: torch.Tensor) -> torch.Tensor:
        found = given(model, token_ids).clone()
        for text, row in enumerate(plain.texts):
            found[text, row["num_tokens"] - 1 :] = -math.inf
        return found

    monkeypatch.setattr(module, "log_probabilities", infinite_beyond)
    step = make_trainer(loaded, make_config(loaded)).step()
    assert step.texts == plain.texts
    assert {k: v for k, v in update_of(step).items() if "seconds" not in k} == {
        k: v for k, v in update_of(plain).items() if "seconds" not in k
    }


def test_training_that_runs_away_ends_as_diverged(
    tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig]
) -> None:
    config = make_config(tiny_gpt_neo, learning_rate=1e12, algorithm="reinforce")
    with pytest.raises(Diverged):
        train(tiny_gpt_neo, config, 20)


# From end to end.


def train(loaded: LoadedModel, config: TrialConfig, steps: int = 3) -> tuple[list[Row], list[Row], Trainer]:
    trainer = make_trainer(loaded, config)
    done = [trainer.step() for _ in range(steps)]
    texts = [text for step in done for text in step.texts]
    updates = [{k: v for k, v in update_of(step).items() if not k.endswith("_seconds")} for step in done]
    return texts, updates, trainer


@pytest.mark.parametrize("name", ["tiny_gpt_neo", "storyteller", "tiny_llama", "tiny_opt"])
def test_the_same_trial_twice(
    name: str, request: pytest.FixtureRequest, make_config: Callable[..., TrialConfig]
) -> None:
    loaded = request.getfixturevalue(name)
    first, again, other = (train(loaded, make_config(loaded, seed=seed)) for seed in (0, 0, 1))
    assert first[:2] == again[:2]
    assert weights_of(first[2].policy.model).keys() == weights_of(again[2].policy.model).keys()
    for parameter, twin in zip(first[2].policy.model.parameters(), again[2].policy.model.parameters(), strict=True):
        assert torch.equal(parameter, twin)
    assert [text["token_ids"] for text in first[0]] != [text["token_ids"] for text in other[0]]


def test_a_trial_goes_on_from_weights_and_counter_alone(
    tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig]
) -> None:
    config = make_config(tiny_gpt_neo)
    texts, updates, _ = train(tiny_gpt_neo, config, 4)
    _, _, half = train(tiny_gpt_neo, config, 2)
    resumed = make_trainer(tiny_gpt_neo, config)
    resumed.policy.model.load_state_dict(half.policy.model.state_dict())
    resumed.generation = half.generation
    done = [resumed.step(), resumed.step()]
    assert [text for step in done for text in step.texts] == texts[8:]
    assert [update_of(step)["grad_norm"] for step in done] == [update["grad_norm"] for update in updates[2:]]


@pytest.mark.parametrize("name", ["tiny_gpt_neo", "tiny_llama", "tiny_opt"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_policy_and_reference_score_alike_in_either_precision(
    name: str, dtype: str, request: pytest.FixtureRequest, make_config: Callable[..., TrialConfig]
) -> None:
    loaded = request.getfixturevalue(name)
    trainer = make_trainer(loaded, make_config(loaded, dtype=dtype))
    assert trainer.reference is make_trainer(loaded, trainer.config).reference, "once for all trials"
    # Before the first update they are one model: nothing but rounding may be between them. Where the update takes the
    # sampler's own numbers, those of a group of one token each, a bfloat16 is at times rounded the other way.
    recorded = dtype == "bfloat16" and loaded.undescribed is None
    step = trainer.step()
    assert max(abs(text["kl_penalty"]) for text in step.texts) < (5e-3 if recorded else 1e-5)
    if loaded.undescribed is None:
        assert update_of(step)["sampler_gap"] == 0.0


def test_training_raises_the_reward(tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig]) -> None:
    # The sign: words that begin with one letter get likelier. By far more than chance, within a second.
    config = make_config(tiny_gpt_neo, beta=0, group_size=10, learning_rate=0.3, max_length=16)
    liked = frozenset(range(0, 2048, 2))
    reward = Reward("even", lambda text: float(sum(i in liked for i in tiny_gpt_neo.tokenizer.encode(text).ids)))
    trainer = make_trainer(tiny_gpt_neo, config, reward)
    rewards = [text["raw_reward"] for _ in range(20) for text in trainer.step().texts]
    assert np.mean(rewards[-50:]) > np.mean(rewards[:50]) + 2


# Loading.


def test_files_of_either_kind_are_the_same_model(
    tiny_gpt_neo: LoadedModel, tiny_gpt_neo_bin_folder: Path, make_config: Callable[..., TrialConfig]
) -> None:
    loaded = load_model(str(tiny_gpt_neo_bin_folder))
    assert loaded.weights_fingerprint == tiny_gpt_neo.weights_fingerprint
    assert loaded.tokenizer_fingerprint == tiny_gpt_neo.tokenizer_fingerprint
    config = make_config(loaded)
    assert config == make_config(tiny_gpt_neo)
    ours, theirs = train(loaded, config, 1), train(tiny_gpt_neo, config, 1)
    assert [text["token_ids"] for text in ours[0]] == [text["token_ids"] for text in theirs[0]]


def test_fingerprints_tell_models_apart(
    tiny_gpt_neo: LoadedModel, tiny_llama: LoadedModel, storyteller: LoadedModel
) -> None:
    fingerprints = {loaded.weights_fingerprint for loaded in (tiny_gpt_neo, tiny_llama, storyteller)}
    assert len(fingerprints) == 3
    assert tiny_llama.tokenizer_fingerprint == storyteller.tokenizer_fingerprint
    changed = copy.deepcopy(tiny_gpt_neo.model)
    with torch.no_grad():
        changed.transformer.wpe.weight[-1, -1] += 1e-6
    other = LoadedModel("other", changed, tiny_gpt_neo.pretrained_tokenizer, tiny_gpt_neo.end_tokens)
    assert other.weights_fingerprint != tiny_gpt_neo.weights_fingerprint
    assert with_ends(tiny_gpt_neo, frozenset()).tokenizer_fingerprint != tiny_gpt_neo.tokenizer_fingerprint


def test_a_policys_fingerprint_is_its_models(storyteller: LoadedModel) -> None:
    # Fusing moves the weights to other memory; the numbers stay.
    policy = storyteller.policy()
    again = LoadedModel("again", policy.model, storyteller.pretrained_tokenizer, storyteller.end_tokens)
    assert again.weights_fingerprint == storyteller.weights_fingerprint


def test_another_architecture_goes_through_transformers(tiny_opt: LoadedModel) -> None:
    assert isinstance(tiny_opt.policy().forward, TransformersForward)
    assert tiny_opt.end_tokens == {0}
    assert tiny_opt.context == 128


@pytest.mark.parametrize("name", SHIPPED_MODELS)
def test_the_shipped_models(name: str) -> None:
    loaded = load_model(name)
    assert loaded.name == name
    assert isinstance(loaded.policy().forward, DecoderForward)
    assert loaded.end_tokens == {0}
    assert loaded.context == 256
    ids = loaded.encode("Once upon a time")
    assert len(ids) == 4
    assert loaded.tokenizer.decode(ids) == "Once upon a time"


def test_a_prompt_of_nothing(storyteller: LoadedModel) -> None:
    with pytest.raises(UserError, match="--prompt"):
        storyteller.encode("")


def test_an_end_token_after_the_prompt_is_left_out(storyteller: LoadedModel) -> None:
    # As tokenizers that close every text add it: nothing would follow.
    loaded = with_ends(storyteller, frozenset([14]))
    assert storyteller.encode("Hello.")[-1] == 14
    assert loaded.encode("Hello.") == storyteller.encode("Hello")
    assert loaded.encode(".") == [14]


def refused(name: Path | str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_model(str(name), **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["no-such-model", "./no/such", "/no/such/folder", "~/no/such", "a/b/c"])
def test_no_such_folder(name: str) -> None:
    message = refused(name)
    assert message.startswith("--model: ")
    assert name in message
    assert "storyteller" in message


def test_a_hub_id_without_a_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there: refused at once
    message = refused("nobody-there/no-such-model")
    assert message.startswith("--model: ")
    assert "'nobody-there/no-such-model'" in message
    assert "--model storyteller" in message
    message = refused("storyteller", tokenizer="nobody-there/no-such-tokenizer")
    assert message.startswith("--tokenizer: ")
    assert "'nobody-there/no-such-tokenizer'" in message


def test_a_hub_id_in_offline_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read from the variable at import
    message = refused("nobody-there/no-such-model")
    assert message.startswith("--model: ")
    assert "storyteller" in message


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    assert refused(tmp_path).startswith("--model: ")


def test_a_folder_without_a_tokenizer(tiny_llama: LoadedModel, tmp_path: Path) -> None:
    tiny_llama.model.save_pretrained(tmp_path)
    assert refused(tmp_path).startswith("--tokenizer: ")


def test_a_tokenizer_of_its_own(tiny_llama: LoadedModel, tiny_llama_folder: Path, tmp_path: Path) -> None:
    tiny_llama.model.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), tokenizer=str(tiny_llama_folder))
    assert loaded.tokenizer_fingerprint == tiny_llama.tokenizer_fingerprint
    assert loaded.weights_fingerprint == tiny_llama.weights_fingerprint


def test_a_tokenizer_with_too_many_tokens(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=100, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    message = refused(tmp_path, tokenizer="storyteller")
    assert message.startswith("--tokenizer: 'storyteller'")
    assert "2048" in message
    assert "100" in message


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_broken_file(file: str, tiny_llama_folder: Path, tmp_path: Path) -> None:
    for path in tiny_llama_folder.iterdir():
        (tmp_path / path.name).write_bytes(b"not what it was" if path.name == file else path.read_bytes())
    assert refused(tmp_path).startswith("--tokenizer: " if file == "tokenizer.json" else "--model: ")


def test_a_broken_bin_file(tiny_gpt_neo_bin_folder: Path, tmp_path: Path) -> None:
    for path in tiny_gpt_neo_bin_folder.iterdir():
        (tmp_path / path.name).write_bytes(b"broken" if path.suffix == ".bin" else path.read_bytes())
    assert refused(tmp_path).startswith("--model: ")


# --- rewards that are somebody else's code -----------------------------------------------------------------


def test_what_a_reward_changes_of_the_process_is_put_back(
    tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tiny_gpt_neo, learning_rate=0.01, max_length=16)
    monkeypatch.chdir(tmp_path)

    def meddling(text: str) -> float:
        assert torch.is_grad_enabled() and os.getcwd() == str(tmp_path)
        torch.set_grad_enabled(False)
        torch.set_num_threads(3)
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        torch.set_float32_matmul_precision("medium")
        torch.use_deterministic_algorithms(False)
        torch.manual_seed(len(text))
        np.random.seed(1)
        random.seed(1)
        os.chdir("/")
        return float(len(text))

    plain = Trainer(config, tiny_gpt_neo, Reward("length", lambda text: float(len(text))), get_algorithm("rloo"))
    torch.use_deterministic_algorithms(True)
    try:
        expected = [plain.step() for _ in range(3)]
        trainer = Trainer(config, tiny_gpt_neo, Reward("length", meddling), get_algorithm("rloo"))
        for step in expected:
            assert trainer.step().texts == step.texts
        assert torch.are_deterministic_algorithms_enabled()
        assert (torch.get_num_threads(), torch.get_default_dtype()) == (1, torch.float32)
        assert (torch.get_default_device().type, torch.get_float32_matmul_precision()) == ("cpu", "highest")
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("given", [True, 3, np.float32(3), np.int64(3), np.array(3), torch.tensor([3.0])])
def test_whatever_is_a_number_is_a_reward(
    tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig], given: Any
) -> None:
    config = make_config(tiny_gpt_neo, max_length=12)
    trainer = Trainer(config, tiny_gpt_neo, Reward("given", lambda text: given), get_algorithm("rloo"))
    assert {row["raw_reward"] for row in trainer.step().texts} == {float(given)}


@pytest.mark.parametrize("given", [None, "3", b"3", 1j, [3.0], torch.tensor([1.0, 2.0]), object()])
def test_a_reward_that_gives_no_number_is_told_with_what_it_gave(
    tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig], given: Any
) -> None:
    config = make_config(tiny_gpt_neo, max_length=12)
    trainer = Trainer(config, tiny_gpt_neo, Reward("given", lambda text: given), get_algorithm("rloo"))
    with pytest.raises(Failure, match=r"the reward 'given' gave .*, not a number, on the text 'Once upon a time"):
        trainer.step()
