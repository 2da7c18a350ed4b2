"""`rl-alliteration status`: how the trials stand."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from typing import ClassVar

from rich.live import Live

from rl_alliteration.cli.commands import Command
from rl_alliteration.cli.summaries import show_trials
from rl_alliteration.cli.watch import REFRESH_SECONDS, LiveTrials, exit_code, fitting
from rl_alliteration.cli.watch import table as live_table
from rl_alliteration.errors import Failure, UserError
from rl_alliteration.identifiers import check_experiment_name
from rl_alliteration.results import reader
from rl_alliteration.results.storage import Storage, check_location, open_storage
from rl_alliteration.terminal import Screen


@dataclasses.dataclass(frozen=True)
class Status(Command):
    """Show the state of each trial, its texts and what they are like."""

    place: ClassVar[int] = 60

    storage: str
    """Folder or URI of the results. Default: $RL_ALLITERATION_STORAGE."""
    experiment: str | None = None
    """Only this one."""
    watch: bool = False
    """Keep the table up to date, with the texts that are not stored yet, from before a sweep begins until none runs,
    and exit with the sweep's code; needs only the storage, not Ray."""

    def run(self) -> int:
        screen = Screen()
        if self.watch:
            storage = _awaited(self.storage, self.experiment, screen)
            _watch(LiveTrials(storage, self.experiment), screen)
            return exit_code(storage, self.experiment)
        storage = open_storage(self.storage)
        reader.trial_ids(storage, self.experiment)
        show_trials(screen, storage, self.experiment)
        unreadable = reader.drivers(storage).unreadable
        unknown = [f"{name} ({why})" for name, why in unreadable.items() if self.experiment in (None, name)]
        if unknown:
            raise Failure(
                f"whether a driver is running is not known, as its lease cannot be read: {', '.join(unknown)}"
            )
        return 0


def _awaited(location: str, experiment: str | None, screen: Screen) -> Storage:
    """The storage, once a sweep has written to it.

    Raises:
        UserError: no sweep can.
    """
    check_location(location)
    if experiment is not None:
        check_experiment_name(experiment)
    told = ""
    while True:
        try:
            storage = open_storage(location)
            reader.trial_ids(storage, experiment)
            return storage
        except UserError as error:
            if str(error) != told:
                told = str(error)
                screen.say(f"Nothing to watch yet ({error}): waiting for a sweep")
            time.sleep(REFRESH_SECONDS)


def _watch(watch: LiveTrials, screen: Screen) -> None:
    """Show the trials until no driver is left: in a terminal always, in a log now and then."""
    live = Live(console=screen, auto_refresh=False) if screen.is_terminal else None
    printed, driven_at = -math.inf, -math.inf
    watch.look()  # of whom drivers are looked for
    with live or contextlib.nullcontext():
        while True:
            now = time.monotonic()
            if watch.has_driver():
                driven_at = now
            over = now - driven_at > _GAP_SECONDS
            trials = watch.look()
            if live is not None:
                live.update(fitting(trials, screen), refresh=True)
            elif over or now - printed > _LOG_SECONDS:
                screen.show(live_table(trials))
                printed = now
            if over:
                return
            time.sleep(REFRESH_SECONDS)


_LOG_SECONDS = 30.0
_GAP_SECONDS = 10.0
"""How long nobody drives an experiment between the parts of a search."""
