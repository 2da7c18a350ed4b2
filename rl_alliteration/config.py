"""What fixes a trial's texts, validated, frozen, and named by its content."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from typing import Any

import numpy as np

from rl_alliteration.errors import UserError

# Raise whenever the code's own texts change for the same configuration: every trial id changes with it.
TEXTS_VERSION = 3

# Folders of rl_alliteration/models: each with weights, tokenizer, card and `initials.json`.
SHIPPED_MODELS = ("storyteller", "storyteller-2")

# The trial without updates that every comparison with the unmodified model uses.
ORIGINAL = "original"
ORIGINAL_GENERATIONS = 1000
ORIGINAL_GROUP_SIZE = 10

STUDY_PROMPT = "Once upon a time"
STUDY_MAX_LENGTH = 100
STUDY_TOP_K = 50

_EXPERIMENT = re.compile(r"[a-z][a-z0-9_-]{0,63}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """Everything that fixes the texts of one trial (design: "A trial's identity").

    Raises:
        UserError: a field is outside of what it accepts.
    """

    algorithm: str
    """`rloo`, a registered one, or `original` for the trial without updates."""
    beta: float
    """KL coefficient, in units of reward per nat of mean cross-entropy; finite, at least 0."""
    seed: int
    """Seed of every random number of the trial; 0 … 2^63 − 1."""
    learning_rate: float
    """Constant learning rate of plain SGD; finite, above 0 (0 for the original)."""
    group_size: int
    """Texts per update."""
    reward: str
    """Name of the reward function, or the canonical form of a weighted sum of several."""
    reward_version: int
    """Version of the reward function: raised when its numbers change."""
    prompt: str
    """What every text begins with; the first of several prompts."""
    max_length: int
    """Most tokens of a text, the prompt's included."""
    temperature: float
    """Sampling temperature; finite, above 0."""
    top_k: int
    """Sample among the k likeliest tokens; 0: the full distribution."""
    weights: str
    """Fingerprint of the weights before RL (SHA-256, hex)."""
    tokenizer: str
    """Fingerprint of the tokenizer (SHA-256, hex)."""
    dtype: str
    """Resolved precision of sampling and scoring."""
    threads: int
    """CPU threads of the trial: they change the low-order bits of sums."""
    reward_parameters: str = ""
    """Canonical JSON of what the reward needs beside a text; empty for one that needs nothing."""
    target_kl: float | None = None
    """Mean −`kl_penalty`, nats a token, that a controller steers to: beta is then where the coefficient begins."""
    more_prompts: tuple[str, ...] = ()
    """The other prompts, of several: each group has one of them all, see `prompt_at`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "more_prompts", tuple(self.more_prompts))  # JSON has lists
        for field in ("seed", "group_size", "max_length", "top_k", "threads"):
            value = getattr(self, field)
            whole = isinstance(value, int) and not isinstance(value, bool)
            _check(whole, field.replace("_", "-"), "a whole number", value)
        for field in ("beta", "learning_rate", "temperature", "target_kl"):
            value = getattr(self, field)
            if field == "target_kl" and value is None:
                continue
            try:  # 40 and 40.0 are one number, and so are 0.0 and -0.0
                object.__setattr__(self, field, float(value) + 0.0)
            except (TypeError, ValueError, OverflowError):
                _check(False, field.replace("_", "-"), "a number", value)
        if self.target_kl is not None:
            _check(
                math.isfinite(self.target_kl) and self.target_kl > 0, "target-kl", "a number above 0", self.target_kl
            )
            _check(self.beta > 0, "beta", "a number above 0: where a controlled coefficient begins", self.beta)
        _check(math.isfinite(self.beta) and self.beta >= 0, "beta", "a number, 0 or more", self.beta)
        _check(0 <= self.seed < 2**63, "seed", "an integer from 0 to 2^63 - 1", self.seed)
        least = 0.0 if self.algorithm == ORIGINAL else math.ulp(0.0)
        _check(
            math.isfinite(self.learning_rate) and self.learning_rate >= least,
            "learning-rate", "a number above 0", self.learning_rate,
        )  # fmt: skip
        _check(self.group_size >= 1, "group-size", "an integer, 1 or more", self.group_size)
        _check(
            0.001 <= self.temperature <= 1000,
            "temperature", "a number from 0.001 to 1000", self.temperature,
        )  # fmt: skip
        _check(self.top_k >= 0, "top-k", "0 (the full distribution) or more", self.top_k)
        _check(self.max_length >= 2, "max-length", "at least 2 tokens", self.max_length)
        _check(self.threads >= 1, "cpus-per-trial", "an integer, 1 or more", self.threads)

    @property
    def identity(self) -> dict[str, Any]:
        """What is hashed. A setting added later is left out at its default, so that old ids stay."""
        control = {} if self.target_kl is None else {"kl_control": {"target": self.target_kl}}
        reward = {"name": self.reward, "version": self.reward_version}
        if self.reward_parameters:
            reward["parameters"] = json.loads(self.reward_parameters)
        return {
            "texts_version": TEXTS_VERSION,
            "algorithm": {"name": self.algorithm},
            "beta": self.beta,
            "seed": self.seed,
            "learning_rate": self.learning_rate,
            "group_size": self.group_size,
            "reward": reward,
            "prompts": list(self.prompts),
            "max_length": self.max_length,
            "temperature": self.temperature,
            "top_k": self.top_k,
            "weights": self.weights,
            "tokenizer": self.tokenizer,
            "dtype": self.dtype,
            "threads": self.threads,
            **control,
        }

    @property
    def prompts(self) -> tuple[str, ...]:
        """All prompts, in the order given."""
        return (self.prompt, *self.more_prompts)

    def prompt_at(self, generation: int) -> str:
        """The prompt of the group that a generation belongs to: of several, drawn evenly by the seed.

        By the random number of position 0 of the group's first text, which no sampled token uses (see `uniforms`).
        """
        if not self.more_prompts:
            return self.prompt
        first = generation - generation % self.group_size
        number = np.random.Philox(key=np.array([self.seed, first], dtype=np.uint64)).random_raw()
        return self.prompts[int(number) % len(self.prompts)]

    @property
    def trial_id(self) -> str:
        """`rloo-beta40-seed0-1a2b3c4d`, `rloo-kl0.1-seed0-1a2b3c4d`, `original-1a2b3c4d`."""
        digest = hashlib.sha256(canonical_json(self.identity).encode()).hexdigest()[:8]
        if self.algorithm == ORIGINAL:
            return f"{ORIGINAL}-{digest}"
        name, number = ("beta", self.beta) if self.target_kl is None else ("kl", self.target_kl)
        coefficient = name + format(number, ".12g").replace("+", "")
        return f"{self.algorithm}-{coefficient}-seed{self.seed}-{digest}"

    @property
    def model_fingerprint(self) -> str:
        """Short fingerprint of weights and tokenizer together: what the column `model` shows after the @."""
        return hashlib.sha256(f"{self.weights}\n{self.tokenizer}".encode()).hexdigest()[:16]

    def original(self) -> TrialConfig:
        """The trial without updates that belongs to this one: same model, prompt and sampling."""
        return dataclasses.replace(
            self,
            algorithm=ORIGINAL,
            beta=0.0,
            target_kl=None,
            seed=0,
            learning_rate=0.0,
            group_size=ORIGINAL_GROUP_SIZE,
        )

    def to_json(self) -> str:
        """All fields as canonical JSON."""
        return canonical_json(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> TrialConfig:
        """The inverse of `to_json`."""
        return cls(**json.loads(text))


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and one spelling a number: 40 and 40.0 are the same text."""
    return json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def check_name(name: str) -> str:
    """The name of an algorithm or a reward, if it is a valid one: it becomes part of paths.

    Raises:
        UserError: it is not.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name):
        raise UserError(f"{name!r} is no name for an algorithm or a reward; use a-z, then a-z 0-9 _")
    return name


def check_experiment_name(name: str) -> str:
    """The name, if it is a valid one: it becomes part of paths and pages.

    Raises:
        UserError: it is not.
    """
    if not _EXPERIMENT.fullmatch(name):
        raise UserError(
            f"--experiment: {name!r} is no experiment name; use a lower-case letter, then up to 63 of a-z 0-9 _ -"
        )
    return name


def _check(holds: bool, field: str, accepts: str, value: object) -> None:
    if not holds:
        raise UserError(f"--{field}: {value!r} is not accepted; give {accepts}")
