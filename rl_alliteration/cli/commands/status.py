"""`rl-alliteration status`: how the trials stand."""

from __future__ import annotations

import dataclasses
import time
from typing import ClassVar

from rich.live import Live

from rl_alliteration.cli.commands import Command
from rl_alliteration.cli.summaries import show_trials
from rl_alliteration.cli.watch import REFRESH_SECONDS, LiveTrials
from rl_alliteration.cli.watch import table as live_table
from rl_alliteration.errors import Failure
from rl_alliteration.results import reader
from rl_alliteration.results.storage import open_storage
from rl_alliteration.terminal import Screen


@dataclasses.dataclass(frozen=True)
class Status(Command):
    """Show the state of each trial, its texts and what they are like."""

    place: ClassVar[int] = 60

    storage: str
    """Folder or URI of the results."""
    experiment: str | None = None
    """Only this one."""
    watch: bool = False
    """Keep the table up to date, with the texts that are not stored yet; needs only the storage, not Ray."""

    def run(self) -> int:
        storage = open_storage(self.storage)
        reader.trial_ids(storage, self.experiment)
        if self.watch:
            return _watch(LiveTrials(storage, self.experiment), Screen())
        screen = Screen()
        show_trials(screen, storage, self.experiment)
        unreadable = reader.drivers(storage).unreadable
        unknown = [f"{name} ({why})" for name, why in unreadable.items() if self.experiment in (None, name)]
        if unknown:
            raise Failure(
                f"whether a driver is running is not known, as its lease cannot be read: {', '.join(unknown)}"
            )
        return 0


def _watch(watch: LiveTrials, console: Screen) -> int:
    """In a terminal until it is interrupted; in a log a table now and then, until no driver is left."""
    if not console.is_terminal:
        while True:
            console.print(live_table(watch.look()))
            if not watch.has_driver():
                return 0
            time.sleep(_LOG_SECONDS)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(live_table(watch.look(), max(console.height - 3, 1)), refresh=True)
            time.sleep(REFRESH_SECONDS)


_LOG_SECONDS = 30.0
