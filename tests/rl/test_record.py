"""The token record: numbers of plain transformers, where tokens begin, the reward's parts, and nothing else changed."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from trainers import ENDS, make_trainer, move_away, plain_copy, update_of, weights_of, with_ends

from rl_alliteration.flags import RECORDED
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.results.parts import row_digest
from rl_alliteration.rl.parts import token_starts
from rl_alliteration.rl.record import recorded_groups
from rl_alliteration.rl.rewards import Reward, get_reward
from rl_alliteration.rl.trainer import Row, Trainer

LISTS = ("token_log_p", "token_log_q", "token_entropy", "token_starts", "part_values", "part_places")


def recording(loaded: LoadedModel, config: Any, reward: Reward | None = None) -> Trainer:
    trainer = make_trainer(loaded, config, reward)
    trainer.records = recorded_groups("all", 600)
    return trainer


def plain_numbers(model: Any, row: Row) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and entropy of each sampled token, by transformers alone."""
    ids, first = torch.tensor([row["token_ids"]]), row["num_prompt_tokens"]
    with torch.no_grad():
        log_p = model(ids).logits[0, :-1].double().log_softmax(-1)
    of_tokens = log_p.gather(-1, ids[0, 1:, None])[:, 0]
    return of_tokens[first - 1 :], -(log_p.exp() * log_p).sum(-1)[first - 1 :]


@pytest.mark.parametrize("update", [{}, {"credit": "to-go", "kl": "exact"}, {"micro_batch": 3}, {"top_k": 50}])
def test_numbers_are_those_of_plain_transformers(storyteller: LoadedModel, make_config: Any, update: Any) -> None:
    loaded = with_ends(storyteller, ENDS["storyteller"])
    trainer = recording(loaded, make_config(loaded, **update))
    move_away(trainer)
    policy = plain_copy(loaded, weights_of(trainer.policy.model))
    reference = plain_copy(loaded, weights_of(loaded.model))
    step = trainer.step()
    assert any(row["ended"] for row in step.texts)
    entropies: list[float] = []
    for row in step.texts:
        log_p, entropy = plain_numbers(policy, row)
        log_q, _ = plain_numbers(reference, row)
        for name, expected in (("token_log_p", log_p), ("token_log_q", log_q), ("token_entropy", entropy)):
            assert len(row[name]) == row["num_tokens"] - row["num_prompt_tokens"]
            np.testing.assert_allclose(row[name], expected, atol=1 / 512 + 1e-4)
            assert all(value * 256 == round(value * 256) for value in row[name])
        entropies += row["token_entropy"]
    assert np.mean(entropies) == pytest.approx(update_of(step)["entropy"], abs=1 / 512)


def test_the_originals_texts_have_one_distribution(storyteller: LoadedModel, make_config: Any) -> None:
    trainer = recording(storyteller, make_config(storyteller).original())
    plain = plain_copy(storyteller, weights_of(storyteller.model))
    for row in trainer.step().texts:
        log_p, entropy = plain_numbers(plain, row)
        assert row["token_log_p"] == row["token_log_q"]
        np.testing.assert_allclose(row["token_log_p"], log_p, atol=1 / 512 + 1e-4)
        np.testing.assert_allclose(row["token_entropy"], entropy, atol=1 / 512 + 1e-4)


@pytest.mark.parametrize("update", [{}, {"algorithm": "reinforce", "group_size": 1}, {"dtype": "bfloat16"}])
def test_nothing_else_changes(storyteller: LoadedModel, make_config: Any, update: Any) -> None:
    config = make_config(storyteller, **update)
    with_record, without = recording(storyteller, config), make_trainer(storyteller, config)
    for _ in range(2):
        one, other = with_record.step(), without.step()
        for row, bare in zip(one.texts, other.texts, strict=True):
            assert row["token_log_p"] and all(bare[name] == [] for name in LISTS)
            assert {**row, **{name: [] for name in LISTS}} == bare
            assert row_digest(row, "generations") == row_digest(bare, "generations")
        assert update_of(one)["loss"] == update_of(other)["loss"]
    for name, value in weights_of(with_record.policy.model).items():
        assert torch.equal(value, weights_of(without.policy.model)[name])


def test_which_groups_are_recorded() -> None:
    groups = range(0, 60, 10)
    found = {which: [group for group in groups if recorded_groups(which, 30)(group)] for which in RECORDED}
    assert found == {"none": [], "first-group": [0, 30], "all": list(groups)}


@pytest.mark.parametrize("reward_of", ["text", "completion"])
def test_pieces_make_the_text_and_parts_the_reward(storyteller: LoadedModel, make_config: Any, reward_of: str) -> None:
    loaded = with_ends(storyteller, ENDS["storyteller"])
    config = make_config(loaded, reward_of=reward_of, reward="a_words", group_size=8)
    for row in recording(loaded, config).step().texts:
        starts, text = row["token_starts"], row["text"]
        assert starts[0] == len("Once upon a time") and starts == sorted(starts)
        pieces = [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
        ids = row["token_ids"][row["num_prompt_tokens"] :]
        assert pieces == ["" if i in loaded.end_tokens else loaded.tokenizer.decode([i]) for i in ids]
        assert sum(row["part_values"]) == row["raw_reward"]
        rewarded = text if reward_of == "text" else row["completion"]
        assert [rewarded[place] for place in row["part_places"]] == ["a"] * int(row["raw_reward"])


def test_a_token_that_completes_no_character_begins_where_the_next_one_does() -> None:
    text = "aé😀 b"
    ids = list(text.encode())
    starts = token_starts(lambda some: bytes(some).decode(errors="replace"), ids, text, 1)
    assert starts == [1, 1, 2, 2, 2, 2, 3, 4]
    cut = bytes(ids[:5]).decode(errors="replace")  # as a text of the greatest length ends
    assert token_starts(lambda some: bytes(some).decode(errors="replace"), ids[:5], cut, 1) == [1, 1, 2, 3]


def broken(text: str) -> list[tuple[float, int]]:
    raise RuntimeError("no parts today")


@pytest.mark.parametrize("parts", [broken, lambda text: [(math.nan, 0)], lambda text: [(7.5, 3)], lambda text: "ab"])
def test_parts_that_are_none_are_told_and_left_out(
    storyteller: LoadedModel, make_config: Any, parts: Any, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = dataclasses.replace(get_reward("alliteration"), parts=parts)
    for row in recording(storyteller, make_config(storyteller), wrong).step().texts:
        assert row["token_log_p"] and row["part_values"] == row["part_places"] == []
    assert "the parts of the reward 'alliteration' were not recorded: " in caplog.text


def test_a_reward_without_parts_has_none(storyteller: LoadedModel, make_config: Any) -> None:
    whole = dataclasses.replace(get_reward("alliteration"), parts=None)
    assert all(row["part_values"] == [] for row in recording(storyteller, make_config(storyteller), whole).step().texts)
