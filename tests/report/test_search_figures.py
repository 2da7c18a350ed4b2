"""Which settings of a search matter, and what was chosen together: known answers."""

from __future__ import annotations

import numpy as np
import pytest

from rl_alliteration.report.base import ordered
from rl_alliteration.report.figures.search import _axis, _parallel, importance

RANDOM = np.random.default_rng(0)
BETAS = (10 ** RANDOM.uniform(1, 2, 40)).tolist()
SIZES = RANDOM.choice([10, 20], 40).tolist()
CREDIT = RANDOM.choice(["text", "to-go"], 40).tolist()
CHOICES = [("beta", BETAS, True), ("group size", SIZES, True), ("credit", CREDIT, False)]


@pytest.mark.parametrize(
    "scores, first",
    [([-beta for beta in BETAS], "beta"), ([one + 0.1 * k / 40 for k, one in enumerate(SIZES)], "group size"),
     ([float(one == "to-go") + 0.1 * k / 40 for k, one in enumerate(CREDIT)], "credit")],
)  # fmt: skip
def test_the_setting_that_decides_is_the_important_one(scores: list[float], first: str) -> None:
    (figure,) = importance(CHOICES, scores)
    (bars,) = figure.series
    shares = dict(zip(bars.x, bars.y, strict=True))
    assert set(shares) == {"beta", "group size", "credit"} and sum(shares.values()) == pytest.approx(1)
    assert max(shares, key=lambda name: shares[name]) == first and shares[first] > 0.5


def test_little_is_not_passed_for_knowledge() -> None:
    few = [(title, values[:19], log) for title, values, log in CHOICES]
    assert importance(few, list(range(19))) == []
    assert importance(CHOICES[:1], BETAS) == [] == importance(CHOICES, [0.0] * 40)


def test_places_on_an_axis() -> None:
    name, places = _axis("beta", [10, 100, 1000], True)
    assert name == "beta: 10 to 1e+03" and places == pytest.approx([0, 0.5, 1])
    assert _axis("momentum", [0, 0.9, 0.45], True)[1] == pytest.approx([0, 1, 0.5])  # 0 has no logarithm
    name, places = _axis("credit", ["to-go", "text", "to-go"], False)
    assert name == "credit: text to to-go" and places == [1, 0, 1]


def test_the_best_trial_is_the_lightest_and_drawn_last() -> None:
    targets = [(f"trial {k}", 100 * k) for k in range(40)]
    (figure,) = _parallel(CHOICES, BETAS, targets)
    best = int(np.argmax(BETAS))
    assert figure.series[-1].name == f"trial {best}" and figure.series[-1].colour == ordered(40)[-1]
    assert figure.series[-1].y[-1] == 1 and len(figure.series[-1].x) == 4
    assert figure.series[-1].targets == [targets[best]] * 4
