"""All trials in a table: to sort, to filter, to group by any setting."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from rl_alliteration.app.choices import Choices
from rl_alliteration.app.facets import Facet, chosen, facets
from rl_alliteration.app.index import Known, Snapshot
from rl_alliteration.app.page import Live, Page
from rl_alliteration.app.table import COLUMNS, Row, Verdicts, as_table, grouped, rows, sorted_rows
from rl_alliteration.results import schema

ROWS = 100
"""Of a page."""
SEEDS = "setting"
"""To group by: all but the seed."""
_STATES = (schema.RUNNING, schema.PLANNED, schema.STALLED, schema.FINISHED, schema.STOPPED, schema.FAILED)


def page(live: Live, choices: Choices) -> Page:
    """The table that an address asks for."""
    snapshot = live.index.snapshot
    known = facets(snapshot)
    found = chosen(snapshot, known, choices)
    verdicts = Verdicts.of(snapshot)
    groups = {"": "each trial", SEEDS: "setting, seeds together"}
    groups |= {facet.name: facet.title.lower() for facet in known}
    group = choices.one_of("group", groups, "")
    hidden = choices.some_of("hide", [column.name for column in COLUMNS])
    columns = [column for column in COLUMNS if column.name not in hidden]
    names = {"name", *(column.name for column in COLUMNS)}
    sort = choices.one_of("sort", ["", *names, *(f"-{name}" for name in names)], "")
    question = ("rows", snapshot.version, group, tuple(one.pair for one in found))
    table = sorted_rows(live.kept(question, lambda: _rows(found, known, verdicts, group)), sort)
    pages = max(1, -(-len(table) // ROWS))
    place = choices.whole("page", 1, least=1, most=max(pages, 1))
    colour = live.colour_of(snapshot)
    shown = table[(place - 1) * ROWS : place * ROWS]
    live.index.want([one.pair for row in shown for one in row.trials if len(row.trials) == 1])
    values: dict[str, Any] = {
        "facets": [(facet, facet.options, choices.all(facet.name)) for facet in known],
        "groups": groups,
        "group": group,
        "columns": columns,
        "all_columns": COLUMNS,
        "hidden": hidden,
        "sort": sort,
        "rows": [
            _Shown(row, colour(row.trials[0]) if _one_colour(row) else "", _chooses(row, group, known)) for row in shown
        ],
        "total": len(table),
        "trials": len(found),
        "all": len(snapshot.trials),
        "place": place,
        "pages": pages,
        "choices": choices,
        "experiments": _experiments(snapshot),
        "words": choices.text("trial"),
        "starred": choices.flag("starred"),
    }
    return Page("trials.html", "Trials", values, lambda: as_table(table, columns, groups=bool(group)))


def _rows(found: list[Known], known: list[Facet], verdicts: Verdicts, group: str) -> list[Row]:
    """A row a trial, or a group."""
    if group == "":
        return rows(found, verdicts)
    if group == SEEDS:
        several = len({one.trial.reward_function for one in found}) > 1
        return grouped(found, verdicts, lambda one: _setting(one, several))
    (facet,) = (facet for facet in known if facet.name == group)
    return grouped(found, verdicts, lambda one: facet.values.get(one.pair, "–"))


@dataclasses.dataclass(frozen=True)
class _Shown:
    row: Row
    colour: str
    chooses: dict[str, str]
    """Of a group: the filters that leave its trials alone."""

    @property
    def one(self) -> Known | None:
        """The trial, if the row is of one."""
        return self.row.trials[0] if not self.row.key else None


def _chooses(row: Row, group: str, known: list[Facet]) -> dict[str, str]:
    if group != SEEDS:
        return {group: row.key} if group else {}
    found = {}
    for facet in known:
        values = {facet.values.get(one.pair) for one in row.trials}
        if facet.name not in ("experiment", "state", "seed") and len(values) == 1 and None not in values:
            found[facet.name] = values.pop() or ""
    return found


def _one_colour(row: Row) -> bool:
    return len({(one.trial.algorithm, one.trial.coefficient) for one in row.trials}) == 1


def _setting(one: Known, several: bool) -> str:
    trial = one.trial
    name = trial.algorithm if trial.is_original else f"{trial.algorithm} {trial.coefficient}"
    return f"{name}, {trial.reward_function}" if several else name


@dataclasses.dataclass(frozen=True)
class _Experiment:
    name: str
    trials: int
    states: str
    texts: int
    asked: int
    seconds: float


def _experiments(snapshot: Snapshot) -> list[_Experiment]:
    found: dict[str, list[Known]] = {}
    for one in snapshot.trials.values():
        found.setdefault(one.trial.experiment, []).append(one)
    return [
        _Experiment(
            name,
            len(own),
            ", ".join(
                f"{count} {state}" for state in _STATES if (count := sum(one.trial.status == state for one in own))
            ),
            sum(one.generations for one in own),
            sum(max(one.trial.max_generations, one.generations) for one in own),
            float(np.nansum([one.elapsed[-1] for one in own if len(one.elapsed)])),
        )
        for name, own in sorted(found.items())
    ]
