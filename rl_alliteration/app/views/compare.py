"""Two to four trials beside one another, at equal generation or at equal KL divergence."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from rl_alliteration.analysis.alliteration import LETTERS
from rl_alliteration.analysis.comparison import (
    FEWEST,
    GENERATION,
    MOST,
    NUMBERS,
    PLACES,
    TEXTS,
    as_table,
    check_count,
    differing,
    number,
    usual,
    window_at,
)
from rl_alliteration.analysis.metrics import METRICS
from rl_alliteration.analysis.types import WINDOW
from rl_alliteration.app.choices import Choices
from rl_alliteration.app.index import Known
from rl_alliteration.app.page import Live, Page
from rl_alliteration.app.rows import Rollout, ordered, rollouts
from rl_alliteration.app.views import curves
from rl_alliteration.report.base import CATEGORIES, Figure, Series
from rl_alliteration.report.drawing import to_plotly


@dataclasses.dataclass(frozen=True)
class Side:
    """A trial where it is compared."""

    one: Known
    key: str
    colour: str
    window: int | None
    """Of its windows, the one in question; None where it never gets there."""
    texts: list[Rollout]

    @property
    def first(self) -> int:
        """The window's first generation."""
        return int(self.one.trial.first[self.window]) if self.window is not None else 0


def page(live: Live, choices: Choices) -> Page:
    """The comparison that an address asks for."""
    snapshot = live.index.snapshot
    named = choices.trials(snapshot)
    if len(named) >= FEWEST:
        check_count(len(named), "trial")
    options = [(one.trial.name, "/".join(one.pair)) for one in snapshot.trials.values() if one.trial.generations]
    at = choices.one_of("at", PLACES, GENERATION)
    y = curves.AXES[choices.one_of("y", curves.AXES, "raw_reward")]
    values: dict[str, Any] = {
        "options": options,
        "named": ["/".join(one.pair) for one in named],
        "most": MOST,
        "at": at,
        "ats": PLACES,
        "choices": choices,
        "axes": curves.AXES,
        "y": y.name,
        "sides": [],
    }
    if len(named) < FEWEST:
        return Page("compare.html", "Compare", values)
    live.index.want([one.pair for one in named])
    value = choices.number("value", usual([one.trial for one in named], at), least=0)
    colours = CATEGORIES if _alike(live, named) else [live.colour_of(snapshot)(one) for one in named]
    sides = [_side(live, one, colour, at, value) for one, colour in zip(named, colours, strict=False)]
    x = curves.AXES["generation" if at == GENERATION else "kl_penalty"]
    series = [line for side in sides for line in curves.each(side.one, x, y, 1, side.colour)]
    drawn = [dataclasses.replace(one, faint=False) if one.kind == "line" else one for one in series]
    drawn = [dataclasses.replace(one, quiet=True) if one.kind == "points" else one for one in drawn]
    names = {side.one.trial.name: side.one.note.name or side.one.trial.name for side in sides}
    drawn = [dataclasses.replace(one, name=names.get(one.name, one.name)) for one in drawn]
    figure = Figure(
        "compared", f"{y.title} at {PLACES[at]}", f"Windows of {WINDOW} texts; a point leads to its texts.",
        x.words, y.words, drawn, digits=y.digits, ordered=False,
    )  # fmt: skip
    letters = _letters(sides)
    settings = differing([one.planned for one in named])
    values |= {
        "value": value,
        "sides": sides,
        "different": [row for row in settings if row[2]],
        "alike": [row for row in settings if not row[2]],
        "numbers": [(METRICS[name], [number(side.one.trial, side.window, name) for side in sides]) for name in NUMBERS],
        "figure": figure,
        "plot": to_plotly(figure),
        "letters": letters,
        "letters_plot": to_plotly(letters) | {},
        "places": curves.places(named),
        "unmeasured": sum(one.unmeasured for one in named),
    }
    values["letters_plot"]["layout"]["barmode"] = "group"
    return Page(
        "compare.html",
        "Compare",
        values,
        lambda: as_table([side.one.trial for side in sides], [side.window for side in sides]),
    )


def _alike(live: Live, named: list[Known]) -> bool:
    """Whether two of them would have one colour: seeds of a setting."""
    colour = live.colour_of(live.index.snapshot)
    return len({colour(one) for one in named}) < len(named)


def _side(live: Live, one: Known, colour: str, at: str, value: float) -> Side:
    window = window_at(one.trial, at, value)
    texts: list[Rollout] = []
    if window is not None:
        first = int(one.trial.first[window])
        texts = ordered(rollouts(live.index, one, first, first + WINDOW), "typical")[:TEXTS]
    return Side(one, "/".join(one.pair), colour, window, texts)


def _letters(sides: list[Side]) -> Figure:
    """Shares of the alliterating pairs in the windows in question, by initial letter."""
    shares = []
    for side in sides:
        counts = side.one.trial.by_letter[side.window] if side.window is not None else np.zeros(len(LETTERS))
        shares.append(counts / max(float(counts.sum()), 1.0))
    order = [k for k in np.argsort(-np.sum(shares, axis=0), kind="stable")[:10] if any(share[k] for share in shares)]
    series = [
        Series(
            side.one.note.name or side.one.trial.name, [LETTERS[k] for k in order], [float(share[k]) for k in order],
            side.colour, "bar",
        )
        for side, share in zip(sides, shares, strict=True)
    ]  # fmt: skip
    return Figure(
        "letters", "Which letters alliterate", "Share of the alliterating pairs in these windows, the ten commonest.",
        "initial letter", "share of alliteration", series, ordered=False,
    )  # fmt: skip
