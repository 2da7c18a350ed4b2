"""Any causal LM, by transformers' own code, with the model's own cache where that is exact."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rl_alliteration.lm.checks import takes_use_cache


class TransformersForward:
    """`Forward` through transformers' own code."""

    def __init__(self, model: Any, dtype: torch.dtype, cache: str | None = None) -> None:
        """`cache`: the model's name for it, see `exact_cache`; None: each token reads the whole text anew."""
        self.model = model
        self._dtype = dtype
        self._cache_name = cache
        self._cache: Any = None
        self._token_ids = torch.empty(0)
        self._uncached = {"use_cache": False} if takes_use_cache(model) else {}
        self._last = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}

    def logits(self, token_ids: Tensor) -> Tensor:
        with self._precision():
            logits: Tensor = self.model(input_ids=token_ids, **self._uncached).logits
        return logits.clone()  # the model's own backward pass may need what it returned

    def logits_by_texts(self, token_ids: Tensor, most: int) -> Iterator[Tensor]:
        yield self.logits(token_ids)

    @torch.no_grad()
    def start(self, prompt_ids: Tensor, texts: int, max_length: int, *, record: bool = False) -> Tensor:
        self._cache = None
        return self._read(prompt_ids.expand(texts, -1))

    @torch.no_grad()
    def advance(self, tokens: Tensor) -> Tensor:
        if self._cache_name is None:
            return self._read(torch.cat([self._token_ids, tokens[:, None]], 1))
        return self._read(tokens[:, None])

    def finish(self) -> None:
        self._cache = None

    def last_logits(self, token_ids: Tensor) -> Tensor:
        """Logits after the last token of each text alone, (B, T) → (B, V)."""
        with self._precision():
            logits: Tensor = self.model(input_ids=token_ids, **self._uncached, **self._last).logits
        return logits[:, -1].to(self.model.dtype)

    def _read(self, token_ids: Tensor) -> Tensor:
        if self._cache_name is None:
            self._token_ids = token_ids
            return self.last_logits(token_ids)
        with self._precision():
            cache = {self._cache_name: self._cache}
            output = self.model(input_ids=token_ids, use_cache=True, **cache, **self._last)
        self._cache = output[self._cache_name]
        logits: Tensor = output.logits[:, -1].to(self.model.dtype)
        return logits

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.model.device.type, self._dtype, enabled=self._dtype != self.model.dtype)
