"""One trial as a Ray Tune trainable: runs the trainer, sends texts to Parquet and small scalars to Tune."""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from rl_alliteration.analysis.diversity import variety
from rl_alliteration.analysis.objective import Objective
from rl_alliteration.analysis.rules import Limits
from rl_alliteration.analysis.stopping import SPENT, EarlyStopping
from rl_alliteration.config import PlannedTrial, TrialConfig
from rl_alliteration.errors import Failure
from rl_alliteration.flags import FIRST_GROUP
from rl_alliteration.results.lease import PATIENCE_SECONDS, Superseded, check_epoch, lease_path, read_lease
from rl_alliteration.results.storage import Storage, Unavailable, storage_at
from rl_alliteration.rl.rewards import get_reward
from rl_alliteration.rows import TrialReport, rewarded

if TYPE_CHECKING:
    from rl_alliteration.lm.known import Known
    from rl_alliteration.lm.loading import LoadedModel
    from rl_alliteration.trial.run import TrialRun

REPORT_SECONDS = 2.0
"""How often a trial tells Tune where it is."""
FAKE_GPUS = "RL_ALLITERATION_FAKE_GPUS"
"""Set where Ray is told of GPUs that are not there, to test placement: trials compute on the CPU."""
_LISTEN_SECONDS, _LISTEN_SECONDS_REMOTE = 1.0, 5.0
"""How often a trial looks whether its driver was asked to stop: in a folder, in an object store."""
_PAUSE_SECONDS = 2.0
_VARIETY_SECONDS = 10.0  # comparing 100 texts takes some ms
_VARIETY_TEXTS = 100


@dataclasses.dataclass(frozen=True)
class TrialSetup:
    """What a sweep tells each of its trials; a Tune configuration holds it as plain JSON values."""

    trial: PlannedTrial
    storage: str
    experiment: str
    run_id: str
    epoch: int
    """Of the driver's lease: the fence."""
    tokenizer: str | None
    revision: str | None
    gpu: bool
    keep_checkpoints: int | None
    publish_every: float
    """Seconds."""
    parent: str | None = None
    """Of a fork, the experiment that its parent is in."""
    repairs: bool = False
    """Whether the trial's stored rows are to be restored, never replaced."""
    stop_on: Sequence[str] = ()
    """For what the trial is stopped before its end: the reasons of `EarlyStopping`."""
    limits: dict[str, float] | None = None
    """Of a search, a `Limits`: the trial reports the best window within them."""
    record_tokens: str = FIRST_GROUP
    """See `record.recorded_groups`."""

    def to_tune(self) -> dict[str, Any]:
        """As a Tune configuration."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        trial = {**vars(self.trial), "config": self.trial.config.to_json()}
        return {**values, "trial": json.dumps(trial)}

    @classmethod
    def from_tune(cls, config: dict[str, Any]) -> TrialSetup:
        """The inverse of `to_tune`."""
        trial = json.loads(config["trial"])
        trial["config"] = TrialConfig.from_json(trial["config"])
        return cls(**{**config, "trial": PlannedTrial(**trial)})


@dataclasses.dataclass(frozen=True)
class NamedReward:
    """A reward that trials import by its name, since it cannot be sent."""

    expression: str
    parameters: str


@dataclasses.dataclass(frozen=True)
class Driver:
    """What a trial takes over from the process that drives it."""

    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    """Variables for reaching the storage."""
    folder: str = ""
    """Its working directory: where a reward's relative paths begin, if the node has it."""
    modules: tuple[str, ...] = ()
    """Where it looks for modules."""
    known: Known | None = None
    """What it has found out about the model of all trials."""

    def imported(self, reward: Any) -> Any:
        """The reward as it was sent, or imported."""
        if not isinstance(reward, NamedReward):
            return reward
        sys.path += [path for path in self.modules if path not in sys.path]
        return get_reward(reward.expression, reward.parameters)


def finished_path(run_id: str, trial_id: str) -> str:
    """The file by which a trial tells its driver that, asked to stop, it has published what it has."""
    return f"staging/finished-{run_id}-{trial_id}"


class TrialTrainable(tune.Trainable):
    """A class trainable: an actor that has loaded torch and a model serves one trial after another."""

    def setup(
        self, config: dict[str, Any], *, reward: Any = None, algorithms: Any = None, driver: Driver | None = None
    ) -> None:
        """Called by Tune. `reward` and `algorithms` come with the sweep: a user's own are not registered here."""
        self._driver = driver or Driver()
        os.environ.update(self._driver.environment)
        self._reward, self._algorithms = self._driver.imported(reward), algorithms
        self._loaded: LoadedModel | None = None
        self._run: Any = None
        self._over = threading.Event()
        self._reported = False
        self._failure = ""
        self._device_name = "cpu"
        self._texts: collections.deque[str] = collections.deque(maxlen=_VARIETY_TEXTS)
        self._variety, self._variety_at = math.nan, 0.0
        self._begin(TrialSetup.from_tune(config["setup"]))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Called by Tune when this actor takes on another trial."""
        self._end_run()
        self._begin(TrialSetup.from_tune(new_config["setup"]))
        return True

    def step(self) -> dict[str, Any]:
        """Run groups until it is time to report or a part has ended."""
        until = time.monotonic() + (REPORT_SECONDS if self._reported else 0.0)
        self._reported = True
        from rl_alliteration.trial.run import Refused

        texts: list[dict[str, Any]] = []
        updates: list[dict[str, Any]] = []
        run = self._run
        try:
            while not run.done and not self._stopped and not run.over:
                try:
                    step = run.step()
                except Refused as refused:
                    self._publish_patiently()
                    step = refused.step
                if step is None:
                    break
                self._watch.add(step.texts)
                if self._objective is not None:
                    self._objective.add(step.texts)
                texts += step.texts
                updates += [step.update] if step.update else []
                if run.at_boundary or time.monotonic() >= until:
                    break
            if run.over:
                run.publish(end=True)
        except Failure as failure:  # told to the driver, not raised: another try would end the same way
            self._failure = str(failure)
            with suppress(Failure):  # the texts before it stay; a storage that refuses will refuse again
                run.publish(end=True)
        return TrialReport(
            name=self._setup.trial.trial_id,
            done=run.done or run.over or bool(self._failure or self._stopped),
            stopped=self._stopped,
            failure=self._failure,
            generations=run.generations,
            published=run.published_generations,
            parts=run.parts_written,
            checkpoints=run.checkpoints_written,
            resumed_at=run.resumed_at,
            diverged_at=-1 if run.diverged_at is None else run.diverged_at,
            raw_reward=_mean(texts, "raw_reward", 0.0),
            kl_penalty=_mean(texts, "kl_penalty", 0.0),
            entropy=_mean(updates, "entropy", math.nan),
            variety=self._variety_of_last(texts),
            sample_seconds=_mean(updates, "sample_seconds", math.nan),
            train_seconds=_mean(updates, "train_seconds", math.nan),
            best=list(self._objective.best) if self._objective is not None else [],
            host=socket.gethostname(),
            device=self._device_name,
            actor=ray.get_runtime_context().get_actor_id() or "",
        ).result()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Called by Tune at a trial's end or pause: publishes what there is. Tune keeps only a pointer to it."""
        if not self._failure:
            self._run.publish(end=True)
        pointer = {"trial_id": self._setup.trial.trial_id, "generation": self._run.published_generations}
        (Path(checkpoint_dir) / "pointer.json").write_text(json.dumps(pointer))

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Called by Tune after a pause or a crash: `setup` has already gone to the newest checkpoint of our store.

        Raises:
            Failure: a scheduler that mutates trials (PBT) gave this one another's state.
        """
        with checkpoint.as_directory() if hasattr(checkpoint, "as_directory") else nullcontext(checkpoint) as folder:
            pointer = json.loads((Path(folder) / "pointer.json").read_text())
        if pointer["trial_id"] != self._setup.trial.trial_id:
            raise Failure("schedulers that mutate trials (PBT) are refused: a trial's texts must be of one lineage")

    def cleanup(self) -> None:
        """Called by Tune when the actor ends."""
        if self._run is not None and not self._failure:
            with suppress(Failure):  # after an error that ended other trials: what is finished here is kept
                self._run.publish(end=False)
        self._end_run()

    def _publish_patiently(self) -> None:
        """What the storage refused, once it does not.

        Raises:
            Failure: it refuses for two minutes, or another driver has taken over.
        """
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                self._run.publish(end=self._run.done)
                return
            except Unavailable:
                if time.monotonic() > until or self._run.over:
                    raise
            time.sleep(_PAUSE_SECONDS)

    @property
    def _stopped(self) -> str:
        """Why the trial is to be stopped before its end, by its own texts; empty if it is not."""
        return self._watch.reason or (SPENT if self._objective is not None and self._objective.spent else "")

    def _variety_of_last(self, texts: list[dict[str, Any]]) -> float:
        self._texts.extend(map(rewarded, texts))
        if time.monotonic() - self._variety_at > _VARIETY_SECONDS:
            self._variety, self._variety_at = variety(list(self._texts)), time.monotonic()
        return self._variety

    def _end_run(self) -> None:
        self._over.set()
        if self._run is not None:
            self._run.close()
            self._run = None

    def _begin(self, setup: TrialSetup) -> None:
        import torch

        from rl_alliteration.lm.deterministic import deterministic
        from rl_alliteration.rl.trainer import Trainer
        from rl_alliteration.trial.run import TrialRun

        self._setup = setup
        if os.path.isdir(self._driver.folder):  # Tune goes to a folder of its own for each trial
            os.chdir(self._driver.folder)
        self._reported = False
        self._failure = ""
        self._texts.clear()
        self._variety, self._variety_at = math.nan, 0.0
        trial, config = setup.trial, setup.trial.config
        torch.set_num_threads(config.threads)
        on_gpu = setup.gpu and FAKE_GPUS not in os.environ
        if on_gpu and not torch.cuda.is_available():
            raise Failure(f"torch finds no GPU on {socket.gethostname()}, though Ray gave one: see to its driver")
        device = torch.device("cuda" if on_gpu else "cpu")
        self._device_name = torch.cuda.get_device_name() if on_gpu else "cpu"
        deterministic(strict=True)
        self._loaded = self._model(setup)
        # Where the reference has weights of its own, the policy takes the loaded ones: the next trial loads them again.
        self._loaded.gives_away = config.reference_dtype != "float32" and not on_gpu
        if on_gpu:  # what transformers' code has no deterministic kernel for is told, not refused
            deterministic(strict=self._loaded.undescribed is None)
        trainer = Trainer(
            config,
            self._loaded,
            self._reward,
            self._algorithms.get(config.algorithm),
            device,
        )
        storage = storage_at(setup.storage)
        if not storage.exists(lease_path(setup.experiment)):  # the driver has written it
            raise Failure(
                f"the folder {setup.storage!r} of {socket.gethostname()} is not the driver's; "
                "give a --storage that all nodes share, or s3://bucket/prefix"
            )
        self._run = TrialRun(
            trainer,
            trial,
            storage,
            setup.experiment,
            setup.run_id,
            keep_checkpoints=setup.keep_checkpoints,
            parent=setup.parent,
            repairs=setup.repairs,
            publish_every=setup.publish_every,
            record_tokens=setup.record_tokens,
            may_publish=lambda: check_epoch(storage, setup.experiment, setup.epoch, setup.run_id),
        )
        self._watch = EarlyStopping(setup.stop_on if trainer.algorithm else ())
        self._objective = Objective(Limits(**setup.limits)) if setup.limits is not None else None
        if self._watch.reasons or self._objective is not None:
            stored = list(self._run.stored_texts())
            self._watch.add(stored)
            if self._objective is not None:
                self._objective.add(stored)
        self._over = threading.Event()
        threading.Thread(
            target=_listen, args=(self._run, storage, setup, self._over), name="listener", daemon=True
        ).start()

    def _model(self, setup: TrialSetup) -> LoadedModel:
        """The trial's model: that of the trial before, if it is the same.

        Raises:
            UserError: it cannot be loaded here.
            Failure: it is not the one that was planned with.
        """
        from rl_alliteration.lm.loading import load_known, load_model

        trial = setup.trial
        given: dict[str, Any] = {"tokenizer": setup.tokenizer, "revision": setup.revision}
        known = self._driver.known
        ways: list[Callable[[], LoadedModel | None]] = [
            lambda: None if self._loaded is None or self._loaded.spent else self._loaded,
            lambda: None if known is None else load_known(trial.model, known, **given),
            lambda: load_model(trial.model, checked=True, **given),
            lambda: load_model(trial.model, **given),  # transformers may have other names for what it reads
        ]
        difference: str | None = None
        for way in ways:
            loaded = way()
            if loaded is not None:
                difference = loaded.differs(trial.config)
                if difference is None:
                    return loaded
        planned = f"is not the one the sweep planned with: {difference}"
        raise Failure(f"the model {trial.model!r} on {socket.gethostname()} {planned}")


def _listen(run: TrialRun, storage: Storage, setup: TrialSetup, over: threading.Event) -> None:
    """End the run as soon as its driver was asked to stop, or is its driver no more: a step may take minutes."""
    pause = _LISTEN_SECONDS if storage.folder("") is not None else _LISTEN_SECONDS_REMOTE
    while not over.wait(pause):
        try:
            state = read_lease(storage, setup.experiment)
            if state is None or (state.epoch == setup.epoch and not state.stopping):
                continue  # a lease that is out of sight for a moment asks for nothing
            run.finish_now()
            storage.put(finished_path(setup.run_id, setup.trial.trial_id), b"")
            return
        except Superseded:  # nothing was published; the step in hand ends with the same
            return
        except (Failure, OSError):  # the storage, for now: tried again
            continue


def _mean(rows: list[dict[str, Any]], name: str, otherwise: float) -> float:
    return sum(row[name] for row in rows) / len(rows) if rows else otherwise
