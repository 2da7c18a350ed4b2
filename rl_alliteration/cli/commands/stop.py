"""`rl-alliteration stop`: stop a job."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import tyro

from rl_alliteration.cli.commands import Command
from rl_alliteration.terminal import Screen
from rl_alliteration.tune import submission


@dataclasses.dataclass(frozen=True)
class Stop(Command):
    """Stop a job: its trials publish what they have, and the same sweep goes on from there."""

    place: ClassVar[int] = 40

    job: tyro.conf.Positional[str]
    """Its id, or the name of its experiment."""
    address: str | None = None
    """The dashboard of the cluster. Default: as for `submit`."""

    def run(self) -> int:
        client = submission.connect(self.address)
        job = submission.find_job(client, self.job)
        state = submission.stop(client, job)
        words = "is stopped; the same sweep, submitted again, goes on from here"
        Screen().say(f"Job {job} {words if state == 'STOPPED' else f'had ended: {state}'}")
        return 0
