"""Load a policy, its frozen reference and its tokenizer: a hub id, a folder, or a model shipped in the package."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from rl_alliteration.config import (
    DESCRIBED_TEXTS_VERSION,
    SHIPPED_MODELS,
    TEXTS_VERSION,
    TrialConfig,
)
from rl_alliteration.errors import UserError
from rl_alliteration.identifiers import fingerprint_tokenizer
from rl_alliteration.lm.architectures import describe
from rl_alliteration.lm.chat import encode_chat
from rl_alliteration.lm.checks import (
    context_length,
    exact_cache,
    longest_readable,
    other_numbers,
)
from rl_alliteration.lm.decoder import DecoderForward
from rl_alliteration.lm.description import Parameters, Unsupported
from rl_alliteration.lm.fingerprints import fingerprint_architecture, fingerprint_weights
from rl_alliteration.lm.generic import TransformersForward
from rl_alliteration.lm.known import Known, PlainConfig
from rl_alliteration.lm.language_model import LanguageModel
from rl_alliteration.lm.pretrained import (
    check_model,
    load_tokenizer,
    load_weights,
    prepare_tokenizer,
    told_in_one_line,
    transformers_quiet,
)
from rl_alliteration.lm.sources import commit_of, hub_is_out_of_reach, resolve_source
from rl_alliteration.lm.user_cache import alone_in_user_cache
from rl_alliteration.lm.weights import FILE, Weights, as_transformers, copy_in, read_weights

_SHIPPED_ARCHITECTURES = {
    "storyteller": "607fbe0a5ea1f707bfeda3b1c03e1116de9c35250982242931f7022d9050b383",
    "storyteller-2": "49ff9cc84474bf372dd1754176bda26e9f6ed44f56d0d5ea4a975b99bd28ce16",
}
"""Their `fingerprint_architecture`, which needs transformers' defaults."""


class LoadedModel:
    """The weights before RL, the tokenizer, and what a trial must know of both."""

    def __init__(
        self,
        name: str,
        model: Any,
        pretrained_tokenizer: Any,
        end_tokens: frozenset[int],
        revision: str | None = None,
        *,
        known: Known | None = None,
    ) -> None:
        """Args:
        name: of the model, for people.
        model: transformers' or `Weights`.
        pretrained_tokenizer: transformers'; with `known` a function that loads it.
        end_tokens: ids that end a text; empty if the model has none.
        revision: the commit that a hub's model was resolved to; None for a folder's.
        known: what need not be found out.
        """
        self.name = name
        self.model = model.requires_grad_(False)
        self._references: dict[tuple[torch.device, torch.dtype, bool, torch.dtype], LanguageModel] = {}
        self.gives_away = False
        """Whether the next policy has these weights themselves: to save a copy, where nothing else needs them."""
        self.spent = False
        """Whether one has them: nothing may be asked of this model any more."""
        self._known, self._pretrained = known, pretrained_tokenizer
        self.tokenizer: Tokenizer = pretrained_tokenizer.backend_tokenizer if known is None else known.make_tokenizer()
        self.end_tokens = end_tokens
        self.revision = revision
        self.weights_fingerprint = fingerprint_weights(model)
        self.architecture_fingerprint = fingerprint_architecture(model) if known is None else known.architecture
        self.tokenizer_fingerprint = fingerprint_tokenizer(
            self.tokenizer.to_str(), end_tokens, splits_special=self.tokenizer.encode_special_tokens
        )

    @functools.cached_property
    def pretrained_tokenizer(self) -> Any:
        """As transformers has it: to be saved beside an exported model."""
        return self._pretrained if self._known is None else self._pretrained()

    @property
    def known(self) -> Known | None:
        """What another process need not find out about this model; None if transformers' code runs it."""
        if self._known is not None or self.undescribed is not None:
            return self._known
        return Known.of(self.model.config, self.tokenizer, self.end_tokens, self.architecture_fingerprint)

    def differs(self, config: TrialConfig) -> str | None:
        """What of this model is not what the trial was planned with; None if all is.

        Trials of earlier versions say nothing of the configuration.
        """
        if self.weights_fingerprint != config.weights:
            return "its weights differ"
        if config.architecture not in ("", self.architecture_fingerprint):
            return "its config.json differs"
        if self.tokenizer_fingerprint != config.tokenizer:
            return "its tokenizer or end tokens differ"
        return None

    @property
    def context(self) -> int | None:
        """Most tokens that the model is made for; None if its configuration does not say."""
        return context_length(self.model.config)

    def longest(self, length: int) -> int:
        """`length`, or less: so many tokens the model can read, by its configuration and by trying."""
        if isinstance(self.model, Weights):
            return min(length, self.context or length)
        return longest_readable(TransformersForward(self.model, self.model.dtype), self.model, length)

    def fails_in(self, dtype: str) -> str | None:
        """Why the model cannot be sampled in a precision, which its own code may not be made for; None if it can."""
        precision = getattr(torch, dtype)
        if self.undescribed is None or precision == self.model.dtype:
            return None
        forward = TransformersForward(self.model, precision, self.cache)
        try:
            forward.start(torch.zeros(2, dtype=torch.long), 2, 4)
            forward.advance(torch.zeros(2, dtype=torch.long))
            with torch.no_grad():
                forward.logits(torch.zeros(2, 3, dtype=torch.long))
        except Exception as error:  # each architecture has its own
            return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return None

    @functools.cached_property
    def cache(self) -> str | None:
        """The model's name for a cache that gives the numbers of scoring anew; None if there is none."""
        model = as_transformers(self.model) if isinstance(self.model, Weights) else self.model
        return exact_cache(TransformersForward(model, model.dtype), model)

    @functools.cached_property
    def undescribed(self) -> str | None:
        """Why the model goes through transformers' code, for people; None if it has a description here that gives
        transformers' logits.
        """
        if isinstance(self.model, Weights):
            return None
        try:
            forward = DecoderForward(describe(self.model.config, Parameters.of(self.model)))
        except Unsupported as reason:
            return str(reason)
        return other_numbers(forward, TransformersForward(self.model, self.model.dtype), self.model)

    @property
    def texts_version(self) -> int:
        """Of trials that are new: the version of the code that their texts come from."""
        return TEXTS_VERSION if self.undescribed is not None or self._is_studys else DESCRIBED_TEXTS_VERSION

    @property
    def _is_studys(self) -> bool:
        """Whether it was never sampled by transformers' code."""
        config = self.model.config
        return (config.model_type, getattr(config, "activation_function", "")) == ("gpt_neo", "gelu_new")

    def policy(
        self, device: torch.device | str = "cpu", dtype: torch.dtype | None = None, texts_version: int | None = None
    ) -> LanguageModel:
        """A fresh copy of the weights, to be trained; or these themselves, see `gives_away`.

        Args:
            device: where to.
            dtype: as in `LanguageModel`.
            texts_version: of the trial that is to be gone on with; default: of a new one.
        """
        weights = self.model if self.gives_away else copy.deepcopy(self.model)
        self.spent = self.gives_away
        return self._ready(weights.to(device).requires_grad_(True), dtype, texts_version)

    def reference(
        self,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        texts_version: int | None = None,
        kept_in: torch.dtype | None = None,
    ) -> LanguageModel:
        """The frozen weights, once for all trials: these themselves on a CPU, a copy on another device.

        Args:
            device: where to.
            dtype: as in `LanguageModel`; so is the next.
            texts_version: as for `policy`.
            kept_in: the precision that a copy of its matrices is rounded to, of a model that has a description; each
                product is as exact as before, and norms and sums over layers stay as they are. Default: the weights'.
        """
        whole = self.model.dtype
        dtype, kept_in = dtype or whole, kept_in or whole
        key = (torch.device(device), dtype, self._goes_by_description(texts_version), kept_in)
        if key not in self._references:
            if kept_in != whole:
                frozen = copy_in(self.model, kept_in, key[0])
            else:
                frozen = self.model if key[0].type == "cpu" else copy.deepcopy(self.model).to(device)
            self._references[key] = self._ready(frozen, dtype, texts_version)
        return self._references[key]

    def _goes_by_description(self, texts_version: int | None) -> bool:
        if self.undescribed is not None:
            return False
        return self._is_studys or texts_version is None or texts_version >= DESCRIBED_TEXTS_VERSION

    def _ready(self, model: Any, dtype: torch.dtype | None, texts_version: int | None) -> LanguageModel:
        described = self._goes_by_description(texts_version)
        return LanguageModel(model, dtype, None if described else self.cache, by_description=described)

    @staticmethod
    def fastest_dtype(*, gpu: bool) -> str:
        """`bfloat16` where the hardware computes it, else `float32`: of a GPU, if one is asked for or here."""
        if gpu or torch.cuda.is_available():
            return "bfloat16" if not torch.cuda.is_available() or torch.cuda.is_bf16_supported() else "float32"
        return "bfloat16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"

    def encode(self, prompt: str) -> list[int]:
        """Token ids of a prompt, with what the tokenizer puts in front of a text.

        What it puts after a text, such as [SEP] or an end token, is left out: what is sampled is to follow the prompt.

        Raises:
            UserError: the prompt encodes to nothing, or cannot be encoded.
        """
        try:
            encoding = self.tokenizer.encode(prompt)
        except Exception as error:  # no UTF-8, or the tokenizer has no token for what it does not know
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"--prompt: {prompt!r} cannot be encoded ({reason}); give a text of UTF-8") from error
        ids: list[int] = encoding.ids
        added = encoding.special_tokens_mask  # 0 for what the user typed, were it "<|endoftext|>"
        while ids and added[len(ids) - 1]:
            ids.pop()
        while len(ids) > 1 and ids[-1] in self.end_tokens:  # nothing would follow
            ids.pop()
        if not ids or not prompt:
            raise UserError(f"--prompt: {prompt!r} encodes to no token; give at least one word")
        return ids

    def prompt_ids(self, prompts: Sequence[str], chat_prompts: Sequence[str]) -> dict[str, list[int]]:
        """Token ids that texts begin with, by prompt: its own, or those of what the chat template has made of it.

        Raises:
            UserError: as for `encode`.
        """
        if not chat_prompts:
            return {prompt: self.encode(prompt) for prompt in prompts}
        ids = [encode_chat(self.tokenizer, text) for text in chat_prompts]
        return dict(zip(prompts, ids, strict=True))


def load_model(
    name: str, *, tokenizer: str | None = None, revision: str | None = None, checked: bool = False
) -> LoadedModel:
    """Load weights (float32, on the CPU) and tokenizer.

    Args:
        name: a shipped model, a folder, or a hub id.
        tokenizer: the same for the tokenizer; default: the model's own.
        revision: a hub revision of the model.
        checked: another process has checked the model, as `LoadedModel.differs` is to tell: where it has a
            description, only its weights are read. The shipped ones have been checked.

    Raises:
        UserError: there is no such model or tokenizer, or no hub within reach.
    """
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")  # transformers would ask the hub in the background
    source = resolve_source(name, "--model")
    shipped = _known_shipped(name, Path(source)) if tokenizer is None and revision is None else None
    if shipped is not None and (loaded := load_known(name, shipped)) is not None:
        return loaded
    if Path(source).is_dir():
        return _load(name, source, tokenizer, revision, offline=False, checked=checked or name in SHIPPED_MODELS)
    # A commit never changes: what a node has of it needs no hub, and one process fetches it for all of its node.
    fixed = revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision) is not None
    for locked in (False, True):
        with alone_in_user_cache(source) if locked else contextlib.nullcontext():
            if fixed:
                with contextlib.suppress(UserError):
                    return _load(name, source, tokenizer, revision, offline=True, checked=checked)
            if locked:
                return _load(name, source, tokenizer, revision, offline=hub_is_out_of_reach(source))
    raise AssertionError


def load_known(
    name: str, known: Known, *, tokenizer: str | None = None, revision: str | None = None
) -> LoadedModel | None:
    """Load the weights alone of a model of which another process has found out the rest, see `LoadedModel.known`.

    Returns:
        None where `load_model` has to do it: the weights are not on this machine, or not as they are to be.

    Raises:
        UserError: there is no such model.
    """
    source = resolve_source(name, "--model")
    folder = _folder(source, revision)
    model = None if folder is None else read_weights(folder, PlainConfig(known, folder))
    if model is None:
        return None

    def pretrained() -> Any:
        return load_tokenizer(name, tokenizer, source, revision, offline=True)

    return LoadedModel(name, model, pretrained, known.end_tokens, commit_of(source, revision), known=known)


def _known_shipped(name: str, folder: Path) -> Known | None:
    """Of a shipped model, whose files are as they are in the package."""
    if name not in _SHIPPED_ARCHITECTURES:
        return None
    config = json.loads((folder / "config.json").read_text("utf-8"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    prepare_tokenizer(tokenizer, splits_special=False)
    ends = frozenset([config["eos_token_id"]])
    return Known(config, {}, tokenizer.to_str(), False, ends, _SHIPPED_ARCHITECTURES[name])


def _load(
    name: str, source: str, tokenizer: str | None, revision: str | None, *, offline: bool, checked: bool = False
) -> LoadedModel:
    with told_in_one_line("--model", name, offline), transformers_quiet():
        model = _read_weights(source, revision) if checked else None
        model = load_weights(source, revision or "main", offline) if model is None else model
    loaded = load_tokenizer(name, tokenizer, source, revision, offline=offline)
    if isinstance(model, Weights):
        end = (model.generation or {}).get("eos_token_id")
    else:
        end = model.generation_config.eos_token_id if model.generation_config is not None else None
    end = model.config.eos_token_id if end is None else end
    end = loaded.eos_token_id if end is None else end
    ends = list(end) if isinstance(end, list | tuple) else [] if end is None else [end]
    if not isinstance(model, Weights):
        check_model(model, name, loaded.backend_tokenizer, name if tokenizer is None else tokenizer, ends)
    return LoadedModel(name, model, loaded, frozenset(ends), commit_of(source, revision))


def _read_weights(source: str, revision: str | None) -> Weights | None:
    """Weights alone, of a folder or a hub's model that is on this machine; None where transformers has to load it."""
    from transformers import AutoConfig

    folder = _folder(source, revision)
    if folder is None:
        return None
    return read_weights(folder, AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True))


def _folder(source: str, revision: str | None) -> Path | None:
    """Where a model's weights and configuration are on this machine, if they are one file each."""
    folder = Path(source)
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(source, FILE, revision=revision)
        folder = Path(found).parent if isinstance(found, str) else folder
    return folder if (folder / FILE).is_file() and (folder / "config.json").is_file() else None
