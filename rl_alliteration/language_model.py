"""Load a policy, its frozen reference and its tokenizer: a hub id, a folder, or a model shipped in the package."""

from __future__ import annotations

import contextlib
import copy
import fcntl
import hashlib
import logging
import os
import re
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

import torch
from tokenizers import Tokenizer
from torch import Tensor

from rl_alliteration.config import SHIPPED_MODELS, canonical_json
from rl_alliteration.errors import UserError
from rl_alliteration.gpt_neo import Activations, GPTNeoForward

log = logging.getLogger(__name__)

_HUB_SECONDS = 5.0


class Forward(Protocol):
    """A way through a model. B texts, T tokens, V vocabulary."""

    def logits(self, token_ids: Tensor) -> Tensor:
        """Logits after each token, (B, T) → (B, T, V), differentiable; the caller may write over them."""

    def start(self, prompt_ids: Tensor, texts: int, max_length: int, *, record: bool = False) -> Tensor:
        """Read the prompt, (T,), for all texts; logits of the first token to sample, (B, V).

        `record`: have `finish` return what was computed, if this way can.
        """

    def advance(self, tokens: Tensor) -> Tensor:
        """Append one token to each text, (B,); logits of the next, (B, V)."""

    def finish(self) -> Activations | None:
        """The group is sampled: free what only sampling needs."""


class TransformersForward:
    """`Forward` for any other causal LM, through transformers' own code and cache."""

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        self.model = model
        self._cache: Any = None
        self._dtype = dtype

    def logits(self, token_ids: Tensor) -> Tensor:
        with self._precision():
            logits: Tensor = self.model(input_ids=token_ids, use_cache=False).logits
        return logits.clone()  # the model's own backward pass may need what it returned

    @torch.no_grad()
    def start(self, prompt_ids: Tensor, texts: int, max_length: int, *, record: bool = False) -> Tensor:
        self._cache = None
        return self._read(prompt_ids.expand(texts, -1))

    @torch.no_grad()
    def advance(self, tokens: Tensor) -> Tensor:
        return self._read(tokens[:, None])

    def finish(self) -> None:
        self._cache = None

    def _read(self, token_ids: Tensor) -> Tensor:
        with self._precision():
            output = self.model(input_ids=token_ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._cache = output.past_key_values
        logits: Tensor = output.logits[:, -1].to(self.model.dtype)
        return logits

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.model.device.type, self._dtype, enabled=self._dtype != self.model.dtype)


class LanguageModel:
    """A causal LM in evaluation mode, with the fastest exact way through it."""

    def __init__(self, model: Any, dtype: torch.dtype | None = None) -> None:
        """`dtype`: of the matrix products of sampling and scoring; None: the weights' own, which stay as they are."""
        self.model = model.eval()
        self.forward: Forward
        dtype = dtype or model.dtype
        if GPTNeoForward.supports(model):
            self.forward = GPTNeoForward(model, dtype)
        else:
            log.info("%s: sampling and scoring go through transformers' own code", model.config.model_type)
            self.forward = TransformersForward(model, dtype)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device


class LoadedModel:
    """The weights before RL, the tokenizer, and what a trial must know of both."""

    def __init__(
        self,
        name: str,
        model: Any,
        pretrained_tokenizer: Any,
        end_tokens: frozenset[int],
        revision: str | None = None,
    ) -> None:
        self.name = name
        self.model = model.requires_grad_(False)
        self._references: dict[tuple[torch.device, torch.dtype], LanguageModel] = {}
        self.pretrained_tokenizer = pretrained_tokenizer
        """As transformers has it: to be saved beside an exported model."""
        self.tokenizer: Tokenizer = pretrained_tokenizer.backend_tokenizer
        self.end_tokens = end_tokens
        """Ids that end a text; empty if the model has none."""
        self.revision = revision
        """The commit that a hub's model was resolved to; None for a folder's."""
        self.weights_fingerprint = fingerprint_weights(model)
        self.tokenizer_fingerprint = fingerprint_tokenizer(self.tokenizer, end_tokens)

    @property
    def context(self) -> int | None:
        """Most tokens that the model can read; None if its configuration does not say."""
        return getattr(self.model.config, "max_position_embeddings", None)

    @property
    def has_fast_path(self) -> bool:
        """Whether the architecture is one that we have our own sampler for."""
        return GPTNeoForward.supports(self.model)

    def policy(self, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> LanguageModel:
        """A fresh copy of the weights, to be trained; `dtype` as in `LanguageModel`."""
        return LanguageModel(copy.deepcopy(self.model).to(device).requires_grad_(True), dtype)

    def reference(self, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> LanguageModel:
        """The frozen weights, once for all trials: these themselves on a CPU, a copy on another device."""
        kept = (torch.device(device), dtype or self.model.dtype)
        if kept not in self._references:
            frozen = self.model if kept[0].type == "cpu" else copy.deepcopy(self.model).to(device)
            self._references[kept] = LanguageModel(frozen, dtype)
        return self._references[kept]

    @staticmethod
    def fastest_dtype(*, gpu: bool) -> str:
        """`bfloat16` where the hardware computes it, else `float32`: of a GPU, if one is asked for or here."""
        if gpu or torch.cuda.is_available():
            return "bfloat16" if not torch.cuda.is_available() or torch.cuda.is_bf16_supported() else "float32"
        return "bfloat16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"

    def encode(self, prompt: str) -> list[int]:
        """Token ids of a prompt, with what the tokenizer puts in front of a text.

        Raises:
            UserError: the prompt encodes to nothing.
        """
        ids: list[int] = self.tokenizer.encode(prompt).ids
        while len(ids) > 1 and ids[-1] in self.end_tokens:  # an end token would end the text before it begins
            ids.pop()
        if not ids or not prompt:
            raise UserError(f"--prompt: {prompt!r} encodes to no token; give at least one word")
        return ids


def load_model(name: str, *, tokenizer: str | None = None, revision: str | None = None) -> LoadedModel:
    """Load weights (float32, on the CPU) and tokenizer.

    Args:
        name: a shipped model, a folder, or a hub id.
        tokenizer: the same for the tokenizer; default: the model's own.
        revision: a hub revision of the model.

    Raises:
        UserError: there is no such model or tokenizer, or no hub within reach.
    """
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")  # transformers would ask the hub in the background
    source = resolve_source(name, "--model")
    if Path(source).is_dir():
        return _load(name, source, tokenizer, revision, offline=False)
    # A commit never changes: what a node has of it needs no hub, and one process fetches it for all of its node.
    fixed = revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision) is not None
    for locked in (False, True):
        with _alone_on_this_node(source) if locked else contextlib.nullcontext():
            if fixed:
                with contextlib.suppress(UserError):
                    return _load(name, source, tokenizer, revision, offline=True)
            if locked:
                return _load(name, source, tokenizer, revision, offline=_hub_is_out_of_reach(source))
    raise AssertionError


def _load(name: str, source: str, tokenizer: str | None, revision: str | None, *, offline: bool) -> LoadedModel:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    with _told_in_one_line("--model", name, offline):
        model = AutoModelForCausalLM.from_pretrained(
            source,
            revision=revision or "main",
            dtype=torch.float32,
            trust_remote_code=False,
            weights_only=True,  # of a .bin, where there is no safetensors file: nothing else is unpickled
            local_files_only=offline,
        )
    tokenizer_name = tokenizer or name
    tokenizer_source = resolve_source(tokenizer_name, "--tokenizer")
    offline = offline or (tokenizer is not None and _hub_is_out_of_reach(tokenizer_source))
    with _told_in_one_line("--tokenizer", tokenizer_name, offline):
        loaded = AutoTokenizer.from_pretrained(
            tokenizer_source,
            revision=None if tokenizer else revision,
            trust_remote_code=False,
            local_files_only=offline,
        )
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None:
        raise UserError(f"--tokenizer: {tokenizer_name!r} has no fast tokenizer; give one with a tokenizer.json")
    embeddings = model.get_input_embeddings().num_embeddings
    if backend.get_vocab_size() > embeddings:
        raise UserError(
            f"--tokenizer: {tokenizer_name!r} has {backend.get_vocab_size()} tokens, the model only {embeddings}; "
            "give the tokenizer that the model was trained with"
        )
    end = model.generation_config.eos_token_id if model.generation_config is not None else None
    end = model.config.eos_token_id if end is None else end
    end = loaded.eos_token_id if end is None else end
    end_tokens = frozenset([] if end is None else [end] if isinstance(end, int) else end)
    return LoadedModel(name, model, loaded, end_tokens, _commit(source, revision))


def _commit(source: str, revision: str | None) -> str | None:
    """The commit of a hub's model that is in this machine's cache."""
    if Path(source).is_dir():
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source, "config.json", revision=revision or "main")
    return Path(found).parent.name if isinstance(found, str) else None


@contextlib.contextmanager
def _alone_on_this_node(source: str) -> Iterator[None]:
    """One process of this user and node at a time: the others find what it has fetched in the cache."""
    name = f"rl_alliteration-{os.getuid()}-{hashlib.sha256(source.encode()).hexdigest()[:16]}.lock"
    with open(Path(tempfile.gettempdir()) / name, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def resolve_source(name: str, field: str) -> str:
    """The folder of a shipped model or the user's folder; any other name is a hub id.

    Raises:
        UserError: the name can only be a folder, and there is none.
    """
    if name in SHIPPED_MODELS:
        return str(files("rl_alliteration") / "models" / name)
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file() and not (path / "tokenizer.json").is_file():
            raise UserError(f"{field}: the folder {name!r} has no config.json; give a folder saved by save_pretrained")
        return str(path.resolve())
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UserError(
            f"{field}: no folder {name!r}; give a folder, a hub id such as roneneldan/TinyStories-33M, "
            f"or a shipped model: {', '.join(SHIPPED_MODELS)}"
        )
    return name


def fingerprint_weights(model: Any) -> str:
    """SHA-256 of architecture, names, shapes and float32 values: the same for every file format of the weights."""
    digest = hashlib.sha256(model.config.model_type.encode())
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"\n{name} {tuple(parameter.shape)}\n".encode())
        digest.update(parameter.detach().float().contiguous().numpy().data)
    return digest.hexdigest()


def fingerprint_tokenizer(tokenizer: Tokenizer, end_tokens: frozenset[int]) -> str:
    """SHA-256 of the tokenizer's whole definition and of the end tokens."""
    return hashlib.sha256(f"{tokenizer.to_str()}\n{canonical_json(sorted(end_tokens))}".encode()).hexdigest()


@contextlib.contextmanager
def _told_in_one_line(field: str, name: str, offline: bool) -> Iterator[None]:
    """One line instead of a traceback for what cannot be loaded."""
    try:
        yield
    except Exception as error:  # a broken file raises whatever its format's reader raises
        if offline:
            raise UserError(
                f"{field}: no model hub within reach, and {name!r} is not in its cache on this machine; "
                "without a hub use --model storyteller or a folder"
            ) from error
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{field}: {name!r} could not be loaded: {reason}") from error


def _hub_is_out_of_reach(source: str) -> bool:
    """Whether `source` is a hub id and the hub does not answer: asked once, as its library would retry for minutes."""
    if Path(source).is_dir():
        return False
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return True
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=_HUB_SECONDS).close()
    except urllib.error.HTTPError:  # it answered
        return False
    except (OSError, ValueError):  # ValueError: the endpoint is no address
        return True
    return False
