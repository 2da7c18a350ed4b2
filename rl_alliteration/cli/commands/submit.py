"""`rl-alliteration submit`: a sweep as a job of a Ray cluster."""

from __future__ import annotations

import dataclasses
import os
import shlex
from typing import Annotated, ClassVar

import tyro

from rl_alliteration.cli.commands import Command
from rl_alliteration.cli.commands.logs import follow
from rl_alliteration.identifiers import check_experiment_name
from rl_alliteration.results.storage import check_location, existing_storage
from rl_alliteration.terminal import Screen, complain
from rl_alliteration.tune import submission
from rl_alliteration.tune.fork import parent_of, place_of
from rl_alliteration.tune.plan import Sweep, resolve_all
from rl_alliteration.tune.web_hook import NOTIFY_URL


@dataclasses.dataclass(frozen=True)
class Submit(Sweep, Command):
    """Run a sweep as a job of a Ray cluster, follow its log and exit with its exit code. Takes the flags of `sweep`."""

    place: ClassVar[int] = 30

    address: str | None = None
    """The dashboard of the cluster. Default: $RAY_API_SERVER_ADDRESS, $RAY_ADDRESS, http://127.0.0.1:8265."""
    no_wait: bool = False
    """Do not follow the log."""
    working_dir: str | None = None
    """Folder that is sent along. Default: the clone that this command runs from, if it does."""
    pip: Annotated[tuple[str, ...], tyro.conf.arg(metavar="REQUIREMENT ...")] = ()
    """What the job needs beyond the cluster's own installation: requirements, or a wheel of this machine."""

    def run(self) -> int:
        sweep = Sweep(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Sweep)})
        check_location(sweep.storage)
        experiment = _experiment(sweep)
        submission.sweep_arguments(sweep)  # refused before the cluster is asked
        if os.environ.get(NOTIFY_URL):
            complain(f"note: {NOTIFY_URL} is not sent with a job; it has that of the cluster's head, if there is one")
        submission.check_for_job(sweep)
        environment = submission.runtime_environment(self.working_dir, self.pip)
        client = submission.connect(self.address)
        job = f"{experiment}-{submission.new_run_id()}"
        submission.submit(client, dataclasses.replace(sweep, experiment=experiment), environment, job)
        address = shlex.quote(client.get_address())
        say = Screen(stderr=True).say
        say(f"Job {job}; stop it with: rl-alliteration stop {job} --address {address}")
        if self.no_wait:
            say(f"See its log with: rl-alliteration logs {job} --follow --address {address}")
            return 0
        return follow(client, job)


def _experiment(sweep: Sweep) -> str:
    """The experiment's name. The sweep is checked as far as it can be here: the job checks the rest.

    Raises:
        UserError: a field is outside of what it accepts.
    """
    if sweep.from_trial and existing_storage(sweep.storage) is None:  # of the cluster alone
        return check_experiment_name(sweep.experiment or place_of(sweep.from_trial).experiment)
    parent = parent_of(sweep)
    return str(resolve_all(sweep if parent is None else parent.completed(sweep))[0].experiment)
