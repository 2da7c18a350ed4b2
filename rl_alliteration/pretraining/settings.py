"""The settings of a pretraining, and what each accepts."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Literal

import torch

from rl_alliteration.errors import UserError


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """Train a story model from a text file of stories."""

    stories: str
    """UTF-8 text file; a line <|endoftext|> between stories."""
    output: str
    """Folder of the model; in `training/` the state that the same command resumes from."""
    heldout: str | None = None
    """Another such file, never trained on: the card compares the model with the shipped one on it."""
    passes: int = 10
    """How often every story is read."""
    vocabulary: int = 2048
    """Tokens of the byte-level BPE that is trained on the stories."""
    layers: int = 4
    """Blocks of the model."""
    width: int = 192
    """Of its hidden states; a multiple of the heads."""
    heads: int = 6
    """Attention heads a block."""
    context: int = 256
    """Most tokens that it can read."""
    dropout: float = 0.0
    """Of embeddings and residuals, while training."""
    weight_decay: float = 0.0
    """Decoupled, of matrices and embeddings."""
    batch: int = 32
    """Rows of `context` tokens an update."""
    matrix_learning_rate: float = 0.02
    """Muon's, of the matrices inside the blocks; falls to 0 in a line, as the other one does."""
    learning_rate: float = 3e-3
    """AdamW's, of embeddings, biases and norms."""
    validation: int = 200
    """Stories, the last of the file, that are set aside: their loss chooses the weights that are kept."""
    evaluate_every: int = 200
    """Updates between two validation losses and checkpoints."""
    device: str = "auto"
    """`auto`: a GPU where there is one; or cpu, cuda, cuda:1."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Of products while training; weights are float32."""
    seed: int = 0
    """Of the first weights, the order of the stories and dropout."""


def check(settings: Pretraining) -> torch.device:
    """Check each setting that can be checked without the stories.

    Returns:
        The device to train on.

    Raises:
        UserError: a setting is outside of what it accepts.
    """
    for field, least in (("passes", 1), ("vocabulary", 257), ("layers", 1), ("width", 1), ("heads", 1), ("context", 8),
                         ("batch", 1), ("validation", 1), ("evaluate_every", 1), ("seed", 0)):  # fmt: skip
        if getattr(settings, field) < least:
            flag = field.replace("_", "-")
            raise UserError(f"--{flag}: {getattr(settings, field)} is not accepted; give {least} or more")
    for field in ("matrix_learning_rate", "learning_rate", "weight_decay"):
        if not (math.isfinite(getattr(settings, field)) and getattr(settings, field) >= 0):
            flag = field.replace("_", "-")
            raise UserError(f"--{flag}: {getattr(settings, field)} is not accepted; give a number, 0 or more")
    if not 0 <= settings.dropout < 1:
        raise UserError(f"--dropout: {settings.dropout} is not accepted; give a number from 0 to less than 1")
    if settings.width % settings.heads:
        raise UserError(f"--width: {settings.width} is no multiple of the {settings.heads} heads")
    output = Path(settings.output).expanduser()
    if output.exists() and not output.is_dir():
        raise UserError(f"--output: {settings.output!r} is no folder; give one, it is made if it is not there")
    name = settings.device if settings.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = str(error).splitlines()[0]
        raise UserError(f"--device: {name!r} cannot be used ({reason}); give auto, cpu or cuda") from error
