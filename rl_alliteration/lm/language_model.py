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
from rl_alliteration.lm.weights import Weights, as_transformers

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
        self.parameters: tuple[torch.Tensor, ...]
        """All, each once, in an order that does not depend on how the model was loaded."""
        dtype = dtype or model.dtype
        parameters = Parameters.of(model)
        try:
            if not by_description:
                raise Unsupported("not by its description")
            self.forward = DecoderForward(describe(model.config, parameters), dtype)
            self.parameters = tuple(parameters.taken.values())
        except Unsupported as reason:
            log.info("%s: sampling and scoring go through transformers' own code: %s", model.config.model_type, reason)
            model = self.model = as_transformers(model).eval() if isinstance(model, Weights) else model
            self.forward = TransformersForward(model, dtype, cache)
            self.parameters = tuple(model.parameters())

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.model.parameters()).device
        return device
