"""A version for a function of a notebook or a script: another source is another version.

A function that was edited between two runs must not extend a trial of the earlier one.
"""

from __future__ import annotations

import dis
import hashlib
import inspect
import re
import textwrap
import types
from collections.abc import Iterator
from typing import Any

from rl_alliteration.errors import UserError


def source_version(function: Any, *others: Any) -> int:
    """A number that follows the source of a function, and of others that belong to it, and that of what they use of
    their notebook or script.

    What it uses of other modules counts by its name alone, as a reward of a module does.

    Raises:
        UserError: it uses something whose content cannot be determined, or its source is not known.
    """
    name = getattr(function, "__qualname__", repr(function))
    description = _Description(name)
    described = "\n".join([description.of(one) for one in (function, *others)])
    return 1 + int(hashlib.sha256(described.encode("utf-8", "surrogatepass")).hexdigest()[:8], 16)


class _Description:
    """Values as text that is equal where, and only where, they are."""

    def __init__(self, reward: str) -> None:
        self._reward = reward
        self._begun: set[int] = set()
        """Functions that call one another are described once."""

    def of(self, value: Any, name: str = "") -> str:
        """The text; `name`: what the reward's source calls it."""
        if value is None or isinstance(value, bool | int | float | complex | str | bytes):
            return repr(value)
        if isinstance(value, list | tuple):
            return f"{type(value).__name__}({', '.join(self.of(item, name) for item in value)})"
        if isinstance(value, set | frozenset):
            return f"set({', '.join(sorted(self.of(item, name) for item in value))})"
        if isinstance(value, dict):
            return f"dict({', '.join(sorted(f'{self.of(k, name)}: {self.of(v, name)}' for k, v in value.items()))})"
        if isinstance(value, re.Pattern):
            return f"pattern({value.pattern!r}, {value.flags})"
        if isinstance(value, types.ModuleType):
            return f"module {value.__name__}"
        if getattr(value, "__module__", None) != "__main__" and hasattr(value, "__qualname__"):
            return f"{value.__module__}:{value.__qualname__}"
        if hasattr(value, "__wrapped__") and not isinstance(value, types.FunctionType):  # functools.cache
            return f"{type(value).__name__}({self.of(value.__wrapped__, name)})"
        if isinstance(value, types.FunctionType):
            return self._function(value)
        raise UserError(
            f"reward: {self._reward!r} uses {name or 'something'!r}, a {type(value).__name__} whose changes cannot be "
            f"detected; write {self._reward}.version = 1 beneath the function, and raise it when the numbers change"
        )

    def _function(self, function: types.FunctionType) -> str:
        if id(function) in self._begun:
            return function.__qualname__
        self._begun.add(id(function))
        try:
            source = textwrap.dedent(inspect.getsource(function.__code__))
        except (OSError, TypeError) as error:
            raise UserError(
                f"reward: the source of {function.__qualname__!r} is not known; put it into a module, "
                f"or write {self._reward}.version = 1 beneath the function, and raise it when the numbers change"
            ) from error
        used = {name: function.__globals__[name] for name in _names(function.__code__) if name in function.__globals__}
        enclosed = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        used |= {name: cell.cell_contents for name, cell in enclosed}
        used |= {"its defaults": (function.__defaults__, function.__kwdefaults__)}
        return "\n".join([source, *(f"{name} = {self.of(value, name)}" for name, value in sorted(used.items()))])


def _names(code: types.CodeType) -> Iterator[str]:
    """Global names that code uses, that of functions and comprehensions within it too."""
    yield from (one.argval for one in dis.get_instructions(code) if one.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
