"""Whether a model is what it seems: whole, finite, causal; how long its texts may be; whether its cache is exact.

Asked when a model is loaded, in float32 on the CPU and without gradients.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

_TOKENS = 12
"""Of the texts that are tried: longer than the convolutions of state space models, which read 4."""
_LONGEST_TRIED = 4096
_CLOSE = 1e-4
"""Of the range of the logits: far above what rounding does in float32, far below what another token does."""
_NO_CACHE = {"loss", "logits", "hidden_states", "attentions"}
_CONTEXTS = (
    "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_seq_length", "max_sequence_length",
    "seq_length", "seq_len", "max_target_positions", "context_length", "max_context_length", "model_max_length",
)  # fmt: skip
_WINDOW = re.compile("window|chunk|block_size|stride")


def not_as_configured(model: Any, report: Mapping[str, Any]) -> str | None:
    """What of a model's files does not fit its config.json, by the report of loading them; None if all does.

    Tensors that the model has no use for, such as another head, are let be; of a module that it has, or one like it
    has, they are not: the model would be another one.
    """
    if report["mismatched_keys"]:
        name, found, wanted = min(report["mismatched_keys"])
        return f"its tensor {name} is of shape {tuple(found)}, config.json means {tuple(wanted)}"
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        return f"its files lack {len(missing)} tensors, such as {missing[0]}; give a folder that holds all of them"
    buffers = {name for name, _ in model.named_buffers()}
    modules = {_NUMBER.sub("#", name) for name, _ in model.named_modules()}
    for name in sorted(set(report["unexpected_keys"]) - buffers):
        module, _, last = name.rpartition(".")
        if _NUMBER.sub("#", module) in modules and last not in _OLD_BUFFERS:
            return f"its files have the tensor {name}, which the model of its config.json has not"
    return None


_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
_OLD_BUFFERS = {"masked_bias", "inv_freq", "position_ids", "rotary_emb"}
"""Which earlier versions of transformers stored."""


def not_finite(model: Any) -> str | None:
    """The first weight that is not a finite number; None if all are."""
    for name, tensor in model.named_parameters():
        if not bool(tensor.isfinite().all()):
            return f"its weights {name} are not all finite numbers; give a model that did not diverge"
    return None


def tokens_beyond(forward: Any, model: Any, tokenizer: Any, end_tokens: Sequence[Any]) -> str | None:
    """Which token of the tokenizer, or end token, the model cannot read or write; None if there is none."""
    embeddings = _embeddings(model)
    with torch.no_grad():
        outputs = int(forward.last_logits(_some_tokens(model, 1, 1)).shape[-1])
    if outputs > embeddings:
        return f"does not fit: the model writes {outputs} tokens and reads only {embeddings}"
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    ids = [*vocabulary.values(), *tokenizer.encode("Once upon a time").ids]  # what is put in front has ids of its own
    if max(ids) >= outputs:
        return (
            f"has {len(vocabulary)} tokens up to id {max(ids)}, the model only {outputs}; "
            "give the tokenizer that the model was trained with"
        )
    for token in end_tokens:
        if not isinstance(token, int) or isinstance(token, bool) or token < 0:
            return (
                f"does not fit: the end token {token!r} is no token id; "
                "correct eos_token_id in its generation_config.json and config.json"
            )
        if token >= outputs:
            log.warning("its end token %d is none of its %d tokens: no text ends before --max-length", token, outputs)
    return None


def context_length(config: Any) -> int | None:
    """Most tokens that a model of this configuration is made for; None if it does not say."""
    for part in (config.get_text_config(decoder=True), config):
        for name in _CONTEXTS:
            value = getattr(part, name, None)
            if isinstance(value, int) and value > 0:
                return value
    return None


def longest_readable(forward: Any, model: Any, length: int) -> int:
    """`length`, or less: so many tokens the model can read, by its configuration and by trying."""
    declared = context_length(model.config)
    good, bad = 1, 1 + (length if declared is None else min(length, declared))
    tried = bad - 1
    if tried > _LONGEST_TRIED:
        return tried
    while good + 1 < bad:
        try:
            with torch.inference_mode():
                forward.last_logits(_ordinary_tokens(model, 1, tried))
            good = tried
        except Exception:  # a position beyond a table: each architecture has its own error
            bad = tried
        tried = (good + bad) // 2
    return good


@torch.no_grad()
def not_causal(forward: Any, model: Any) -> str | None:
    """What keeps the model from being sampled token by token; None if nothing does.

    Its logits after a token must depend on that token and those before, on nothing else: not on later tokens, on the
    length of the text, on the texts beside it, on chance, or on how often it was asked.
    """
    length = min(_TOKENS, context_length(model.config) or _TOKENS)
    base, other = _some_tokens(model, 2, length)
    texts = base.repeat(length, 1)
    texts.diagonal().copy_(torch.where(other == base, base.roll(1), other))  # text i has another token at position i
    versions = [parameter._version for parameter in model.parameters()]
    alone, again = forward.logits(base[None])[0], forward.logits(base[None])[0]
    if alone.ndim != 2 or len(alone) != length:
        return f"its logits for a text of {length} tokens are of shape {tuple(alone.shape)}"
    if alone.isnan().any():
        return "its logits are not numbers"
    if not _same(again, alone):
        return "it gives other logits each time"
    for position, logits in enumerate(forward.logits(texts)):
        if not _same(logits[:position], alone[:position]):
            return "it is not causal: its logits after a token depend on later tokens, or on the texts beside it"
    for read in {1, 2, length // 2, length - 1} - {0}:
        if not _same(forward.last_logits(base[None, :read])[0], alone[read - 1]):
            return "it is not causal: its logits after a token depend on the length of the text"
    if versions != [parameter._version for parameter in model.parameters()]:
        return "reading a text changes its weights"
    return None


@torch.no_grad()
def other_numbers(described: Any, forward: Any, model: Any) -> str | None:
    """That a description's logits are not those of transformers' code, `forward`; None if they are, to rounding."""
    length = max([_TOKENS, *(value + 8 for value in _short_windows(model.config.to_dict()))])
    texts = _some_tokens(model, 2, longest_readable(forward, model, length))
    if _same(described.logits(texts), forward.logits(texts)):
        return None
    return "its description here gives other numbers than transformers"


@torch.no_grad()
def exact_cache(forward: Any, model: Any) -> str | None:
    """The name under which the model takes and gives its cache, if decoding by it gives the numbers of scoring anew.

    None if there is no cache, or none that can be relied on: found by trying, on texts longer than the windows of the
    model where these are short.
    """
    if not takes_use_cache(model):
        return None
    accepted = inspect.signature(model.forward).parameters
    length = max([_TOKENS, *(value + 8 for value in _short_windows(model.config.to_dict()))])
    length = longest_readable(forward, model, length)
    texts = _some_tokens(model, 2, length)
    texts[:, 0] = texts[0, 0]
    try:
        found = model(input_ids=texts[:, :1], use_cache=True)
        names = [name for name in found if name in accepted and name not in _NO_CACHE and found[name] is not None]
        if len(names) != 1:
            return None
        for prompt in (1, length // 2):  # shorter and longer than a convolution
            texts[:, :prompt] = texts[0, :prompt]
            decoder = type(forward)(model, model.dtype, names[0])
            decoded = [decoder.start(texts[0, :prompt], 2, length)]
            decoded += [decoder.advance(texts[:, position]) for position in range(prompt, length)]
            if not _same(torch.stack(decoded, 1), forward.logits(texts)[:, prompt - 1 :]):
                return None
    except Exception:  # it wants more than tokens and its cache
        return None
    name: str = names[0]
    return name


def takes_use_cache(model: Any) -> bool:
    """Whether the model's forward pass can be told to keep a cache, or not to: by name, or by what it hands on."""
    accepted = inspect.signature(model.forward).parameters
    hands_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
    return "use_cache" in accepted or ("past_key_values" in accepted and hands_on)


def _same(found: Tensor, expected: Tensor) -> bool:
    """Equal to rounding; a token that cannot be, of a logit of -inf, is one in both."""
    if not found.numel():
        return True
    if not torch.equal(found.isfinite(), expected.isfinite()):
        return False
    finite = expected[expected.isfinite()]
    extent = float(finite.max() - finite.min()) if len(finite) else 0.0
    off = (found - expected)[expected.isfinite()].abs()
    return not len(off) or float(off.max()) <= _CLOSE * extent + 1e-12


def _some_tokens(model: Any, texts: int, length: int) -> Tensor:
    """Ordinary tokens, and those of padding, end and begin: these may be sampled, and some code treats them apart."""
    ids = _ordinary_tokens(model, texts, length)
    config = model.config.get_text_config(decoder=True)
    for place, name in enumerate(("pad_token_id", "eos_token_id", "bos_token_id")):
        token = getattr(config, name, None)
        if isinstance(token, int) and 0 <= token < _embeddings(model):
            ids[:, 3 + 2 * place : 4 + 2 * place] = token
    return ids


def _ordinary_tokens(model: Any, texts: int, length: int) -> Tensor:
    """Ids that look random and are the same each time, (texts, length); none that the configuration gives a meaning."""
    special = set(_special_ids(model.config.to_dict()))
    ordinary = [token for token in range(min(_embeddings(model), 50_000)) if token not in special] or [0]
    numbers = torch.randint(len(ordinary), (texts, length), generator=torch.Generator().manual_seed(0))
    return torch.tensor(ordinary)[numbers]


def _embeddings(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[0])


def _special_ids(config: Mapping[str, Any]) -> Iterator[int]:
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _special_ids(value)
        elif str(name).endswith(("token_id", "token_ids", "token_index")):
            yield from (token for token in (value if isinstance(value, list) else [value]) if isinstance(token, int))


def _short_windows(config: Mapping[str, Any]) -> Iterator[int]:
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _short_windows(value)
        elif isinstance(value, int) and _WINDOW.search(str(name)) and 1 < value <= 64:
            yield value
