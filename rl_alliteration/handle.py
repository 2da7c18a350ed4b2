"""Results as a person works with them in Python: tables, texts, figures, the model to keep."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from rl_alliteration.analysis.comparison import TEXTS, check_count
from rl_alliteration.analysis.frontier import Recommendation, recommended
from rl_alliteration.analysis.measure import measure
from rl_alliteration.analysis.rules import KEEP_VARIETY, SENSE_NATS
from rl_alliteration.analysis.summary import summarise
from rl_alliteration.analysis.table import VIEWS, windows_table
from rl_alliteration.analysis.types import WINDOW, Analysis
from rl_alliteration.app.rows import ORDERS, ordered
from rl_alliteration.display import Comparison, Rollouts, compare, texts_of
from rl_alliteration.errors import UserError
from rl_alliteration.names import find_trial
from rl_alliteration.report.notebook import table_html, table_text
from rl_alliteration.results import reader
from rl_alliteration.results.storage import Storage, open_storage
from rl_alliteration.terminal import one_line

if TYPE_CHECKING:
    import plotly.graph_objects

    from rl_alliteration.report.base import Figure


def open_results(storage: str | os.PathLike[str], experiment: str | None = None) -> Results:
    """Open results; also while a sweep writes them.

    Args:
        storage: folder or URI of the results.
        experiment: only this one. Default: all.

    Raises:
        UserError: there are none.
    """
    opened = open_storage(os.fspath(storage))
    reader.trial_ids(opened, experiment)
    return Results(opened, experiment)


class Results:
    """Results of an experiment, or of all in a storage. Each call reads what is there by then.

    Tables are `pyarrow.Table`: `table.to_pandas()` and `polars.from_arrow(table)` make data frames of them.
    """

    def __init__(self, storage: Storage, experiment: str | None) -> None:
        """See `open_results`."""
        self.storage = str(storage)
        self.experiment = experiment
        self._storage = storage

    def generations(self) -> pa.Table:
        """One row a text, by trial and generation."""
        return self._view("generations", "generation")

    def steps(self) -> pa.Table:
        """One row an update, by trial and generation; cross-entropies and KL in nats."""
        return self._view("steps", "generation")

    def trials(self) -> pa.Table:
        """One row a trial: its newest state and its hyperparameters."""
        return self._view("trials", "trial_id")

    def windows(self, window: int = WINDOW) -> pa.Table:
        """One row for each `window` generations of a trial: reward, KL, variety, repetition, whether it has collapsed.

        Raises:
            UserError: the window has fewer than 10 generations.
        """
        return windows_table(self._analysis(window))

    def query(self, sql: str) -> pa.Table:
        """The answer to one SELECT over the whole storage's views generations, steps, trials, trial_events, windows.

        Raises:
            UserError: the SQL is wrong, or does more than read.
        """
        return reader.query_table(self._storage, sql, VIEWS)

    def texts(self, trial: str, around: int | None = None, number: int = 10) -> pa.Table:
        """The texts of a trial that are nearest to a generation: one row a text, by generation.

        Args:
            trial: its id, or as much of it as no other has: its beginning, or that of its hash.
            around: the generation. Default: the last.
            number: how many.

        Raises:
            UserError: there is no such trial, or it has no such generation.
        """
        experiment, trial = self._pair(trial)
        connection = reader.connect(self._storage)
        if around is not None:
            self._newest(connection, experiment, trial, around)
        nearest = """
            SELECT * FROM (
                SELECT * FROM generations WHERE experiment = $experiment AND trial_id = $trial
                ORDER BY abs(generation - $around), generation LIMIT $number
            ) ORDER BY generation
        """
        values = {
            "experiment": experiment,
            "trial": trial,
            "around": 2**62 if around is None else around,
            "number": number,
        }
        return connection.sql(nearest, params=values).to_arrow_table()

    def rollouts(self, trial: str, around: int | None = None, number: int = 10, order: str = "typical") -> Rollouts:
        """Texts of the window of 100 that a generation lies in, to be read: a notebook shows them as cards.

        Args:
            trial: as for `texts`.
            around: the generation. Default: the last.
            number: how many, the first in that order.
            order: sampled, reward, kl, typical or random, as on the live page.

        Raises:
            UserError: there is no such trial, generation or order.
        """
        if order not in ORDERS:
            raise UserError(f"order: {order!r} is not accepted; give one of {', '.join(ORDERS)}")
        experiment, trial = self._pair(trial)
        connection = reader.connect(self._storage)
        newest = self._newest(connection, experiment, trial, around)
        first = (newest if around is None else around) // WINDOW * WINDOW
        found = texts_of(connection, experiment, trial, first, first + WINDOW)
        of = f"{trial}, generations {first:,} to {first + len(found) - 1:,}: {ORDERS[order]}"
        return Rollouts(of, ordered(found, order)[:number])

    def compare(
        self, *trials: str, at_kl: float | None = None, at_generation: int | None = None, texts: int = TEXTS
    ) -> Comparison:
        """Two to four trials where each first reaches a KL divergence, or at equal generation; in windows of 100 texts.

        Args:
            trials: as for `texts`.
            at_kl: nats a token.
            at_generation: default, where there is no `at_kl`: the last that all have.
            texts: typical ones of each to show.

        Raises:
            UserError: a trial does not get there, or there is no such trial.
        """
        check_count(len(trials), "trials")
        if at_kl is not None and at_generation is not None:
            raise UserError("at_kl, at_generation: give one of them")
        connection = reader.connect(self._storage)
        return compare(connection, [self._pair(one) for one in trials], at_kl, at_generation, texts)

    @property
    def figures(self) -> list[str]:
        """Names that `figure` takes."""
        return [figure.key for figure in self._figures()]

    def figure(self, name: str) -> plotly.graph_objects.Figure:
        """A figure of the report; a notebook shows it.

        Raises:
            UserError: there is no such figure of these results.
        """
        from plotly.graph_objects import Figure

        from rl_alliteration.report.drawing import to_plotly

        found = {figure.key: figure for figure in self._figures()}
        if name not in found:
            raise UserError(f"figure: {name!r} is unknown; choose one of {', '.join(found)}")
        return Figure(to_plotly(found[name])).update_layout(title=found[name].title)

    def recommended(self, keep_variety: float = KEEP_VARIETY, keep_sense: float = SENSE_NATS) -> Recommendation:
        """The model that alliterates most among those that keep variety and sense.

        Args:
            keep_variety: share of the original's variety that it keeps, 0 to 1.
            keep_sense: nats that its texts' cross-entropy under the original model is off at most.

        Raises:
            UserError: a limit is not accepted.
            Failure: no model keeps that much.
        """
        return recommended(self._analysis(), keep_variety, keep_sense)

    def __repr__(self) -> str:
        head, *rows = self._summary()
        return table_text(self._title(), head, rows)

    def _repr_html_(self) -> str:
        head, *rows = self._summary()
        return table_html(self._title(), head, rows)

    def _title(self) -> str:
        return one_line(f"Results of {self.experiment or 'all experiments'} in {self.storage}")

    def _summary(self) -> list[list[str]]:
        """A heading, and a row for each trial; the numbers are means over its last 100 texts."""
        heading = ["trial", "status", "texts", "reward", "KL", "variety"]
        summaries = summarise(self._storage, self.experiment, wait=False)
        numbers = [(s.raw_reward, -s.kl_penalty, s.variety) for s in summaries]
        return [heading] + [
            [one_line(s.trial_id), s.status, f"{s.generations}/{s.max_generations}", *(f"{x:z.2f}" for x in row)]
            for s, row in zip(summaries, numbers, strict=True)
        ]

    def _pair(self, given: str) -> tuple[str, str]:
        """Experiment and id of the trial that a person means.

        Raises:
            UserError: there is none, or more than one.
        """
        known = {trial_id: name for name, trial_id in reader.trial_ids(self._storage, self.experiment)}
        trial = find_trial(given, known, self.storage, "trial")
        return known[trial], trial

    def _newest(
        self, connection: duckdb.DuckDBPyConnection, experiment: str, trial: str, around: int | None = None
    ) -> int:
        """The last generation of a trial.

        Raises:
            UserError: it has no text, or none of the generation `around`.
        """
        last = "SELECT max(generation) FROM generations WHERE experiment = ? AND trial_id = ?"
        ((newest,),) = connection.execute(last, [experiment, trial]).fetchall()
        if newest is None or not 0 <= (newest if around is None else around) <= newest:
            there = "no texts yet" if newest is None else f"the generations 0 to {newest}"
            raise UserError(f"around: {'the last' if around is None else around} is not accepted; {trial} has {there}")
        return int(newest)

    def _view(self, name: str, order: str) -> pa.Table:
        sql = f"""
            SELECT * FROM {name} WHERE $experiment IS NULL OR experiment = $experiment
            ORDER BY experiment, trial_id, {order}
        """
        return reader.connect(self._storage).sql(sql, params={"experiment": self.experiment}).to_arrow_table()

    def _analysis(self, window: int = WINDOW) -> Analysis:
        return measure(reader.connect(self._storage), self.experiment, window)

    def _figures(self) -> list[Figure]:
        from rl_alliteration.report.base import Shown
        from rl_alliteration.report.sections import main_figures

        found = reader.searched(self._storage, lambda damaged: None)  # `verify` says so
        searches = {name for name in found if self.experiment in (None, name)}
        return main_figures(Shown(self._analysis(), searches=searches))
