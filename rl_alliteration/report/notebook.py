"""What a notebook shows of results: tables, and texts as cards. All of it is text, escaped and `printable`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import jinja2
from markupsafe import Markup

from rl_alliteration.analysis.alliteration import marked
from rl_alliteration.terminal import printable


def table_html(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first cell of a row names it."""
    return str(_macro("table")(title, head, rows))


def cards_html(title: str, texts: Sequence[tuple[str, str]]) -> str:
    """Texts side by side, what alliterates in them marked.

    Args:
        title: above them.
        texts: of each what to say about it, and itself.
    """
    return str(_macro("cards")(title, texts))


def table_text(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same table for where there is no markup."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (head, *rows)]
    return "\n".join([title, *lines])


@lru_cache(maxsize=1)
def _macros() -> Any:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rl_alliteration.report", "."),
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, finalize=_readable,
    )  # fmt: skip
    environment.filters |= {"marked": marked, "numeric": lambda cell: bool(re.fullmatch(r"[-−–]?[\d.,/ ]*", cell))}
    return environment.get_template("notebook.html").module


def _macro(name: str) -> Any:
    return getattr(_macros(), name)


def _readable(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
