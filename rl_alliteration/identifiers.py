"""What things are known by: names that become parts of paths, and the fingerprint of a tokenizer."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from rl_alliteration.errors import UserError
from rl_alliteration.foreign import canonical_json

EXPERIMENT = r"[a-z][a-z0-9_-]{0,63}"
"""What an experiment's name is like, as a regular expression: it becomes part of paths."""

TRAINED = r"[a-z][a-z0-9_]{0,63}-(?:beta|kl)[0-9.e-]{1,30}-seed[0-9]{1,19}-[0-9a-f]{8}"
"""What the id of a trial with updates is like."""
_ANCESTOR = re.compile(rf"{TRAINED}@[1-9][0-9]{{0,11}}", re.ASCII)


def are_ancestors(names: Iterable[str]) -> bool:
    """Whether each is `TRIAL_ID@GENERATION`, as a fork's configuration has it."""
    return all(_ANCESTOR.fullmatch(name) for name in names)


def fingerprint_tokenizer(definition: str, end_tokens: Iterable[int], *, splits_special: bool) -> str:
    """SHA-256 of a tokenizer as it is used.

    Args:
        definition: all of it, as its library writes it.
        end_tokens: ids that end a text.
        splits_special: whether special tokens in a text are read as text, which the definition does not say.
    """
    split = "\nsplit" if splits_special else ""
    return hashlib.sha256(f"{definition}\n{canonical_json(sorted(end_tokens))}{split}".encode()).hexdigest()


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
    if not re.fullmatch(EXPERIMENT, name):
        raise UserError(
            f"--experiment: {name!r} is no experiment name; use a lower-case letter, then up to 63 of a-z 0-9 _ -"
        )
    return name
