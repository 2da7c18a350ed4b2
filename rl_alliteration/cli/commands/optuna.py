"""`rl-alliteration optuna`: an experiment as a study of Optuna's."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import ClassVar

from rl_alliteration.analysis.rules import KEEP_VARIETY, SENSE_NATS, check_limits
from rl_alliteration.cli.commands import Command
from rl_alliteration.results.storage import open_storage
from rl_alliteration.terminal import Screen


@dataclasses.dataclass(frozen=True)
class Optuna(Command):
    """Write an experiment as a study of Optuna's, for optuna-dashboard: a search with what it stopped, or a sweep."""

    place: ClassVar[int] = 115

    storage: str
    """Folder or URI of the results."""
    experiment: str
    """Which; the study is called as it is."""
    output: str
    """A new file, of SQLite."""
    keep_variety: float = KEEP_VARIETY
    """As for `search`: share of the original's variety that a window must keep to count, 0 to 1."""
    keep_sense: float = SENSE_NATS
    """As for `search`: most nats by which its cross-entropy under the original model may differ from that of the
    original's own texts."""

    def run(self) -> int:
        check_limits(self.keep_variety, self.keep_sense)
        storage = open_storage(self.storage)
        from rl_alliteration.tune.study import write_study

        count = write_study(storage, self.experiment, Path(self.output), self.keep_variety, self.keep_sense)
        where = shlex.quote(f"sqlite:///{self.output}")
        say = Screen().say
        say(f"{count} trials of {self.experiment} are in {self.output}")
        say(f"See them:  optuna-dashboard {where}")
        return 0
