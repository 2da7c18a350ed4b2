"""Which trial a person means by a part of its id."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_alliteration.errors import UserError
from rl_alliteration.names import find_trial, short_ids

IDS = (
    "original-0a1b2c3d",
    "rloo-beta4-seed0-1a2b3c4d",
    "rloo-beta40-seed0-1a2b3cff",
    "rloo-beta40-seed1-77777777",
    "rloo-beta40-seed1-88888888",
    "rloo-beta1e-05-seed0-40404040",
)


@pytest.mark.parametrize(
    "words, found",
    [
        ("rloo-beta4", 1),
        ("rloo-beta4-seed0", 1),
        ("rloo-beta40-seed0", 2),
        ("rloo-beta40-seed0-", None),
        ("rloo-beta40-seed1-7", 3),
        ("rloo-beta1e-05", 5),
        ("original", 0),
        ("1a2b3c4", 1),
        ("8", 4),
        (IDS[3], 3),
    ],
)
def test_a_trial_is_found_by_its_beginning_or_its_hash(words: str, found: int | None) -> None:
    assert find_trial(words, IDS, "e") == IDS[2 if found is None else found]


@pytest.mark.parametrize(
    "words, said",
    [
        ("1a2b", f"--trial: '1a2b' may be any of {IDS[1]}, {IDS[2]}; give more of its id"),
        ("rloo-beta40-seed1", f"may be any of {IDS[3]}, {IDS[4]}"),
        ("rloo", "may be any of rloo-beta1e-05-seed0-40404040, "),
        ("rloo-beta", "is not in 'e'; there is: original-0a1b2c3d, "),
        ("", "--trial: '' is not in 'e'"),
        ("seed0", "is not in 'e'"),
        ("../original-0a1b2c3d", "is not in 'e'"),
    ],
)
def test_what_is_none_or_several_is_refused_with_what_there_is(words: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        find_trial(words, IDS, "e")
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_of_many_trials_not_all_are_listed() -> None:
    many = [f"rloo-beta{beta}-seed0-{beta:08d}" for beta in range(300)]
    with pytest.raises(UserError, match=r"and 292 more$"):
        find_trial("x", many, "e")


@given(st.sets(st.text("01", min_size=8, max_size=8), min_size=1, max_size=20))
def test_a_short_id_finds_its_trial(digests: set[str]) -> None:
    ids = [f"rloo-beta{len(digest)}-seed0-{digest}" for digest in digests]
    for trial_id, short in short_ids(ids).items():
        assert find_trial(short, ids, "e") == trial_id
        assert len(short) >= 4
