"""When a trial stops before its end: a function of its texts alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from rl_alliteration.analysis.stopping import COLLAPSE, PLATEAU, EarlyStopping
from rl_alliteration.analysis.types import WINDOW


def stopped_at(reasons: list[str], rows: list[dict[str, Any]], chunk: int = 1) -> tuple[int, str] | None:
    """The texts seen when the watch gives its reason, and the reason; None if it gives none."""
    watch = EarlyStopping(reasons)
    for start in range(0, len(rows), chunk):
        watch.add(rows[start : start + chunk])
        if watch.reason:
            return start + chunk, watch.reason
    return None


def row(text: str, reward: float) -> dict[str, Any]:
    return {"text": text, "reward_of": "text", "reward": reward}


def texts(*different: int) -> list[dict[str, Any]]:
    """A window each: so many of its texts have words of their own, the others are one and the same."""
    return [
        row(f"a{index} b{index} c{window}" if index < count else "the tall tree", 0.0)
        for window, count in enumerate(different)
        for index in range(WINDOW)
    ]


@pytest.mark.parametrize(
    "different, at",
    [
        ((100, 100, 100), None),
        ((100, 0, 0, 0), 300),
        ((100, 0, 100, 0, 100), None),  # one window alone is no collapse
        ((100, 100, 0, 0), 400),
        ((100, 50, 50), None),  # a quarter of the pairs are alike
        ((100, 40, 40), 300),  # 36% of them
        ((40, 40, 40, 40), None),  # as varied as the model ever was
        ((100, 0), None),
    ],
)
@pytest.mark.parametrize("chunk", [1, 10])
def test_collapse(different: tuple[int, ...], at: int | None, chunk: int) -> None:
    assert stopped_at([COLLAPSE], texts(*different), chunk) == (None if at is None else (at, COLLAPSE))
    assert stopped_at([PLATEAU], texts(*different), chunk) is None


def rewarded(means: Sequence[float], seed: int = 0) -> list[dict[str, Any]]:
    """A window for each mean, with noise of deviation 2."""
    noise = np.random.default_rng(seed).normal(0, 2, (len(means), WINDOW))
    return [row("a b", mean + more) for mean, window in zip(means, noise, strict=True) for more in window]


def test_plateau() -> None:
    rise = [5, 5, 5, 6, 8, 12, 20, 30]
    found = stopped_at([COLLAPSE, PLATEAU], rewarded(rise + [30] + [29] * 20))
    # The best three windows in a row are 7 to 9 (30, 30, 29); ten more have to pass.
    assert found == (20 * WINDOW, PLATEAU)
    assert stopped_at([PLATEAU], rewarded([5] * 60)) is None  # it never rose: it may yet
    assert stopped_at([PLATEAU], rewarded([5 + 0.5 * window for window in range(60)])) is None
    assert stopped_at([COLLAPSE], rewarded(rise + [30] * 30)) is None


def test_no_reason_asked_for_is_none_given() -> None:
    assert stopped_at([], texts(100, 0, 0, 0)) is None
