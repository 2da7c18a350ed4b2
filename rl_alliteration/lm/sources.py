"""Where a model's files are: a shipped model, a folder, or a hub that may be out of reach."""

from __future__ import annotations

import contextlib
import os
import urllib.error
import urllib.request
from importlib.resources import files
from pathlib import Path

from rl_alliteration.config import SHIPPED_MODELS
from rl_alliteration.errors import UserError

_HUB_SECONDS = 5.0


def resolve_source(name: str, field: str) -> str:
    """The folder of a shipped model or the user's folder; any other name is a hub id.

    Raises:
        UserError: the name can only be a folder, and there is none.
    """
    if name in SHIPPED_MODELS:
        return str(files("rl_alliteration") / "models" / name)
    path = Path(name)
    with contextlib.suppress(RuntimeError):  # nobody's home is known: there is no such folder
        path = path.expanduser()
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


def commit_of(source: str, revision: str | None) -> str | None:
    """The commit of a hub's model that is in this machine's cache."""
    if Path(source).is_dir():
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source, "config.json", revision=revision or "main")
    return Path(found).parent.name if isinstance(found, str) else None


def hub_is_out_of_reach(source: str) -> bool:
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
