"""What a storage says of its models, and of the runs that filled it: read as somebody else's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from rl_alliteration.foreign import Count, Damaged, Digest, encode_record, read_record
from rl_alliteration.identifiers import fingerprint_tokenizer
from rl_alliteration.results.storage import Storage

SWEEP, SEARCH = "sweep", "search"
"""The kinds of run."""


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """Which model and tokenizer trials began with; the fingerprints say whether one is it, wherever it is now."""

    model: Annotated[str, Field(min_length=1)]
    """A shipped one, a hub id, or the folder that it was in."""
    weights: Digest
    """Fingerprint."""
    tokenizer: Digest
    """Fingerprint."""
    tokenizer_source: Annotated[str, Field(min_length=1)] | None
    """Hub id or folder of the tokenizer, if it is not the model's own."""
    revision: str | None
    """Of a hub model."""
    end_tokens: tuple[Count, ...]
    """Ids that end a text."""
    parameters: Count
    """How many."""
    model_type: str
    """As transformers names it."""
    architecture: str = ""
    """What of its configuration changes the forward pass, if the trial's configuration has it."""


def write_card(storage: Storage, fingerprint: str, card: ModelCard) -> None:
    """Keep the card of the model with this fingerprint."""
    storage.put(_card_path(fingerprint), encode_record(card))


def read_card(storage: Storage, fingerprint: str) -> ModelCard:
    """The card of the model with this fingerprint.

    Raises:
        FileNotFoundError: there is none.
        Damaged: it is none, or not as it was written.
    """
    path = _card_path(fingerprint)
    return read_record(ModelCard, storage.get(path), path)


def read_tokenizer(storage: Storage, fingerprint: str, tokenizer: str) -> tuple[str, frozenset[int]]:
    """The definition of the tokenizer beside a card, and the ids that end a text.

    Args:
        storage: of the results.
        fingerprint: the model's, which names the folder.
        tokenizer: fingerprint of the tokenizer that trials began with.

    Raises:
        Damaged: a file is missing, or not as it was written.
    """
    folder = f"models/{fingerprint}"
    try:
        card = read_card(storage, fingerprint)
        definition = storage.get(_tokenizer_path(fingerprint)).decode()
    except FileNotFoundError as error:
        raise Damaged(f"{folder}: its card or its tokenizer is missing") from error
    except UnicodeDecodeError as error:
        raise Damaged(f"{_tokenizer_path(fingerprint)} is damaged: it is not UTF-8") from error
    ends = frozenset(card.end_tokens)
    if tokenizer not in (fingerprint_tokenizer(definition, ends, splits_special=split) for split in (False, True)):
        raise Damaged(f"{_tokenizer_path(fingerprint)} is damaged: it is not the tokenizer that trials began with")
    return definition, ends


def write_tokenizer(storage: Storage, fingerprint: str, definition: str) -> None:
    """Keep a tokenizer beside the card of its model."""
    storage.put(_tokenizer_path(fingerprint), definition.encode())


def write_run(storage: Storage, experiment: str, run_id: str, kind: str, record: Mapping[str, Any]) -> None:
    """Keep the record of a run: what was asked for, with which software. `kind`: `SWEEP` or `SEARCH`."""
    storage.put(f"runs/{experiment}/{run_id}.json", encode_record({"kind": kind, **record}))


def read_run(storage: Storage, path: str) -> dict[str, Any]:
    """The record of a run.

    Raises:
        Damaged: it is none, or not as it was written.
    """
    return read_record(dict[str, Any], storage.get(path), path)


def is_search(record: Mapping[str, Any]) -> bool:
    """Whether a run was a search, by its record."""
    # Earlier versions recorded no kind; limits were those of a search.
    return bool(record.get("kind", SEARCH if "limits" in record else SWEEP) == SEARCH)


def _tokenizer_path(fingerprint: str) -> str:
    return f"models/{fingerprint}/tokenizer.json"


def _card_path(fingerprint: str) -> str:
    return f"models/{fingerprint}/card.json"
