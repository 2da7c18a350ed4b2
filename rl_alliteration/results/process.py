"""A process of this host by its number: whether it is alive, stopped or gone."""

from __future__ import annotations

import enum
import os
import platform
from pathlib import Path


class Process(enum.Enum):
    """What a process is doing, seen from its own host."""

    ALIVE = "alive"
    STOPPED = "stopped"
    """By a signal: it may be continued."""
    GONE = "gone"


def process_at(host: str, boot_id: str, pid: int, started: int) -> Process | None:
    """A process as it is now; None if it is of another host, or container, or of before a restart of this one.

    Args:
        host: name of its host.
        boot_id: of its host when it ran, see `this_boot`.
        pid: its number.
        started: see `started_at`; 0: not known.
    """
    # Hosts of the same name are not the same host: only the identity of this boot says so.
    if (host, boot_id) != (platform.node(), this_boot()):
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return Process.GONE
    except PermissionError:
        pass
    found = _stat(pid)
    if found is None:
        return Process.ALIVE
    status, began = found
    # A zombie has been killed; its parent has not yet looked.
    if status in "ZX" or (started and began != started):
        return Process.GONE
    return Process.STOPPED if status in "Tt" else Process.ALIVE


def started_at(pid: int) -> int:
    """When a process began, in ticks since boot; 0 if that cannot be seen. Process numbers are used again."""
    return (_stat(pid) or ("", 0))[1]


def this_boot() -> str:
    """The identity of this boot of this host, and of the container; empty if the system has none."""
    try:
        # Processes of another container on this host have numbers of their own.
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _stat(pid: int) -> tuple[str, int] | None:
    """A process's state, a letter, and when it began, in ticks since boot; None if it cannot be seen."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rsplit(")", 1)[1].split()
        return fields[0], int(fields[19])
    except (OSError, IndexError, ValueError):
        return None
