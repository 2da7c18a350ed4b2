"""A lock in a folder of this user's own: one process of this user and node at a time fetches a model."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_cache_dir

from rl_alliteration.errors import UserError

log = logging.getLogger(__name__)

WAIT_SECONDS = 1800.0
"""How long the others of a node wait for the one that fetches."""


@contextlib.contextmanager
def alone_in_user_cache(source: str) -> Iterator[None]:
    """One process of this user and node at a time: the others find what it has fetched in the cache.

    Raises:
        UserError: the lock was held too long, or is not this user's.
    """
    path = _private_folder() / f"{hashlib.sha256(source.encode()).hexdigest()[:16]}.lock"
    _check_ours(path, stat.S_ISREG)
    lock = FileLock(path, mode=0o600)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.warning("waiting for another process of this user, which fetches %s (lock %s)", source, path)
            lock.acquire(timeout=WAIT_SECONDS)
    except Timeout:
        raise UserError(
            f"--model: another process of this user has been fetching {source!r} for {WAIT_SECONDS / 60:g} minutes; "
            f"end it, or wait and run the same command again (lock {path})"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _private_folder() -> Path:
    """This user's cache folder, readable by nobody else; in the temporary folder where there is no home to write to.

    Raises:
        UserError: it is not this user's, or there is no folder to write to.
    """
    places: tuple[Callable[[], Path], ...] = (
        lambda: Path(user_cache_dir("rl_alliteration", appauthor=False)),
        lambda: Path(tempfile.gettempdir()) / f"rl_alliteration-{os.getuid()}",
    )
    for place in places:
        try:
            folder = place()
            folder.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            _check_ours(folder, stat.S_ISDIR)
            folder.chmod(0o700)  # an earlier umask may have been wider
            if os.access(folder, os.W_OK | os.X_OK):
                return folder
        except (OSError, RuntimeError):  # no home, or none that can be written to
            continue
    raise UserError("--model: no folder for a cache can be written to; set XDG_CACHE_HOME to one")


def _check_ours(path: Path, is_kind: Callable[[int], bool]) -> None:
    """A path that is not there, or of the kind wanted and this user's: a link is neither."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not is_kind(found.st_mode) or found.st_uid != os.getuid():
        raise UserError(f"--model: {str(path)!r} is a link or another user's; remove it, or set XDG_CACHE_HOME")
