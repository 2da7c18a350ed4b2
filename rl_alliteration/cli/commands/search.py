"""`rl-alliteration search`: run a search, and say which model to keep."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from rl_alliteration import terminal
from rl_alliteration.analysis.best_setting import best_setting
from rl_alliteration.analysis.frontier import recommended
from rl_alliteration.analysis.measure import measure
from rl_alliteration.analysis.types import Analysis
from rl_alliteration.cli.commands import Command
from rl_alliteration.cli.commands.sweep import show_end
from rl_alliteration.errors import Failure
from rl_alliteration.results import reader
from rl_alliteration.terminal import Screen
from rl_alliteration.tune import search
from rl_alliteration.tune.execution import execute_search


@dataclasses.dataclass(frozen=True)
class SearchCommand(search.Search, Command):
    __doc__ = search.Search.__doc__

    place: ClassVar[int] = 20

    def run(self) -> int:
        terminal.go_on_without_output()
        console = Screen()
        ended = execute_search(self, console)
        try:
            return show_end(console, ended)
        finally:  # some trial may have failed, and another be worth having
            if ended.outcome.stopped_by is None:
                analysis = measure(reader.connect(ended.storage), ended.experiment)
                if self.seeds > 1:
                    analysis = self._best_setting(analysis, console)
                try:
                    answer = str(recommended(analysis, self.keep_variety, self.keep_sense))
                except Failure as nothing_found:  # a result as well
                    answer = str(nothing_found)
                console.say(answer)

    def _best_setting(self, analysis: Analysis, console: Screen) -> Analysis:
        """Name it; what is left to recommend from: its trials, or all where no setting is best."""
        found = best_setting(analysis, search.seeds_of(self), self.keep_variety, self.keep_sense)
        if found is None:
            console.say(f"no setting has {self.seeds} seeds with {analysis.window} texts or more: none is judged")
        if found is None or not any(found.best.scores):
            return analysis
        console.say(str(found))
        return Analysis(found.best.trials, analysis.window)
