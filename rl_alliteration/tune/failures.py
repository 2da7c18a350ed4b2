"""An error of Ray's or of a trial, in the one line that a person needs of it."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import ray


def memory_line(text: str) -> str:
    """What a person needs of Ray's words on a process that its memory monitor killed."""
    found = re.search(r"\(IP: ([^,)\s]+).*?was ([\d.]+)GB used / ([\d.]+)GB limit", text, re.DOTALL)
    where = ""
    if found:
        host, used, limit = found.groups()  # its GB are GiB
        with contextlib.suppress(Exception):  # the address does as well
            host = next(n["NodeManagerHostname"] for n in ray.nodes() if n["NodeManagerAddress"] == host)
        where = f" on {host}: {used} GiB of {limit}"
    return f"memory ran out{where}; run fewer trials at once or a smaller --model or --group-size"


def in_one_line(text: str, length: int = 300) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[:length]}…"


def trial_error(trial: Any) -> str:
    """What a person needs of a trial's error."""
    return error_line(Path(trial.error_file).read_text(errors="replace") if trial.error_file else "")


def error_line(text: str) -> str:
    """What a person needs of the errors that Tune has written down for a trial, of which the last one counts.

    Of a traceback it is the message, however many lines that has; of a lost process, that and where it was.
    """
    last = re.split(r"^Failure # \d+ \(occurred at .*\)$", text, flags=re.MULTILINE)[-1]
    last = re.sub(r"\x1b\[[0-9;]*m", "", last)
    if "running low on memory" in last:
        return memory_line(last)
    traced = re.split(r"^  File .*\n(?:    .*\n)*", last, flags=re.MULTILINE)
    if len(traced) > 1:
        kind, _, message = traced[-1].strip().partition(": ")
        name = kind.rsplit(".", 1)[-1]
        told = message if name in ("Failure", "UserError", "Superseded") else f"{name}: {message}"
        return in_one_line(told, 500)
    lost = re.search(r"The actor (?:is dead|died) because ([^.]+)", last)
    if lost:
        where = re.search(r"^\s*ip: (\S+)", last, re.MULTILINE)
        told = f"{in_one_line(lost[1])} on {where[1]}" if where else in_one_line(lost[1])
        return f"{told}, more often than --max-failures allows: killed, as memory ran out, or crashed"
    return in_one_line(last, 500) or "unknown error"
