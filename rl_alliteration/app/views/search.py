"""Searches: what each tried, in which order, and what was stopped and why."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from threadpoolctl import threadpool_limits

from rl_alliteration.analysis.types import WINDOW, Analysis
from rl_alliteration.app.choices import Choices
from rl_alliteration.app.index import Known
from rl_alliteration.app.page import Live, Page
from rl_alliteration.app.table import Verdicts, as_table, rows
from rl_alliteration.app.views.curves import places
from rl_alliteration.report.base import Shown
from rl_alliteration.report.drawing import to_plotly
from rl_alliteration.report.figures.search import search_figures
from rl_alliteration.results.reader import searched


def page(live: Live, choices: Choices) -> Page:
    """The search that an address names; without a name the first."""
    snapshot = live.index.snapshot
    damaged: list[str] = []
    there = searched(live.index.storage, lambda error: damaged.append(str(error)))
    names = sorted(there & {pair[0] for pair in snapshot.trials})
    values: dict[str, Any] = {
        "names": names,
        "options": [(name, name) for name in names],
        "name": "",
        "figures": [],
        "damaged": damaged,
    }
    if not names:
        return Page("search.html", "Search", values)
    name = choices.one_of("experiment", names, names[0])
    own = [one for one in snapshot.trials.values() if one.trial.experiment == name and not one.trial.is_original]
    live.index.want([one.pair for one in own])
    question = ("search", snapshot.version, name)

    def made() -> list[Any]:
        shown = Shown(Analysis([one.trial for one in own], WINDOW), searches={name})
        with threadpool_limits(1):
            return [(figure, to_plotly(figure)) for figure in search_figures(shown)]

    ordered = sorted(own, key=lambda one: (one.trial.began, one.trial.trial_id))
    values |= {
        "name": name,
        "figures": live.kept(question, made),
        "trials": [(one, "/".join(one.pair), _fate(one)) for one in ordered],
        "stopped": sum(one.trial.status == "stopped" for one in own),
        "places": places(own),
        "unmeasured": sum(one.unmeasured for one in own),
    }

    def table() -> pa.Table:
        return as_table(rows(ordered, Verdicts.of(snapshot)), groups=False)

    return Page("search.html", f"Search {name}", values, table)


def _fate(one: Known) -> str:
    """What became of it, and why."""
    told = one.trial.status
    if one.trial.reason:
        told += f": {one.trial.reason}"
    return f"{told} ({one.error})" if one.error else told
