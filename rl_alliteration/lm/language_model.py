"""A model that can be sampled and scored."""

from __future__ import annotations

import logging
from typing import Any

import torch

from rl_alliteration.lm.architectures import architecture_of
from rl_alliteration.lm.architectures.generic import TransformersForward
from rl_alliteration.lm.forward import Forward

log = logging.getLogger(__name__)


class LanguageModel:
    """A causal LM in evaluation mode, with the fastest exact way through it."""

    def __init__(self, model: Any, dtype: torch.dtype | None = None, cache: str | None = None) -> None:
        """`dtype`: of the matrix products of sampling and scoring; None: the weights' own, which stay as they are.

        `cache`: as in `TransformersForward`.
        """
        self.model = model.eval()
        dtype = dtype or model.dtype
        architecture = architecture_of(model)
        self.forward: Forward
        """The way that sampling and scoring take through it."""
        self.device_loop: Any = None
        """What sampling on a GPU keeps from group to group."""
        if architecture is not None:
            self.forward = architecture.forward(model, dtype)
        else:
            log.info("%s: sampling and scoring go through transformers' own code", model.config.model_type)
            self.forward = TransformersForward(model, dtype, cache)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.model.parameters()).device
        return device
