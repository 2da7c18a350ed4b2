"""Random numbers, the choice of a token, the ways through a model, and whole samples."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from rl_alliteration.flags import Sampling
from rl_alliteration.lm.decoder import DecoderForward
from rl_alliteration.lm.generic import TransformersForward
from rl_alliteration.lm.inversion import invert_in_fixed_order
from rl_alliteration.lm.language_model import LanguageModel
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.lm.sampling import DeviceLoop, Rollout, choose_tokens, log_probabilities, sample, score, uniforms
from rl_alliteration.lm.weights import as_transformers

PROMPT = "Once upon a time"
FULL_STOP = frozenset([14])  # an end token that the storyteller samples in most texts
LAST = 1 - 2.0**-53  # the greatest number that `uniforms` can give


@pytest.fixture(params=["tiny_gpt_neo", "storyteller"])
def gpt_neo(request: pytest.FixtureRequest) -> LoadedModel:
    loaded: LoadedModel = request.getfixturevalue(request.param)
    return loaded


def double(loaded: LoadedModel) -> LanguageModel:
    return LanguageModel(copy.deepcopy(loaded.model).double().requires_grad_(True))


def random_ids(texts: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 2048, (texts, length), generator=torch.Generator().manual_seed(seed))


# Random numbers: a function of (seed, generation, position).


@given(
    seed=st.integers(0, 2**63 - 1),
    generation=st.integers(0, 10**9),
    texts=st.integers(1, 5),
    positions=st.integers(1, 40),
    data=st.data(),
)
def test_uniforms_depend_on_their_place_alone(
    seed: int, generation: int, texts: int, positions: int, data: st.DataObject
) -> None:
    numbers = uniforms(seed, generation, texts, positions)
    assert numbers.shape == (texts, positions)
    assert numbers.dtype == np.float64
    assert ((numbers >= 0) & (numbers < 1)).all()
    row = data.draw(st.integers(0, texts - 1))
    column = data.draw(st.integers(1, positions))
    alone = uniforms(seed, generation + row, 1, column)
    assert np.array_equal(alone, numbers[row : row + 1, :column])


def test_known_uniforms() -> None:
    # If these change, so do all texts: TEXTS_VERSION has to be raised.
    raw = np.random.Philox(key=np.array([3, 5], dtype=np.uint64)).random_raw(2)
    assert uniforms(3, 5, 1, 2)[0].tolist() == [(int(number) >> 11) / 2**53 for number in raw]
    assert uniforms(0, 0, 1, 3)[0].tolist() == [
        0.011546754286331562,
        0.24154919656271812,
        0.11142585551493822,
    ]


def test_no_two_places_share_a_number() -> None:
    grids = [uniforms(seed, 0, 50, 100) for seed in (0, 1, 2**62)]
    assert len(np.unique(grids)) == 3 * 50 * 100


def test_uniforms_are_uniform_across_generations_and_across_positions() -> None:
    numbers = uniforms(0, 0, 20_000, 4)
    for sequence in (*numbers.T, uniforms(0, 0, 1, 20_000)[0]):
        assert stats.kstest(sequence, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(numbers, rowvar=False) - np.eye(4)).max() < 0.03
    assert abs(np.corrcoef(numbers[:-1, 0], numbers[1:, 0])[0, 1]) < 0.03


# The choice of a token, on a CPU and as a GPU makes it.


@pytest.fixture(params=["cpu", "gpu"])
def inversion(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "gpu":
        monkeypatch.setattr("rl_alliteration.lm.sampling.inverse_of", lambda device: invert_in_fixed_order)


def plain_weights(logits: NDArray[np.float64], temperature: float, top_k: int) -> NDArray[np.float64]:
    weights: NDArray[np.float64] = np.exp((logits - logits.max()) / temperature)
    if 0 < top_k < len(weights):
        weights[weights < np.sort(weights)[-top_k]] = 0
    return weights


def plain_choice(weights: NDArray[np.float64], uniform: float) -> int:
    target = min(uniform * weights.cumsum()[-1], np.nextafter(weights.cumsum()[-1], 0))
    cumulative = 0.0
    for token, weight in enumerate(weights):
        cumulative += weight
        if cumulative > target:
            return token
    raise AssertionError("beyond the last token")


@pytest.mark.usefixtures("inversion")
@pytest.mark.parametrize("temperature, top_k", [(1.0, 0), (0.7, 0), (1.5, 0), (1.0, 3), (0.7, 20), (1.0, 100)])
def test_choice_inverts_the_cumulative_distribution(temperature: float, top_k: int) -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 3, (300, 50))
    uniform = random.random(300)
    tokens, _ = choose_tokens(
        torch.tensor(logits), torch.tensor(uniform), Sampling(temperature=temperature, top_k=top_k)
    )
    plain = [
        plain_choice(plain_weights(row, temperature, top_k), chance)
        for row, chance in zip(logits, uniform, strict=True)
    ]
    assert tokens.tolist() == plain


@pytest.mark.usefixtures("inversion")
@pytest.mark.parametrize("temperature, top_k", [(1.0, 0), (0.7, 0), (1.0, 3), (0.7, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_follow_the_distribution(temperature: float, top_k: int, dtype: torch.dtype) -> None:
    logits = torch.tensor(np.random.default_rng(1).normal(0, 1, 10), dtype=dtype)
    uniform = torch.from_numpy(uniforms(0, 0, 200, 1000)).flatten()
    tokens, _ = choose_tokens(logits.expand(len(uniform), -1), uniform, Sampling(temperature=temperature, top_k=top_k))
    counts = np.bincount(tokens.numpy(), minlength=10)
    weights = plain_weights(logits.double().numpy(), temperature, top_k)
    possible = weights > 0
    assert counts[~possible].sum() == 0
    expected = weights[possible] / weights.sum() * len(uniform)
    assert stats.chisquare(counts[possible], expected).pvalue > 1e-3


@pytest.mark.usefixtures("inversion")
@pytest.mark.parametrize("uniform", [0.0, 2.0**-53, 0.5, LAST])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weights", [[0, 0, 1, 0, 2, 0, 0], [0, 1], [1, 0], [0, 1e-30, 1, 1e-30, 0], [1]])
def test_a_token_of_zero_weight_is_never_chosen(uniform: float, dtype: torch.dtype, weights: Any) -> None:
    logits = torch.tensor([weights], dtype=dtype).log()
    token, log_probability = choose_tokens(logits, torch.tensor([uniform], dtype=torch.float64))
    assert weights[int(token)] > 0
    assert bool(log_probability.isfinite())


@pytest.mark.usefixtures("inversion")
def test_the_extremes_choose_the_first_and_the_last_token() -> None:
    logits = torch.zeros(2, 50_257)
    tokens, _ = choose_tokens(logits, torch.tensor([0.0, LAST], dtype=torch.float64))
    assert tokens.tolist() == [0, 50_256]


@pytest.mark.usefixtures("inversion")
@pytest.mark.parametrize("uniform", [0.0, LAST])
def test_top_k_keeps_the_likeliest_at_the_extremes(uniform: float) -> None:
    logits = torch.tensor([[0.0, 5.0, 1.0, 4.0, 2.0]])
    token, _ = choose_tokens(logits, torch.tensor([uniform], dtype=torch.float64), Sampling(top_k=2))
    assert int(token) == (1 if uniform == 0 else 3)


@pytest.mark.usefixtures("inversion")
def test_rare_tokens_of_a_large_vocabulary_are_reached() -> None:
    # In float32 the cumulative sum would stall: 1e-8 vanishes beside 1.
    logits = torch.full((1, 50_257), 1e-8).log()
    logits[0, 0] = 0.0
    token, _ = choose_tokens(logits, torch.tensor([LAST], dtype=torch.float64))
    assert int(token) == 50_256


@pytest.mark.parametrize("temperature, top_k", [(1.0, 0), (0.7, 0), (1.0, 3), (2.0, 5)])
def test_log_probabilities_are_of_the_full_distribution_at_temperature_one(temperature: float, top_k: int) -> None:
    logits = torch.tensor(np.random.default_rng(2).normal(0, 3, (100, 20)))
    uniform = torch.from_numpy(uniforms(0, 0, 1, 100)[0])
    tokens, chosen = choose_tokens(logits, uniform, Sampling(temperature=temperature, top_k=top_k))
    expected = logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
    torch.testing.assert_close(chosen, expected, rtol=0, atol=1e-12)


def test_logits_are_not_changed() -> None:
    logits = torch.randn(3, 10, generator=torch.Generator().manual_seed(0))
    before = logits.clone()
    choose_tokens(logits, torch.zeros(3, dtype=torch.float64), Sampling(temperature=0.7, top_k=3))
    assert torch.equal(logits, before)


# Ways through a GPT-Neo.


@torch.no_grad()
def test_logits_are_those_of_transformers(gpt_neo: LoadedModel) -> None:
    token_ids = random_ids(3, 100)
    model = gpt_neo.policy()
    assert isinstance(model.forward, DecoderForward)
    expected = as_transformers(gpt_neo.model)(input_ids=token_ids, use_cache=False).logits
    torch.testing.assert_close(model.forward.logits(token_ids), expected, rtol=0, atol=1e-4)


@torch.no_grad()
def test_logits_are_those_of_transformers_in_float64(gpt_neo: LoadedModel, float64_throughout: None) -> None:
    token_ids = random_ids(2, 40)
    model = double(gpt_neo)
    expected = as_transformers(gpt_neo.model).double()(input_ids=token_ids, use_cache=False).logits
    torch.testing.assert_close(model.forward.logits(token_ids), expected, rtol=0, atol=1e-11)


@torch.no_grad()
def test_the_local_window_shows(tiny_gpt_neo: LoadedModel) -> None:
    # The tests around this one would not see a wrong window otherwise.
    token_ids = random_ids(2, 40)
    forward = tiny_gpt_neo.policy().forward
    right = forward.logits(token_ids)
    assert isinstance(forward, DecoderForward)
    blocks = forward.description.blocks
    assert [block.window for block in blocks] == [None, 16, None, 16]
    for wrong in (15, 17, None):
        others = [dataclasses.replace(block, window=block.window and wrong) for block in blocks]
        forward.description = dataclasses.replace(forward.description, blocks=tuple(others))
        difference = (forward.logits(token_ids) - right).abs().amax((0, 2))
        assert difference[:15].max() < 1e-5
        assert difference[16:].min() > 1e-3


@torch.no_grad()
def test_decoding_with_a_cache_gives_the_same_logits(gpt_neo: LoadedModel) -> None:
    prompt = torch.tensor(gpt_neo.encode(PROMPT))
    forward = gpt_neo.policy().forward
    # The second group is as large as the first and finds its cache, the third is smaller, the last no longer.
    for texts, length, seed in [(3, 60, 0), (3, 60, 1), (1, 60, 2), (2, 10, 3)]:
        token_ids = random_ids(texts, length, seed)
        token_ids[:, : len(prompt)] = prompt
        full = forward.logits(token_ids)
        torch.testing.assert_close(forward.start(prompt, texts, length), full[:, len(prompt) - 1], rtol=0, atol=1e-4)
        for position in range(len(prompt), length):
            logits = forward.advance(token_ids[:, position])
            torch.testing.assert_close(logits, full[:, position], rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 15, 16, 17, 40])
def test_prompts_around_the_window(tiny_gpt_neo: LoadedModel, length: int) -> None:
    forward = tiny_gpt_neo.policy().forward
    token_ids = random_ids(1, length + 1)
    full = forward.logits(token_ids)
    first = forward.start(token_ids[0, :length], 2, length + 1)
    torch.testing.assert_close(first, full[:, -2].expand(2, -1), rtol=0, atol=1e-4)
    second = forward.advance(token_ids[0, length:].expand(2))
    torch.testing.assert_close(second, full[:, -1].expand(2, -1), rtol=0, atol=1e-4)


def fused_weights(model: LanguageModel) -> list[torch.Tensor]:
    assert isinstance(model.forward, DecoderForward)
    return [block.query_key_value.detached()[0] for block in model.forward.description.blocks]


def assert_fused(model: LanguageModel) -> None:
    assert isinstance(model.forward, DecoderForward)
    for block, fused in zip(model.model.transformer.h, fused_weights(model), strict=True):
        attention = block.attn.attention
        weights = [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
        assert torch.equal(fused, torch.cat(weights))
        for weight in weights:
            assert weight.untyped_storage().data_ptr() == fused.untyped_storage().data_ptr()


def test_the_fused_weights_follow_the_parameters(tiny_gpt_neo: LoadedModel) -> None:
    model = tiny_gpt_neo.policy()
    token_ids = random_ids(2, 30)
    assert_fused(model)
    before = [fused.clone() for fused in fused_weights(model)]

    optimizer = torch.optim.SGD(model.model.parameters(), lr=0.1)
    score(model, token_ids)[0].sum().backward()
    optimizer.step()
    assert_fused(model)
    assert not any(torch.equal(fused, old) for fused, old in zip(fused_weights(model), before, strict=True))
    with torch.no_grad():
        expected = model.forward.logits(token_ids)[:, -1]
        model.forward.start(token_ids[0, :-1], 1, 30)
        torch.testing.assert_close(model.forward.advance(token_ids[:1, -1]), expected[:1], rtol=0, atol=1e-4)

    model.model.load_state_dict(tiny_gpt_neo.model.state_dict())
    assert_fused(model)
    assert all(torch.equal(fused, old) for fused, old in zip(fused_weights(model), before, strict=True))


def test_policies_share_no_memory(tiny_gpt_neo: LoadedModel) -> None:
    first, second = tiny_gpt_neo.policy(), tiny_gpt_neo.reference()
    with torch.no_grad():
        for parameter in first.model.parameters():
            parameter.zero_()
    for name, parameter in second.model.named_parameters():
        assert torch.equal(parameter, tiny_gpt_neo.model.get_parameter(name))
        assert not parameter.requires_grad


def test_a_trained_policy_is_saved_whole(tiny_gpt_neo: LoadedModel, tmp_path: Path) -> None:
    # The three weights are parts of one matrix: what is stored must still be three.
    from transformers import AutoModelForCausalLM

    policy = tiny_gpt_neo.policy().model
    policy.save_pretrained(tmp_path)
    stored = AutoModelForCausalLM.from_pretrained(tmp_path)
    for name, parameter in policy.named_parameters():
        assert torch.equal(parameter, stored.get_parameter(name))


# Scores.


@pytest.mark.parametrize("name", ["tiny_gpt_neo", "tiny_llama"])
def test_scores_are_those_of_a_log_softmax(name: str, request: pytest.FixtureRequest) -> None:
    model = double(request.getfixturevalue(name))
    token_ids = random_ids(2, 30)
    log_p, entropy = score(model, token_ids)
    plain = model.forward.logits(token_ids)[:, :-1].log_softmax(-1)
    expected = plain.gather(-1, token_ids[:, 1:, None])[..., 0]
    torch.testing.assert_close(log_p, expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(entropy, -(plain.exp() * plain).sum(-1).detach(), rtol=0, atol=1e-11)
    assert log_p.requires_grad
    assert not entropy.requires_grad


def test_the_gradient_of_scores_is_that_of_a_log_softmax(tiny_gpt_neo: LoadedModel) -> None:
    token_ids = random_ids(2, 30)
    seed = torch.randn(2, 29, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours, plain = double(tiny_gpt_neo), double(tiny_gpt_neo)
    (score(ours, token_ids)[0] * seed).sum().backward()
    log_p = plain.forward.logits(token_ids)[:, :-1].log_softmax(-1).gather(-1, token_ids[:, 1:, None])[..., 0]
    (log_p * seed).sum().backward()
    for name, parameter in ours.model.named_parameters():
        torch.testing.assert_close(parameter.grad, plain.model.get_parameter(name).grad, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["tiny_gpt_neo", "tiny_llama"])
def test_a_frozen_models_scores_are_the_same(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name).policy()
    token_ids = random_ids(3, 30)
    expected = score(model, token_ids)[0].detach()
    torch.testing.assert_close(log_probabilities(model, token_ids), expected, rtol=0, atol=1e-5)


def test_bfloat16_scores_and_gradients_by_what_sampling_computed_are_near_those_of_float32(
    storyteller: LoadedModel,
) -> None:
    found = []
    rollout = draw(storyteller.policy(dtype=torch.bfloat16), storyteller)
    for dtype in (torch.float32, torch.bfloat16):
        model = storyteller.policy(dtype=dtype)
        recorded = draw(model, storyteller, record=True) if dtype == torch.bfloat16 else rollout
        assert torch.equal(recorded.token_ids, rollout.token_ids)
        log_p, entropy = score(model, recorded.token_ids, recorded.decoded)
        log_p.mean().backward()
        gradients = [parameter.grad for parameter in model.model.parameters() if parameter.grad is not None]
        assert {gradient.dtype for gradient in gradients} == {torch.float32}
        found.append((log_p.detach(), entropy, torch.cat([gradient.flatten() for gradient in gradients])))
    plain, rounded = found
    assert 1e-5 < (plain[0] - rounded[0]).abs().mean() < 0.03
    assert (plain[1] - rounded[1]).abs().mean() < 0.03
    assert (plain[2] - rounded[2]).norm() < 0.03 * plain[2].norm()
    torch.testing.assert_close(recorded.log_probabilities, rounded[0][:, recorded.prompt_length - 1 :])


@pytest.mark.parametrize("name", ["storyteller", "tiny_llama"])
def test_bfloat16_scores_and_gradients_are_near_those_of_float32(name: str, request: pytest.FixtureRequest) -> None:
    loaded = request.getfixturevalue(name)
    token_ids = draw(loaded.policy(), loaded).token_ids
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = loaded.policy(dtype=dtype)
        log_p, entropy = score(model, token_ids)
        log_p.mean().backward()
        gradients = [parameter.grad for parameter in model.model.parameters() if parameter.grad is not None]
        assert {gradient.dtype for gradient in gradients} == {torch.float32}
        found[dtype] = log_p.detach(), entropy, torch.cat([gradient.flatten() for gradient in gradients])
    plain, rounded = found.values()
    assert 1e-5 < (plain[0] - rounded[0]).abs().mean() < 0.03
    assert (plain[1] - rounded[1]).abs().mean() < 0.03
    assert (plain[2] - rounded[2]).norm() < 0.03 * plain[2].norm()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("piece", [1, 2**17])
def test_a_token_that_cannot_be_adds_nothing_to_the_entropy(
    dtype: torch.dtype, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rl_alliteration.lm import sampling

    monkeypatch.setitem(sampling._PIECE, "cpu", piece)
    logits = torch.randn(4, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    barred = torch.zeros(30, dtype=torch.bool)
    barred[[0, 7, 29]] = True
    leaf = logits.clone().requires_grad_()
    tokens = torch.tensor([1, 2, 8, 28])
    log_p, entropy, _ = sampling._token_scores(leaf.masked_fill(barred, -math.inf), tokens)
    log_p.sum().backward()
    fewer = logits[:, ~barred].clone().requires_grad_()
    place = torch.tensor([int((~barred)[:token].sum()) for token in tokens])
    expected, of_fewer, _ = sampling._token_scores(fewer * 1, place)
    expected.sum().backward()
    error = 1e-11 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(entropy, of_fewer, rtol=0, atol=error)
    torch.testing.assert_close(log_p, expected, rtol=0, atol=error)
    assert leaf.grad is not None and fewer.grad is not None
    torch.testing.assert_close(
        leaf.grad[:, ~barred], fewer.grad, rtol=0, atol=1e-2 if dtype == torch.bfloat16 else error
    )
    assert torch.equal(leaf.grad[:, barred], torch.zeros(4, 3, dtype=dtype))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_logit_that_is_no_number_stays_one(value: float) -> None:
    from rl_alliteration.lm.sampling import _token_scores

    logits = torch.zeros(2, 5)
    logits[1, 3] = value
    log_p, entropy, _ = _token_scores(logits, torch.tensor([0, 0]))
    assert log_p.isfinite().tolist() == entropy.isfinite().tolist() == [True, False]


def test_a_likely_token_keeps_its_gradient_in_bfloat16() -> None:
    # 1 - p is 0.0001; p itself would round to 1.
    from rl_alliteration.lm.sampling import _token_scores

    leaf = torch.tensor([[12.0, 3.0]], dtype=torch.bfloat16, requires_grad=True)
    _token_scores(leaf * 1, torch.tensor([0]))[0].sum().backward()
    assert leaf.grad is not None
    assert leaf.grad[0, 0].item() == pytest.approx(1 / (1 + np.exp(9)), rel=0.01)


@torch.no_grad()
def test_scores_do_not_depend_on_what_comes_later(gpt_neo: LoadedModel) -> None:
    model = gpt_neo.policy()
    token_ids = random_ids(2, 40)
    padded = token_ids.clone()
    padded[0, 25:] = 0
    log_p, entropy = score(model, token_ids)
    other_log_p, other_entropy = score(model, padded)
    torch.testing.assert_close(log_p[0, :24], other_log_p[0, :24], rtol=0, atol=1e-6)
    torch.testing.assert_close(entropy[0, :25], other_entropy[0, :25], rtol=0, atol=1e-6)


# Whole samples.


def draw(
    model: LanguageModel,
    loaded: LoadedModel,
    *,
    texts: int = 6,
    length: int = 40,
    end_tokens: frozenset[int] = frozenset(),
    seed: int = 0,
    **options: Any,
) -> Rollout:
    chances = uniforms(seed, 0, texts, length)
    return sample(model, loaded.encode(PROMPT), chances, end_tokens=end_tokens, **options)


@pytest.mark.parametrize("name", ["tiny_gpt_neo", "storyteller", "tiny_llama"])
def test_the_same_twice(name: str, request: pytest.FixtureRequest) -> None:
    loaded = request.getfixturevalue(name)
    model = loaded.policy()
    first, again = draw(model, loaded), draw(model, loaded)  # the second one finds a used cache
    fresh = draw(loaded.policy(), loaded)
    for other in (again, fresh):
        assert torch.equal(first.token_ids, other.token_ids)
        assert torch.equal(first.log_probabilities, other.log_probabilities)
    assert not torch.equal(first.token_ids, draw(model, loaded, seed=1).token_ids)
    assert first.token_ids.shape == (6, 40)
    assert first.token_ids[:, :4].tolist() == 6 * [loaded.encode(PROMPT)]
    assert first.lengths.tolist() == 6 * [40]
    assert not first.ended.any()


@pytest.mark.parametrize("temperature, top_k", [(1.0, 0), (0.7, 0), (1.0, 50)])
def test_a_sample_is_what_one_text_at_a_time_gives(
    tiny_gpt_neo: LoadedModel, float64_throughout: None, temperature: float, top_k: int
) -> None:
    rollout = draw(double(tiny_gpt_neo), tiny_gpt_neo, sampling=Sampling(temperature=temperature, top_k=top_k))
    plain = copy.deepcopy(tiny_gpt_neo.model).double()
    for row, chances in enumerate(uniforms(0, 0, 6, 40)):
        ids = tiny_gpt_neo.encode(PROMPT)
        for position in range(len(ids), 40):
            with torch.no_grad():
                logits = plain(input_ids=torch.tensor([ids])).logits[0, -1]
            ids.append(plain_choice(plain_weights(logits.numpy(), temperature, top_k), chances[position]))
        assert rollout.token_ids[row].tolist() == ids


def test_sampled_log_probabilities_are_the_scores(gpt_neo: LoadedModel) -> None:
    model = gpt_neo.policy()
    rollout = draw(model, gpt_neo, sampling=Sampling(temperature=0.8, top_k=20))
    with torch.no_grad():
        log_p, _ = score(model, rollout.token_ids)
    torch.testing.assert_close(rollout.log_probabilities, log_p[:, rollout.prompt_length - 1 :], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["tiny_gpt_neo", "storyteller"])
@pytest.mark.parametrize(
    "prompt, texts, end_tokens",
    [
        pytest.param(PROMPT, 6, frozenset(), id="plain"),
        pytest.param(6 * PROMPT, 3, frozenset(), id="a prompt beyond the window"),
        pytest.param(PROMPT, 1, frozenset(), id="one text"),
        pytest.param(PROMPT, 6, frozenset(range(300)), id="all end early"),
    ],
)
def test_scores_by_what_sampling_computed_are_the_scores(
    name: str, prompt: str, texts: int, end_tokens: frozenset[int], request: pytest.FixtureRequest
) -> None:
    loaded = request.getfixturevalue(name)
    ours, plain = double(loaded), double(loaded)
    for seed in (0, 1):  # the second group finds the memory of the first
        chances = uniforms(seed, 0, texts, 60)
        rollout = sample(ours, loaded.encode(prompt), chances, end_tokens=end_tokens, record=True)
        assert bool(end_tokens) == (rollout.token_ids.shape[1] < 60)
        found = score(ours, rollout.token_ids, rollout.decoded)
        expected = score(plain, rollout.token_ids)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
        weights = torch.randn(expected[0].shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for log_p, model in ((found[0], ours), (expected[0], plain)):
            model.model.zero_grad()
            (log_p * weights).sum().backward()
        for parameter_name, parameter in ours.model.named_parameters():
            other = plain.model.get_parameter(parameter_name).grad
            torch.testing.assert_close(parameter.grad, other, rtol=1e-9, atol=1e-11)
        with torch.no_grad():
            for model in (ours, plain):
                for parameter in model.model.parameters():
                    parameter -= 0.01 * parameter.grad


def test_to_record_changes_no_text(gpt_neo: LoadedModel) -> None:
    model = gpt_neo.policy()
    plain, recorded = draw(model, gpt_neo), draw(model, gpt_neo, record=True)
    assert plain.decoded is None and recorded.decoded is not None
    assert torch.equal(plain.token_ids, recorded.token_ids)
    assert torch.equal(plain.log_probabilities, recorded.log_probabilities)


def test_only_a_known_way_is_recorded(
    tiny_gpt_neo: LoadedModel, tiny_opt: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert draw(tiny_opt.policy(), tiny_opt, record=True).decoded is None
    expected = draw(tiny_gpt_neo.policy(), tiny_gpt_neo, record=True)
    for module in ("attention", "decoder"):  # as in a build without it
        monkeypatch.setattr(f"rl_alliteration.lm.{module}.flash_attention", lambda: False)
    rollout = draw(tiny_gpt_neo.policy(), tiny_gpt_neo, record=True)
    assert rollout.decoded is None
    assert torch.equal(rollout.token_ids, expected.token_ids)


def test_transformers_own_code_samples_the_same_texts(tiny_gpt_neo: LoadedModel, float64_throughout: None) -> None:
    fast, slow = double(tiny_gpt_neo), double(tiny_gpt_neo)
    slow.forward = TransformersForward(slow.model, torch.float64)
    first, second = draw(fast, tiny_gpt_neo, length=60), draw(slow, tiny_gpt_neo, length=60)
    assert torch.equal(first.token_ids, second.token_ids)
    torch.testing.assert_close(first.log_probabilities, second.log_probabilities, rtol=0, atol=1e-6)
    token_ids = first.token_ids
    torch.testing.assert_close(score(fast, token_ids), score(slow, token_ids), rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["tiny_gpt_neo", "storyteller"])
def test_the_loop_for_gpus_samples_the_same_texts(name: str, request: pytest.FixtureRequest) -> None:
    loaded = request.getfixturevalue(name)
    model = double(loaded)
    sampling = Sampling(temperature=0.8, top_k=20)
    loop = DeviceLoop.of(model, 5, 30, sampling)
    for generation, text in ((0, PROMPT), (5, "The cat")):  # the second group finds the first one's cache and buffers
        prompt = torch.tensor(loaded.encode(text))
        chances = uniforms(0, generation, 5, 30)
        expected = sample(model, prompt.tolist(), chances, end_tokens=frozenset(), sampling=sampling)
        token_ids, log_p = loop.run(prompt, chances)
        assert torch.equal(token_ids, expected.token_ids)
        torch.testing.assert_close(log_p, expected.log_probabilities, rtol=0, atol=1e-9)
        with torch.no_grad():  # as an update does
            for parameter in model.model.parameters():
                parameter *= 1.01
    assert DeviceLoop.of(model, 5, 30, sampling) is loop
    assert DeviceLoop.of(model, 5, 31, sampling) is not loop


def test_weights_packed_in_another_precision_follow_a_change() -> None:
    from rl_alliteration.lm.linear import Packed

    weight = torch.randn(6, 4, dtype=torch.float64)
    packed = Packed(lambda: (weight, None), 3, dtype=torch.float32)
    memory = packed._weight.data_ptr()
    weight *= 2
    packed.refresh()
    x = torch.randn(3, 4, dtype=torch.float64)
    torch.testing.assert_close(packed(x).double(), x @ weight.t(), rtol=1e-5, atol=1e-5)
    assert packed._by_onednn or packed._weight.data_ptr() == memory


def test_ended_texts_are_cut_from_the_same_stream(tiny_gpt_neo: LoadedModel) -> None:
    ends = frozenset(range(0, 2048, 40))
    model = tiny_gpt_neo.policy()
    stream = draw(model, tiny_gpt_neo, texts=20).token_ids.tolist()
    rollout = draw(model, tiny_gpt_neo, texts=20, end_tokens=ends)
    found = [[position for position, token in enumerate(ids) if token in ends] for ids in stream]
    assert {len(positions) for positions in found} >= {0, 1, 2}  # the first end counts, whatever follows
    for row, (ids, positions) in enumerate(zip(stream, found, strict=True)):
        length = positions[0] + 1 if positions else 40
        assert rollout.ended[row] == bool(positions)
        assert rollout.lengths[row] == length
        assert rollout.token_ids[row, :length].tolist() == ids[:length]


def test_the_loop_stops_when_all_texts_have_ended(storyteller: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    model = storyteller.policy()
    read = []
    advance = model.forward.advance

    def noted(tokens: torch.Tensor) -> torch.Tensor:
        read.append(tokens)
        return advance(tokens)

    monkeypatch.setattr(model.forward, "advance", noted)
    rollout = draw(model, storyteller, length=100, end_tokens=FULL_STOP)
    assert rollout.ended.all()
    reached = int(rollout.lengths.max())
    assert reached < 100
    assert len(set(rollout.lengths)) > 1
    assert rollout.token_ids.shape == (6, reached)
    assert rollout.log_probabilities.shape == (6, reached - 4)
    assert len(read) == reached - 5  # the prompt gives the first token, nothing follows the last


def test_any_of_several_end_tokens_ends_a_text(tiny_gpt_neo: LoadedModel) -> None:
    ends = frozenset(range(0, 2048, 20))
    rollout = draw(tiny_gpt_neo.policy(), tiny_gpt_neo, texts=20, end_tokens=ends)
    last = {int(ids[length - 1]) for ids, length in zip(rollout.token_ids, rollout.lengths, strict=True)}
    assert len(last & ends) > 3


def test_an_end_token_in_the_prompt_ends_nothing(storyteller: LoadedModel) -> None:
    prompt = storyteller.encode("Hello. Once upon a time")
    assert set(prompt) & FULL_STOP
    rollout = sample(storyteller.policy(), prompt, uniforms(0, 0, 2, 20), end_tokens=FULL_STOP)
    assert (rollout.lengths > len(prompt)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 4, 10, 99])
def test_products_by_onednn_are_those_of_pytorch(
    rows: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the precision's rounding, with gradients, a wide layer's in pieces; packed weights with the activation too."""
    from rl_alliteration.lm import linear as module
    from rl_alliteration.lm.linear import Packed, linear

    monkeypatch.setattr(module, "_PIECE", 16)
    torch.manual_seed(0)
    error = 1e-5 if dtype == torch.float32 else 2e-2
    x, weight, bias = torch.randn(rows, 2, 24), torch.randn(40, 24), torch.randn(40)
    plain = [value.clone().requires_grad_() for value in (x, weight, bias)]
    ours = [value.clone().requires_grad_() for value in (x, weight, bias)]
    expected, found = torch.nn.functional.linear(*plain), linear(*ours, dtype=dtype)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, rtol=error, atol=5 * error)
    seed = torch.randn_like(expected)
    (expected * seed).sum().backward()
    (found * seed).sum().backward()
    for one, other in zip(ours, plain, strict=True):
        assert one.grad is not None
        assert one.grad.is_contiguous()
        assert one.grad.dtype == torch.float32
        torch.testing.assert_close(one.grad, other.grad, rtol=error, atol=20 * error)
    flat = x[:, 0]
    gelu = torch.nn.functional.gelu(torch.nn.functional.linear(flat, weight, bias), approximate="tanh")
    packed = Packed(lambda: (weight, bias), rows, dtype=dtype, gelu=True)
    torch.testing.assert_close(packed(flat).float(), gelu, rtol=error, atol=5 * error)
    with torch.no_grad():
        torch.testing.assert_close(linear(flat, weight, bias, dtype=dtype, gelu=True).float(), gelu, rtol=error,
                                   atol=5 * error)  # fmt: skip
