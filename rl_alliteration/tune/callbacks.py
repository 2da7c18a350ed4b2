"""What Tune asks and is answered while it runs: which trial comes next, when to stop, what has happened."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray import tune

from rl_alliteration.analysis.stopping import HALVING
from rl_alliteration.config import PlannedTrial
from rl_alliteration.errors import Failure
from rl_alliteration.results import schema
from rl_alliteration.results.events import EventLog
from rl_alliteration.results.heartbeat import Heartbeat
from rl_alliteration.results.lease import Lease
from rl_alliteration.results.parts import stored_generations
from rl_alliteration.rows import TrialReport
from rl_alliteration.tune.budget import Budget
from rl_alliteration.tune.failures import trial_error
from rl_alliteration.tune.metrics import Metrics
from rl_alliteration.tune.progress import Progress
from rl_alliteration.tune.proposals import Proposals
from rl_alliteration.tune.resume import Found
from rl_alliteration.tune.signals import StopRequest
from rl_alliteration.tune.tracking import Tracking
from rl_alliteration.tune.trainable import TrialSetup, finished_path

STOP_SECONDS = 20.0
"""How long a stop waits for trials to publish: a job's grace period is 30 s."""


_WAIT_SECONDS = 30.0
_LOOK_SECONDS = 0.5


_STATES = (schema.PLANNED, schema.RUNNING, schema.STOPPED, schema.FINISHED, schema.FAILED)


class Searcher(tune.search.Searcher):
    """Asks for a trial whenever Tune has room for one. Its state is in the results: Tune is given nothing to keep."""

    def __init__(self, next_one: Callable[[], TrialSetup | None], over: Callable[[], bool]) -> None:
        """`over`: whether there will be no other when `next_one` has none now."""
        super().__init__()
        self._next_one = next_one
        self._over = over

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def suggest(self, trial_id: str) -> Any:
        """The next trial's configuration; None if there may be one later."""
        setup = self._next_one()
        if setup is not None:
            return {"setup": setup.to_tune()}
        return self.FINISHED if self._over() else None

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """The follower reports it."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing to save."""


class Stopper(tune.Stopper):
    """Stops each trial at its next report, and starts no more.

    Trials see in the lease that they are to stop, and publish what they have: none is waited for longer than that.
    """

    def __init__(self, stop: StopRequest, lease: Lease, follower: Follower, budget: Budget, devices: float) -> None:
        """`devices`: that one trial holds."""
        self._stop = stop
        self._budget = budget
        self._devices = devices
        self._lease = lease
        self._follower = follower

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self._stop.asked or self._follower.lags(result)

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def stop_all(self) -> bool:
        """Asked by Tune between results, and while it waits for some.

        Raises:
            Superseded: another driver has taken over; trials that were refused would be tried again and again.
        """
        self._lease.check()
        self._follower.tick()
        if spent := self._budget.use(self._devices * len(self._follower.running)):
            self._stop.end(spent)
        if not self._stop.asked:
            return False
        over = self._follower.all_published() or time.monotonic() - self._stop.since > STOP_SECONDS
        if over:
            self._follower.end()  # before Tune waits for the steps in hand: a job's grace period may end meanwhile
        return over


class Follower(tune.Callback):
    """Writes event log and heartbeat and shows progress: the driver is the only one who writes events."""

    def __init__(
        self,
        log: EventLog,
        progress: Progress,
        stop: StopRequest,
        wanted: Mapping[str, float],
        tracked: Tracking,
    ) -> None:
        """`wanted`: resources of one trial."""
        self._log = log
        self._wanted = wanted
        self._tracked = tracked
        self._heartbeat = Heartbeat(log.storage, log.experiment, log.run_id)
        self._metrics = Metrics(log.experiment)
        self._states: dict[str, str] = {}
        self._last_said = time.monotonic() - _WAIT_SECONDS
        self._found: dict[str, Found] = {}
        self._progress = progress
        self._stop = stop
        self._latest: dict[str, TrialReport] = {}
        self._diverged: set[str] = set()
        self._ended: set[str] = set()
        self._useless: dict[str, str] = {}
        """Trials that a search has no more use for, and why."""
        self._published: set[str] = set()
        self._looked = 0.0
        self.proposals: Proposals | None = None
        """Of a search: learns how its trials end."""
        self.running: set[str] = set()
        self.errors: dict[str, str] = {}

    def add(self, found: Found) -> None:
        """A trial shall be run."""
        trial, name = found.trial, found.trial.trial_id
        if name not in self._found:
            self._progress.add(trial, found.generations)
        self._found[name] = found
        self._latest.pop(name, None)
        self._heartbeat.add(name, trial.max_generations)
        self._metrics.add(trial.config)
        self._append(name, schema.PLANNED, generations=found.generations)

    def lags(self, result: Mapping[str, Any]) -> bool:
        """Whether a search has no more use for this trial."""
        if self.proposals is None:
            return False
        report = TrialReport.of_result(result)
        reason = self.proposals.lags(report.name, report.best)
        if reason:
            self._useless[report.name] = reason
        return bool(reason)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks to restore them; a sweep is never restored from Tune's files

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Tune has given the trial an actor."""
        self.running.add(trial_id_of(trial))

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """The trial has reported."""
        name = trial_id_of(trial)
        first = name not in self._latest
        report = self._latest[name] = TrialReport.of_result(result)
        if first:
            self._append(name, schema.RUNNING, generations=report.resumed_at)
        if report.diverged_at >= 0 and name not in self._diverged:
            self._diverged.add(name)
            self._append(name, schema.RUNNING, reason=f"diverged_at {report.diverged_at}")
        self._tracked.published(self._found[name].trial, report.published)
        speed = self._heartbeat.report(name, report)
        self._metrics.report(name, report, speed)
        self._progress.report(name, report)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """The trial has published its last part."""
        name = trial_id_of(trial)
        report = self._latest.get(name)
        if report is None:  # stopped before it began
            return
        self._end(name)
        error = report.failure
        if error:
            self.errors[name] = error
            self._append(name, schema.FAILED, reason="diverged" if error.startswith("diverged") else "", error=error)
        elif report.generations >= self._found[name].trial.max_generations:
            self._append(name, schema.FINISHED, generations=report.generations)
        else:
            reason = report.stopped or self._useless.get(name, self._stop.reason)
            if not reason:
                self.errors[name] = "it ended before its end, and nothing says why; run the same command again"
            self._append(name, schema.STOPPED, generations=report.generations, reason=reason)
            if reason == self._stop.reason:
                return  # to be continued
        if self.proposals is not None:
            halved = self._useless.get(name) == HALVING
            self.proposals.end(name, report.best, report.generations, failed=bool(error), halved=halved)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """The trial was lost more often than allowed, or its code is wrong."""
        self.fail(trial_id_of(trial), trial_error(trial))

    def fail(self, name: str, error: str) -> None:
        """The trial is tried no more."""
        self._end(name)
        self.errors[name] = error
        self._append(name, schema.FAILED, error=error)
        if self.proposals is not None:
            report = self._latest.get(name)
            self.proposals.end(name, (), report.generations if report else 0, failed=True, halved=False)

    @property
    def ended(self) -> int:
        """How many trials have ended."""
        return len(self._ended)

    def unfinished(self) -> list[PlannedTrial]:
        """After an error that ended Tune: trials that have not ended; none of them runs any more."""
        self.running.clear()
        return [found.trial for name, found in self._found.items() if name not in self._ended]

    def running_on(self, text: str) -> str | None:
        """The running trial whose actor is named in a text of Ray's; None if that is not known."""
        if len(self.running) == 1:
            return next(iter(self.running))
        actors = {name: self._latest[name].actor for name in self.running if name in self._latest}
        named = (name for name, actor in actors.items() if actor and actor in text)
        return next(named, None)

    def all_published(self) -> bool:
        """Whether every trial that runs has published what it has, as it does when it is to stop."""
        if self.running - self._published and time.monotonic() - self._looked > _LOOK_SECONDS:
            self._looked = time.monotonic()
            with contextlib.suppress(Failure, OSError):  # asked again soon
                there = set(self._log.storage.list("staging"))
                self._published = {name for name in self.running if finished_path(self._log.run_id, name) in there}
        return self.running <= self._published

    def tick(self) -> None:
        """Asked again and again while the sweep runs."""
        self._heartbeat.beat()
        if not self.running and self._ended != self._found.keys() and not self._stop.asked:
            self._say_what_is_missing()

    def end(self) -> None:
        """Write `stopped` for trials that a stop kept from ending, with the texts that are in the storage."""
        self._heartbeat.beat(at_once=True)
        if not self._stop.asked:
            return
        for name in self._found.keys() - self._ended:
            self._ended.add(name)
            there = stored_generations(self._log.storage, self._log.experiment, name)
            self._append(name, schema.STOPPED, generations=there, reason=self._stop.reason)
        ours = {finished_path(self._log.run_id, name) for name in self._found}
        for path in ours.intersection(self._log.storage.list("staging")):
            self._log.storage.delete(path)

    def _end(self, name: str) -> None:
        self.running.discard(name)
        self._ended.add(name)
        self._heartbeat.end(name)
        self._metrics.end(name)
        self._progress.end(name)

    def _say_what_is_missing(self) -> None:
        """A line now and then while no node is there that could run a trial."""
        if time.monotonic() - self._last_said < _WAIT_SECONDS:
            return
        self._last_said = time.monotonic()
        live = ray.cluster_resources()
        for kind, wanted in self._wanted.items():
            if wanted > live.get(kind, 0.0):
                waiting = len(self._found) - len(self._ended)
                self._progress.say(
                    f"waiting for {kind}s: {waiting} trials need {wanted:g} each, live nodes have "
                    f"{live.get(kind, 0.0):g}; asked the cluster for more"
                )
                return

    def _append(
        self, name: str, status: str, *, generations: int | None = None, reason: str = "", error: str = ""
    ) -> None:
        self._states[name] = status
        self._metrics.states({state: list(self._states.values()).count(state) for state in _STATES})
        report = self._latest.get(name)
        if generations is None:
            generations = report.published if report else self._found[name].generations
        self._log.append(
            self._found[name].trial,
            status,
            generations=generations,
            host=report.host if report else "",
            device=report.device if report else "",
            reason=reason,
            error=error,
        )
        if status in (schema.STOPPED, schema.FINISHED, schema.FAILED):
            self._tracked.published(self._found[name].trial, generations)
            self._tracked.ended(self._found[name].trial, status)


def trial_id_of(trial: Any) -> str:
    return TrialSetup.from_tune(trial.config["setup"]).trial.trial_id
