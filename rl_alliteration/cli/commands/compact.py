"""`rl-alliteration compact`: a copy with fewer files."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from rl_alliteration import terminal
from rl_alliteration.cli.commands import Command
from rl_alliteration.errors import UserError
from rl_alliteration.results import maintenance, reader
from rl_alliteration.results.storage import open_storage
from rl_alliteration.terminal import Screen


@dataclasses.dataclass(frozen=True)
class Compact(Command):
    """Copy results with one Parquet part per trial; the source is not touched."""

    place: ClassVar[int] = 130

    storage: str
    """Folder or URI of the results. Default: $RL_ALLITERATION_STORAGE."""
    output: str
    """A new folder or URI."""

    def run(self) -> int:
        terminal.go_on_without_output()
        source = open_storage(self.storage)
        reader.trial_ids(source)
        try:
            target = open_storage(self.output, create=True)
        except UserError as error:  # it speaks of the flag that every other command has for it
            raise UserError(str(error).replace("--storage", "--output", 1)) from error
        trials = maintenance.compact(source, target)
        Screen().say(f"{trials} trials copied to {self.output}")
        return 0
