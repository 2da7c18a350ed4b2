"""The state of a training as one file, from which the same command resumes with the same numbers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from rl_alliteration.errors import UserError
from rl_alliteration.results.storage import Storage

CHECKPOINT = "training/checkpoint.safetensors"
"""Its path below the model's folder."""


@dataclasses.dataclass
class Record:
    """What a training has come to."""

    settings: dict[str, Any]
    """Those that must not change; `stories` is the SHA-256 of what they say, not where they are."""
    update: int = 0
    """How many are done."""
    tokens: int = 0
    """How many were read."""
    seconds: float = 0.0
    """Of training, in all sessions together."""
    best: float | None = None
    """Lowest validation loss so far, nats a token."""
    losses: list[list[float]] = dataclasses.field(default_factory=list)
    """At each evaluation: updates done, loss of the last batch, validation loss; nats a token."""


def save_state(storage: Storage, model: Any, optimizers: Sequence[torch.optim.Optimizer], record: Record) -> None:
    """All of the training's state as one file, put there whole. Nothing is ever unpickled."""
    tensors = {f"model.{name}": p.detach().cpu().contiguous() for name, p in model.named_parameters()}
    for number, optimizer in enumerate(optimizers):
        for index, values in optimizer.state_dict()["state"].items():
            tensors |= {f"{number}.{index}.{key}": value.cpu().contiguous() for key, value in values.items()}
    storage.put(
        CHECKPOINT, safetensors.torch.save(tensors, metadata={"record": json.dumps(dataclasses.asdict(record))})
    )


def load_record(storage: Storage) -> Record | None:
    """What the checkpoint says of itself, if there is one.

    Raises:
        UserError: it is damaged.
    """
    path = storage.folder(CHECKPOINT)
    if path is None or not path.exists():
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return Record(**json.loads(file.metadata()["record"]))
    except (safetensors.SafetensorError, TypeError, KeyError, ValueError) as error:
        raise UserError(f"--output: {str(path)!r} is damaged ({error}); give another --output, or remove it") from error


def load_state(storage: Storage, model: Any, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Go back to the checkpoint, of a model and optimizers like these."""
    path = storage.folder(CHECKPOINT)
    assert path is not None
    with safetensors.safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
    for number, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith(f"{number}."):
                _, index, key = name.split(".")
                state.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
