"""Check that results are what they claim to be, row by row; say where they are not."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from rl_alliteration.config import ORIGINAL, TrialConfig
from rl_alliteration.errors import Failure
from rl_alliteration.flags import COMPLETION
from rl_alliteration.foreign import Damaged, read_record
from rl_alliteration.results import schema
from rl_alliteration.results.cards import read_tokenizer
from rl_alliteration.results.integrity import checkpoint_generations, checkpoint_problem, read_events
from rl_alliteration.results.parts import read_part, row_digest
from rl_alliteration.results.reader import parts
from rl_alliteration.results.records import Manifest
from rl_alliteration.results.storage import Storage
from rl_alliteration.rl.advantages import known_algorithm
from rl_alliteration.rl.kl import next_beta
from rl_alliteration.rl.parts import Decoder, token_starts
from rl_alliteration.rl.rewards import known_reward
from rl_alliteration.rl.update import UpdateRule
from rl_alliteration.rows import rewarded

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
        check_groups = _group_checks(config, notes)
        for path in parts(storage, "generations", experiment, trial_id):
            rows = _read(storage, path)
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
        _check_checkpoints(storage, experiment, trial_id, config, notes)
        if generations < event["generations"]:
            raise _Wrong(f"generation {generations}: missing, the trial had reached {event['generations']}")
        if event["status"] == schema.FINISHED and generations < event["max_generations"]:
            raise _Wrong(f"generation {generations}: missing, the trial finished at {event['max_generations']}")
    except _Wrong as wrong:
        return Verdict(experiment, trial_id, generations, str(wrong), tuple(notes))
    except Failure as failure:
        return Verdict(experiment, trial_id, generations, str(failure), tuple(notes))
    except Exception as error:  # a value of a kind that nothing writes: nulls, negative tokens, unreadable files
        problem = f"after generation {generations}: cannot be read: {type(error).__name__}: {error}"
        return Verdict(experiment, trial_id, generations, problem, tuple(notes))
    return Verdict(experiment, trial_id, generations, None, tuple(notes))


def _check_events(storage: Storage, experiment: str, trial_id: str, notes: list[str]) -> tuple[Row, TrialConfig]:
    """The event log, whole and as it was written; its newest event and the configuration in it."""
    events = read_events(storage, experiment, trial_id)
    for path, what in events.problems.items():
        raise _Wrong(f"event {schema.part_number(path)}: {path} {what}")
    event = events.last
    if event is None:
        raise _Wrong("no event of it in `trials`")
    if events.unlisted is not None:
        notes.append(f"{events.unlisted} has no manifest: its checksum was not compared")
    lost = [str(number) for number, row in events.rows.items() if row["reason"] == "lost"]
    if lost:
        notes.append(f"event {', '.join(lost)} is a stand-in: what it said is lost")
    config = TrialConfig.from_json(event["config"], trial_id)
    if config.trial_id != trial_id:
        raise _Wrong(f"its configuration belongs to {config.trial_id}")
    return event, config


def _check_checkpoints(storage: Storage, experiment: str, trial_id: str, config: TrialConfig, notes: list[str]) -> None:
    """The newest is what a trial goes on from, the first is what a fork begins with; of the others one that is torn
    costs nothing but a longer replay."""
    kept = checkpoint_generations(storage, experiment, trial_id)
    if config.ancestors and 0 not in kept:
        notes.append(f"the model that it begins with, {config.ancestors[-1]}, is not there: its first texts have none")
    for generation in kept:
        problem = checkpoint_problem(storage, experiment, trial_id, generation)
        if problem is not None and (generation == kept[-1] or (config.ancestors and not generation)):
            raise _Wrong(f"generation {generation}: {problem}")
        if problem is not None:
            notes.append(f"{problem}; a newer one is there")


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


def _manifests(storage: Storage, experiment: str, trial_id: str) -> dict[int, Manifest]:
    found = {}
    for path in storage.list(f"manifests/{experiment}/{trial_id}"):
        if "/part-" in path:
            try:
                found[schema.part_number(path)] = read_record(Manifest, storage.get(path), path)
            except Damaged as damaged:
                raise _Wrong(str(damaged)) from damaged
    return found


def _read(storage: Storage, path: str) -> list[Row]:
    try:
        return read_part(storage, path)
    except Damaged as damaged:
        raise _Wrong(str(damaged)) from damaged


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
            ("reward_of", config.reward_of),
            ("prompt", config.prompt_at(expected)),
        ):
            _expect(row, column, value)
    if schema.part_number(path) != first:
        raise _Wrong(f"generation {first}: its part is named {path}")
    if len(rows) % config.group_size:
        raise _Wrong(f"generation {first + len(rows)}: missing, the last group of {path} is not whole")


def _row_checks(storage: Storage, config: TrialConfig, notes: list[str]) -> Callable[[Row], None]:
    """The checks of one row by itself."""
    definition, ends = read_tokenizer(storage, config.model_fingerprint, config.tokenizer)
    ends = ends.union(config.end_of_turn)
    tokenizer = Tokenizer.from_str(definition)
    begins = _chat_tokens(tokenizer, config)
    decode = Decoder(tokenizer)
    reward = known_reward(config.reward, config.reward_version, config.reward_parameters)
    if reward is None:
        notes.append(
            f"the reward {config.reward!r} is not known here at version {config.reward_version}: "
            "raw rewards were not computed again"
        )

    def check(row: Row) -> None:
        ids = row["token_ids"]
        _expect(row, "num_tokens", len(ids))
        first = row["num_prompt_tokens"]
        if config.chat and ids[:first] not in begins[row["prompt"]]:
            raise _Wrong(f"generation {row['generation']}: its tokens do not begin with those of its chat prompt")
        # Unlike `ended`, the text depends on the end token only by leaving it out.
        _expect(row, "ended", len(ids) > first and ids[-1] in ends)
        without_end = ids[:-1] if row["ended"] else ids
        _expect(row, "text", tokenizer.decode(without_end, skip_special_tokens=True))
        completion = ""
        if config.reward_of == COMPLETION:
            completion = tokenizer.decode(without_end[first:], skip_special_tokens=True)
        _expect(row, "completion", completion)
        _expect(row, "num_words", len(rewarded(row).split()))
        if reward is not None:
            _expect(row, "raw_reward", float(reward(rewarded(row))))
        _expect(row, "kl_penalty", row["lm_cross_entropy"] - row["original_lm_cross_entropy"])
        _expect(row, "reward", row["raw_reward"] + row["beta"] * row["kl_penalty"])
        _check_record(row, decode)

    return check


def _check_record(row: Row, decode: Decoder) -> None:
    """The token record, where a row has one, beside the numbers of its text."""
    first = row["num_prompt_tokens"]
    count = row["num_tokens"] - first if row["token_starts"] else 0
    for column, mean in (
        ("token_log_p", row["lm_cross_entropy"]),
        ("token_log_q", row["original_lm_cross_entropy"]),
        ("token_entropy", None),
    ):
        values = np.array(row[column])
        signed = values if mean is None else -values
        if len(values) != count or not (np.isfinite(values) & (signed >= 0)).all():
            raise _Wrong(f"generation {row['generation']}: {column} is not {count} numbers of nats")
        # The prompt's own tokens, which the mean counts too, only add to the sum.
        if mean is not None and signed.sum() > mean * (row["num_tokens"] - 1) + _ROUNDING * (count + 1):
            raise _Wrong(f"generation {row['generation']}: {column} is more than its mean, {mean!r}, makes it")
    if count:
        _expect(row, "token_starts", token_starts(decode, row["token_ids"], row["text"], first))
    values, places = np.array(row["part_values"]), row["part_places"]
    off = abs(values.sum() - row["raw_reward"]) if len(values) else 0.0
    if len(values) != len(places) or not off <= 1e-5 * (1 + np.abs(values).sum()) or (places and not count):
        raise _Wrong(f"generation {row['generation']}: its part_values are not the parts of its raw_reward")


_ROUNDING = 2e-3
"""Nats by which a token's number may be off, rounded as it is."""


def _chat_tokens(tokenizer: Tokenizer, config: TrialConfig) -> dict[str, list[list[int]]]:
    """What the tokens of each prompt's texts may begin with: its definition does not say how it is used."""
    found: dict[str, list[list[int]]] = {}
    for splits_special in (False, True):
        tokenizer.encode_special_tokens = splits_special
        for prompt, text in zip(config.prompts, config.chat_prompts, strict=False):
            found.setdefault(prompt, []).append(tokenizer.encode(text, add_special_tokens=False).ids)
    return found


def _group_checks(config: TrialConfig, notes: list[str]) -> Callable[[list[Row]], None]:
    """The checks of the groups of one part after another: beta and advantages may depend on the groups before."""
    algorithm = known_algorithm(config.algorithm, config.algorithm_version)
    if algorithm is None and config.algorithm != ORIGINAL:
        notes.append(
            f"the algorithm {config.algorithm!r} is not known here at version {config.algorithm_version}: "
            "advantages and losses were not computed again"
        )
    if algorithm is not None and algorithm.loss is not None:
        notes.append(f"the algorithm {algorithm.name!r} has a loss of its own: losses were not computed again")
    elif algorithm is not None and not UpdateRule.of(config).is_study:
        notes.append(f"credit {config.credit}, KL {config.kl}: losses were not computed again")
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
    manifest: Manifest | None,
    notes: list[str],
) -> None:
    """The part of `steps` beside a part of texts: one row a group, with its tokens."""
    if config.algorithm == ORIGINAL:
        return
    algorithm = known_algorithm(config.algorithm, config.algorithm_version)
    first = texts[0]["generation"]
    path = schema.part_path("steps", experiment, trial_id, first)
    if not storage.exists(path):
        raise _Wrong(f"generation {first}: {path} is missing")
    rows = _read(storage, path)
    if len(rows) * config.group_size != len(texts):
        raise _Wrong(f"generation {first}: {path} has {len(rows)} updates for {len(texts)} texts")
    for index, row in enumerate(rows):
        group = texts[index * config.group_size : (index + 1) * config.group_size]
        _expect(row, "generation", group[0]["generation"])
        _expect(row, "step", group[0]["step"])
        _expect(row, "beta", group[0]["beta"])
        _expect(row, "tokens", sum(text["num_tokens"] for text in group))
        if algorithm is None or not UpdateRule.of(config).has_studys_loss(algorithm):
            continue
        loss = sum(text["advantage"] * text["lm_cross_entropy"] for text in group)
        scale = sum(abs(text["advantage"] * text["lm_cross_entropy"]) for text in group)
        if not abs(row["loss"] - loss) <= 1e-12 * max(scale, 1.0):
            raise _Wrong(f"generation {row['generation']}: loss is {row['loss']!r}, its texts give {loss!r}")
    _check_digests(storage, path, "steps", rows, manifest, notes)


def _check_digests(
    storage: Storage, path: str, dataset: str, rows: list[Row], manifest: Manifest | None, notes: list[str]
) -> None:
    """Each row, then the whole file, against the checksums written beside it."""
    if manifest is None:
        # A kill between a part and its manifest leaves this; the next run puts it right.
        notes.append(f"{path} has no manifest: its checksums were not compared")
        return
    recorded = manifest.parts.get(dataset)
    if recorded is None:
        raise _Wrong(f"{path}: not in its manifest")
    for row, digest in zip(rows, recorded.rows, strict=False):
        if row_digest(row, dataset) != digest:
            raise _Wrong(f"generation {row['generation']}: a value in {path} is not the one that was written")
    if len(rows) != len(recorded.rows):
        raise _Wrong(f"{path}: has {len(rows)} rows, {len(recorded.rows)} were written")
    if hashlib.sha256(storage.get(path)).hexdigest() != recorded.sha256:
        raise _Wrong(f"{path}: its bytes are not those that were written, though its checked values are")


def _expect(row: Row, column: str, value: object) -> None:
    if row[column] != value:
        shown = {
            name: (repr(item)[:60] + "…" if len(repr(item)) > 60 else repr(item))
            for name, item in (("row", row[column]), ("value", value))
        }
        raise _Wrong(f"generation {row['generation']}: {column} is {shown['row']}, expected {shown['value']}")
