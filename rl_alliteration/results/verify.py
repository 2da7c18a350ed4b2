"""Check that results are what they claim to be, row by row; say where they are not."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from rl_alliteration.advantages import ALGORITHMS
from rl_alliteration.config import ORIGINAL, TrialConfig
from rl_alliteration.kl_control import next_beta
from rl_alliteration.results import schema
from rl_alliteration.results.reader import parts
from rl_alliteration.results.storage import Storage
from rl_alliteration.results.writer import read_part, row_digest
from rl_alliteration.rewards import known_reward

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What was found in one trial."""

    experiment: str
    trial_id: str
    generations: int
    problem: str | None
    """The first thing that is wrong, with its row; None if nothing is."""
    notes: tuple[str, ...]
    """What could not be checked."""


class _Wrong(Exception):
    pass


def verify_trial(storage: Storage, experiment: str, trial_id: str) -> Verdict:
    """Check one trial: generations without gap or double, texts, rewards, composites, advantages, checksums."""
    notes: list[str] = []
    generations = 0
    unlisted = 0
    try:
        event, config = _check_events(storage, experiment, trial_id, notes)
        manifests = _manifests(storage, experiment, trial_id)
        check_row = _row_checks(storage, config, notes)
        check_groups = _group_checks(config)
        for path in parts(storage, "generations", experiment, trial_id):
            rows = _read(storage, path, schema.GENERATIONS)
            manifest = manifests.pop(schema.part_number(path), None)
            _check_order(rows, generations, config, path)
            for row in rows:
                check_row(row)
            check_groups(rows)
            _check_digests(storage, path, "generations", rows, manifest, notes)
            generations += len(rows)
            _check_updates(storage, experiment, trial_id, rows, config, manifest, notes)
            unlisted += manifest is None
            if manifest is not None and unlisted:
                raise _Wrong(f"generation {generations - len(rows)}: a part before {path} has no manifest")
        _check_orphans(storage, experiment, trial_id, generations, event, notes)
        if manifests:
            missing = min(manifests)
            raise _Wrong(f"generation {max(missing, generations)}: its part-{missing:08d} is missing")
        if generations < event["generations"]:
            raise _Wrong(f"generation {generations}: missing, the trial had reached {event['generations']}")
        if event["status"] == schema.FINISHED and generations < event["max_generations"]:
            raise _Wrong(f"generation {generations}: missing, the trial finished at {event['max_generations']}")
    except _Wrong as wrong:
        return Verdict(experiment, trial_id, generations, str(wrong), tuple(notes))
    except Exception as error:  # a value of a kind that nothing writes: nulls, negative tokens, unreadable files
        problem = f"after generation {generations}: cannot be read: {type(error).__name__}: {error}"
        return Verdict(experiment, trial_id, generations, problem, tuple(notes))
    return Verdict(experiment, trial_id, generations, None, tuple(notes))


def _check_events(storage: Storage, experiment: str, trial_id: str, notes: list[str]) -> tuple[Row, TrialConfig]:
    """The event log, whole and as it was written; its newest event and the configuration in it."""
    paths = parts(storage, "trials", experiment, trial_id)
    if not paths:
        raise _Wrong("no event of it in `trials`")
    folder = f"manifests/{experiment}/{trial_id}"
    listed = {path for path in storage.list(folder) if "/event-" in path}
    event: Row = {}
    for number, path in enumerate(paths):
        if schema.part_number(path) != number:
            raise _Wrong(f"event {number} is missing in `trials`")
        rows = _read(storage, path, schema.TRIALS)
        if len(rows) != 1 or rows[0]["event"] != number:
            raise _Wrong(f"event {number}: {path} is not the event that was written")
        event = rows[0]
        manifest = schema.event_manifest_path(experiment, trial_id, number)
        if manifest not in listed:
            if number < len(paths) - 1:
                raise _Wrong(f"event {number}: its checksum is missing")
            notes.append(f"{path} has no manifest: its checksum was not compared")
            continue
        listed.discard(manifest)
        if hashlib.sha256(storage.get(path)).hexdigest() != json.loads(storage.get(manifest))["sha256"]:
            raise _Wrong(f"event {number}: {path} is not what was written")
    if listed:
        raise _Wrong(f"{min(listed)}: its event is missing in `trials`")
    config = TrialConfig.from_json(event["config"])
    if config.trial_id != trial_id:
        raise _Wrong(f"its configuration belongs to {config.trial_id}")
    return event, config


def _check_orphans(
    storage: Storage, experiment: str, trial_id: str, generations: int, event: Row, notes: list[str]
) -> None:
    """Updates without texts: a kill between the two leaves one part of them, which the next run takes up."""
    texts = {schema.part_number(path) for path in parts(storage, "generations", experiment, trial_id)}
    for path in parts(storage, "steps", experiment, trial_id):
        number = schema.part_number(path)
        if number not in texts:
            if number != generations or event["status"] == schema.FINISHED:
                raise _Wrong(f"generation {number}: {path} has no texts beside it")
            notes.append(f"{path} has no texts beside it yet")


def _manifests(storage: Storage, experiment: str, trial_id: str) -> dict[int, Row]:
    found = {}
    for path in storage.list(f"manifests/{experiment}/{trial_id}"):
        if "/part-" not in path:
            continue
        try:
            manifest = json.loads(storage.get(path))
            found[int(manifest["first_generation"])] = manifest
        except (ValueError, KeyError, TypeError) as error:
            raise _Wrong(f"{path}: not a manifest") from error
    return found


def _read(storage: Storage, path: str, wanted: pa.Schema) -> list[Row]:
    try:
        rows = read_part(storage, path)
    except Exception as error:
        raise _Wrong(f"{path}: not readable as Parquet ({type(error).__name__})") from error
    for row in rows[:1]:
        if set(row) != set(wanted.names):
            raise _Wrong(f"{path}: its columns are not those of schema version {schema.SCHEMA_VERSION}")
    return rows


def _check_order(rows: list[Row], first: int, config: TrialConfig, path: str) -> None:
    """Generations count on from `first` in the order of the file, with their step and place in the group."""
    for offset, row in enumerate(rows):
        expected = first + offset
        if row["generation"] != expected:
            raise _Wrong(f"generation {expected}: {path} has generation {row['generation']} in its place")
        for column, value in (
            ("step", expected // config.group_size),
            ("sample", expected % config.group_size),
            ("group_size", config.group_size),
            ("algorithm", config.algorithm),
            ("seed", config.seed),
            ("learning_rate", config.learning_rate),
            ("reward_function", config.reward),
            ("prompt", config.prompt_at(expected)),
        ):
            _expect(row, column, value)
    if schema.part_number(path) != first:
        raise _Wrong(f"generation {first}: its part is named {path}")
    if len(rows) % config.group_size:
        raise _Wrong(f"generation {first + len(rows)}: missing, the last group of {path} is not whole")


def _row_checks(storage: Storage, config: TrialConfig, notes: list[str]) -> Callable[[Row], None]:
    """The checks of one row by itself."""
    folder = f"models/{config.model_fingerprint}"
    try:
        tokenizer = Tokenizer.from_buffer(storage.get(f"{folder}/tokenizer.json"))
        ends = set(json.loads(storage.get(f"{folder}/card.json"))["end_tokens"])
    except Exception as error:
        raise _Wrong(f"{folder}: tokenizer or card is missing or broken, texts cannot be checked") from error
    reward = known_reward(config.reward, config.reward_version, config.reward_parameters)
    if reward is None:
        notes.append(
            f"the reward {config.reward!r} is not known here at version {config.reward_version}: "
            "raw rewards were not computed again"
        )

    def check(row: Row) -> None:
        ids = row["token_ids"]
        _expect(row, "num_tokens", len(ids))
        # Unlike `ended`, the text depends on the end token only by leaving it out.
        _expect(row, "ended", len(ids) > row["num_prompt_tokens"] and ids[-1] in ends)
        text = tokenizer.decode(ids[:-1] if row["ended"] else ids, skip_special_tokens=True)
        _expect(row, "text", text)
        _expect(row, "num_words", len(text.split()))
        if reward is not None:
            _expect(row, "raw_reward", float(reward(text)))
        _expect(row, "kl_penalty", row["lm_cross_entropy"] - row["original_lm_cross_entropy"])
        _expect(row, "reward", row["raw_reward"] + row["beta"] * row["kl_penalty"])

    return check


def _group_checks(config: TrialConfig) -> Callable[[list[Row]], None]:
    """The checks of the groups of one part after another: beta and advantages may depend on the groups before."""
    algorithm = ALGORITHMS.get(config.algorithm)
    recent: list[float] = []
    beta = config.beta

    def check(rows: list[Row]) -> None:
        nonlocal recent, beta
        for start in range(0, len(rows), config.group_size):
            group = rows[start : start + config.group_size]
            rewards = np.array([row["reward"] for row in group])
            advantages = np.zeros_like(rewards)
            if algorithm is not None:
                advantages = algorithm.advantages(rewards, recent)
                recent = algorithm.remember(recent, rewards)
            for row, advantage in zip(group, advantages, strict=True):
                _expect(row, "beta", beta)
                if algorithm is not None or config.algorithm == ORIGINAL:
                    _expect(row, "advantage", float(advantage))
            if config.target_kl is not None:
                kl = -float(np.array([row["kl_penalty"] for row in group]).mean())
                beta = next_beta(beta, kl, config.target_kl)

    return check


def _check_updates(
    storage: Storage,
    experiment: str,
    trial_id: str,
    texts: list[Row],
    config: TrialConfig,
    manifest: Row | None,
    notes: list[str],
) -> None:
    """The part of `steps` beside a part of texts: one row a group, with its tokens."""
    if config.algorithm == ORIGINAL:
        return
    first = texts[0]["generation"]
    path = schema.part_path("steps", experiment, trial_id, first)
    if not storage.exists(path):
        raise _Wrong(f"generation {first}: {path} is missing")
    rows = _read(storage, path, schema.STEPS)
    if len(rows) * config.group_size != len(texts):
        raise _Wrong(f"generation {first}: {path} has {len(rows)} updates for {len(texts)} texts")
    for index, row in enumerate(rows):
        group = texts[index * config.group_size : (index + 1) * config.group_size]
        _expect(row, "generation", group[0]["generation"])
        _expect(row, "step", group[0]["step"])
        _expect(row, "beta", group[0]["beta"])
        _expect(row, "tokens", sum(text["num_tokens"] for text in group))
        loss = sum(text["advantage"] * text["lm_cross_entropy"] for text in group)
        scale = sum(abs(text["advantage"] * text["lm_cross_entropy"]) for text in group)
        if not abs(row["loss"] - loss) <= 1e-12 * max(scale, 1.0):
            raise _Wrong(f"generation {row['generation']}: loss is {row['loss']!r}, its texts give {loss!r}")
    _check_digests(storage, path, "steps", rows, manifest, notes)


def _check_digests(
    storage: Storage, path: str, dataset: str, rows: list[Row], manifest: Row | None, notes: list[str]
) -> None:
    """Each row, then the whole file, against the checksums written beside it."""
    if manifest is None:
        # A kill between a part and its manifest leaves this; the next run puts it right.
        notes.append(f"{path} has no manifest: its checksums were not compared")
        return
    recorded = manifest["parts"].get(dataset)
    if recorded is None:
        raise _Wrong(f"{path}: not in its manifest")
    for row, digest in zip(rows, recorded["rows"], strict=False):
        if row_digest(row) != digest:
            raise _Wrong(f"generation {row['generation']}: a value in {path} is not the one that was written")
    if len(rows) != len(recorded["rows"]):
        raise _Wrong(f"{path}: has {len(rows)} rows, {len(recorded['rows'])} were written")
    if hashlib.sha256(storage.get(path)).hexdigest() != recorded["sha256"]:
        raise _Wrong(f"{path}: its bytes are not those that were written, though its checked values are")


def _expect(row: Row, column: str, value: object) -> None:
    if row[column] != value:
        shown = {
            name: (repr(item)[:60] + "…" if len(repr(item)) > 60 else repr(item))
            for name, item in (("row", row[column]), ("value", value))
        }
        raise _Wrong(f"generation {row['generation']}: {column} is {shown['row']}, expected {shown['value']}")
