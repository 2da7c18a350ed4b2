"""Names for a model's content: SHA-256 of its weights, and of what else changes its forward pass."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from typing import Any

from rl_alliteration.config import canonical_json
from rl_alliteration.lm.known import PlainConfig

# Keys of a configuration that change no number of a model in evaluation mode. All others may: code reads some by name.
_NEUTRAL = {
    "_name_or_path", "name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "auto_map",
    "id2label", "label2id", "num_labels", "problem_type", "task_specific_params", "finetuning_task", "tokenizer_class",
    "use_cache", "return_dict", "gradient_checkpointing", "initializer_range", "initializer_factor", "init_std",
    "bos_token_id", "eos_token_id", "layerdrop", "encoder_layerdrop", "decoder_layerdrop", "attn_implementation",
}  # fmt: skip
_NEUTRAL_NAMES = re.compile(r"^_|^output_(attentions|hidden_states|scores|router_logits)$|dropout|(^|_)pdrop$")


def fingerprint_weights(model: Any) -> str:
    """SHA-256 of architecture, names, shapes and float32 values: the same for every file format of the weights."""
    digest = hashlib.sha256(model.config.model_type.encode())
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"\n{name} {tuple(parameter.shape)}\n".encode())
        digest.update(parameter.detach().float().contiguous().numpy().data)
    return digest.hexdigest()


def fingerprint_architecture(model: Any) -> str:
    """SHA-256 of what changes the forward pass and is no parameter: configuration and persistent buffers.

    Of the configuration, what differs from the defaults of its kind, less the keys that change no number: so a key
    left out equals its default, and a version of transformers that adds a key changes no fingerprint.
    """
    config = model.config.in_transformers() if isinstance(model.config, PlainConfig) else model.config
    digest = hashlib.sha256(canonical_json(_without_defaults(config)).encode("utf-8", "surrogatepass"))
    buffers, stored = dict(model.named_buffers()), model.state_dict()
    for name in sorted(buffers.keys() & stored.keys()):  # the others are functions of the configuration
        buffer = buffers[name].detach().cpu()
        digest.update(f"\n{name} {tuple(buffer.shape)}\n".encode())
        digest.update(buffer.double().contiguous().numpy().data)
    return digest.hexdigest()


def _without_defaults(config: Any) -> dict[str, Any]:
    """Of a configuration, what changes numbers and is not the default of its kind; plain JSON values."""
    try:
        defaults = type(config)().to_dict()
    except Exception:  # it cannot be without values
        defaults = {}
    return {"model_type": config.model_type, **_changes(config.to_dict(), defaults)}


def _changes(values: Mapping[Any, Any], defaults: Mapping[Any, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in values.keys() | defaults.keys():
        name, value, default = str(key), values.get(key), defaults.get(key)
        if name in _NEUTRAL or _NEUTRAL_NAMES.search(name):
            continue
        if name == "type" and "rope_type" in values:  # its name in earlier versions
            continue
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            if changes := _changes(value, default):
                found[name] = changes
        elif value != default:
            found[name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _changes(value, {})
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return repr(value)
