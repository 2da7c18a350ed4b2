"""What alliteration costs: the frontier, what a nat buys, and the model to keep."""

from __future__ import annotations

import math
import shlex
from typing import Any

import pyarrow as pa
from threadpoolctl import threadpool_limits

from rl_alliteration.analysis.frontier import FrontierPoint
from rl_alliteration.analysis.rules import KEEP_VARIETY, SENSE_NATS
from rl_alliteration.analysis.types import WINDOW, Analysis
from rl_alliteration.app.choices import Choices
from rl_alliteration.app.facets import chosen, facets
from rl_alliteration.app.page import Live, Page
from rl_alliteration.app.views.curves import places
from rl_alliteration.report import settings
from rl_alliteration.report.base import Figure, Shown
from rl_alliteration.report.drawing import to_plotly
from rl_alliteration.report.figures import frontier, yardsticks

MOST_POINTS = 4000
"""Windows of a figure: of more every so many."""


def page(live: Live, choices: Choices) -> Page:
    """The frontier of the trials that an address chooses."""
    snapshot = live.index.snapshot
    known = facets(snapshot)
    found = [one for one in chosen(snapshot, known, choices) if not one.trial.is_original and len(one.trial.first)]
    variety = choices.number("keep_variety", KEEP_VARIETY, 0, 1)
    nats = choices.number("keep_sense", SENSE_NATS, 0)
    live.index.want([one.pair for one in found])
    shown = Shown(Analysis([one.trial for one in found], WINDOW), variety, nats)
    shown.__dict__["colour"] = Shown(snapshot.analysis).colour  # one colour a setting, whichever are shown
    question = ("frontier", snapshot.version, tuple(one.pair for one in found), variety, nats)
    figures, rows, why, points = live.kept(question, lambda: _made(shown))
    values: dict[str, Any] = {
        "facets": [(facet, facet.options, choices.all(facet.name)) for facet in known],
        "words": choices.text("trial"),
        "starred": choices.flag("starred"),
        "choices": choices,
        "keep_variety": variety,
        "keep_sense": nats,
        "figures": figures,
        "places": places(found),
        "columns": [name for name, _ in settings.COLUMNS],
        "settings": rows,
        "why": why,
        "command": _export(shown, str(live.index.storage)),
        "recommended": shown.recommendation,
        "trials": len(found),
        "compared": sum(one.trial.original is not None for one in found),
        "unmeasured": sum(one.unmeasured for one in found),
    }
    return Page("frontier.html", "Frontier", values, lambda: _table(points))


Made = tuple[list[tuple[Figure, dict[str, Any]]], list[tuple[str, list[str]]], list[str], list[FrontierPoint]]


def _made(shown: Shown) -> Made:
    """Figures, the table of settings, why the recommended model is recommended, and all windows."""
    points = shown.points
    why = _why(shown)
    if len(points) > MOST_POINTS:  # a browser draws no more; what is recommended was chosen among all
        step = -(-len(points) // MOST_POINTS)
        shown.__dict__["points"] = [one for k, one in enumerate(points) if one.best or k % step == 0]
    with threadpool_limits(1):
        figures = [*frontier.frontier_figure(shown), *yardsticks.reward_against_kl(shown)]
        rows = [(row.name, [cell(row) for _, cell in settings.COLUMNS]) for row in settings.rows(shown)]
    return [(figure, to_plotly(figure)) for figure in figures], rows, why, points


def _why(shown: Shown) -> list[str]:
    found = shown.recommendation
    if not shown.points:
        return ["No window can be judged yet: it takes 100 texts of a trial and of its original."]
    kept = sum(point.sense for point in shown.points)
    told = [
        f"Of {len(shown.points):,} windows {kept:,} keep the original's sense: their cross-entropy under it is within "
        f"{shown.nats:g} nats of its own texts', and they are no more repetitive than all but 5% of these."
    ]
    if found is None:
        return [*told, f"None of them keeps {shown.keep_variety:.0%} of its variety: there is nothing to recommend."]
    original = found.trial.original
    assert original is not None
    share = found.point.variety / original.metrics["variety"]
    return [
        *told,
        f"Among those that keep {shown.keep_variety:.0%} of its variety as well, this one alliterates most: "
        f"{found.point.alliteration:.1f} pairs per 100 words, at {share:.0%} of the variety.",
        f"Raw reward to expect: {found.expected:.1f}, the mean of 100 new texts between {found.low:.1f} and "
        f"{found.high:.1f}. {found.comparison}.",
    ]


def _export(shown: Shown, storage: str) -> str:
    found = shown.recommendation
    if found is None:
        return ""
    words = ["rl-alliteration", "export", "--storage", storage, "--experiment", found.trial.experiment]
    words += ["--trial", found.trial.trial_id, "--generation", str(found.generation), "--output", "model"]
    return shlex.join(words)


def _table(points: list[FrontierPoint]) -> pa.Table:
    """A row a window."""
    columns = {
        "experiment": [point.trial.experiment for point in points],
        "trial_id": [point.trial.trial_id for point in points],
        "first_generation": [point.first for point in points],
        "alliteration": [_or_none(point.alliteration) for point in points],
        "variety": [_or_none(point.variety) for point in points],
        "keeps_sense": [point.sense for point in points],
        "on_the_frontier": [point.best for point in points],
    }
    return pa.table(columns)


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
