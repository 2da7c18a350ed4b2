"""`rl-alliteration logs`: what a job prints."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import tyro

from rl_alliteration import terminal
from rl_alliteration.cli.commands import Command
from rl_alliteration.terminal import complain
from rl_alliteration.tune import submission


@dataclasses.dataclass(frozen=True)
class Logs(Command):
    """Print the log of a job."""

    place: ClassVar[int] = 50

    job: tyro.conf.Positional[str]
    """Its id, or the name of its experiment."""
    address: str | None = None
    """The dashboard of the cluster. Default: as for `submit`."""
    follow: bool = False
    """Go on until the job ends, and exit with its code."""

    def run(self) -> int:
        client = submission.connect(self.address)
        job = submission.find_job(client, self.job)
        if self.follow:
            return follow(client, job)
        terminal.write(submission.log_of(client, job))
        return 0


def follow(client: Any, job: str) -> int:
    """Print a job's log until it ends; its exit code."""
    try:
        return submission.follow(client, job, terminal.write)
    except KeyboardInterrupt:
        complain(f"the job {job} goes on; only its log is no longer followed")
        raise
