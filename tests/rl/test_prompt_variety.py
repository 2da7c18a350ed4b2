"""Variety within prompts and across them against a plain loop."""

from __future__ import annotations

import doctest
import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_alliteration.analysis import prompts as module
from rl_alliteration.analysis.diversity import variety
from rl_alliteration.analysis.prompts import variety_within_and_across


def overlap(first: str, second: str) -> float:
    one, other = (set(itertools.pairwise(text.split())) for text in (first, second))
    return len(one & other) / len(one | other) if one | other else 1.0


def plain(pairs: Any) -> float:
    overlaps = [overlap(first, second) for first, second in pairs]
    return 1 - sum(overlaps) / len(overlaps) if overlaps else math.nan


words = st.lists(st.sampled_from("abc"), max_size=6).map(" ".join)


@given(st.lists(st.tuples(words, st.sampled_from(["A", "B", "C"])), max_size=8))
def test_the_plain_loop(rows: Any) -> None:
    pairs = list(itertools.combinations(rows, 2))
    texts, prompts = [text for text, _ in rows], [prompt for _, prompt in rows]
    within = plain((a, b) for (a, p), (b, q) in pairs if p == q)
    across = plain((a, b) for (a, p), (b, q) in pairs if p != q)
    assert variety_within_and_across(texts, prompts) == pytest.approx((within, across), abs=1e-6, nan_ok=True)
    assert variety(texts) == pytest.approx(plain((a, b) for (a, _), (b, _) in pairs), abs=1e-6, nan_ok=True)


def test_examples_in_the_docstrings() -> None:
    assert doctest.testmod(module).failed == 0
