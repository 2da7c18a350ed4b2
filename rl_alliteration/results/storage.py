"""Where results live: a folder now; every write is whole or not there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from rl_alliteration.errors import Failure, UserError


class Storage:
    """A folder of results. Paths are relative to it, with forward slashes."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser().resolve()

    def __str__(self) -> str:
        return str(self.root)

    def local(self, path: str) -> Path:
        """The file's place on this machine."""
        return self.root / path

    def put(self, path: str, data: bytes) -> None:
        """Write a file whole: staged outside of the datasets, synced, renamed.

        Raises:
            Failure: the disk is full, or permission was lost; nothing is left at `path`.
        """
        target = self.root / path
        staged = self.root / "staging" / uuid.uuid4().hex
        with _explained(path):
            staged.parent.mkdir(parents=True, exist_ok=True)
            try:
                with open(staged, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(staged, target)
            except BaseException:
                with contextlib.suppress(OSError):
                    staged.unlink(missing_ok=True)
                raise
            _sync_folder(target.parent)

    def get(self, path: str) -> bytes:
        """A file's bytes.

        Raises:
            FileNotFoundError: there is none.
        """
        return (self.root / path).read_bytes()

    def get_tagged(self, path: str) -> tuple[bytes, str] | None:
        """A file's bytes with a tag of this version of it; None if there is none."""
        try:
            data = self.get(path)
        except FileNotFoundError:
            return None
        return data, hashlib.sha256(data).hexdigest()

    def put_if(self, path: str, data: bytes, tag: str | None) -> str | None:
        """Write a file only if it is still the version of `tag` (None: only if there is none).

        Returns:
            The new version's tag; None if someone else was faster.
        """
        lock = self.root / f"{path}.lock"
        with _explained(path):
            lock.parent.mkdir(parents=True, exist_ok=True)
            with open(lock, "wb") as held:
                fcntl.flock(held, fcntl.LOCK_EX)
                now = self.get_tagged(path)
                if (now[1] if now else None) != tag:
                    return None
                self.put(path, data)
                return hashlib.sha256(data).hexdigest()

    def open(self, path: str) -> BinaryIO:
        """A file to read from.

        Raises:
            FileNotFoundError: there is none.
        """
        return (self.root / path).open("rb")

    def list(self, folder: str) -> list[str]:
        """Paths of all files below a folder, sorted; none if there is no such folder."""
        base = self.root / folder
        return sorted(
            (Path(parent) / name).relative_to(self.root).as_posix()
            for parent, _, names in os.walk(base)
            for name in names
        )

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        return (self.root / path).is_file()

    def delete(self, path: str) -> None:
        """Remove a file, if it is there."""
        with _explained(path):
            (self.root / path).unlink(missing_ok=True)


def open_storage(location: str, *, create: bool = False) -> Storage:
    """The storage at a folder.

    Args:
        location: a folder.
        create: make the folder, and check that it can be written.

    Raises:
        UserError: it is not there, or cannot be written, or names something that is no folder.
    """
    parts = urlsplit(location)
    if parts.password is not None or (parts.username is not None and "://" in location):
        raise UserError("--storage: a URI must not carry a user name or password; give credentials in the environment")
    if "://" in location:
        raise UserError(f"--storage: {parts.scheme}:// is not supported; give a folder")
    storage = Storage(location)
    if not create:
        if not storage.root.is_dir():
            raise UserError(f"--storage: no folder {location!r}; give the folder that a sweep wrote to")
        return storage
    probe = f"staging/{uuid.uuid4().hex}"
    try:
        storage.put(probe, b"")
        storage.delete(probe)
    except (OSError, Failure) as error:
        raise UserError(f"--storage: {location!r} cannot be written ({error}); give a folder that can") from error
    return storage


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise Failure(f"no space left for {path}; free some and run the same command again") from error
        raise Failure(f"{path}: {error.strerror or error}") from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
