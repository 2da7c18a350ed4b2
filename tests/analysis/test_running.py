"""Windows as texts come are those of the finished trial."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_alliteration.analysis import running
from rl_alliteration.analysis.diversity import variety
from rl_alliteration.analysis.running import RunningWindows
from rl_alliteration.analysis.types import WINDOW

RANDOM = np.random.default_rng(0)
TEXTS: list[dict[str, Any]] = [
    {"generation": g, "reward_of": "text", "text": " ".join(RANDOM.choice(list("abcd"), 6))}
    for g in range(2 * WINDOW + 30)
]


@pytest.fixture(scope="module")
def at_once() -> list[tuple[int, dict[str, float]]]:
    return list(RunningWindows().add(TEXTS))


def test_a_window_is_measured_at_its_last_text(at_once: list[tuple[int, dict[str, float]]]) -> None:
    assert [generation for generation, _ in at_once] == [WINDOW - 1, 2 * WINDOW - 1]
    expected = [variety([row["text"] for row in TEXTS[first : first + WINDOW]]) for first in (0, WINDOW)]
    assert [points["diversity/variety"] for _, points in at_once] == pytest.approx(expected)


@given(resumed_at=st.integers(0, len(TEXTS)), group=st.integers(1, 60))
def test_a_run_that_was_resumed_measures_the_same(
    at_once: list[tuple[int, dict[str, float]]], resumed_at: int, group: int
) -> None:
    windows = running.RunningWindows()
    assert not list(windows.add(TEXTS[RunningWindows.first(resumed_at) : resumed_at]))
    found = [one for first in range(resumed_at, len(TEXTS), group) for one in windows.add(TEXTS[first : first + group])]
    assert found == [one for one in at_once if one[0] >= resumed_at]
