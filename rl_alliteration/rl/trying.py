"""Whether a user's own reward works at all, before trials rely on it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rl_alliteration.errors import UserError
from rl_alliteration.rl.parts import token_rewards
from rl_alliteration.rl.rewards import Reward
from rl_alliteration.rl.undisturbed import undisturbed
from rl_alliteration.rl.user_errors import told

_ENDINGS = ("", ", there was a tiny tree that told tall tales.", "\n“Élan!” said 3 cats … 🙂 ")
"""What follows a prompt in the texts that a reward is tried on: nothing, a story, what few think of."""


def try_reward(reward: Reward, prompt: str) -> None:
    """Call it for three texts, as a trial would.

    Args:
        reward: with its tables bound, if it needs any.
        prompt: what texts begin with.

    Raises:
        UserError: it raises, or gives no finite number; or its parts are none of it.
    """
    for ending in _ENDINGS:
        text = prompt + ending
        name, on = f"--reward: {reward.name!r}", f"on the text {text!r}; mend it, no trial was started"
        try:
            with undisturbed():
                given = reward(text)
        except (Exception, SystemExit) as error:
            raise UserError(f"{name} raised {told(error)} {on}") from error
        value = _number(given)
        if not math.isfinite(value):
            raise UserError(f"{name} gave {repr(given)[:80]}, not a finite number, {on}")
        try:
            with undisturbed():
                parts = None if reward.parts is None else reward.parts(text)
            token_rewards(value, parts, np.arange(1, len(text) + 1))
        except (Exception, SystemExit) as error:
            raise UserError(f"{name} has parts that failed ({told(error)}) {on}") from error


def _number(given: Any) -> float:
    """As a trial takes it; nan if it is none."""
    try:
        return math.nan if isinstance(given, str | bytes) else float(given)
    except Exception:
        return math.nan
