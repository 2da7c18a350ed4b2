"""Texts and comparisons of trials as a person reads them: in a notebook as cards and tables, elsewhere as lines."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import duckdb
import pyarrow as pa

from rl_alliteration.analysis.comparison import GENERATION, KL, NUMBERS, as_table, differing, reached, usual, window_at
from rl_alliteration.analysis.measure import measure_some
from rl_alliteration.analysis.metrics import METRICS
from rl_alliteration.analysis.types import WINDOW, Trial
from rl_alliteration.app.rows import COLUMNS, Rollout, ordered
from rl_alliteration.errors import UserError
from rl_alliteration.report.notebook import cards_html, table_html, table_text
from rl_alliteration.terminal import printable


@dataclasses.dataclass(frozen=True, repr=False)
class Rollouts:
    """Some texts, in an order. A notebook shows them as cards with alliterating runs marked."""

    title: str
    rows: Sequence[Rollout]
    """Each with `text`, `generation`, `raw_reward`, `kl` and other columns of `generations`."""

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return "\n\n".join([self.title, *(f"{_about(row)}\n{printable(row.text)}" for row in self.rows)])

    def _repr_html_(self) -> str:
        return cards_html(self.title, [(_about(row), row.text) for row in self.rows])


@dataclasses.dataclass(frozen=True, repr=False)
class Comparison:
    """Two to four trials at one place, each in its own window. A notebook shows it as tables and cards."""

    at: str
    """generation or kl."""
    value: float
    """That generation, or nats a token."""
    table: pa.Table
    """A row a trial: the window's first generation, and its metrics as the live page shows them."""
    settings: Mapping[str, Sequence[str]]
    """Those that differ, with each trial's value in words."""
    texts: Sequence[Rollouts]
    """Typical of each trial's window."""

    @property
    def title(self) -> str:
        """Of what it is."""
        place = f"generation {self.value:,.0f}" if self.at == GENERATION else f"KL {self.value:g} nats a token"
        return f"{len(self.texts)} trials at {place}, windows of {WINDOW} texts"

    def _tables(self) -> list[tuple[str, list[str], list[list[str]]]]:
        names = [f"{row['trial_id']}" for row in self.table.select(["trial_id"]).to_pylist()]
        firsts = self.table["first_generation"].to_pylist()
        rows = [["from generation", *(f"{first:,}" for first in firsts)]]
        for name in NUMBERS:
            values = self.table[name].to_pylist()
            shown = ("–" if value is None else f"{value:z,.{METRICS[name].digits}f}" for value in values)
            rows.append([METRICS[name].title, *shown])
        found = [(self.title, ["metric", *names], rows)]
        if self.settings:
            different = [[name, *values] for name, values in self.settings.items()]
            found.append(("Settings that differ", ["setting", *names], different))
        return found

    def __repr__(self) -> str:
        return "\n\n".join([*(table_text(*table) for table in self._tables()), *map(repr, self.texts)])

    def _repr_html_(self) -> str:
        tables = (table_html(*table) for table in self._tables())
        return "".join([*tables, *(texts._repr_html_() for texts in self.texts)])


def texts_of(
    connection: duckdb.DuckDBPyConnection, experiment: str, trial_id: str, low: int, high: int
) -> list[Rollout]:
    """Generations `low` … `high` − 1 of a trial, those that there are."""
    table = connection.sql(
        f"SELECT {', '.join(COLUMNS)} FROM generations WHERE experiment = ? AND trial_id = ? "
        "AND generation >= ? AND generation < ? ORDER BY generation",
        params=[experiment, trial_id, low, high],
    ).to_arrow_table()
    return [Rollout(**row) for row in table.to_pylist()]


def compare(
    connection: duckdb.DuckDBPyConnection,
    pairs: Sequence[tuple[str, str]],
    at_kl: float | None,
    at_generation: int | None,
    texts: int,
) -> Comparison:
    """Trials, by experiment and id, at one place. By default that is the last generation that all have.

    Raises:
        UserError: one of them does not get there, or has no text.
    """
    found = measure_some(connection, pairs)
    trials = [trial for trial, _ in found]
    at = GENERATION if at_kl is None else KL
    given = at_generation if at_kl is None else at_kl
    value = usual(trials, at) if given is None else float(given)
    windows = [_window(trial, at, value) for trial in trials]
    firsts = [int(trial.first[window]) for trial, window in zip(trials, windows, strict=True)]
    shown = []
    for (experiment, trial_id), first in zip(pairs, firsts, strict=True):
        rows = ordered(texts_of(connection, experiment, trial_id, first, first + WINDOW), "typical")[:texts]
        shown.append(Rollouts(f"{trial_id}, typical from generation {first:,}", rows))
    settings = {name: words for name, words, differ in differing([planned for _, planned in found]) if differ}
    return Comparison(at, value, as_table(trials, windows), settings, shown)


def _window(trial: Trial, at: str, value: float) -> int:
    window = window_at(trial, at, value)
    if window is not None:
        return window
    there = f"reaches {reached(trial):.3f} at most" if at == KL else f"has {trial.generations:,} texts"
    raise UserError(f"at_{at}: {value:g} is not accepted; {trial.name} {there}")


def _about(row: Rollout) -> str:
    return f"generation {row.generation:,} · reward {row.raw_reward:z.1f} · KL {row.kl:z.3f}"
