"""Have any generation's model again: newest checkpoint before it, then its steps, compared with the stored rows."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from rl_alliteration.config import ORIGINAL, TrialConfig
from rl_alliteration.errors import Failure, UserError
from rl_alliteration.foreign import Damaged
from rl_alliteration.lm.language_model import LanguageModel
from rl_alliteration.lm.loading import LoadedModel, load_model
from rl_alliteration.lm.sampling import log_probabilities
from rl_alliteration.lm.weights import as_transformers
from rl_alliteration.names import find_trial
from rl_alliteration.results.cards import ModelCard, read_card
from rl_alliteration.results.parts import model_of, read_part, row_digest
from rl_alliteration.results.reader import last_event, parts, trial_ids
from rl_alliteration.results.storage import Storage
from rl_alliteration.rl.advantages import known_algorithm
from rl_alliteration.rl.rewards import Reward, known_reward
from rl_alliteration.rl.trainer import Row, Trainer
from rl_alliteration.rows import rewarded
from rl_alliteration.trial.checkpoints import CheckpointStore, Torn

log = logging.getLogger(__name__)

TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 1e-2}
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

    def trainer(self, like: Trainer | None = None) -> Trainer:
        """A trainer at generation 0. A reward that is not known here is looked up in the stored rows.

        Args:
            like: one whose device it is to have, and its reward and algorithm where they are this trial's: they may be
                known to it alone. Default: on the CPU.

        Raises:
            UserError: the algorithm is not known here.
        """
        config = self.config
        algorithm = known_algorithm(config.algorithm, config.algorithm_version)
        if like is not None and _of(config, "algorithm") == _of(like.config, "algorithm"):
            algorithm = like.algorithm
        if config.algorithm != ORIGINAL and algorithm is None:
            at = f" at version {config.algorithm_version}" if config.algorithm_version != 1 else ""
            raise UserError(
                f"--trial: its algorithm {config.algorithm!r} is not registered here{at}; "
                "call rl_alliteration.cli.main from a script that registers it"
            )
        reward = known_reward(config.reward, config.reward_version, config.reward_parameters)
        if like is not None and _of(config, "reward") == _of(like.config, "reward"):
            reward = like.reward
        if reward is None:
            known = {rewarded(row): row["raw_reward"] for row in self.rows()}
            reward = Reward(config.reward, known.__getitem__, config.reward_version)
        torch.set_num_threads(config.threads)
        trainer = Trainer(config, self.loaded, reward, algorithm, "cpu" if like is None else like.device)
        trainer.model_column = model_of(self.storage, self.experiment, self.trial_id) or trainer.model_column
        return trainer


def _of(config: TrialConfig, kind: str) -> list[Any]:
    """What of a configuration says which `algorithm`, or which `reward`."""
    return [value for name, value in vars(config).items() if name == kind or name.startswith(f"{kind}_")]


def open_trial(
    storage: Storage,
    experiment: str,
    trial_id: str,
    model: str | None = None,
    tokenizer: str | None = None,
    loaded: LoadedModel | None = None,
) -> StoredTrial:
    """A stored trial with its model.

    Args:
        storage: the results.
        experiment: the trial's.
        trial_id: which; or what `find_trial` finds it by.
        model: where its model is now; default: where it was. The fingerprints say whether it is the one.
        tokenizer: the same of its tokenizer, if that is not the model's own.
        loaded: its model, if that is known to be it.

    Raises:
        UserError: there is no such trial, or its model cannot be had.
        Failure: the model is no longer the one that the trial began with.
    """
    trial_id = find_trial(trial_id, [name for _, name in trial_ids(storage, experiment)], experiment)
    event = last_event(storage, experiment, trial_id)
    if event is None:
        raise UserError(f"--trial: {trial_id!r} has no event that can be read, see `verify`")
    config = TrialConfig.from_json(event["config"], trial_id)
    loaded = _load(storage, trial_id, config, model, tokenizer) if loaded is None else loaded
    numbers = [row["generation"] for row in _last_part(storage, experiment, trial_id)]
    return StoredTrial(storage, experiment, trial_id, config, loaded, max(numbers, default=-1) + 1)


def _load(
    storage: Storage, trial_id: str, config: TrialConfig, model: str | None, tokenizer: str | None
) -> LoadedModel:
    """The model and the tokenizer that a trial began with.

    Raises:
        UserError, Failure: as for `open_trial`.
    """
    card = _card(storage, trial_id, config, needed=model is None)
    source = card.model if card and model is None else str(model)
    own = card.tokenizer_source if card else None
    revision = card.revision if card and source == card.model else None
    try:
        loaded = load_model(source, tokenizer=tokenizer or own, revision=revision)
    except UserError as error:
        if model is None:
            beside = f" and its tokenizer in {own!r}" if own else ""
            raise UserError(
                f"--model: the model of {trial_id} was in {source!r}{beside}, which cannot be had ({error}); "
                "give the folder that it is in now"
            ) from error
        if tokenizer or not own:
            raise
        loaded = load_model(source, revision=revision)  # its tokenizer may have been moved into the same folder
    if (difference := loaded.differs(config)) is not None:
        raise Failure(
            f"the model {source!r} is not the one that {trial_id} began with: {difference}; "
            "give --model with the folder that that one is in"
        )
    return loaded


def _card(storage: Storage, trial_id: str, config: TrialConfig, *, needed: bool) -> ModelCard | None:
    """The card of a trial's model; None if it is missing or damaged and not needed."""
    try:
        return read_card(storage, config.model_fingerprint)
    except (FileNotFoundError, Damaged) as error:
        if not needed:
            return None
        told = error if isinstance(error, Damaged) else f"the card of the model of {trial_id} is missing"
        raise Failure(f"{told}; give --model with the model's folder or hub id") from error


def replay(
    trial: StoredTrial, generation: int | None, say: Callable[[str], None], like: Trainer | None = None
) -> Trainer:
    """The trainer after `generation` texts (default: all), its steps compared with the stored rows.

    `like` as for `StoredTrial.trainer`.

    Raises:
        UserError: the trial has no such state.
        Failure: this machine computes other rows than the stored ones; or it is a fork whose beginning is gone.
    """
    wanted = checked_generation(trial, generation)
    trainer = trial.trainer(like)
    start = trial.checkpoints.resume(trainer, {g for g in trial.checkpoints.generations() if g <= wanted})
    if start < wanted:
        seconds = _seconds_per_text(trial) * (wanted - start)
        say(f"replaying {wanted - start:,} texts from generation {start:,}: about {max(seconds, 1):.0f} s")
    stored = trial.rows(start)
    while trainer.generation < wanted:
        for row in trainer.step().texts:
            expected = next(stored)
            same = {name: expected[name] for name in row}
            if row_digest(row, "generations", version := expected["schema_version"]) != row_digest(
                same, "generations", version
            ):
                raise Failure(
                    f"generation {row['generation']}: this machine computes another row than the stored one, "
                    "so that the model of this generation cannot be had here; use the kind of machine that ran it"
                )
    return trainer


def checked_generation(trial: StoredTrial, generation: int | None) -> int:
    """After how many texts a model is wanted; None: all.

    Raises:
        UserError: the trial has no such state.
    """
    size = trial.config.group_size
    wanted = trial.generations if generation is None else generation
    if not 0 <= wanted <= trial.generations or wanted % size:
        raise UserError(
            f"--generation: {wanted} is not accepted; {trial.trial_id} has a model after every {size} texts, "
            f"from 0 to {trial.generations}"
        )
    return wanted


def export(trial: StoredTrial, trainer: Trainer, folder: Path, card: str) -> None:
    """Write the trainer's model as a transformers folder, with its card.

    Raises:
        UserError: the folder cannot be written (see `check_new_folder`).
        Failure: nor can all that goes into it.
    """
    check_new_folder(folder)
    model: Any = trainer.policy.model
    if trial.config.end_of_turn:  # what ended a text here ends it there
        model = as_transformers(model)
        if model.generation_config is not None:
            model.generation_config.eos_token_id = sorted(trainer.end_tokens)
    try:
        model.save_pretrained(folder, safe_serialization=True)
        trial.loaded.pretrained_tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise Failure(f"{str(folder)!r} is not whole ({error}); delete it, free some space and try again") from error


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


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[None]:
    """The folder, as of `check_new_folder`, for what is computed meanwhile; if that fails, none is left."""
    was_there = folder.is_dir()
    check_new_folder(folder)
    try:
        yield
    except BaseException:
        if not was_there:
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()
        raise


def verify_deep(trial: StoredTrial, note: Callable[[str], None] = log.warning) -> str | None:
    """Compute cross-entropies again: the first one that is off by more than `TOLERANCE`, or None.

    `original_lm_cross_entropy` of every text; `lm_cross_entropy` of the first group after each kept checkpoint.

    Args:
        trial: of `open_trial`.
        note: called with each checkpoint that cannot be used.
    """
    dtype = getattr(torch, trial.config.dtype)
    tolerance = TOLERANCE[trial.config.dtype]
    trainer = trial.trainer()
    reference = trainer.reference
    before = trial.loaded.reference(dtype=dtype, texts_version=trial.config.texts_version)
    policies: dict[int, LanguageModel] = {} if trial.config.ancestors else {0: before}
    for generation in trial.checkpoints.generations():
        try:
            trial.checkpoints.load(generation, trainer)
        except (Torn, Damaged) as error:
            note(f"{error}: the texts after it were not computed again")
            continue
        policies[generation] = trial.loaded.policy(dtype=dtype, texts_version=trial.config.texts_version)
        policies[generation].model.load_state_dict(trainer.policy.model.state_dict())
    size = trial.config.group_size
    batch: list[Row] = []
    for row in trial.rows():
        batch.append(row)
        if len(batch) == size:
            problem = _off(batch, "original_lm_cross_entropy", reference, tolerance)
            policy = policies.get(batch[0]["generation"]) if trial.config.algorithm != ORIGINAL else reference
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
        of_tokens = "token_log_p" if column == "lm_cross_entropy" else "token_log_q"
        recorded = torch.tensor(row[of_tokens], dtype=torch.float64)
        sampled = values[row["num_prompt_tokens"] - 1 : row["num_tokens"] - 1]
        # Of one token's number more may be off than of a mean; the record is rounded to 1 / 256.
        if len(recorded) and not bool((abs(recorded - sampled) <= 2e-3 + 10 * tolerance * (1 + abs(sampled))).all()):
            return f"generation {row['generation']}: {of_tokens} is not what the model gives"
    return None


def _last_part(storage: Storage, experiment: str, trial_id: str) -> list[Row]:
    found = parts(storage, "generations", experiment, trial_id)
    return read_part(storage, found[-1]) if found else []


def _seconds_per_text(trial: StoredTrial) -> float:
    found = parts(trial.storage, "steps", trial.experiment, trial.trial_id)
    rows = read_part(trial.storage, found[-1]) if found else []
    seconds: float = sum(row["sample_seconds"] + row["train_seconds"] for row in rows)
    return seconds / max(len(rows) * trial.config.group_size, 1)
