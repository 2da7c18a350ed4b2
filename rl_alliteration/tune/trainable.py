"""One trial as a Ray Tune trainable: runs the trainer, sends texts to Parquet and small scalars to Tune."""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import os
import socket
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from ray import tune

from rl_alliteration.analysis.diversity import variety
from rl_alliteration.analysis.objective import SPENT, Limits, Objective
from rl_alliteration.analysis.stopping import Watch
from rl_alliteration.config import TrialConfig
from rl_alliteration.errors import Failure
from rl_alliteration.results.lease import check_epoch, lease_path
from rl_alliteration.results.storage import storage_at
from rl_alliteration.results.writer import PlannedTrial

REPORT_SECONDS = 2.0
"""How often a trial tells Tune where it is."""
FAKE_GPUS = "RL_ALLITERATION_FAKE_GPUS"
"""Set where Ray is told of GPUs that are not there, to test placement: trials compute on the CPU."""
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
    stop_on: Sequence[str] = ()
    """For what the trial is stopped before its end: the reasons of a `Watch`."""
    limits: dict[str, float] | None = None
    """Of a search, a `Limits`: the trial reports the best window within them."""

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


class TrialTrainable(tune.Trainable):
    """A class trainable: an actor that has loaded torch and a model serves one trial after another."""

    def setup(self, config: dict[str, Any], *, reward: Any = None, algorithms: Any = None) -> None:
        """Called by Tune. `reward` and `algorithms` come with the sweep: a user's own are not registered here."""
        self._reward, self._algorithms = reward, algorithms
        self._loaded: Any = None
        self._run: Any = None
        self._reported = False
        self._failure = ""
        self._device_name = "cpu"
        self._texts: collections.deque[str] = collections.deque(maxlen=_VARIETY_TEXTS)
        self._variety, self._variety_at = math.nan, 0.0
        self._begin(TrialSetup.from_tune(config["setup"]))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Called by Tune when this actor takes on another trial."""
        if self._run is not None:
            self._run.close()
            self._run = None
        self._begin(TrialSetup.from_tune(new_config["setup"]))
        return True

    def step(self) -> dict[str, Any]:
        """Run groups until it is time to report or a part has ended."""
        until = time.monotonic() + (REPORT_SECONDS if self._reported else 0.0)
        self._reported = True
        texts: list[dict[str, Any]] = []
        updates: list[dict[str, Any]] = []
        run = self._run
        try:
            while not run.done and not self._stopped:
                step = run.step()
                self._watch.add(step.texts)
                if self._objective is not None:
                    self._objective.add(step.texts)
                texts += step.texts
                updates += [step.update] if step.update else []
                if run.at_boundary or time.monotonic() >= until:
                    break
        except Failure as failure:  # told to the driver, not raised: another try would end the same way
            self._failure = str(failure)
            with suppress(Failure):  # the texts before it stay; a storage that refuses will refuse again
                run.publish(end=True)
        return {
            "done": run.done or bool(self._failure or self._stopped),
            "stopped": self._stopped,
            "generations": run.trainer.generation,
            "published": run.published_generations,
            **{name: _mean(texts, name, 0.0) for name in ("raw_reward", "kl_penalty")},
            **{name: _mean(updates, name, math.nan) for name in ("entropy", "sample_seconds", "train_seconds")},
            "variety": self._variety_of_last(texts),
            "parts": run.parts_written,
            "checkpoints": run.checkpoints_written,
            "device": self._device_name,
            "host": socket.gethostname(),
            "resumed_at": run.resumed_at,
            "diverged_at": -1 if run.diverged_at is None else run.diverged_at,
            "failure": self._failure,
            "name": self._setup.trial.trial_id,
            "best": list(self._objective.best) if self._objective is not None else [],
        }

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
        if self._run is not None:
            self._run.close()

    @property
    def _stopped(self) -> str:
        """Why the trial is to be stopped before its end, by its own texts; empty if it is not."""
        return self._watch.reason or (SPENT if self._objective is not None and self._objective.spent else "")

    def _variety_of_last(self, texts: list[dict[str, Any]]) -> float:
        self._texts.extend(row["text"] for row in texts)
        if time.monotonic() - self._variety_at > _VARIETY_SECONDS:
            self._variety, self._variety_at = variety(list(self._texts)), time.monotonic()
        return self._variety

    def _begin(self, setup: TrialSetup) -> None:
        import torch

        from rl_alliteration.language_model import load_model
        from rl_alliteration.trainer import Trainer
        from rl_alliteration.trial import TrialRun

        self._setup = setup
        self._reported = False
        self._failure = ""
        self._texts.clear()
        self._variety, self._variety_at = math.nan, 0.0
        trial, config = setup.trial, setup.trial.config
        torch.set_num_threads(config.threads)
        # On a GPU some operations have no deterministic kernel in every version: told, not refused.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=setup.gpu)
        on_gpu = setup.gpu and FAKE_GPUS not in os.environ
        if on_gpu and not torch.cuda.is_available():
            raise Failure(f"torch finds no GPU on {socket.gethostname()}, though Ray gave one: see to its driver")
        device = torch.device("cuda" if on_gpu else "cpu")
        self._device_name = torch.cuda.get_device_name() if on_gpu else "cpu"
        if self._loaded is None or self._loaded.weights_fingerprint != config.weights:
            self._loaded = load_model(trial.model, tokenizer=setup.tokenizer, revision=setup.revision)
        fingerprints = (self._loaded.weights_fingerprint, self._loaded.tokenizer_fingerprint)
        if fingerprints != (config.weights, config.tokenizer):
            raise Failure(f"the model {trial.model!r} on {socket.gethostname()} is not the one the sweep planned with")
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
            may_publish=lambda: check_epoch(storage, setup.experiment, setup.epoch),
        )
        self._watch = Watch(setup.stop_on if trainer.algorithm else ())
        self._objective = Objective(Limits(**setup.limits)) if setup.limits is not None else None
        if self._watch.reasons or self._objective is not None:
            stored = list(self._run.stored_texts())
            self._watch.add(stored)
            if self._objective is not None:
                self._objective.add(stored)


def _mean(rows: list[dict[str, Any]], name: str, otherwise: float) -> float:
    return sum(row[name] for row in rows) / len(rows) if rows else otherwise
