"""Settings: fields that fix a trial's texts, each with its check, its words for people and its place in the id."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from rl_alliteration.errors import UserError

TRAINING, SAMPLING, MODEL, ROUNDING = "training", "sampling", "model", "rounding"
"""Kinds of settings, in the order in which trials are described. Rounding: they change the low-order bits of sums
alone."""

NEVER = object()


@dataclasses.dataclass(frozen=True)
class Setting:
    """What there is to say of a field beside its type, default and meaning: all of it here, and only here."""

    kind: str
    words: Callable[[Any], str]
    """A value for people, as one of several things that tell trials apart."""
    accepts: str = ""
    check: Callable[[Any], bool] = lambda value: True
    """Whether a value is accepted; `accepts` says in words what is."""
    flag: str = ""
    """Of the command line; by default the field's name."""
    key: str | None = ""
    """Its place in what is hashed, a dot for a level; by default the field's name, None: not by itself."""
    encode: Callable[[Any], Any] = lambda value: value
    """What is hashed."""
    left_out_at: Any = NEVER
    """The value at which it is left out of what is hashed: its default, if it was added later, so that old ids stay."""


def setting(kind: str, words: str | Callable[[Any], str], *, default: Any = dataclasses.MISSING, **more: Any) -> Any:
    """Declare a field; `words` may be a format: `rate {:g}`. `more`: other fields of `Setting`.

    One with a default is left out of what is hashed there, unless `left_out_at=NEVER`.
    """
    spoken = words.format if isinstance(words, str) else words
    more |= {"left_out_at": default} if default is not dataclasses.MISSING and "left_out_at" not in more else {}
    return dataclasses.field(default=default, metadata={"setting": Setting(kind, spoken, **more)})


def settings_of(record: Any) -> dict[str, Setting]:
    """What each field of a dataclass, or of an instance, declares; fields that are no settings are left out."""
    fields = [one for one in dataclasses.fields(record) if "setting" in one.metadata]
    return {field.name: field.metadata["setting"] for field in fields}


def values_of(kind: Any, record: Any) -> dict[str, Any]:
    """A record's values of the settings that the dataclass `kind` declares."""
    return {name: getattr(record, name) for name in settings_of(kind)}


def checked(record: Any) -> dict[str, Any]:
    """A record's settings, numbers in the type that is declared: 40 and 40.0 are one number, and so are 0.0 and -0.0.

    Raises:
        UserError: one is outside of what it accepts.
    """
    found = {}
    types = {field.name: str(field.type) for field in dataclasses.fields(record)}
    for name, declared in settings_of(record).items():
        flag = declared.flag or name.replace("_", "-")
        value = getattr(record, name)
        if types[name] == "int":
            check(isinstance(value, int) and not isinstance(value, bool), flag, "a whole number", value)
        elif types[name].startswith("float") and value is not None:
            try:
                value = float(value) + 0.0
            except (TypeError, ValueError, OverflowError):
                check(False, flag, "a number", value)
        check(declared.check(value), flag, declared.accepts, value)
        found[name] = value
    return found


def check(holds: bool, flag: str, accepts: str, value: object) -> None:
    """Whether a value is accepted.

    Raises:
        UserError: it does not hold; says what the flag accepts.
    """
    if not holds:
        raise UserError(f"--{flag}: {value!r} is not accepted; give {accepts}")
