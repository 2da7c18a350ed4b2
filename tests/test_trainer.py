"""One trial against a plain loop, and its promises: exact composites, no leak, divergence, repeatability."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rl_alliteration.advantages import get_algorithm
from rl_alliteration.config import SHIPPED_MODELS
from rl_alliteration.errors import Failure, UserError
from rl_alliteration.gpt_neo import GPTNeoForward
from rl_alliteration.language_model import LanguageModel, LoadedModel, TransformersForward, load_model
from rl_alliteration.rewards import Reward, alliteration, get_reward
from rl_alliteration.trainer import Diverged, Trainer

# Large, with a wide spread: where advantages are nearly zero, 40 times the rounding of a cross-entropy would
# be most of them, in the plain float32 loop above all.
REWARD = Reward("alliteration_and_words", lambda text: 100 + 20 * alliteration(text) + len(text.split()))

# End tokens frequent enough that of a few short texts some end early and some do not.
ENDS = {
    "storyteller": frozenset([14]),  # the full stop
    "tiny_gpt_neo": frozenset(range(0, 2048, 64)),
    "tiny_llama": frozenset(range(0, 2048, 64)),
}
LENGTHS = {"storyteller": 20, "tiny_gpt_neo": 40, "tiny_llama": 40}


def with_ends(loaded, end_tokens, dtype=torch.float32):
    return LoadedModel(loaded.name, copy.deepcopy(loaded.model).to(dtype), loaded.pretrained_tokenizer, end_tokens)


def make_trainer(loaded, config, reward=None):
    algorithm = None if config.algorithm == "original" else get_algorithm(config.algorithm)
    return Trainer(config, loaded, reward or get_reward(config.reward), algorithm)


def move_away(trainer, size=0.02):
    """As after some training: policy and reference differ, so that the KL penalty counts."""
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trainer.policy.model.parameters():
            parameter += size * torch.randn(parameter.shape, generator=noise).to(parameter)


def weights_of(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def plain_copy(loaded, weights):
    """The policy as transformers has it: nothing fused."""
    model = copy.deepcopy(loaded.model).eval().requires_grad_(True)
    model.load_state_dict(weights, strict=False)  # tied weights are listed once
    assert all(torch.equal(parameter, weights[name]) for name, parameter in model.named_parameters())
    return model


def float64_loss(logits, labels, vocab_size, **_):
    """transformers casts logits to float32 before the loss; here they stay what they are."""
    return F.cross_entropy(logits[:, :-1].reshape(-1, vocab_size), labels[:, 1:].reshape(-1))


def plain_update(policy, original, texts, reward, algorithm, beta):
    """The study's loop: one text at a time, transformers' own loss, one backward a text."""
    labelled = [torch.tensor([text["token_ids"]]) for text in texts]
    with torch.no_grad():
        lm = [policy(input_ids=ids, labels=ids).loss.item() for ids in labelled]
        original_lm = [original(input_ids=ids, labels=ids).loss.item() for ids in labelled]
    rewards = [
        reward(text["text"]) + beta * (own - other) for text, own, other in zip(texts, lm, original_lm, strict=True)
    ]
    advantages = []
    for place, own in enumerate(rewards):
        others = rewards[:place] + rewards[place + 1 :]
        advantages.append(own - sum(others) / len(others) if algorithm == "rloo" else own)
    policy.zero_grad()
    for ids, advantage in zip(labelled, advantages, strict=True):
        (advantage * policy(input_ids=ids, labels=ids).loss).backward()
    return {
        "lm_cross_entropy": lm,
        "original_lm_cross_entropy": original_lm,
        "kl_penalty": [own - other for own, other in zip(lm, original_lm, strict=True)],
        "reward": rewards,
        "advantage": advantages,
    }


def plain_diagnostics(policy, original, texts):
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
    return np.mean(entropies), np.mean(k3)


def distance(ours, plain):
    return float((ours - plain).norm() / plain.norm())


def compare(loaded, config, *, updates, tolerance, cross_entropy_tolerance, loss=None):
    """Trainer.step against the plain loop, `updates` times."""
    trainer = make_trainer(loaded, config, REWARD)
    move_away(trainer)
    ended = []
    for _ in range(updates):
        before = weights_of(trainer.policy.model)
        policy, original = plain_copy(loaded, before), copy.deepcopy(loaded.model)
        if loss is not None:
            policy.loss_function = original.loss_function = loss
        step = trainer.step()
        plain = plain_update(policy, original, step.texts, REWARD, config.algorithm, config.beta)

        for column, values in plain.items():
            ours = [text[column] for text in step.texts]
            scale = 1 if column.endswith("cross_entropy") else 1 + 2 * config.beta
            assert ours == pytest.approx(values, rel=tolerance, abs=scale * cross_entropy_tolerance), column
        plain_gradients = {name: parameter.grad for name, parameter in policy.named_parameters()}
        for name, parameter in trainer.policy.model.named_parameters():
            assert distance(parameter.grad, plain_gradients[name]) <= tolerance, name
            moved = before[name] - config.learning_rate * parameter.grad
            rounding = 4 * torch.finfo(moved.dtype).eps * float(moved.abs().max())
            torch.testing.assert_close(parameter.detach(), moved, rtol=0, atol=rounding)

        norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in plain_gradients.values()))
        weighted = [a * ce for a, ce in zip(plain["advantage"], plain["lm_cross_entropy"], strict=True)]
        entropy, k3 = plain_diagnostics(policy, original, step.texts)
        assert step.update["grad_norm"] == pytest.approx(norm, rel=tolerance)
        assert step.update["loss"] == pytest.approx(sum(weighted), rel=tolerance, abs=100 * cross_entropy_tolerance)
        assert step.update["entropy"] == pytest.approx(entropy, rel=tolerance)
        assert step.update["kl_k3"] == pytest.approx(k3, rel=10 * tolerance)
        assert step.update["sampler_gap"] < 1e-5
        assert step.update["tokens"] == sum(len(text["token_ids"]) for text in step.texts)
        ended += [text["ended"] for text in step.texts]
    assert any(ended), ended
    assert not all(ended)


@pytest.mark.parametrize("beta", [0, 40])
@pytest.mark.parametrize("algorithm, group_size, updates", [("rloo", 6, 1), ("reinforce", 1, 8)])
@pytest.mark.parametrize("name", ["tiny_gpt_neo", "storyteller"])
def test_the_plain_loop_in_float64(name, algorithm, group_size, updates, beta, request, make_config, float64_attention):
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
    compare(loaded, config, updates=updates, tolerance=1e-9, cross_entropy_tolerance=1e-11, loss=float64_loss)


@pytest.mark.parametrize("beta", [0, 40])
@pytest.mark.parametrize("algorithm, group_size, updates", [("rloo", 6, 1), ("reinforce", 1, 8)])
@pytest.mark.parametrize("name", ["tiny_gpt_neo", "storyteller", "tiny_llama"])
def test_the_plain_loop_in_float32(name, algorithm, group_size, updates, beta, request, make_config):
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


def test_no_gradient_flows_through_the_reward(tiny_gpt_neo, make_config, float64_attention):
    loaded = with_ends(tiny_gpt_neo, ENDS["tiny_gpt_neo"], torch.float64)
    trainer = make_trainer(loaded, make_config(loaded, beta=40, dtype="float64"))
    move_away(trainer)
    policy = plain_copy(loaded, weights_of(trainer.policy.model))
    policy.loss_function = float64_loss
    texts = trainer.step().texts
    losses = torch.stack(
        [policy(input_ids=ids, labels=ids).loss for ids in (torch.tensor([t["token_ids"]]) for t in texts)]
    )
    raw, original = (
        torch.tensor([text[column] for text in texts], dtype=torch.float64)
        for column in ("raw_reward", "original_lm_cross_entropy")
    )
    rewards = raw + 40 * (losses - original)
    advantages = rewards - (rewards.sum() - rewards) / 3
    ours = trainer.policy.model.transformer.h[0].mlp.c_fc.weight.grad
    weight = policy.transformer.h[0].mlp.c_fc.weight
    (detached,) = torch.autograd.grad((advantages.detach() * losses).sum(), weight, retain_graph=True)
    (leaking,) = torch.autograd.grad((advantages * losses).sum(), weight)
    assert distance(ours, detached) < 1e-9
    assert distance(ours, leaking) > 0.1


@pytest.mark.parametrize("algorithm, group_size", [("rloo", 4), ("reinforce", 1)])
def test_composites_are_exact_in_the_stored_terms(algorithm, group_size, tiny_gpt_neo, make_config):
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


def test_rows_say_where_they_stand(storyteller, make_config):
    loaded = with_ends(storyteller, ENDS["storyteller"])
    config = make_config(loaded, seed=3, max_length=16)
    trainer = make_trainer(loaded, config)
    steps = [trainer.step(), trainer.step()]
    texts = [text for step in steps for text in step.texts]
    assert [text["generation"] for text in texts] == list(range(8))
    assert [text["step"] for text in texts] == 4 * [0] + 4 * [1]
    assert [text["sample"] for text in texts] == 2 * [0, 1, 2, 3]
    assert [(step.update["step"], step.update["generation"]) for step in steps] == [(0, 0), (1, 4)]
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


def test_an_end_token_is_an_action_but_no_text(storyteller, make_config):
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
            alone = storyteller.model(input_ids=ids, labels=ids).loss.item()
        assert text["lm_cross_entropy"] == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("algorithm, group_size", [("rloo", 4), ("reinforce", 1)])
def test_every_parameter_moves_and_the_reference_does_not(algorithm, group_size, storyteller, make_config):
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
def test_dropout_is_never_applied(folder, request, make_config):
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
    assert first.update["sampler_gap"] < 1e-5


@pytest.mark.parametrize("name", ["tiny_gpt_neo", "tiny_llama"])
def test_the_original(name, request, make_config):
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


def test_the_original_writes_what_an_untrained_trial_writes(tiny_gpt_neo, make_config):
    config = make_config(tiny_gpt_neo, seed=0, group_size=10)
    original = make_trainer(tiny_gpt_neo, config.original()).step().texts
    trained = make_trainer(tiny_gpt_neo, config).step().texts
    assert [text["token_ids"] for text in original] == [text["token_ids"] for text in trained]


# Divergence.


def reward_at(generation, value):
    """`value`, raised if it can be, for that generation, 1 for the others."""
    calls = iter(range(10**6))

    def function(text):
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
        (None, "the reward 'broken' raised TypeError: float"),
        (ZeroDivisionError("by nothing"), "the reward 'broken' raised ZeroDivisionError: by nothing"),
        (SystemExit(3), "the reward 'broken' raised SystemExit: 3"),
    ],
)
def test_a_reward_that_fails_names_its_text_and_changes_nothing(value, told, tiny_gpt_neo, make_config):
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


def test_a_gradient_that_is_not_finite(tiny_gpt_neo, make_config):
    # Finite in float64, infinite as a float32 weight of the loss.
    trainer = make_trainer(tiny_gpt_neo, make_config(tiny_gpt_neo), reward_at(1, 1e300))
    before = weights_of(trainer.policy.model)
    with pytest.raises(Diverged, match="generation 0"):
        trainer.step()
    for name, parameter in trainer.policy.model.named_parameters():
        assert torch.equal(parameter, before[name])


@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize("name", ["tiny_gpt_neo", "tiny_llama"])
@pytest.mark.parametrize("algorithm", ["rloo", "original"])
def test_weights_that_are_not_finite(value, name, algorithm, request, make_config):
    loaded = request.getfixturevalue(name)
    config = make_config(loaded)
    trainer = make_trainer(loaded, config.original() if algorithm == "original" else config)
    with torch.no_grad():
        trainer.policy.model.lm_head.weight[7] = value
    with pytest.raises(Diverged, match="generation 0") as caught:
        trainer.step()
    assert caught.value.generation == 0


def test_a_reference_that_is_not_finite(tiny_llama, make_config):
    trainer = make_trainer(tiny_llama, make_config(tiny_llama, beta=0))
    trainer.reference = LanguageModel(copy.deepcopy(tiny_llama.model))
    trainer.reference.model.lm_head.weight[7] = math.nan
    with pytest.raises(Diverged, match="generation 0"):
        trainer.step()


def test_training_that_runs_away_ends_as_diverged(tiny_gpt_neo, make_config):
    config = make_config(tiny_gpt_neo, learning_rate=1e12, algorithm="reinforce")
    with pytest.raises(Diverged):
        train(tiny_gpt_neo, config, 20)


# From end to end.


def train(loaded, config, steps=3):
    trainer = make_trainer(loaded, config)
    done = [trainer.step() for _ in range(steps)]
    texts = [text for step in done for text in step.texts]
    updates = [{k: v for k, v in step.update.items() if not k.endswith("_seconds")} for step in done]
    return texts, updates, trainer


@pytest.mark.parametrize("name", ["tiny_gpt_neo", "storyteller", "tiny_llama"])
def test_the_same_trial_twice(name, request, make_config):
    loaded = request.getfixturevalue(name)
    first, again, other = (train(loaded, make_config(loaded, seed=seed)) for seed in (0, 0, 1))
    assert first[:2] == again[:2]
    assert weights_of(first[2].policy.model).keys() == weights_of(again[2].policy.model).keys()
    for parameter, twin in zip(first[2].policy.model.parameters(), again[2].policy.model.parameters(), strict=True):
        assert torch.equal(parameter, twin)
    assert [text["token_ids"] for text in first[0]] != [text["token_ids"] for text in other[0]]


def test_a_trial_goes_on_from_weights_and_counter_alone(tiny_gpt_neo, make_config):
    config = make_config(tiny_gpt_neo)
    texts, updates, _ = train(tiny_gpt_neo, config, 4)
    _, _, half = train(tiny_gpt_neo, config, 2)
    resumed = make_trainer(tiny_gpt_neo, config)
    resumed.policy.model.load_state_dict(half.policy.model.state_dict())
    resumed.generation = half.generation
    done = [resumed.step(), resumed.step()]
    assert [text for step in done for text in step.texts] == texts[8:]
    assert [step.update["grad_norm"] for step in done] == [update["grad_norm"] for update in updates[2:]]


@pytest.mark.parametrize("name", ["tiny_gpt_neo", "tiny_llama"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_policy_and_reference_score_alike_in_either_precision(name, dtype, request, make_config):
    loaded = request.getfixturevalue(name)
    trainer = make_trainer(loaded, make_config(loaded, dtype=dtype))
    assert trainer.reference is make_trainer(loaded, trainer.config).reference, "once for all trials"
    # Before the first update they are one model: nothing but rounding may be between them. Where the update takes the
    # sampler's own numbers, those of a group of one token each, a bfloat16 is at times rounded the other way.
    recorded = dtype == "bfloat16" and loaded.has_fast_path
    step = trainer.step()
    assert max(abs(text["kl_penalty"]) for text in step.texts) < (5e-3 if recorded else 1e-5)
    if loaded.has_fast_path:
        assert step.update["sampler_gap"] == 0.0


def test_training_raises_the_reward(tiny_gpt_neo, make_config):
    # The sign: words that begin with one letter get likelier. By far more than chance, within a second.
    config = make_config(tiny_gpt_neo, beta=0, group_size=10, learning_rate=0.3, max_length=16)
    liked = frozenset(range(0, 2048, 2))
    reward = Reward("even", lambda text: float(sum(i in liked for i in tiny_gpt_neo.tokenizer.encode(text).ids)))
    trainer = make_trainer(tiny_gpt_neo, config, reward)
    rewards = [text["raw_reward"] for _ in range(20) for text in trainer.step().texts]
    assert np.mean(rewards[-50:]) > np.mean(rewards[:50]) + 2


# Loading.


def test_files_of_either_kind_are_the_same_model(tiny_gpt_neo, tiny_gpt_neo_bin_folder, make_config):
    loaded = load_model(str(tiny_gpt_neo_bin_folder))
    assert loaded.weights_fingerprint == tiny_gpt_neo.weights_fingerprint
    assert loaded.tokenizer_fingerprint == tiny_gpt_neo.tokenizer_fingerprint
    config = make_config(loaded)
    assert config == make_config(tiny_gpt_neo)
    ours, theirs = train(loaded, config, 1), train(tiny_gpt_neo, config, 1)
    assert [text["token_ids"] for text in ours[0]] == [text["token_ids"] for text in theirs[0]]


def test_fingerprints_tell_models_apart(tiny_gpt_neo, tiny_llama, storyteller):
    fingerprints = {loaded.weights_fingerprint for loaded in (tiny_gpt_neo, tiny_llama, storyteller)}
    assert len(fingerprints) == 3
    assert tiny_llama.tokenizer_fingerprint == storyteller.tokenizer_fingerprint
    changed = copy.deepcopy(tiny_gpt_neo.model)
    with torch.no_grad():
        changed.transformer.wpe.weight[-1, -1] += 1e-6
    other = LoadedModel("other", changed, tiny_gpt_neo.pretrained_tokenizer, tiny_gpt_neo.end_tokens)
    assert other.weights_fingerprint != tiny_gpt_neo.weights_fingerprint
    assert with_ends(tiny_gpt_neo, frozenset()).tokenizer_fingerprint != tiny_gpt_neo.tokenizer_fingerprint


def test_a_policys_fingerprint_is_its_models(storyteller):
    # Fusing moves the weights to other memory; the numbers stay.
    policy = storyteller.policy()
    again = LoadedModel("again", policy.model, storyteller.pretrained_tokenizer, storyteller.end_tokens)
    assert again.weights_fingerprint == storyteller.weights_fingerprint


def test_another_architecture_goes_through_transformers(tiny_llama):
    assert isinstance(tiny_llama.policy().forward, TransformersForward)
    assert tiny_llama.end_tokens == {0}
    assert tiny_llama.context == 128


@pytest.mark.parametrize("name", SHIPPED_MODELS)
def test_the_shipped_models(name):
    loaded = load_model(name)
    assert loaded.name == name
    assert isinstance(loaded.policy().forward, GPTNeoForward)
    assert loaded.end_tokens == {0}
    assert loaded.context == 256
    ids = loaded.encode("Once upon a time")
    assert len(ids) == 4
    assert loaded.tokenizer.decode(ids) == "Once upon a time"


def test_a_prompt_of_nothing(storyteller):
    with pytest.raises(UserError, match="--prompt"):
        storyteller.encode("")


def test_an_end_token_after_the_prompt_is_left_out(storyteller):
    # As tokenizers that close every text add it: nothing would follow.
    loaded = with_ends(storyteller, frozenset([14]))
    assert storyteller.encode("Hello.")[-1] == 14
    assert loaded.encode("Hello.") == storyteller.encode("Hello")
    assert loaded.encode(".") == [14]


def refused(name, **options):
    with pytest.raises(UserError) as caught:
        load_model(str(name), **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["no-such-model", "./no/such", "/no/such/folder", "~/no/such", "a/b/c"])
def test_no_such_folder(name):
    message = refused(name)
    assert message.startswith("--model: ")
    assert name in message
    assert "storyteller" in message


def test_a_hub_id_without_a_hub(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there: refused at once
    message = refused("nobody-there/no-such-model")
    assert message.startswith("--model: ")
    assert "'nobody-there/no-such-model'" in message
    assert "--model storyteller" in message
    message = refused("storyteller", tokenizer="nobody-there/no-such-tokenizer")
    assert message.startswith("--tokenizer: ")
    assert "'nobody-there/no-such-tokenizer'" in message


def test_a_hub_id_in_offline_mode(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read from the variable at import
    message = refused("nobody-there/no-such-model")
    assert message.startswith("--model: ")
    assert "storyteller" in message


def test_a_folder_of_something_else(tmp_path):
    assert refused(tmp_path).startswith("--model: ")


def test_a_folder_without_a_tokenizer(tiny_llama, tmp_path):
    tiny_llama.model.save_pretrained(tmp_path)
    assert refused(tmp_path).startswith("--tokenizer: ")


def test_a_tokenizer_of_its_own(tiny_llama, tiny_llama_folder, tmp_path):
    tiny_llama.model.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), tokenizer=str(tiny_llama_folder))
    assert loaded.tokenizer_fingerprint == tiny_llama.tokenizer_fingerprint
    assert loaded.weights_fingerprint == tiny_llama.weights_fingerprint


def test_a_tokenizer_with_too_many_tokens(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=100, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    message = refused(tmp_path, tokenizer="storyteller")
    assert message.startswith("--tokenizer: 'storyteller'")
    assert "2048" in message
    assert "100" in message


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_broken_file(file, tiny_llama_folder, tmp_path):
    for path in tiny_llama_folder.iterdir():
        (tmp_path / path.name).write_bytes(b"not what it was" if path.name == file else path.read_bytes())
    assert refused(tmp_path).startswith("--tokenizer: " if file == "tokenizer.json" else "--model: ")


def test_a_broken_bin_file(tiny_gpt_neo_bin_folder, tmp_path):
    for path in tiny_gpt_neo_bin_folder.iterdir():
        (tmp_path / path.name).write_bytes(b"broken" if path.suffix == ".bin" else path.read_bytes())
    assert refused(tmp_path).startswith("--model: ")
