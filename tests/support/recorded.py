"""Token records for made-up texts: those of some generations are written into the parts that are there."""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Any

from rl_alliteration.results.parts import encode_part, read_part
from rl_alliteration.results.reader import parts
from rl_alliteration.results.storage import Storage


def token_columns(text: str) -> dict[str, list[Any]]:
    """A token a word after "Once upon a time", two that share one where a word begins with t, and an end token."""
    prompt = "Once upon a time"
    first = len(prompt) if text.startswith(prompt) else 0
    starts = []
    for match in re.finditer(r"\s*\S+\s*$|\s*\S+", text[first:]):
        starts += [first + match.start()] * (1 + match.group().lstrip().startswith("t"))
    starts.append(len(text))
    count = len(starts)
    return {
        "token_log_p": [-float(k % 5) for k in range(count)],
        "token_log_q": [-float(k % 3) for k in range(count)],
        "token_entropy": [k % 7 / 2 for k in range(count)],
        "token_starts": starts,
    }


def write_records(storage: Storage, experiment: str, trial_id: str, generations: Container[int]) -> None:
    """Give texts of a trial a record."""
    for path in parts(storage, "generations", experiment, trial_id):
        rows = read_part(storage, path)
        for row in rows:
            row |= token_columns(row["text"]) if row["generation"] in generations else {}
        storage.put(path, encode_part(rows, "generations"))
