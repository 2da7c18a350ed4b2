"""The commands, one module each: a new command is a new file here, and nothing else.

The module `frobnicate.py` holds one subclass of `Command`, a frozen dataclass: its docstring is the help of
`rl-alliteration frobnicate`, its fields are the flags.
"""

from __future__ import annotations

import abc
import dataclasses
import importlib
import pkgutil
from typing import Any, ClassVar

STORAGE = "RL_ALLITERATION_STORAGE"
"""The environment variable that says where results are if no --storage does."""


class Command(abc.ABC):
    """A command with its flags."""

    place: ClassVar[int]
    """The help lists commands by it, the lowest first."""
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]  # for type checkers: each is a dataclass

    @abc.abstractmethod
    def run(self) -> int:
        """Do what was asked for.

        Returns:
            The exit code.

        Raises:
            UserError: a flag has a value that is not accepted.
            Failure: something that was rightly asked for went wrong.
        """


def all_commands() -> dict[str, type[Command]]:
    """Every command by its name, in the order in which the help lists them."""
    found: dict[str, type[Command]] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        own = [value for value in vars(module).values() if getattr(value, "__module__", "") == module.__name__]
        (found[info.name],) = (value for value in own if isinstance(value, type) and issubclass(value, Command))
    return dict(sorted(found.items(), key=lambda item: item[1].place))
