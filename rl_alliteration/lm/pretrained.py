"""Weights and tokenizers as transformers reads them; what cannot be read is told in one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from tokenizers import Tokenizer

from rl_alliteration.errors import UserError
from rl_alliteration.lm.checks import not_as_configured, not_causal, not_finite, tokens_beyond
from rl_alliteration.lm.generic import TransformersForward
from rl_alliteration.lm.sources import hub_is_out_of_reach, resolve_source


def load_weights(source: str, revision: str, offline: bool) -> Any:
    """The model, in evaluation mode, if its files are those of a whole causal language model.

    Raises:
        UserError: they are not, without the model's name.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM

    where = {"revision": revision, "trust_remote_code": False, "local_files_only": offline}
    config: Any = AutoConfig.from_pretrained(source, **where)
    if config.is_encoder_decoder:
        raise UserError(f"{config.model_type} is an encoder-decoder model; give a causal language model")
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(f"{config.model_type} is no causal language model; give one")
    if getattr(config, "quantization_config", None):
        raise UserError("its weights are quantized, which cannot be trained; give the model as it was before")
    for part in (config, config.get_text_config(decoder=True)):  # what changes no number is ours to choose
        part.output_attentions = part.output_hidden_states = False
        part.return_dict = True
        part._attn_implementation = part._experts_implementation = None
        if part.model_type == "rwkv":
            part.rescale_every = 0  # in evaluation mode it would change its weights, and give the same numbers
    loading: Any = AutoModelForCausalLM.from_pretrained(
        source,
        config=config,
        dtype=torch.float32,
        weights_only=True,  # of a .bin, where there is no safetensors file: nothing else is unpickled
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are in the report
        **where,
    )
    model, report = loading
    problem = not_as_configured(model, report) or not_finite(model)
    if problem is not None:
        raise UserError(problem)
    return model.eval()


def load_tokenizer(name: str, tokenizer: str | None, source: str, revision: str | None, *, offline: bool) -> Any:
    """Raises:
    UserError: there is none, or none that can be used.
    """
    from transformers import AutoTokenizer

    tokenizer_name = name if tokenizer is None else tokenizer
    tokenizer_source = resolve_source(tokenizer_name, "--tokenizer")
    offline = offline or (tokenizer is not None and hub_is_out_of_reach(tokenizer_source))
    with told_in_one_line("--tokenizer", tokenizer_name, offline), transformers_quiet():
        loaded = AutoTokenizer.from_pretrained(
            tokenizer_source,
            revision=None if tokenizer else revision,
            trust_remote_code=False,
            local_files_only=offline,
        )
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None:
        raise UserError(f"--tokenizer: {tokenizer_name!r} has no fast tokenizer; give one with a tokenizer.json")
    prepare_tokenizer(backend, splits_special=bool(getattr(loaded, "split_special_tokens", False)))
    return loaded


def prepare_tokenizer(tokenizer: Tokenizer, *, splits_special: bool) -> None:
    """Turn off what a file may set for batches or for training: a prompt is one text, the same each time."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if getattr(tokenizer.model, "dropout", None) is not None:
        tokenizer.model.dropout = None  # of merges, at random
    tokenizer.encode_special_tokens = splits_special


def check_model(model: Any, name: str, tokenizer: Tokenizer, tokenizer_name: str, ends: list[Any]) -> None:
    """Raises:
    UserError: the model is not causal, or does not fit the tokenizer.
    """
    forward = TransformersForward(model, model.dtype)
    try:
        problem = not_causal(forward, model)
    except Exception as error:  # each architecture that wants more than tokens has its own
        reason = " ".join(str(error).split())[:200]
        problem = f"it cannot read a text of token ids alone ({type(error).__name__}: {reason})"
    if problem is not None:
        raise UserError(f"--model: {name!r} cannot be used: {problem}; give a causal language model")
    with told_in_one_line("--tokenizer", tokenizer_name, offline=False):
        problem = tokens_beyond(forward, model, tokenizer, ends)
    if problem is not None:
        raise UserError(f"--tokenizer: {tokenizer_name!r} {problem}")


@contextlib.contextmanager
def transformers_quiet() -> Iterator[None]:
    """Without its progress bars, and without its report of tensors: what matters of that is told in one line."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


@contextlib.contextmanager
def told_in_one_line(field: str, name: str, offline: bool) -> Iterator[None]:
    """One line instead of a traceback for what cannot be loaded."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{field}: {name!r} cannot be used: {error}") from error
    except Exception as error:  # a broken file raises whatever its format's reader raises
        if offline:
            raise UserError(
                f"{field}: no model hub within reach, and {name!r} is not in its cache on this machine; "
                "without a hub use --model storyteller or a folder"
            ) from error
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{field}: {name!r} could not be loaded: {reason}") from error
