"""A web hook. Its address is a secret to many services: it is nowhere printed or stored."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from rl_alliteration.errors import UserError

NOTIFY_URL = "RL_ALLITERATION_NOTIFY_URL"
_TRY_SECONDS = 5.0
_TRIES = 3


def web_hook(given: str | None) -> str | None:
    """The address that was given, or that the environment has; None without one.

    Raises:
        UserError: it is none.
    """
    url = given or os.environ.get(NOTIFY_URL) or None
    with contextlib.suppress(ValueError):
        if url is None or (urlsplit(url).scheme in ("http", "https") and urlsplit(url).hostname):
            return url
    raise UserError(f"{'--notify-url' if given else NOTIFY_URL}: give an address that begins with https:// or http://")


def post(url: str, facts: Mapping[str, Any]) -> list[str]:
    """Send the facts, with a line of text made of them, as JSON; what went wrong, in words without the address."""
    import requests  # Ray brings it
    from requests.adapters import HTTPAdapter
    from urllib3.util.retry import Retry

    logging.getLogger("urllib3").setLevel(logging.ERROR)  # it tells of each further try, with the address
    retry = Retry(
        total=_TRIES - 1,
        backoff_factor=0.5,
        status_forcelist=(429, 500, 502, 503, 504),
        allowed_methods=None,
        respect_retry_after_header=False,
        raise_on_status=False,
    )
    text = f"{facts['experiment']}: {facts['state']}" + (f", {facts['message']}" if facts["message"] else "")
    try:
        with requests.Session() as session:
            for scheme in ("http://", "https://"):
                session.mount(scheme, HTTPAdapter(max_retries=retry))
            body = {**facts, "text": text}  # the key that chat services show
            with session.post(url, json=body, timeout=_TRY_SECONDS, allow_redirects=False, stream=True) as answer:
                return [] if answer.ok and not answer.is_redirect else [f"the answer was {answer.status_code}"]
    except Exception as error:  # its message has the address
        return [type(error).__name__]
