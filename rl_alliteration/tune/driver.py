"""Run what is missing of a planned sweep with Ray Tune, on this machine or a cluster."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ray import tune
from rich.console import Console
from rich.text import Text

from rl_alliteration.analysis.measure import measure_original
from rl_alliteration.analysis.rules import Limits
from rl_alliteration.analysis.stopping import COLLAPSE
from rl_alliteration.config import PlannedTrial
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.results.cards import SEARCH, SWEEP, write_run
from rl_alliteration.results.events import EventLog
from rl_alliteration.results.lease import Lease
from rl_alliteration.results.provenance import software_versions
from rl_alliteration.results.reader import connect
from rl_alliteration.results.storage import Storage
from rl_alliteration.rl.advantages import ALGORITHMS
from rl_alliteration.tune.budget import Budget
from rl_alliteration.tune.callbacks import Follower, Searcher, Stopper, trial_id_of
from rl_alliteration.tune.cluster import (
    check_resources,
    check_shared,
    cluster_capacity,
    connected,
    ending_with_ray,
    local_resources,
)
from rl_alliteration.tune.fork import place_of
from rl_alliteration.tune.history import history
from rl_alliteration.tune.losses import Losses
from rl_alliteration.tune.metrics import provide_dashboard
from rl_alliteration.tune.notices import tell
from rl_alliteration.tune.plan import Sweep, plan
from rl_alliteration.tune.progress import Progress
from rl_alliteration.tune.proposals import Proposals
from rl_alliteration.tune.restore import restore_files, store_model
from rl_alliteration.tune.resume import Found, Standing, find
from rl_alliteration.tune.reward_parameters import with_reward_parameters
from rl_alliteration.tune.run_flags import checkpoints_kept, gpus_asked, stop_reasons
from rl_alliteration.tune.search import Choice, Search, seeds_of, space_of, sweep_of
from rl_alliteration.tune.sending import credentials, to_send, working_directory
from rl_alliteration.tune.signals import StopRequest
from rl_alliteration.tune.submission import new_run_id, ray_address
from rl_alliteration.tune.tracking import Tracking, tracking
from rl_alliteration.tune.trainable import Driver, TrialSetup, TrialTrainable

_PAUSE_SECONDS = 2.0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a sweep ended."""

    errors: dict[str, str]
    """What went wrong, by trial id: of trials that failed now, or diverged before and were left alone."""
    stopped_by: int | None = None
    """The signal that stopped it, if one did."""
    spent: str = ""
    """The budget that ended it, in words, if one did."""

    @property
    def cut_short(self) -> bool:
        """Whether nothing more is to be begun."""
        return bool(self.errors or self.spent) or self.stopped_by is not None


def run_sweep(
    sweep: Sweep,
    trials: Sequence[PlannedTrial],
    loaded: LoadedModel,
    storage: Storage,
    console: Console,
    budget: Budget | None = None,
) -> Outcome:
    """Run what is missing of the trials, within what is left of a budget: by default the sweep's own.

    Raises:
        UserError: the cluster cannot give what was asked for.
        Failure: there is no such cluster, or another driver has the experiment.
    """
    to_send(sweep, trials[0].config.reward_parameters)  # refused before Ray starts
    budget = budget or Budget(sweep.max_hours, sweep.max_device_hours)
    with (
        _driving(sweep, storage, console) as (run_id, lease, stop),
        _tracking(sweep, storage, stop, console) as tracked,
    ):
        found = find(
            storage,
            str(sweep.experiment),
            trials,
            retry_failed=sweep.retry_failed,
            recompute=sweep.recompute,
            stop_on=stop_reasons(sweep),
        )
        texts = sum(trial.max_generations for trial in trials)
        console.print(Text(f"{sweep.experiment}: {len(trials)} trials, {texts:,} texts, results in {storage}"))
        if (restored := store_model(storage, trials[0], loaded, sweep)) is not None:
            console.print(Text(f"  {restored}"), soft_wrap=True)
        log = EventLog(storage, str(sweep.experiment), run_id, software_versions(), lease.check)
        for f in found:
            lease.check()
            for line in (f"  {f}", *(f"    {damage}" for damage in (*f.damages, *restore_files(storage, log, f)))):
                console.print(Text(line), soft_wrap=True)
        tracked.found(found)
        left_alone = {f.trial.trial_id: f.error for f in found if f.standing in (Standing.DIVERGED, Standing.TWICE)}
        to_run = [f for f in found if f.to_run]
        if not to_run:
            return Outcome(left_alone)
        with _cluster(sweep, storage, stop, console) as available:
            run = _Run(
                sweep, to_run[0].trial, loaded, storage, console, run_id, lease, stop, available, budget, tracked
            )
            errors = run.trials(to_run)
        return Outcome({**left_alone, **errors}, stop.signal, stop.spent)


def run_search(search: Search, loaded: LoadedModel, storage: Storage, console: Console) -> Outcome:
    """Run what is missing of the original, then of the trials that the search proposes.

    Raises:
        UserError, Failure: as for `run_sweep`.
    """
    assert search.experiment and search.trials and search.max_generations
    sweep = sweep_of(search)
    budget = Budget(search.max_hours, search.max_device_hours)

    def planned(choice: Choice, length: int, seed: int) -> PlannedTrial:
        one = sweep_of(search, choice, length, seed)
        return with_reward_parameters(plan(one, loaded), loaded, one, say)[1]

    def say(message: str) -> None:
        console.print(Text(message), soft_wrap=True)

    with connected(ray_address(sweep)):
        original = with_reward_parameters(plan(sweep, loaded), loaded, sweep, say)[0]
        outcome = run_sweep(sweep, [original], loaded, storage, console, budget)
        if outcome.cut_short:
            return outcome
        unmodified = measure_original(connect(storage), search.experiment, original.trial_id)
        limits = Limits.of(unmodified, search.keep_variety, search.keep_sense)
        there = [one.trial for one in history(storage, search, planned, limits)]
        found = find(storage, search.experiment, there, retry_failed=False, recompute=False)
        damaged = [f.trial for f in found if f.standing is Standing.DAMAGED or (f.events_damaged and not f.to_run)]
        if damaged:
            outcome = run_sweep(sweep, damaged, loaded, storage, console, budget)
            if outcome.cut_short:
                return outcome
        with (
            _driving(sweep, storage, console) as (run_id, lease, stop),
            _tracking(sweep, storage, stop, console) as tracked,
        ):
            past = history(storage, search, planned, limits)
            proposals = Proposals(
                space_of(search),
                planned,
                seeds=seeds_of(search),
                trials=search.trials,
                max_generations=search.max_generations,
                max_texts=search.max_texts,
                past=past,
            )
            told = f"{search.trials} trials" + (f", {search.seeds} seeds a setting" if search.seeds > 1 else "")
            told += f", {search.max_texts:,} texts at most" if search.max_texts else ""
            tracked.found(f for f in found if f.standing is not Standing.DAMAGED)
            say(f"{search.experiment}: search, {told}; {len(past)} trials are there, results in {storage}")
            with _cluster(sweep, storage, stop, console) as available:
                run = _Run(sweep, original, loaded, storage, console, run_id, lease, stop, available, budget, tracked)
                errors = run.search(proposals, limits)
            if not stop.asked and proposals.why_short:
                say(proposals.why_short)
            diverged = {one.trial.trial_id: "diverged in an earlier run" for one in past if one.failed}
            return Outcome({**diverged, **errors}, stop.signal, stop.spent)


@contextlib.contextmanager
def _driving(sweep: Sweep, storage: Storage, console: Console) -> Iterator[tuple[str, Lease, StopRequest]]:
    """The experiment's lease, as long as this process drives it."""
    assert sweep.experiment
    if ray_address(sweep) == "local":
        check_resources(sweep, local_resources())
    run_id = new_run_id()
    lease = Lease(storage, sweep.experiment, run_id)
    lease.acquire(lambda message: console.print(Text(message), soft_wrap=True))
    try:
        storage.clear_staging()
        yield run_id, lease, StopRequest(lease.announce_stop, lambda code: tell(sweep, storage, code))
    finally:
        lease.release()


def _tracking(
    sweep: Sweep, storage: Storage, stop: StopRequest, console: Console
) -> contextlib.AbstractContextManager[Tracking]:
    def say(line: str) -> None:
        console.print(Text(line), soft_wrap=True)

    return tracking(sweep.log_to, storage, str(sweep.experiment), stop, say)


@contextlib.contextmanager
def _cluster(sweep: Sweep, storage: Storage, stop: StopRequest, console: Console) -> Iterator[dict[str, float]]:
    """A connection to a cluster that can run the trials; its CPUs and GPUs."""
    address = ray_address(sweep)
    watched = ending_with_ray(stop, console) if address == "local" else contextlib.nullcontext()
    with connected(address), stop.listening(), watched:  # Ray takes the signals when it starts
        available = cluster_capacity()
        check_resources(sweep, available)
        check_shared(storage)
        provide_dashboard()
        yield available


class _Run:
    """One call of Ray Tune: what its trials have in common."""

    def __init__(
        self,
        sweep: Sweep,
        trial: PlannedTrial,
        loaded: LoadedModel,
        storage: Storage,
        console: Console,
        run_id: str,
        lease: Lease,
        stop: StopRequest,
        available: Mapping[str, float],
        budget: Budget,
        tracked: Tracking,
    ) -> None:
        """`trial`: one of them; all have its model and reward."""
        asked = gpus_asked(sweep)
        self._gpus = asked if asked is not None else float(available["GPU"] >= 1)
        self._wanted = {"GPU": self._gpus, "CPU": float(sweep.cpus_per_trial)}
        self._available = available
        self._budget = budget
        self._sweep, self._trial, self._loaded = sweep, trial, loaded
        self._storage, self._console = storage, console
        self._run_id, self._lease, self._stop, self._tracked = run_id, lease, stop, tracked

    def trials(self, found: Sequence[Found]) -> dict[str, str]:
        """Run these; the errors of those that failed, by trial id."""

        def all_of_them(follower: Follower, again: Sequence[Found] | None, at_once: int | None) -> dict[str, Any]:
            wanted = found if again is None else again
            for f in wanted:
                follower.add(f)
            reasons = stop_reasons(self._sweep)
            setups = [self._setup(f, () if f.standing is Standing.DAMAGED else reasons).to_tune() for f in wanted]
            return {"param_space": {"setup": tune.grid_search(setups)}, "max_concurrent_trials": at_once}

        return self._fit(all_of_them, SWEEP, trials=[f.trial.trial_id for f in found])

    def search(self, proposals: Proposals, limits: Limits) -> dict[str, str]:
        """Run what is proposed; the errors of those that failed, by trial id."""
        slots = min(int(self._available[kind] // number) for kind, number in self._wanted.items() if number)
        kept = dataclasses.asdict(limits)

        def as_proposed(follower: Follower, again: Sequence[Found] | None, at_once: int | None) -> dict[str, Any]:
            follower.proposals = proposals
            waiting = list(again or ())

            def next_one() -> TrialSetup | None:
                if waiting:
                    found = waiting.pop(0)
                else:
                    trial = None if self._stop.asked else proposals.propose()
                    if trial is None:
                        return None
                    found = self._found_again([trial])[0]
                follower.add(found)
                return self._setup(found, (COLLAPSE,), kept)

            def over() -> bool:
                return not waiting and (proposals.over or self._stop.asked)

            return {
                "search_alg": Searcher(next_one, over),
                "num_samples": -1,
                "max_concurrent_trials": max(min(slots, at_once or slots), 1),
            }

        return self._fit(as_proposed, SEARCH, limits=kept)

    @property
    def _experiment(self) -> str:
        return str(self._sweep.experiment)

    def _setup(self, found: Found, stop_on: Sequence[str], limits: dict[str, float] | None = None) -> TrialSetup:
        return TrialSetup(
            trial=found.trial,
            storage=str(self._storage),
            experiment=self._experiment,
            run_id=self._run_id,
            epoch=self._lease.epoch,
            tokenizer=self._sweep.tokenizer,
            revision=self._loaded.revision or self._sweep.revision,
            gpu=self._gpus > 0,
            keep_checkpoints=checkpoints_kept(self._sweep),
            parent=place_of(self._sweep.from_trial).experiment if self._sweep.from_trial else None,
            repairs=found.repairs,
            publish_every=60 * self._sweep.publish_every,
            stop_on=stop_on,
            limits=limits,
            record_tokens=self._sweep.record_tokens,
        )

    def _found_again(self, trials: Sequence[PlannedTrial]) -> list[Found]:
        return find(self._storage, self._experiment, trials, retry_failed=False, recompute=False)

    def _fit(self, supply: _Supply, kind: str, **record: Any) -> dict[str, str]:
        """Run Tune on the trials that `supply` gives it; the errors of those that failed, by trial id.

        An error of Ray's that ends Tune does not end the sweep: what is unfinished is given to Tune once more.

        Raises:
            Failure: such errors came more often than allowed without any progress between them, or it was another.
        """
        sweep, storage = self._sweep, self._storage
        versions = software_versions()
        record |= {
            "run_id": self._run_id,
            "sweep": {name: value for name, value in vars(sweep).items() if not name.startswith("notify")},
            "model_revision": self._loaded.revision,
            "versions": versions,
            "host": platform.node(),
        }
        write_run(storage, self._experiment, self._run_id, kind, record)
        log = EventLog(storage, self._experiment, self._run_id, versions, self._lease.check)
        trainable = tune.with_parameters(
            TrialTrainable,
            reward=to_send(sweep, self._trial.config.reward_parameters),
            algorithms=dict(ALGORITHMS),
            driver=Driver(credentials(), working_directory(), tuple(sys.path), self._loaded.known),
        )
        with Progress(self._console) as progress:
            follower = Follower(log, progress, self._stop, self._wanted, self._tracked)
            losses = Losses(follower, sweep.max_failures)
            again: list[Found] | None = None
            for attempt in itertools.count():
                try:
                    self._tuner(trainable, follower, supply(follower, again, losses.at_once), attempt).fit()
                    break
                except Exception as error:
                    self._lease.check()  # Tune wraps what the event log raises when another driver has taken over
                    if self._stop.asked:
                        break
                    told = losses.add(error)
                    again = self._found_again(follower.unfinished())
                    losses.measure(sum(found.generations for found in again))
                    if not again and (follower.proposals is None or follower.proposals.over):
                        break
                    progress.say(told)
                    time.sleep(_PAUSE_SECONDS)
            follower.end()
        return follower.errors

    def _tuner(self, trainable: Any, follower: Follower, given: dict[str, Any], attempt: int) -> tune.Tuner:
        filesystem, root = self._storage.pyarrow()
        name = self._run_id + (f"-{attempt}" if attempt else "")
        self._storage.folder(f"tune/{self._experiment}/{name}")  # Tune itself would follow a link there
        return tune.Tuner(
            tune.with_resources(trainable, {"cpu": self._sweep.cpus_per_trial, "gpu": self._gpus}),
            param_space=given.pop("param_space", None),
            tune_config=tune.TuneConfig(
                reuse_actors=True, trial_name_creator=trial_id_of, trial_dirname_creator=trial_id_of, **given
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=f"{root}/tune/{self._experiment}",
                storage_filesystem=filesystem,
                callbacks=[follower],
                stop=Stopper(self._stop, self._lease, follower, self._budget, self._gpus or self._wanted["CPU"]),
                failure_config=tune.FailureConfig(max_failures=self._sweep.max_failures),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=True),
                verbose=0,
                progress_reporter=tune.CLIReporter(),  # silent; its default for a notebook clears the cell's output
            ),
        )


_Supply = Callable[["Follower", "Sequence[Found] | None", "int | None"], "dict[str, Any]"]
"""Tells a follower of the trials, and gives Tune its arguments: of all, or of those to be run again; and of how many
at once at most."""
