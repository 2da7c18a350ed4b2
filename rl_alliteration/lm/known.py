"""What of a model's files only transformers can tell, as plain data: a process that has it need not import that."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True)
class Known:
    """Of one model, its weights aside."""

    config: Mapping[str, Any]
    """Its configuration, all fields; plain JSON values."""
    aliases: Mapping[str, str]
    """Other names of fields, as transformers has them for this kind of model."""
    tokenizer: str
    """Its definition, as its library writes it."""
    splits_special: bool
    """Whether special tokens in a text are read as text."""
    end_tokens: frozenset[int]
    architecture: str
    """See `fingerprint_architecture`."""

    @classmethod
    def of(cls, config: Any, tokenizer: Tokenizer, end_tokens: frozenset[int], architecture: str) -> Known | None:
        """Of transformers' configuration; None where that is no plain data."""
        try:
            values = json.loads(json.dumps(config.to_dict()))
        except (TypeError, ValueError, RecursionError):
            return None
        splits_special = tokenizer.encode_special_tokens
        aliases = dict(config.attribute_map)
        return cls(values, aliases, tokenizer.to_str(), splits_special, end_tokens, architecture)

    def make_tokenizer(self) -> Tokenizer:
        """The tokenizer, as transformers' own would use it."""
        tokenizer = Tokenizer.from_str(self.tokenizer)
        tokenizer.encode_special_tokens = self.splits_special
        return tokenizer


class PlainConfig:
    """A configuration's fields without transformers' class for it."""

    def __init__(self, known: Known, folder: Path) -> None:
        """`folder`: where its file is."""
        self._folder = folder
        self.__dict__.update(known.config)
        for alias, name in known.aliases.items():
            if name in known.config:
                self.__dict__[alias] = known.config[name]

    def get_text_config(self, decoder: bool = False) -> PlainConfig:
        """As transformers' has it, of a model that reads text alone."""
        return self

    def in_transformers(self) -> Any:
        """As transformers reads it."""
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(self._folder, trust_remote_code=False, local_files_only=True)
