"""Parts of rewards: their sum is the number, and each is settled where it says."""

from __future__ import annotations

import doctest
import json
import string
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.rl import parts, rewards
from rl_alliteration.rl.parts import Part, settled_characters, token_rewards
from rl_alliteration.rl.rewards import REWARDS, Reward, get_reward, reward

RARITY = json.dumps({"rarity": {"": 4.123, "t": 1.0, "z": 3.511, "a": 2.067}})
SHIPPED = {name: get_reward(name, RARITY) for name in REWARDS}
SUMS = {
    name: get_reward(name, RARITY)
    for name in (
        *(f"{name}_per_100_words" for name in SHIPPED),
        "alliteration - 0.3*rare_alliteration + 2*a_words",
        "0.1*phonetic_alliteration_per_100_words + alliteration",
    )
}
texts = st.one_of(
    st.text(),
    st.text(string.printable),
    st.lists(st.sampled_from(["a", "And", "tall", "Tree", '"The', "zoo", "knight", "new", "1"])).map(" ".join),
)


def total(found: Reward, text: str) -> float:
    assert found.parts is not None
    return float(sum(value for value, _ in parts_in(found, text)))


@pytest.mark.parametrize("name", SHIPPED)
@given(text=texts)
def test_the_parts_of_a_shipped_reward_are_its_number_exactly(name: str, text: str) -> None:
    assert total(SHIPPED[name], text) == SHIPPED[name](text)


@pytest.mark.parametrize("name", SUMS)
@given(text=texts)
def test_the_parts_of_sums_and_rates_are_the_number_to_rounding(name: str, text: str) -> None:
    assert total(SUMS[name], text) == pytest.approx(SUMS[name](text), rel=1e-12, abs=1e-10)


def parts_in(reward: Reward, text: str) -> Sequence[Part]:
    assert reward.parts is not None
    return reward.parts(text)


@pytest.mark.parametrize("name", [*SHIPPED, *SUMS])
@given(text=texts, data=st.data())
def test_what_is_settled_does_not_depend_on_what_follows(name: str, text: str, data: st.DataObject) -> None:
    found = (SHIPPED | SUMS)[name]
    cut = data.draw(st.integers(0, len(text)))
    other = text[:cut] + data.draw(texts)
    settled = [[part for part in parts_in(found, one) if part[1] < cut] for one in (text, other)]
    assert settled[0] == settled[1]
    assert all(0 <= place <= len(text) for _, place in parts_in(found, text))


def test_parts_by_hand() -> None:
    assert parts_in(SHIPPED["alliteration"], "the tall tree sat") == [(1.0, 4), (1.0, 9)]
    assert parts_in(SHIPPED["a_words"], "an old ant") == [(1.0, 0), (1.0, 7)]
    assert parts_in(SHIPPED["rare_alliteration"], "zig zag at a") == [(3.511, 4), (2.067, 11)]
    assert parts_in(SHIPPED["phonetic_alliteration"], "knight new, x") == [(1.0, 11)]  # "newt" would do, "new-" not yet
    assert parts_in(SHIPPED["repeated_trigrams"], "a b c a b cd a b c d") == [(1.0, 18)]
    assert parts_in(get_reward("2*a_words - alliteration"), "an ant") == [(2.0, 0), (2.0, 3), (-1.0, 3)]


def test_a_sum_of_rewards_with_and_without_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewards, "REWARDS", dict(rewards.REWARDS))
    reward("length")(lambda text: float(len(text)))
    assert get_reward("length").parts is None
    assert get_reward("length_per_100_words").parts is None
    assert parts_in(get_reward("a_words + 0.5*length"), "an ant") == [(1.0, 0), (1.0, 3), (3.0, 6)]


def test_examples_in_the_docstrings() -> None:
    assert doctest.testmod(parts).failed == 0


# Tokens.


def test_a_part_counts_at_the_token_that_settles_it() -> None:
    settled = np.array([3, 5, 9, 9])  # "the", " t", "all.", and an end token
    assert token_rewards(6.0, [(1.0, 0), (2.0, 4), (3.0, 9)], settled).tolist() == [1, 2, 0, 3]
    assert token_rewards(6.0, None, settled).tolist() == [0, 0, 0, 6]
    assert token_rewards(0.3, [(0.1, 3), (0.2, 3)], settled).sum() == 0.3
    with pytest.raises(ValueError, match="its parts' sum is 3, its number 6"):
        token_rewards(6.0, [(1.0, 0), (2.0, 4)], settled)
    with pytest.raises(ValueError, match="a part lies at character -1"):
        token_rewards(1.0, [(1.0, -1)], settled)


def decoder(tokenizer: Any) -> Callable[[list[int]], str]:
    return lambda ids: tokenizer.decode(ids, skip_special_tokens=True)


def slowly(decode: Callable[[list[int]], str], ids: Sequence[int], text: str) -> list[int]:
    """A character is certain with the first token from which on every beginning has it in its place."""
    known: list[int] = []
    for end in range(1, len(ids) + 1):
        given = decode(list(ids[:end]))
        same = 0
        while same < min(len(given), len(text)) and given[same] == text[same]:
            same += 1
        known.append(max([same, *known[-1:]]))
    return known


@given(ids=st.lists(st.integers(0, 2047), min_size=1, max_size=12))
def test_settled_characters_of_any_tokens(storyteller: LoadedModel, ids: list[int]) -> None:
    decode = decoder(storyteller.tokenizer)
    text = decode(ids)
    assert settled_characters(decode, ids, text).tolist() == slowly(decode, ids, text)


def test_settled_characters_of_letters_in_several_tokens(storyteller: LoadedModel) -> None:
    decode = decoder(storyteller.tokenizer)
    ids = storyteller.tokenizer.encode("a \N{LATIN SMALL LETTER E WITH ACUTE}lan \N{GRINNING FACE} b").ids
    text = decode(ids)
    assert any("\ufffd" in decode([token]) for token in ids)
    settled = settled_characters(decode, ids, text)
    assert settled.tolist() == slowly(decode, ids, text)
    assert settled[-1] == len(text)
    assert len(set(settled.tolist())) < len(ids)


def test_settled_characters_where_tokens_are_no_pieces_of_the_text() -> None:
    def decode(ids: list[int]) -> str:  # as some tokenizers do: the space before a first word is left out
        return "".join(f" w{token}" for token in ids)[1:]

    assert settled_characters(decode, [1, 22, 3], decode([1, 22, 3])).tolist() == [2, 6, 9]


def test_an_end_token_settles_no_more_characters(storyteller: LoadedModel) -> None:
    decode = decoder(storyteller.tokenizer)
    ids = [*storyteller.encode("the tree"), 14]  # a full stop that ends the text
    settled = settled_characters(decode, ids, "the tree")
    assert settled[-2:].tolist() == [8, 8]
    assert token_rewards(1.0, [(1.0, 8)], settled)[-1] == 1
