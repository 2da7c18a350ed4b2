"""JSON files of a storage, written with a checksum of their own and read as what they are: possibly damaged, of
another version, or somebody else's.

A record is a frozen dataclass; its fields' types, with pydantic's bounds, say what is accepted.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from rl_alliteration.errors import Failure

T = TypeVar("T")

Count = Annotated[int, Field(ge=0, lt=2**63)]
Pid = Annotated[int, Field(ge=0, lt=2**31)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

_SEAL, _VERSION = "seal", "version"


class Damaged(Failure):
    """A file of a storage is not what was written there."""


class Newer(Failure):
    """A file of a storage was written by a newer version: nothing is wrong with it, and nothing may replace it."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{path} was written by a newer version of rl_alliteration; use that one")


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and one spelling a number: 40 and 40.0 are the same text."""
    return json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def encode_record(record: Any, version: int = 1) -> bytes:
    """A record, or a mapping, as the bytes of a file: JSON with the version of its format and a checksum of the rest.

    Raises:
        ValueError: a number in it is not finite.
    """
    values = dict(record) if isinstance(record, Mapping) else dataclasses.asdict(record)
    values[_VERSION] = version
    return json.dumps({**values, _SEAL: _seal(values)}, indent=1, allow_nan=False).encode()


def read_record(kind: type[T], data: bytes | str, path: str, version: int = 1, *, unsealed: bool = True) -> T:
    """The record in a file's bytes.

    Args:
        kind: a dataclass, or `dict[str, Any]` for any JSON object.
        data: of the file.
        path: for messages.
        version: newest version of the format that is known here.
        unsealed: accept files of before there were checksums: these have no version either.

    Raises:
        Damaged: it is no such record, or not as it was written.
        Newer: it is of a newer version.
    """
    values = read_object(data, path)
    seal, found = values.pop(_SEAL, None), values.get(_VERSION)
    if seal is not None and seal != _seal(values):
        raise Damaged(f"{path} is damaged: it is not what was written there")
    if isinstance(found, int) and not isinstance(found, bool) and found > version:
        raise Newer(path)
    if (seal is None) != (found is None) or (seal is None and not unsealed):
        raise Damaged(f"{path} is damaged: its checksum is missing")
    values.pop(_VERSION, None)
    return typed(kind, values, path)


def read_object(data: bytes | str, path: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        Damaged: it is none.
    """
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} is damaged: it is not JSON ({type(error).__name__})") from error
    if not isinstance(values, dict):
        raise Damaged(f"{path} is damaged: it is no JSON object")
    return values


def typed(kind: type[T], values: Mapping[str, Any], path: str) -> T:
    """Values from JSON as `kind`: no field unknown or missing, each of its type and within its bounds.

    Raises:
        Damaged: it does not fit; names the field.
    """
    if dataclasses.is_dataclass(kind):
        unknown = values.keys() - {field.name for field in dataclasses.fields(kind)}
        if unknown:
            raise Damaged(f"{path} is damaged: its field {min(unknown)[:40]!r} is unknown")
    try:
        checked: T = _adapter(kind).validate_json(json.dumps(values), strict=True)
        return checked
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(place)[:40] for place in first["loc"]) or "the whole"
        raise Damaged(f"{path} is damaged: {where}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} is damaged ({type(error).__name__})") from error


_adapter: Callable[[Any], TypeAdapter[Any]] = functools.cache(TypeAdapter)


def _seal(values: Mapping[str, Any]) -> str:
    try:
        return hashlib.sha256(canonical_json(values).encode("utf-8", "surrogatepass")).hexdigest()
    except (ValueError, RecursionError):  # numbers that are not finite, or nested too deep: nothing that was sealed
        return ""


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return int(value)
    return value
