"""`rl-alliteration report`: the page of results."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from rl_alliteration import terminal
from rl_alliteration.cli.commands import Command
from rl_alliteration.report import command
from rl_alliteration.terminal import Screen


@dataclasses.dataclass(frozen=True)
class Report(command.Report, Command):
    __doc__ = command.Report.__doc__

    place: ClassVar[int] = 110

    def run(self) -> int:
        terminal.go_on_without_output()
        command.report(self, Screen().say)
        return 0
