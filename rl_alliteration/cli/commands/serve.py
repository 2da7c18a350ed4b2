"""`rl-alliteration serve`: a live page over results."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from rl_alliteration.cli.commands import Command


@dataclasses.dataclass(frozen=True)
class Serve(Command):
    """Show results in a browser, live: trials, curves, texts, comparisons, the frontier. On this machine alone; nothing
    but notes is written, and nothing is asked of the network."""

    place: ClassVar[int] = 62

    storage: str
    """Folder or URI of the results."""
    port: int = 8686
    """Of this machine."""

    def run(self) -> int:
        from rl_alliteration.app.serve import serve  # every command imports this file; few need a server

        return serve(self.storage, self.port)
