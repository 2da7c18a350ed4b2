"""A model that can be sampled and scored."""

from __future__ import annotations

import logging
from typing import Any

import torch

from rl_alliteration.lm.architectures import describe
from rl_alliteration.lm.decoder import DecoderForward
from rl_alliteration.lm.description import Parameters, Unsupported
from rl_alliteration.lm.forward import Forward
from rl_alliteration.lm.generic import TransformersForward

log = logging.getLogger(__name__)


class LanguageModel:
    """A causal LM in evaluation mode, with the fastest exact way through it."""

    def __init__(
        self, model: Any, dtype: torch.dtype | None = None, cache: str | None = None, *, by_description: bool = True
    ) -> None:
        """Args:
        model: its weights stay where they are.
        dtype: of the matrix products of sampling and scoring; None: the weights' own.
        cache: as in `TransformersForward`.
        by_description: go through this package's code, where it has a description of the model.
        """
        self.model = model.eval()
        self.forward: Forward
        """The way that sampling and scoring take through it."""
        self.device_loop: Any = None
        """What sampling on a GPU keeps from group to group."""
        dtype = dtype or model.dtype
        try:
            if not by_description:
                raise Unsupported("its description gives other numbers")
            self.forward = DecoderForward(describe(model.config, Parameters.of(model)), dtype)
        except Unsupported as reason:
            log.info("%s: sampling and scoring go through transformers' own code: %s", model.config.model_type, reason)
            self.forward = TransformersForward(model, dtype, cache)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.model.parameters()).device
        return device
