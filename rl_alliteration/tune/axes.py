"""Axes of a sweep: settings of one trial, of which a request may give several values. Made from their declaration."""

from __future__ import annotations

import dataclasses
import itertools
import typing
from collections.abc import Collection, Iterator
from typing import Annotated, Any

import tyro

from rl_alliteration.flags import STUDYS_UPDATE, UpdateSettings

UPDATE: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(UpdateSettings)}
"""The settings of an update, each with the study's value."""

FLAGS = {"from_trial": "from"}
"""Of fields that cannot be called as their flags are."""

_METAVARS = {str: "NAME ...", int: "INT ...", float: "FLOAT ..."}


def several(kind: type) -> Any:
    """A subclass of the dataclass `kind` whose fields take any number of values each; none is the default."""
    fields = []
    for name, hint in typing.get_type_hints(kind).items():
        many = Annotated[tuple[hint, ...], tyro.conf.arg(metavar=_METAVARS[hint])]  # type: ignore[valid-type]
        fields.append((name, many, dataclasses.field(default=())))
    namespace = {"__module__": __name__, "__doc__": f"{kind.__name__}, of each any number of values."}
    return dataclasses.make_dataclass(
        f"Several{kind.__name__}", fields, bases=(kind,), namespace=namespace, frozen=True, kw_only=True
    )


SeveralUpdates: Any = several(UpdateSettings)


def as_tuples(request: Any, names: Collection[str]) -> None:
    """Make one value of a field that takes several a tuple of it, and None an empty one."""
    for name in names:
        value = getattr(request, name)
        if not isinstance(value, tuple | list):
            object.__setattr__(request, name, () if value is None else (value,))


def unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values once each, in the order given."""
    return tuple(dict.fromkeys(values))


def update_values(request: Any, default: UpdateSettings | None = None) -> dict[str, Any]:
    """The values that a `SeveralUpdates` gives to each setting; where it gives none, that of `default`, or the
    study's."""
    default = default or STUDYS_UPDATE
    return {name: unique(getattr(request, name)) or (getattr(default, name),) for name in UPDATE}


def updates(request: Any) -> Iterator[dict[str, Any]]:
    """All combinations of a `SeveralUpdates`, the last setting changing fastest."""
    values = update_values(request)
    for combination in itertools.product(*values.values()):
        yield dict(zip(values, combination, strict=True))
