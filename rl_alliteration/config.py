"""What fixes a trial's texts, validated, frozen, and named by its content."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from typing import Any

import numpy as np

from rl_alliteration.errors import UserError
from rl_alliteration.flags import COMPLETION, DTYPES, TEXT, SharedSettings, UpdateSettings, number_at_least, one_of
from rl_alliteration.foreign import Damaged, Finite, read_object, typed
from rl_alliteration.foreign import canonical_json as canonical_json
from rl_alliteration.identifiers import are_ancestors, check_name
from rl_alliteration.setting import MODEL as MODEL
from rl_alliteration.setting import NEVER, Setting, check, checked, setting, settings_of
from rl_alliteration.setting import ROUNDING as ROUNDING
from rl_alliteration.setting import SAMPLING as SAMPLING
from rl_alliteration.setting import TRAINING as TRAINING

# Raise whenever the code's own texts change for the same configuration: every trial id changes with it.
TEXTS_VERSION = 4
DESCRIBED_TEXTS_VERSION = 5
"""Of models that go through a description and that transformers' code sampled in version 4."""
_LAST_UNSAID_VERSION = 3
"""Until then configurations were stored without it."""

_MAX_THREADS = 4096
_MAX_TOKENS = 10**8
"""Of a group: its random numbers alone take 8 bytes each."""

# Folders of rl_alliteration/models: each with weights, tokenizer, card and `initials.json`.
SHIPPED_MODELS = ("storyteller", "storyteller-2")

# The trial without updates that every comparison with the unmodified model uses.
ORIGINAL = "original"
ORIGINAL_GENERATIONS = 1000
ORIGINAL_GROUP_SIZE = 10
NOT_OF_ORIGINALS = ("micro_batch", "reference_dtype")
"""Ways to save memory in training, which an original leaves at their defaults: it is one for all of them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialConfig(UpdateSettings, SharedSettings):
    """Everything that fixes the texts of one trial, each field declared with `setting`.

    Raises:
        UserError: a field is outside of what it accepts.
    """

    algorithm: str = setting(TRAINING, "{}", key="algorithm.name")
    """`rloo`, a registered one, or `original` for the trial without updates."""
    beta: float = setting(TRAINING, "beta {:.12g}", accepts="a number, 0 or more", check=number_at_least(0))
    """KL coefficient, in units of reward per nat of mean cross-entropy; finite, at least 0."""
    seed: int = setting(
        TRAINING, "seed {}", accepts="an integer from 0 to 2^63 - 1", check=lambda value: 0 <= value < 2**63
    )
    """Seed of every random number of the trial; 0 … 2^63 − 1."""
    learning_rate: float = setting(TRAINING, "rate {:.12g}", accepts="a number above 0", check=number_at_least(0))
    """Learning rate, the greatest of a schedule; finite, above 0 (0 for the original)."""
    group_size: int = setting(TRAINING, "group {}", accepts="an integer, 1 or more", check=lambda value: value >= 1)
    """Texts per update."""
    reward: str = setting(TRAINING, "{}", key="reward.name")
    """Name of the reward function, or the canonical form of a weighted sum of several."""
    reward_version: int = setting(TRAINING, "reward version {}", key="reward.version")
    """Version of the reward function: raised when its numbers change."""
    prompt: str = setting(SAMPLING, '"{}"', key=None)
    """What every text begins with; the first of several prompts."""
    weights: str = setting(MODEL, lambda value: f"weights {value[:8]}")
    """Fingerprint of the weights before RL (SHA-256, hex)."""
    tokenizer: str = setting(MODEL, lambda value: f"tokenizer {value[:8]}")
    """Fingerprint of the tokenizer (SHA-256, hex)."""
    threads: int = setting(
        ROUNDING, "{} threads", flag="cpus-per-trial",
        accepts=f"an integer from 1 to {_MAX_THREADS}", check=lambda value: 1 <= value <= _MAX_THREADS,
    )  # fmt: skip
    """CPU threads of the trial: they change the low-order bits of sums."""
    reward_parameters: str = setting(
        TRAINING, lambda value: f"reward parameters {_short(value)}",
        default="", key="reward.parameters", encode=json.loads,
    )  # fmt: skip
    """Canonical JSON of what the reward needs beside a text; empty for one that needs nothing."""
    target_kl: float | None = setting(
        TRAINING, lambda value: f"KL target {value:.12g}" if value else "fixed beta",
        default=None, key="kl_control.target", accepts="a number above 0",
        check=lambda value: value is None or (math.isfinite(value) and value > 0),
    )  # fmt: skip
    """Mean −`kl_penalty`, nats a token, that a controller steers to: beta is then where the coefficient begins."""
    more_prompts: tuple[str, ...] = setting(
        SAMPLING,
        lambda value: f"{len(value) + 1} prompts ({_short(chr(10).join(value))})" if value else "one prompt",
        default=(),
        key=None,
    )
    """The other prompts, of several: each group has one of them all, see `prompt_at`."""
    chat_prompts: tuple[str, ...] = setting(
        SAMPLING,
        lambda value: f"chat prompts {_short(chr(10).join(value))}" if value else "no chat prompts",
        default=(),
    )
    """What the chat template made of each prompt: the texts that were sampled after. Empty without --chat."""
    end_of_turn: tuple[int, ...] = setting(
        SAMPLING, lambda value: f"turn ends {' '.join(map(str, value))}" if value else "no end of turn", default=()
    )
    """The token by which the chat template ends an answer, if it does: it ends a text too."""
    reward_of: str = setting(SAMPLING, "reward of the {}", default=TEXT, **one_of(TEXT, COMPLETION))
    """What the reward is of, and with it that of the original."""
    algorithm_version: int = setting(TRAINING, "algorithm version {}", default=1, key="algorithm.version")
    """Version of the algorithm: raised when its updates change."""
    architecture: str = setting(MODEL, lambda value: f"architecture {value[:8]}", default="")
    """Fingerprint of what else changes the model's forward pass (SHA-256, hex): its configuration, its buffers.
    Empty in trials of earlier versions."""
    schedule_length: int = setting(
        TRAINING, "over {:,} texts", default=0,
        accepts="a number of texts, 0 or more", check=lambda value: value >= 0,
    )  # fmt: skip
    """Texts of the whole trial, where its rate is not constant; else 0: such a trial can be extended."""
    ancestors: tuple[str, ...] = setting(
        TRAINING, lambda value: f"from {value[-1]}" if value else "no fork", default=(), check=are_ancestors
    )
    """Of a fork, `TRIAL_ID@GENERATION`: whose model it begins from, last, and whose that one did, before it."""
    texts_version: int = dataclasses.field(
        default_factory=lambda: TEXTS_VERSION, metadata={"setting": Setting(ROUNDING, "texts version {}".format)}
    )
    """Of the code that the texts are of."""

    def __post_init__(self) -> None:
        for name in ("more_prompts", "chat_prompts", "end_of_turn", "ancestors"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON has lists
        check_name(self.algorithm)
        for name, value in checked(self).items():
            object.__setattr__(self, name, value)
        if self.target_kl is not None:
            check(self.beta > 0, "beta", "a number above 0: where a controlled coefficient begins", self.beta)
        if self.algorithm != ORIGINAL:
            check(self.learning_rate > 0, "learning-rate", SETTINGS["learning_rate"].accepts, self.learning_rate)
        check(
            self.group_size * self.max_length <= _MAX_TOKENS,
            "group-size", f"at most {_MAX_TOKENS:,} tokens a group, texts × max-length", self.group_size,
        )  # fmt: skip
        if self.micro_batch >= self.group_size:  # all at once, by another name
            object.__setattr__(self, "micro_batch", 0)

    @property
    def identity(self) -> dict[str, Any]:
        """What is hashed: of each field what it declares."""
        hashed: dict[str, Any] = {"prompts": list(self.prompts)}
        for name, declared in SETTINGS.items():
            value = getattr(self, name)
            if declared.key is not None and (declared.left_out_at is NEVER or value != declared.left_out_at):
                *above, last = (declared.key or name).split(".")
                place = hashed
                for level in above:
                    place = place.setdefault(level, {})
                place[last] = declared.encode(value)
        return hashed

    @property
    def sampling_digest(self) -> str:
        """Of what fixes the texts of a model before RL, their random numbers aside: 8 hex digits."""
        later = {
            name: getattr(self, name)
            for name, one in SETTINGS.items()
            if one.kind == SAMPLING and one.key is not None and getattr(self, name) != one.left_out_at
            and one.left_out_at is not NEVER
        }  # fmt: skip
        content = [list(self.prompts), self.max_length, self.temperature, self.top_k, *([later] if later else [])]
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:8]

    @property
    def prompts(self) -> tuple[str, ...]:
        """All prompts, in the order given."""
        return (self.prompt, *self.more_prompts)

    @property
    def texts_before(self) -> int:
        """Texts of a fork's ancestors before its own: its random numbers go on where theirs ended."""
        return sum(int(one.rpartition("@")[2]) for one in self.ancestors)

    def prompt_at(self, generation: int) -> str:
        """The prompt of the group that a generation belongs to: of several, drawn evenly by the seed.

        By the random number of position 0 of the group's first text, which no sampled token uses (see `uniforms`).
        """
        if not self.more_prompts:
            return self.prompt
        first = self.texts_before + generation - generation % self.group_size
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
        """Short fingerprint of model and tokenizer together: what the column `model` shows after the @."""
        parts = [self.weights, self.tokenizer, *([self.architecture] if self.architecture else [])]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def original(self) -> TrialConfig:
        """The trial without updates that belongs to this one: same model, prompt and sampling."""
        study: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(UpdateSettings)}
        study |= {name: SETTINGS[name].left_out_at for name in NOT_OF_ORIGINALS}
        return dataclasses.replace(
            self,
            algorithm=ORIGINAL,
            algorithm_version=1,
            beta=0.0,
            target_kl=None,
            seed=0,
            learning_rate=0.0,
            group_size=ORIGINAL_GROUP_SIZE,
            schedule_length=0,
            ancestors=(),
            **study,
        )

    def to_json(self) -> str:
        """All fields as canonical JSON."""
        return canonical_json(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str, trial_id: str | None = None) -> TrialConfig:
        """The inverse of `to_json`, for a text that may come from anywhere.

        Args:
            text: as stored, by this version or an earlier one.
            trial_id: whose it is: tells of which version a configuration is that does not say.

        Raises:
            Damaged: it is no configuration, or of a newer version.
        """
        path = "the configuration" if trial_id is None else f"the configuration of {trial_id}"[:120]
        values = read_object(text, path)
        unsaid = "texts_version" not in values
        said = values.setdefault("texts_version", _LAST_UNSAID_VERSION)
        if isinstance(said, int) and said > max(TEXTS_VERSION, DESCRIBED_TEXTS_VERSION):
            raise Damaged(f"{path} was written by a newer version of rl_alliteration; read it with that")
        for name, declared in SETTINGS.items():
            if declared.left_out_at is NEVER and name not in values:  # a default is for requests
                raise Damaged(f"{path} is damaged: its field {name!r} is missing")
        try:
            config = typed(cls, values, path)
            if config.reward_parameters:
                where = f"{path}, reward_parameters,"
                typed(dict[str, dict[str, Finite]], read_object(config.reward_parameters, where), where)
            known = config.trial_id
        except (UserError, ValueError, RecursionError) as error:
            reason = str(error)[:300] if isinstance(error, UserError) else type(error).__name__
            raise Damaged(f"{path} is damaged: {reason}") from error
        if config.dtype not in DTYPES or config.texts_version < 1:
            raise Damaged(f"{path} is damaged: its dtype or texts_version is none that is stored")
        if len(config.chat_prompts) != (len(config.prompts) if config.chat else 0):
            raise Damaged(f"{path} is damaged: its chat_prompts are not those of its prompts")
        if trial_id is not None and known != trial_id and unsaid:
            for version in range(1, _LAST_UNSAID_VERSION):
                earlier = dataclasses.replace(config, texts_version=version)
                if earlier.trial_id == trial_id:
                    return earlier
        return config


_KINDS = (TRAINING, SAMPLING, MODEL, ROUNDING)

SETTINGS: dict[str, Setting] = dict(
    sorted(settings_of(TrialConfig).items(), key=lambda item: _KINDS.index(item[1].kind))
)
"""What each field of `TrialConfig` declares, in the order in which trials are described."""


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:4]


@dataclasses.dataclass(frozen=True)
class PlannedTrial:
    """A trial as its sweep plans it."""

    config: TrialConfig
    model: str
    """Name of the model, as given."""
    max_generations: int
    checkpoint_every: int
    """Generations per part; fixed by the trial's first event."""
    beside: bool = False
    """Whether a preset has it beside the sweep that is asked for: another length of it is another trial then, where its
    rate falls over its length."""

    @property
    def trial_id(self) -> str:
        """See `TrialConfig.trial_id`."""
        return self.config.trial_id
