"""What is stored and reported, each value declared once: a row of `generations`, of `steps` and of `trials`, and what a
running trial reports.

The Arrow schemas, the SQL views, what a row's checksum covers, the reference page of the documentation, made-up test
data and the benchmarks' writers derive from these records. A column that is added later says since which version of
the schema, and what a row of an earlier version is taken to have there: old results stay readable.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from rl_alliteration.config import TrialConfig
from rl_alliteration.flags import COMPLETION, TEXT


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by what it is: a default may be a list
class Column:
    """One column, as its record declares it."""

    name: str
    type: Any
    """`int` (int64), `float` (float64), `str`, `bool`, `list[int]` (list<int32>) or `list[float]` (list<float32>)."""
    meaning: str
    unit: str
    since: int
    """The first schema version that has it."""
    default: Any
    """Of rows of an earlier version."""
    compared: bool
    """Whether two computations of a row must agree in it, and its checksum covers it."""


def column(meaning: str, unit: str = "", *, since: int = 1, default: Any = None, compared: bool = True) -> Any:
    """Declare a column; `default` is needed where `since` is not 1. See `Column`."""
    if (since == 1) != (default is None):
        raise ValueError("a column since version 1 has no default, a later one has")
    return dataclasses.field(
        metadata={"meaning": meaning, "unit": unit, "since": since, "default": default, "compared": compared}
    )


_ALGORITHM = "algorithm of the trial; `original` for the trial without updates"
_BETA = "KL coefficient that was used; the views show null for the original, which has none"
_BETA_UNIT = "reward per nat a token"
_SEED = "seed of all random numbers of the trial"
_GROUP_SIZE = "texts per update"
_RATE = "learning rate; of a schedule the greatest"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """What the three have in common; the writer fills these in."""

    dataset: ClassVar[str]
    """The name of the dataset that its rows are in."""

    def row(self) -> dict[str, Any]:
        """Its columns by name, those of `Stamp` apart."""
        return dict(vars(self))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Stamp:
    """What the writer adds to every row."""

    schema_version: int = column("version of the schema that the row was written with")
    run_id: str = column("the run that wrote the row", compared=False)


@dataclasses.dataclass(frozen=True)
class TokenRecord:
    """What is kept of the sampled tokens of some texts, see the columns of `Text`; empty of others. Of float32."""

    log_p: list[float] = dataclasses.field(default_factory=list)
    log_q: list[float] = dataclasses.field(default_factory=list)
    entropy: list[float] = dataclasses.field(default_factory=list)
    starts: list[int] = dataclasses.field(default_factory=list)
    part_values: list[float] = dataclasses.field(default_factory=list)
    part_places: list[int] = dataclasses.field(default_factory=list)


NO_RECORD = TokenRecord()


_RECORD: Any = {"since": 3, "default": [], "compared": False}
"""Columns of the token record. Rows are equal with and without it: which have one is the sweep's to say."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Text(Record):
    """One text with its numbers."""

    dataset = "generations"

    generation: int = column("index of the text in its trial, from 0")
    step: int = column("index of the update that it belongs to, from 0")
    sample: int = column("place in its group, from 0")
    prompt: str = column("what the text begins with")
    text: str = column("the prompt and what was sampled after it, without the end token")
    token_ids: list[int] = column("ids of all tokens: the prompt's, the sampled ones, the end token if it was sampled")
    num_tokens: int = column("number of `token_ids`")
    num_prompt_tokens: int = column("how many of them are the prompt's")
    num_words: int = column("words of what the reward is of, separated by white space")
    ended: bool = column("whether an end token was sampled")
    raw_reward: float = column("the reward function's number")
    lm_cross_entropy: float = column(
        "mean of −log p over all tokens but the first, under the weights that sampled the text", "nats a token"
    )
    original_lm_cross_entropy: float = column("the same under the weights before RL", "nats a token")
    kl_penalty: float = column(
        "`lm_cross_entropy − original_lm_cross_entropy`: minus the KL divergence in the mean", "nats a token"
    )
    reward: float = column("`raw_reward + beta · kl_penalty`")
    advantage: float = column("what the update weighs the text with; 0 for the original")
    algorithm: str = column(_ALGORITHM)
    beta: float = column(_BETA, _BETA_UNIT)
    seed: int = column(_SEED)
    group_size: int = column(_GROUP_SIZE)
    learning_rate: float = column(_RATE)
    reward_function: str = column("name of the reward function, or a weighted sum of several")
    model: str = column("name of the base model, as given, @ fingerprint of it and its tokenizer")
    reward_of: str = column("what the reward is of, and every metric: `text` or `completion`", since=2, default=TEXT)
    completion: str = column(
        "what the tokens after the prompt's decode to, without the end token, if the reward is of it; else empty",
        since=2,
        default="",
    )
    token_log_p: list[float] = column(
        "of a text with a record, the log-probability of each sampled token, the end token included, under the weights "
        "that sampled it, at temperature 1 over the full distribution; this and the next two to 1 / 256",
        "nats",
        **_RECORD,
    )
    token_log_q: list[float] = column("the same under the weights before RL", "nats", **_RECORD)
    token_entropy: list[float] = column(
        "entropy of the full distribution at temperature 1 at each, whatever `top_k` is, as in `steps`",
        "nats",
        **_RECORD,
    )
    token_starts: list[int] = column("the character of `text` at which each begins, from 0", "characters", **_RECORD)
    part_values: list[float] = column(
        "of a text with a record, what each part of `raw_reward` adds to it, if the reward has parts", **_RECORD
    )
    part_places: list[int] = column(
        "the character, of what the reward is of, with which each part is settled; its length: at the end",
        "characters",
        **_RECORD,
    )

    @classmethod
    def of(
        cls,
        config: TrialConfig,
        *,
        generation: int,
        prompt: str,
        text: str,
        token_ids: list[int],
        num_prompt_tokens: int,
        ended: bool,
        raw_reward: float,
        lm_cross_entropy: float,
        original_lm_cross_entropy: float,
        advantage: float,
        beta: float,
        model: str,
        completion: str = "",
        record: TokenRecord = NO_RECORD,
    ) -> Text:
        """A text of a trial; what follows from the rest is filled in. `completion`: if the reward is of it."""
        kl_penalty = lm_cross_entropy - original_lm_cross_entropy
        return cls(
            generation=generation,
            step=generation // config.group_size,
            sample=generation % config.group_size,
            prompt=prompt,
            text=text,
            token_ids=token_ids,
            num_tokens=len(token_ids),
            num_prompt_tokens=num_prompt_tokens,
            num_words=len((completion if config.reward_of == COMPLETION else text).split()),
            ended=ended,
            raw_reward=raw_reward,
            lm_cross_entropy=lm_cross_entropy,
            original_lm_cross_entropy=original_lm_cross_entropy,
            kl_penalty=kl_penalty,
            reward=raw_reward + beta * kl_penalty,
            advantage=advantage,
            algorithm=config.algorithm,
            beta=beta,
            seed=config.seed,
            group_size=config.group_size,
            learning_rate=config.learning_rate,
            reward_function=config.reward,
            model=model,
            reward_of=config.reward_of,
            completion=completion,
            token_log_p=record.log_p,
            token_log_q=record.log_q,
            token_entropy=record.entropy,
            token_starts=record.starts,
            part_values=record.part_values,
            part_places=record.part_places,
        )


REWARDED = f"CASE reward_of WHEN '{COMPLETION}' THEN completion ELSE text END"
"""In SQL: what the reward of a row of `generations` is of, and every metric."""


def rewarded(row: Mapping[str, Any]) -> str:
    """What the reward of a row of `generations` is of, and every metric: its completion, or its text."""
    found: str = row["completion" if row["reward_of"] == COMPLETION else "text"]
    return found


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Update(Record):
    """One update with its diagnostics."""

    dataset = "steps"

    step: int = column("index of the update, from 0")
    generation: int = column("index of the first text of its group")
    loss: float = column(
        "Σ over the group of advantage · `lm_cross_entropy`, or the algorithm's own loss, before the update"
    )
    grad_norm: float = column("global L2 norm of the gradient")
    entropy: float = column("mean entropy of the full next-token distribution over sampled positions", "nats")
    kl_k3: float = column("mean over sampled tokens of r − 1 − log r, r = p_original / p", "nats a token")
    sampler_gap: float = column("mean |Δ log p| between sampling and scoring", "nats a token")
    sample_seconds: float = column("duration of sampling", "seconds", compared=False)
    train_seconds: float = column("duration of scoring and the update", "seconds", compared=False)
    tokens: int = column("tokens of the group, the prompts' included")
    algorithm: str = column(_ALGORITHM)
    beta: float = column(_BETA, _BETA_UNIT)
    seed: int = column(_SEED)
    group_size: int = column(_GROUP_SIZE)
    learning_rate: float = column(_RATE)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Event(Record):
    """One change of a trial's state; the view `trials` has the newest of each trial."""

    dataset = "trials"

    event: int = column("index of the event in its trial, from 0")
    written_at: str = column("when it was written: ISO 8601, UTC, so that it sorts as text")
    status: str = column("`planned`, `running`, `stopped`, `finished` or `failed`; the views also show `stalled`")
    reason: str = column(
        "why it stopped or failed (`spent`: it had left a search's limits for good); empty if nothing is to be said"
    )
    error: str = column("the error of a failed trial, in one line")
    generations: int = column("texts that were stored")
    max_generations: int = column("texts that the sweep asked for")
    host: str = column("where the trial ran")
    device: str = column("what it ran on")
    threads: int = column("CPU threads of the trial")
    dtype: str = column("precision of sampling and scoring")
    versions: str = column("versions of what fixes the numbers, JSON")
    config: str = column("the trial's whole configuration, JSON")
    algorithm: str = column(_ALGORITHM)
    beta: float = column(
        "KL coefficient; where it begins, if a controller changes it; the views show null for the original", _BETA_UNIT
    )
    seed: int = column(_SEED)
    group_size: int = column(_GROUP_SIZE)
    learning_rate: float = column(_RATE)
    reward_function: str = column("name of the reward function, or a weighted sum of several")
    model: str = column("name of the base model, as given, @ fingerprint of it and its tokenizer")
    prompt: str = column("the prompts, a line each")
    max_length: int = column("most tokens of a text, the prompt's included")
    temperature: float = column("sampling temperature")
    top_k: int = column("sampling among the k likeliest tokens; 0: all")
    checkpoint_every: int = column("texts per part and checkpoint", "texts")

    @classmethod
    def of(
        cls,
        config: TrialConfig,
        *,
        event: int,
        written_at: str,
        status: str,
        reason: str,
        error: str,
        generations: int,
        max_generations: int,
        host: str,
        device: str,
        versions: str,
        model: str,
        checkpoint_every: int,
    ) -> Event:
        """An event of a trial of this configuration."""
        return cls(
            event=event,
            written_at=written_at,
            status=status,
            reason=reason,
            error=error,
            generations=generations,
            max_generations=max_generations,
            host=host,
            device=device,
            threads=config.threads,
            dtype=config.dtype,
            versions=versions,
            config=config.to_json(),
            algorithm=config.algorithm,
            beta=config.beta,
            seed=config.seed,
            group_size=config.group_size,
            learning_rate=config.learning_rate,
            reward_function=config.reward,
            model=model,
            prompt="\n".join(config.prompts),
            max_length=config.max_length,
            temperature=config.temperature,
            top_k=config.top_k,
            checkpoint_every=checkpoint_every,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialReport:
    """What a running trial reports to Ray Tune every few seconds; never stored."""

    name: str = column("the trial's id")
    done: bool = column("whether the trial runs no further")
    stopped: str = column("why its own texts end it before its last generation; empty if they do not")
    failure: str = column("its error, in one line; empty without one")
    generations: int = column("texts so far", "texts")
    published: int = column("those of them that are stored", "texts")
    parts: int = column("Parquet parts written by this run")
    checkpoints: int = column("checkpoints written by this run")
    resumed_at: int = column("texts that were there when this run began", "texts")
    diverged_at: int = column("first generation whose rows differ from those stored before; −1 without one")
    raw_reward: float = column("mean raw reward of the texts since the last report; 0 without one")
    kl_penalty: float = column(
        "mean `kl_penalty` of the texts since the last report: minus the KL divergence; 0 without one", "nats a token"
    )
    entropy: float = column("mean entropy over sampled positions since the last report; nan without an update", "nats")
    variety: float = column("variety of the last 100 texts; nan at first")
    sample_seconds: float = column("mean duration of sampling a group; nan without an update", "seconds")
    train_seconds: float = column("mean duration of scoring a group and updating; nan without an update", "seconds")
    best: list[float] = column(
        "in a search: after each full window, alliteration per 100 words of the best window within the limits"
    )
    host: str = column("where the trial runs")
    device: str = column("what it runs on")
    actor: str = column("id of the Ray actor that it runs in")

    def result(self) -> dict[str, Any]:
        """As a result of Tune."""
        return dict(vars(self))

    @classmethod
    def of_result(cls, result: Mapping[str, Any]) -> TrialReport:
        """The inverse of `result`; Tune has added keys of its own."""
        return cls(**{field.name: result[field.name] for field in dataclasses.fields(cls)})


def _columns_of(record: type[Any]) -> tuple[Column, ...]:
    """The fields of a record in their order; in a dataset's, those of `Stamp` first."""
    found = []
    for declaring in (Stamp, record) if issubclass(record, Record) else (record,):
        types = typing.get_type_hints(declaring)
        for field in dataclasses.fields(declaring):
            found.append(Column(field.name, types[field.name], **field.metadata))
    return tuple(found)


columns_of: Callable[[type[Any]], tuple[Column, ...]] = functools.cache(_columns_of)  # type: ignore[assignment]
"""The fields of a record in their order; in a dataset's, those of `Stamp` first."""


def version_of(records: Sequence[type[Record]]) -> int:
    """The version of the schema that these records make."""
    return max(one.since for record in records for one in columns_of(record))
