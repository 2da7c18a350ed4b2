"""Where people already look: a trial's settings, curves and texts in MLflow, Weights & Biases or trackio (`--log-to`).

Each tool has a process of its own (`__main__`), which reads what trials have published from the storage: whatever it
prints, asks, or fails at, no sweep stops for it. One module a tool has its `open_run`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rl_alliteration.errors import UserError

TRACKERS = ("mlflow", "wandb", "trackio")
"""Each the name of its package, of the extra that brings it, and of the module here."""

TEXT_COLUMNS = ("generation", "text", "raw_reward", "reward", "kl_penalty")
"""Of the table of texts: the first of each group."""

Points = Sequence[tuple[int, Mapping[str, float]]]
"""Curves' points, by how many texts there were then, ascending."""


@dataclasses.dataclass(frozen=True)
class Tracked:
    """A trial, as a tool is told of it."""

    experiment: str
    trial_id: str
    settings: Mapping[str, Any]

    @property
    def run_id(self) -> str:
        """Of the tool's run, so that the next process goes on with it: 16 hex digits."""
        return hashlib.sha256(f"{self.experiment}/{self.trial_id}".encode()).hexdigest()[:16]


class Run(Protocol):
    """A trial in a tool: one run, also if several processes write it, one after the other."""

    generations: int
    """Of how many texts it has had the points."""

    def log(self, points: Points, texts: Sequence[Mapping[str, Any]]) -> None:
        """Add points, and texts with `TEXT_COLUMNS`."""

    def end(self, status: str) -> None:
        """The trial runs no more, for now; `status` as in the event log."""


def check_trackers(names: Sequence[str]) -> None:
    """Whether these are tools that there are.

    Raises:
        UserError: one is not known.
    """
    for name in names:
        if name not in TRACKERS:
            raise UserError(f"--log-to: {name!r} is not accepted; give one or more of {', '.join(TRACKERS)}")


def check_installed(names: Sequence[str]) -> None:
    """Whether they can be used here.

    Raises:
        UserError: one is not installed.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"--log-to: {name} is not installed; pip install 'rl_alliteration[{name}]'")
