"""The JSON files that a storage keeps beside its datasets: what is in each, for `foreign.read_record`."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from pydantic import Field

from rl_alliteration.foreign import Count, Digest, Finite


@dataclasses.dataclass(frozen=True)
class PartDigest:
    """The checksums of one dataset's part."""

    sha256: Digest
    """Of the file."""
    rows: list[Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]]
    """Of each row, see `parts.row_digest`."""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The checksums of a part: `manifests/E/T/part-….json`."""

    first_generation: Count
    generations: Count
    parts: dict[str, PartDigest]
    """By dataset; `steps` is not among them if the trial has no updates."""


@dataclasses.dataclass(frozen=True)
class EventManifest:
    """The checksum of an event's file: `manifests/E/T/event-….json`."""

    sha256: Digest


@dataclasses.dataclass(frozen=True)
class CheckpointState:
    """All of a checkpoint but the weights: `checkpoints/E/T/generation-…/state.json`."""

    trial_id: str
    generation: Count
    end: bool
    """Whether it was written at a run's end, so that it is never pruned."""
    sha256: dict[str, Digest]
    """Of the other files, by name."""
    step: Count
    optimizer: dict[str, Any]
    random: dict[str, Any]
    recent_rewards: list[Finite] = dataclasses.field(default_factory=list)
    """Of an algorithm that compares with them, oldest first."""
    beta: Finite | None = None
    """A controlled KL coefficient."""
    parent: str = ""
    """Of the first one of a fork: its parent's configuration, as JSON."""
