"""Where a text alliterates."""

from __future__ import annotations

import re


def alliterating_runs(text: str) -> list[tuple[int, int]]:
    """Character spans (start, end) of two or more adjacent words that begin with the same character.

    >>> alliterating_runs("see the tall tree now")
    [(4, 17)]
    """
    words = list(re.finditer(r"\S+", text))
    runs: list[tuple[int, int]] = []
    start = 0
    for index in range(1, len(words) + 1):
        if index < len(words) and words[index][0][0].casefold() == words[start][0][0].casefold():
            continue
        if index - start > 1:
            runs.append((words[start].start(), words[index - 1].end()))
        start = index
    return runs
