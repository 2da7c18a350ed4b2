"""`rl-alliteration remove`: delete results."""

from __future__ import annotations

import dataclasses
import sys
from typing import ClassVar

from rl_alliteration.cli.commands import Command
from rl_alliteration.errors import UserError
from rl_alliteration.results import maintenance
from rl_alliteration.results.forks import orphaned
from rl_alliteration.results.lease import Lease
from rl_alliteration.results.originals import left_without
from rl_alliteration.results.storage import open_storage
from rl_alliteration.terminal import Screen
from rl_alliteration.tune.submission import new_run_id


@dataclasses.dataclass(frozen=True)
class Remove(Command):
    """Delete an experiment or one of its trials: lists what goes, then asks."""

    place: ClassVar[int] = 140

    storage: str
    """Folder or URI of the results. Default: $RL_ALLITERATION_STORAGE."""
    experiment: str
    """What to delete, or whose trial."""
    trial: str | None = None
    """Only this trial, by its id, or by as much of it as no other has."""
    yes: bool = False
    """Do not ask."""

    def run(self) -> int:
        storage = open_storage(self.storage)
        say = Screen().say
        trial = None if self.trial is None else maintenance.whole_id(storage, self.experiment, self.trial)
        maintenance.removal(storage, self.experiment, trial)  # what is not there is told before any waiting
        seen, tag = maintenance.await_no_driver(storage, self.experiment, say)
        files = maintenance.removal(storage, self.experiment, trial)
        for (experiment, trial_id), count in maintenance.texts_by_trial(storage, self.experiment, trial).items():
            say(f"  {experiment}/{trial_id}: {count:,} texts")
        for original, others in left_without(storage, self.experiment, trial).items():
            for other in others:
                say(f"  {other} compares with {original} of this one, and samples it anew when it is next run")
        for parent, fork, begun in orphaned(storage, self.experiment, self.trial):
            left = "keeps the model that it begins with" if begun else "can then no more be begun"
            say(f"  {fork} is a fork of {parent} and {left}")
        say(f"{len(files):,} files in {storage}")
        if not self.yes:
            if not sys.stdin.isatty():
                raise UserError("--yes: nobody is there to be asked; give it to delete all the same")
            if not _agreed("Delete them for good? [y/N] "):
                say("Nothing was deleted.")
                return 0
        lease = Lease(storage, self.experiment, f"remove-{new_run_id()}")
        lease.take(seen, tag, say)
        try:
            maintenance.remove(storage, self.experiment, trial, lease)
        finally:
            lease.release()
        say("Deleted.")
        return 0


def _agreed(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:  # Ctrl-D
        return False
