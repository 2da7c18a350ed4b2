"""Full-text search: which texts have these words, match this expression, alliterate with this letter, and when."""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from rl_alliteration.analysis.types import WINDOW
from rl_alliteration.app.choices import Choices
from rl_alliteration.app.events import Pair, one_line
from rl_alliteration.app.facets import chosen, facets, setting
from rl_alliteration.app.index import Known
from rl_alliteration.app.page import Live, Page
from rl_alliteration.app.rows import COLUMNS, Rollout, covering
from rl_alliteration.errors import UserError
from rl_alliteration.report.base import Figure, Series
from rl_alliteration.report.drawing import to_plotly

HITS = 40
"""Of a page."""
DOWNLOADED = 100_000
"""Texts of a download, at most."""
KINDS = {"words": "all of these words", "regex": "a regular expression", "letter": "runs of an initial letter"}
_WHITE = r"\t-\r\x1c- \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"
"""What parts words, as Python's `split` has it and rewards count them."""
_ONE_AT_A_TIME = threading.Lock()
"""A search takes all cores: several at once would only wait for one another."""


@dataclasses.dataclass(frozen=True)
class Pattern:
    """What is searched for, as DuckDB is asked for it."""

    where: str
    values: dict[str, Any]


def pattern(kind: str, asked: str) -> Pattern:
    """A condition on `text`; what was typed is a parameter of it, never a part.

    Raises:
        UserError: it is nothing to search for.
    """
    if kind == "letter":
        if len(asked) != 1 or asked.isspace():
            raise UserError(f"search: {asked!r} is not accepted; give one letter")
        cases = sorted({asked.lower(), asked.upper()})
        either = f"(?:{'|'.join(map(re.escape, cases))})"
        # Whether the letter is there at all is much cheaper to tell, and often the answer.
        there = " OR ".join(f"contains(text, $case{k})" for k in range(len(cases)))
        values = {f"case{k}": case for k, case in enumerate(cases)}
        run = rf"(?:^|[{_WHITE}]){either}[^{_WHITE}]*[{_WHITE}]+{either}"
        return Pattern(f"({there}) AND regexp_matches(text, $run)", values | {"run": run})
    if kind == "regex":
        try:
            duckdb.connect(":memory:").execute("SELECT regexp_matches('', $1)", [asked])
        except duckdb.Error as error:
            raise UserError(f"search: {asked!r} is no regular expression ({one_line(error)})") from error
        return Pattern("regexp_matches(text, $expression)", {"expression": asked})
    words = [quoted or word for quoted, word in re.findall(r'"([^"]+)"|(\S+)', asked)][:12]
    # Without regard to case by an expression: that is faster than to write every text in small letters.
    conditions = [f"regexp_matches(text, $word{k}, 'i')" for k in range(len(words))]
    escaped = {f"word{k}": re.escape(word) for k, word in enumerate(words)}
    return Pattern(" AND ".join(conditions), escaped)


def page(live: Live, choices: Choices) -> Page:
    """What an address searches for."""
    snapshot = live.index.snapshot
    known = facets(snapshot)
    only = choices.trials(snapshot, "in")
    found = only or chosen(snapshot, known, choices)
    kind = choices.one_of("kind", KINDS, "words")
    asked = choices.text("search")
    trials = [(one.trial.name, "/".join(one.pair)) for one in snapshot.trials.values() if one.trial.generations]
    values: dict[str, Any] = {
        "facets": [(facet, facet.options, choices.all(facet.name)) for facet in known],
        "words": choices.text("trial"),
        "starred": choices.flag("starred"),
        "choices": choices,
        "kinds": KINDS,
        "kind": kind,
        "asked": asked,
        "trials": trials,
        "within": "/".join(only[0].pair) if only else "",
        "total": None,
    }
    if not asked.strip():
        return Page("texts.html", "Search the texts", values)
    sought = pattern(kind, asked)
    counts = _counted(live, found, sought)
    total = sum(count for _, _, count in counts)
    pages = max(1, -(-total // HITS))
    place = choices.whole("page", 1, least=1, most=pages)
    hits = _hits(live, snapshot.trials, counts, sought, (place - 1) * HITS, HITS)
    by_pair = {one.pair: one for one in found}
    figure = _over_time(live, found, counts)
    values |= {
        "total": total,
        "texts": sum(one.trial.generations for one in found),
        "in_trials": len({pair for pair, _, _ in counts}),
        "hits": [(by_pair[pair], "/".join(pair), row) for pair, row in hits],
        "place": place,
        "pages": pages,
        "plot": to_plotly(figure),
        "figure": figure,
        "places": {one.trial.name: "/".join(one.pair) for one in found},
    }

    def table() -> pa.Table:
        return as_table(_hits(live, snapshot.trials, counts, sought, 0, DOWNLOADED))

    return Page("texts.html", "Search the texts", values, table)


Counts = list[tuple[Pair, int, int]]
"""Trial, place of the window, how many of its texts match: in the order of the trials and their windows."""


def _counted(live: Live, found: Sequence[Known], sought: Pattern) -> Counts:
    paths = [path for one in found for path in one.parts]
    if not paths:
        return []
    question = (sought.where, tuple(sought.values.items()), hash(tuple(paths)), len(paths))

    def ask() -> Counts:
        sql = f"""
            SELECT experiment, trial_id, generation // {WINDOW} AS place, count(*) AS matches
            FROM parts WHERE {sought.where} GROUP BY ALL
        """
        with _ONE_AT_A_TIME:
            table = live.index.parts.query(sql, paths, sought.values)
        order = {one.pair: place for place, one in enumerate(found)}
        rows = [((row["experiment"], row["trial_id"]), row["place"], row["matches"]) for row in table.to_pylist()]
        return sorted(rows, key=lambda row: (order[row[0]], row[1]))

    return live.kept(question, ask)


def _hits(live: Live, trials: Any, counts: Counts, sought: Pattern, skip: int, most: int) -> list[tuple[Pair, Rollout]]:
    """Those from `skip` on: only the parts that hold them are opened."""
    wanted: dict[Pair, list[int]] = {}
    before = seen = 0
    for pair, place, count in counts:
        if seen + count <= skip:
            before = seen = seen + count
            continue
        if seen >= skip + most:
            break
        wanted.setdefault(pair, []).append(place)
        seen += count
    if not wanted:
        return []
    paths = [
        path
        for pair, places in wanted.items()
        for path in dict.fromkeys(
            path for place in places for path in covering(trials[pair], place * WINDOW, (place + 1) * WINDOW)
        )
    ]
    sql = f"SELECT experiment, trial_id, {', '.join(COLUMNS)} FROM parts WHERE {sought.where} ORDER BY generation"
    order = {pair: place for place, pair in enumerate(wanted)}
    rows = []
    for row in live.index.parts.query(sql, paths, sought.values).to_pylist():
        pair = (row.pop("experiment"), row.pop("trial_id"))
        if row["generation"] // WINDOW in wanted[pair]:
            rows.append((pair, Rollout(**row)))
    rows.sort(key=lambda found: (order[found[0]], found[1].generation))
    return rows[skip - before :][:most]


def _over_time(live: Live, found: Sequence[Known], counts: Counts) -> Figure:
    """The share of texts that match, by window: of each setting, or of the one trial."""
    matches: dict[Pair, dict[int, int]] = {}
    for pair, place, count in counts:
        matches.setdefault(pair, {})[place] = count
    groups: dict[Any, list[Known]] = {}
    for one in found:
        groups.setdefault(setting(one), []).append(one)
    colour = live.colour_of(live.index.snapshot)
    several = len({one.trial.algorithm for one in found if not one.trial.is_original}) > 1
    series = []
    for own in groups.values():
        length = max((len(one.trial.first) for one in own), default=0)
        hit, of = np.zeros(length), np.zeros(length)
        for one in own:
            of[: len(one.trial.texts)] += one.trial.texts
            places = (one.trial.first // WINDOW).tolist()
            hit[: len(places)] += [matches.get(one.pair, {}).get(place, 0) for place in places]
        if length:
            trial = own[0].trial
            name = trial.name if trial.is_original else trial.coefficient + (f", {trial.algorithm}" if several else "")
            longest = max((one.trial.first for one in own), key=len)
            shares = hit / np.maximum(of, 1)
            series.append(Series(name, (longest + WINDOW / 2).tolist(), shares.tolist(), colour(own[0])))
            if len(own) == 1:
                targets = [(trial.name, int(first)) for first in longest]
                series.append(
                    Series(
                        name, (longest + WINDOW / 2).tolist(), shares.tolist(), colour(own[0]), "points", small=True,
                        quiet=True, group=name, targets=targets,
                    )
                )  # fmt: skip
    return Figure(
        "found", "Share of the texts that match, over time",
        f"In each window of {WINDOW} texts; seeds of a setting together.", "Generation", "share of texts", series,
        digits=3, ordered=False,
    )  # fmt: skip


def as_table(hits: Sequence[tuple[Pair, Rollout]]) -> pa.Table:
    """What was found."""
    columns: dict[str, Any] = {name: [getattr(row, name) for _, row in hits] for name in COLUMNS}
    of = {"experiment": [pair[0] for pair, _ in hits], "trial_id": [pair[1] for pair, _ in hits]}
    return pa.table(of | columns)
