"""How a trial samples and learns, as a person says it: each field is a flag."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from rl_alliteration.errors import UserError
from rl_alliteration.setting import NEVER, ROUNDING, SAMPLING, TRAINING, setting

DTYPES = ("float32", "bfloat16", "float64")
REFERENCE_DTYPES = ("float32", "bfloat16")

FIRST_GROUP, ALL_GROUPS = "first-group", "all"
RECORDED = ("none", FIRST_GROUP, ALL_GROUPS)
"""Texts whose tokens are recorded: of no group, of the first of each checkpoint interval, of all."""

STUDY_PROMPT = "Once upon a time"
STUDY_MAX_LENGTH = 100
STUDY_TOP_K = 50


def number_at_least(least: float) -> Callable[[Any], bool]:
    return lambda value: math.isfinite(value) and value >= least


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How texts are sampled. Each field is a flag of `sweep`, `search` and `sample`, its docstring the flag's help."""

    max_length: int = setting(
        SAMPLING, "length {}", default=STUDY_MAX_LENGTH, left_out_at=NEVER,
        accepts="at least 2 tokens", check=lambda value: value >= 2,
    )  # fmt: skip
    """Most tokens of a text, the prompt's included."""
    temperature: float = setting(
        SAMPLING, "temperature {:.12g}", default=1.0, left_out_at=NEVER,
        accepts="a number from 0.001 to 1000", check=lambda value: 0.001 <= value <= 1000,
    )  # fmt: skip
    """Sampling temperature."""
    top_k: int = setting(
        SAMPLING, "top-k {}", default=0, left_out_at=NEVER,
        accepts="0 (the full distribution) or more", check=lambda value: value >= 0,
    )  # fmt: skip
    """Sample among the k likeliest tokens; 0: the full distribution."""


CREDITS = ("text", "to-go")
KL_TERMS = ("sampled", "exact", "k2", "k3")
TEXT, COMPLETION = "text", "completion"
"""What a reward may be of: the prompt with what was sampled after it, or that alone."""


def one_of(*names: str) -> dict[str, Any]:
    return {"accepts": " or ".join(names), "check": lambda value: value in names}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chat:
    """How a prompt is put to an instruct model. Each field is a flag of `sweep`, `search` and `sample`."""

    chat: bool = setting(SAMPLING, lambda value: "chat" if value else "no chat", default=False)
    """Put the prompt through the model's chat template, as the user's message; the end of a turn ends a text."""
    system_prompt: str | None = setting(
        SAMPLING, lambda value: "no system prompt" if value is None else f'system prompt "{value}"', default=None
    )
    """With --chat: the system message. Default: none of ours; the template may have its own."""

    def check_chat(self) -> None:
        """Whether its settings fit together.

        Raises:
            UserError: they do not.
        """
        if self.system_prompt is not None and not self.chat:
            raise UserError("--system-prompt: it is a message of the chat template; give --chat too, or leave it out")


@dataclasses.dataclass(frozen=True, kw_only=True)
class UpdateSettings:
    """How a scored group becomes an update, the algorithm aside; the defaults are the study's. Each field is a flag of
    `sweep` and `search`, which take several values of it."""

    credit: str = setting(TRAINING, "credit {}", default="text", **one_of(*CREDITS))
    """What a token is weighed by: `text`, the advantage of its text; `to-go`, the reward and KL that come with it or
    after it. Default: text."""
    kl: str = setting(TRAINING, "KL {}", default="sampled", **one_of(*KL_TERMS))
    """The KL term: `sampled`, of the sampled tokens, in the reward; `exact`, its gradient over the whole vocabulary;
    `k2` or `k3`, that estimator in the loss. Default: sampled."""
    optimizer: str = setting(TRAINING, "{}", default="sgd", **one_of("sgd", "adamw"))
    """`sgd` or `adamw`. Default: sgd."""
    momentum: float = setting(
        TRAINING, "momentum {:.12g}", default=0.0,
        accepts="a number of at least 0 and below 1", check=lambda value: 0 <= value < 1,
    )  # fmt: skip
    """Of SGD. Default: 0."""
    schedule: str = setting(TRAINING, "{} rate", default="constant", **one_of("constant", "linear", "cosine"))
    """The learning rate over a trial: `constant`; `linear` or `cosine` fall to 0 at its end, so that it cannot be
    extended. Default: constant."""
    warm_up: int = setting(
        TRAINING, "warm-up {:,}", default=0, accepts="a number of texts, 0 or more", check=lambda value: value >= 0
    )
    """Texts over which the learning rate rises. Default: 0."""


STUDYS_UPDATE = UpdateSettings()


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharedSettings(Chat, Sampling):
    """Settings that all trials of a sweep share. Each field is a flag of `sweep` and `search`."""

    dtype: str = setting(
        ROUNDING, "{}", default="float32", left_out_at=NEVER,
        accepts=", ".join((*DTYPES, "auto")), check=lambda value: value in (*DTYPES, "auto"),
    )  # fmt: skip
    """Precision of sampling and scoring: float32, bfloat16, or `auto`: bfloat16 where the hardware computes it.
    The policy's weights and updates are float32 always."""
    micro_batch: int = setting(
        ROUNDING, "micro-batches of {}", default=0,
        accepts="0 (the whole group at once) or a number of texts", check=lambda value: value >= 0,
    )  # fmt: skip
    """To save memory, score and differentiate a group so many texts at a time: the same sum of gradients to rounding,
    in more time. Sampling stays one batch. 0, or no fewer than the group has: all at once. Default: 0."""
    reference_dtype: str = setting(ROUNDING, "{} reference", default="float32", **one_of(*REFERENCE_DTYPES))
    """Precision in which the frozen weights before RL are kept: bfloat16 saves half of their memory, and rounds the KL
    divergence. Default: float32."""
