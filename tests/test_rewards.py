"""Rewards against the study's own examples and its own code."""

from __future__ import annotations

import doctest
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_alliteration import rewards
from rl_alliteration.errors import UserError
from rl_alliteration.rewards import get_reward, reward

alliteration = get_reward("alliteration")
a_words = get_reward("a_words")

SHINY = (
    "Once upon a time, there was a little girl. She was walking in the woods when she saw a tall tree. She "
    "walked over to the tree and saw a big hole. She stepped inside the tree to take a better look and she "
    "saw something shiny! The girl carefully stepped out of the tree. When she got nearer to the top, she "
    "saw something strange."
)


def study_alliteration(text: str) -> int:
    """The study's "exact reward function"."""
    words = text.split()
    return sum(
        1
        for word, next_word in zip(words, words[1:])  # noqa: B905, RUF007 (the study's own lines)
        if word[0].lower() == next_word[0].lower()
    )


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Fluff. Fluff", 1),
        ('to the tree?" The', 3),
        ("to touch the tall tree", 4),
        ("She started", 1),
        ("towards the tall tree", 3),
        ("she saw something shiny", 3),
        ("Zebadiah the Zebra", 0),
        ("seven cycling psychologists", 0),
        ("Once upon a time to the" + 93 * " tall", 95),
        ('said, "she', 0),  # a quotation mark is a first character like any other
        ('"She "said', 1),
        (SHINY, 21),
    ],
)
def test_alliteration_of_the_studys_examples(text, expected):
    assert alliteration(text) == expected == study_alliteration(text)


@given(st.text(string.printable))
def test_alliteration_is_the_studys_function(text):
    assert alliteration(text) == study_alliteration(text)


@given(
    st.lists(st.sampled_from(["a", "And", "tall", "Tree", '"The', "the", "1"])),
    st.sampled_from([" ", "\n", " \t "]),
)
def test_alliteration_of_likely_words_is_the_studys_function(words, space):
    assert alliteration(space.join(words)) == study_alliteration(" ".join(words))


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Éclair élan", 1),
        ("Σίσυφος σοφός", 1),
        ("Σίσυφος ςοφός", 1),  # both sigmas fold to one
        ("\N{KELVIN SIGN}elvin kept", 1),
        ("élan elan", 0),
        ("one\N{NO-BREAK SPACE}only\N{EM SPACE}orange", 2),  # whitespace as str.split sees it
        ("\N{GRINNING FACE} \N{GRINNING FACE}", 1),
    ],
)
def test_alliteration_beyond_ascii(text, expected):
    assert alliteration(text) == expected


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Once upon a time" + 48 * " a and", 97),  # "maximum possible is 97"
        ("Once upon a time, a big and the the", 3),
        ("An Apple ate", 3),
        ('"a (and \N{LATIN SMALL LETTER A WITH GRAVE}', 0),
        ("banana", 0),
    ],
)
def test_a_words(text, expected):
    assert a_words(text) == expected


@pytest.mark.parametrize("function", [alliteration, a_words])
@pytest.mark.parametrize("text", ["", " ", "\n\t", "word"])
def test_texts_of_no_or_one_word(function, text):
    result = function(text)
    assert result == 0
    assert isinstance(result, float)


def test_an_unknown_name_lists_what_exists():
    with pytest.raises(UserError) as caught:
        get_reward("aliteration")
    message = str(caught.value)
    assert message.startswith("--reward: 'aliteration'")
    assert "alliteration" in message.removeprefix("--reward: 'aliteration'")
    assert "a_words" in message


def test_ones_own_reward_takes_one_decorator(monkeypatch):
    monkeypatch.setattr(rewards, "REWARDS", dict(rewards.REWARDS))  # forgotten afterwards

    @reward("short", version=3)
    def short(text: str) -> float:
        return -float(len(text))

    found = get_reward("short")
    assert (found.name, found.version, found("four")) == ("short", 3, -4.0)
    assert short("four") == -4.0
    with pytest.raises(UserError, match="short"):
        get_reward("long")


def test_examples_in_the_docstrings():
    assert doctest.testmod(rewards).failed == 0
