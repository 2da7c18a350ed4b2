"""Have any generation's model again: newest checkpoint before it, then its steps, compared with the stored rows."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from rl_alliteration.advantages import ALGORITHMS
from rl_alliteration.checkpoints import CheckpointStore
from rl_alliteration.config import TrialConfig
from rl_alliteration.errors import Failure, UserError
from rl_alliteration.language_model import LanguageModel, LoadedModel, load_model
from rl_alliteration.results.reader import last_event, parts, trial_ids
from rl_alliteration.results.storage import Storage
from rl_alliteration.results.writer import read_part, row_digest
from rl_alliteration.rewards import Reward, known_reward
from rl_alliteration.sampling import log_probabilities
from rl_alliteration.trainer import Row, Trainer

TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-2}
"""Nats by which a stored cross-entropy may differ from one computed again, on other hardware too: by precision."""


@dataclasses.dataclass(frozen=True)
class StoredTrial:
    """A trial as its storage has it, with its model."""

    storage: Storage
    experiment: str
    trial_id: str
    config: TrialConfig
    loaded: LoadedModel
    generations: int

    @property
    def checkpoints(self) -> CheckpointStore:
        """Its checkpoints."""
        return CheckpointStore(self.storage, self.experiment, self.trial_id)

    def rows(self, first: int = 0) -> Iterator[Row]:
        """Its texts from generation `first` on."""
        for path in parts(self.storage, "generations", self.experiment, self.trial_id):
            for row in read_part(self.storage, path):
                if row["generation"] >= first:
                    yield row

    def trainer(self) -> Trainer:
        """A trainer at generation 0. A reward that is not known here is looked up in the stored rows.

        Raises:
            UserError: the algorithm is not known here.
        """
        config = self.config
        if config.algorithm != "original" and config.algorithm not in ALGORITHMS:
            raise UserError(
                f"--trial: its algorithm {config.algorithm!r} is not registered here; "
                "call rl_alliteration.cli.main from a script that registers it"
            )
        reward = known_reward(config.reward, config.reward_version, config.reward_parameters)
        if reward is None:
            known = {row["text"]: row["raw_reward"] for row in self.rows()}
            reward = Reward(config.reward, known.__getitem__, config.reward_version)
        torch.set_num_threads(config.threads)
        return Trainer(config, self.loaded, reward, ALGORITHMS.get(config.algorithm))


def open_trial(storage: Storage, experiment: str, trial_id: str) -> StoredTrial:
    """A stored trial with its model.

    Raises:
        UserError: there is no such trial, or its model cannot be had.
        Failure: the model is no longer the one that the trial began with.
    """
    known = [name for _, name in trial_ids(storage, experiment)]
    event = last_event(storage, experiment, trial_id) if trial_id in known else None
    if event is None:
        raise UserError(f"--trial: {trial_id!r} is not in {experiment!r}; there is: {', '.join(known)}")
    config = TrialConfig.from_json(event["config"])
    card = json.loads(storage.get(f"models/{config.model_fingerprint}/card.json"))
    loaded = load_model(card["model"], tokenizer=card["tokenizer_source"], revision=card["revision"])
    if (loaded.weights_fingerprint, loaded.tokenizer_fingerprint) != (config.weights, config.tokenizer):
        raise Failure(f"the model {card['model']!r} is not the one that {trial_id} began with: its weights differ")
    numbers = [row["generation"] for row in _last_part(storage, experiment, trial_id)]
    return StoredTrial(storage, experiment, trial_id, config, loaded, max(numbers, default=-1) + 1)


def replay(trial: StoredTrial, generation: int | None, say: Callable[[str], None]) -> Trainer:
    """The trainer after `generation` texts (default: all), its steps compared with the stored rows.

    Raises:
        UserError: the trial has no such state.
        Failure: this machine computes other rows than the stored ones.
    """
    size = trial.config.group_size
    wanted = trial.generations if generation is None else generation
    if not 0 <= wanted <= trial.generations or wanted % size:
        raise UserError(
            f"--generation: {wanted} is not accepted; {trial.trial_id} has a model after every {size} texts, "
            f"from 0 to {trial.generations}"
        )
    trainer = trial.trainer()
    start = trial.checkpoints.resume(trainer, {g for g in trial.checkpoints.generations() if g <= wanted})
    if start < wanted:
        seconds = _seconds_per_text(trial) * (wanted - start)
        say(f"replaying {wanted - start:,} texts from generation {start:,}: about {max(seconds, 1):.0f} s")
    stored = trial.rows(start)
    while trainer.generation < wanted:
        for row in trainer.step().texts:
            expected = next(stored)
            same = {name: expected[name] for name in row}
            if row_digest(row) != row_digest(same):
                raise Failure(
                    f"generation {row['generation']}: this machine computes another row than the stored one, "
                    "so that the model of this generation cannot be had here; use the kind of machine that ran it"
                )
    return trainer


def export(trial: StoredTrial, trainer: Trainer, folder: Path, card: str) -> None:
    """Write the trainer's model as a transformers folder, with its card.

    Raises:
        UserError: the folder cannot be written (see `check_new_folder`).
    """
    check_new_folder(folder)
    model: Any = trainer.policy.model
    model.save_pretrained(folder, safe_serialization=True)
    trial.loaded.pretrained_tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(card, encoding="utf-8")


def check_new_folder(folder: Path) -> None:
    """Make the folder; to be asked before a replay, which may take minutes.

    Raises:
        UserError: the folder is not empty or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UserError(f"--output: {str(folder)!r} is not empty; give a new folder")
    except OSError as error:
        raise UserError(f"--output: {str(folder)!r} cannot be written ({error.strerror})") from error


def verify_deep(trial: StoredTrial) -> str | None:
    """Compute cross-entropies again: the first one that is off by more than `TOLERANCE`, or None.

    `original_lm_cross_entropy` of every text; `lm_cross_entropy` of the first group after each kept checkpoint.
    """
    dtype = getattr(torch, trial.config.dtype)
    tolerance = TOLERANCE[trial.config.dtype]
    reference = trial.loaded.reference(dtype=dtype)
    policies: dict[int, LanguageModel] = {0: reference}
    trainer = trial.trainer()
    for generation in trial.checkpoints.generations():
        trial.checkpoints.load(generation, trainer)
        policies[generation] = trial.loaded.policy(dtype=dtype)
        policies[generation].model.load_state_dict(trainer.policy.model.state_dict())
    size = trial.config.group_size
    batch: list[Row] = []
    for row in trial.rows():
        batch.append(row)
        if len(batch) == size:
            problem = _off(batch, "original_lm_cross_entropy", reference, tolerance)
            policy = policies.get(batch[0]["generation"]) if trial.config.algorithm != "original" else reference
            if problem is None and policy is not None:
                problem = _off(batch, "lm_cross_entropy", policy, tolerance)
            if problem is not None:
                return problem
            batch = []
    return None


def _off(rows: list[Row], column: str, model: LanguageModel, tolerance: float) -> str | None:
    longest = max(row["num_tokens"] for row in rows)
    padded = [row["token_ids"] + [0] * (longest - row["num_tokens"]) for row in rows]
    log_p = log_probabilities(model, torch.tensor(padded))
    for row, values in zip(rows, log_p.double(), strict=True):
        computed = -float(values[: row["num_tokens"] - 1].mean())
        if not abs(computed - row[column]) <= tolerance:
            return f"generation {row['generation']}: {column} is {row[column]:.6f}, the model gives {computed:.6f}"
    return None


def _last_part(storage: Storage, experiment: str, trial_id: str) -> list[Row]:
    found = parts(storage, "generations", experiment, trial_id)
    return read_part(storage, found[-1]) if found else []


def _seconds_per_text(trial: StoredTrial) -> float:
    found = parts(trial.storage, "steps", trial.experiment, trial.trial_id)
    rows = read_part(trial.storage, found[-1]) if found else []
    seconds = sum(row["sample_seconds"] + row["train_seconds"] for row in rows)
    return seconds / max(len(rows) * trial.config.group_size, 1)
