"""What a view's address says: each choice checked, so that none is silently ignored; nothing of it is ever a path."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from urllib.parse import urlencode

from rl_alliteration.app.index import Known, Snapshot
from rl_alliteration.errors import UserError

MOST = 200
"""Characters of a word that is searched for, at most."""


class Choices:
    """The parameters of an address."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._pairs = [(name, value) for name, value in pairs if value != ""]

    def __str__(self) -> str:
        return urlencode(self._pairs)

    def all(self, name: str) -> list[str]:
        """Every value of a parameter."""
        return [value for key, value in self._pairs if key == name]

    def text(self, name: str, default: str = "", most: int = MOST) -> str:
        """A text.

        Raises:
            UserError: it is too long.
        """
        value = next(iter(self.all(name)), default)
        if len(value) > most or "\0" in value:
            raise UserError(f"{name}: give at most {most} characters, and no NUL")
        return value

    def one_of(self, name: str, options: Iterable[str], default: str) -> str:
        """One of several.

        Raises:
            UserError: it is none of them.
        """
        value, known = self.text(name, default), list(options)
        if value not in known:
            raise UserError(f"{name}: {value!r} is not accepted; give one of {', '.join(known)}")
        return value

    def some_of(self, name: str, options: Iterable[str]) -> list[str]:
        """Any number of several.

        Raises:
            UserError: one is none of them.
        """
        values, known = self.all(name), list(options)
        for value in values:
            if value not in known:
                raise UserError(f"{name}: {value[:MOST]!r} is not accepted; give one of {', '.join(known)}")
        return values

    def whole(self, name: str, default: int, least: int = 0, most: int = 2**53) -> int:
        """A whole number.

        Raises:
            UserError: it is none, or out of bounds.
        """
        value = self.text(name, str(default))
        try:
            number = int(value)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            raise UserError(f"{name}: {value!r} is not accepted; give a whole number of at least {least}")
        return number

    def number(self, name: str, default: float, least: float = -math.inf, most: float = math.inf) -> float:
        """A number.

        Raises:
            UserError: it is none, or out of bounds.
        """
        value = self.text(name, f"{default:g}")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and least <= number <= most):
            bounds = f" from {least:g} to {most:g}" if math.isfinite(most) else f" of at least {least:g}"
            raise UserError(f"{name}: {value!r} is not accepted; give a number{bounds if least > -math.inf else ''}")
        return number

    def flag(self, name: str) -> bool:
        """Whether something is asked for."""
        return self.one_of(name, ("yes", "no"), "no") == "yes"

    def trials(self, snapshot: Snapshot, name: str = "trial") -> list[Known]:
        """The trials that are named.

        Raises:
            UserError: there is none of such a name.
        """
        found = []
        for value in self.all(name):
            pair = tuple(value.split("/", 1))
            known = snapshot.trials.get((pair[0], pair[1])) if len(pair) == 2 else None
            if known is None:
                raise UserError(f"{name}: {value[:MOST]!r} is no trial of this storage")
            found.append(known)
        return list({one.pair: one for one in found}.values())

    def with_(self, **changes: str | Sequence[str] | None) -> str:
        """The address's parameters with others in place of some; None: without it."""
        kept = [(name, value) for name, value in self._pairs if name not in changes]
        for name, change in changes.items():
            values = [] if change is None else [change] if isinstance(change, str) else list(change)
            kept += [(name, value) for value in values if value != ""]
        return "?" + urlencode(kept)
