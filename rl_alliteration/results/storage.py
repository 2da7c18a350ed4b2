"""Where results live, a folder or an object store: every write is whole or not there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from rl_alliteration.errors import Failure, UserError
from rl_alliteration.foreign import Damaged

_LOCK_SECONDS = 10.0
OBJECT_STORES = ("s3", "gs")
"""`gs` goes the same way as `s3`, but is untested."""


class Unavailable(Failure):
    """The system, or the object store, refused for now: the same may be tried again."""


class Storage:
    """A folder of results. Paths are relative to it, with forward slashes."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser().resolve()
        self._was_there = self.root.is_dir()

    def __str__(self) -> str:
        return str(self.root)

    def folder(self, path: str) -> Path | None:
        """The folder of this machine that `path` is, if it is one.

        Raises:
            Failure: it is outside of the storage, or a link leads there.
        """
        return self._at(path)

    def put(self, path: str, data: bytes) -> None:
        """Write a file whole: staged outside of the datasets, synced, renamed.

        Raises:
            Failure: the disk is full, or permission was lost; nothing is left at `path`.
        """
        target, staged = self._at(path), self._at(f"staging/{uuid.uuid4().hex}")
        with _explained(path):
            self._make(staged.parent)
            try:
                with open(staged, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                self._make(target.parent)
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
            Failure: it cannot be read, or is a link.
        """
        with _explained(path, FileNotFoundError):
            return self._file(path).read_bytes()

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
        lock = self._at(f"{path}.lock")
        with _explained(path):
            self._make(lock.parent)
            with open(lock, "wb") as held:
                _lock(held, path)
                now = self.get_tagged(path)
                if (now[1] if now else None) != tag:
                    return None
                self.put(path, data)
                return hashlib.sha256(data).hexdigest()

    def delete_if(self, path: str, tag: str) -> bool:
        """Delete a file and its lock, if it is still the version of `tag`; whether it was."""
        lock = self.folder(f"{path}.lock")
        assert lock is not None
        with _explained(path), open(lock, "wb") as held:
            _lock(held, path)
            now = self.get_tagged(path)
            if now is None or now[1] != tag:
                return False
            self.delete(path)
            lock.unlink()
            return True

    def clear_staging(self) -> None:
        """Delete what a kill left half written: staged files of an hour ago and before."""
        for path in self.list("staging"):
            with contextlib.suppress(OSError):  # another driver may be as fast
                if time.time() - self._at(path).stat().st_mtime > 3600:
                    self._at(path).unlink()

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        """A file to read from, as long as the context lasts.

        Raises:
            FileNotFoundError: there is none.
            Damaged: Arrow cannot make sense of it.
            Failure: it cannot be opened or read, or is a link.
        """
        with _explained(path, FileNotFoundError), self._file(path).open("rb") as file, arrow_errors(path):
            yield file

    def list(self, folder: str) -> list[str]:
        """Paths of all files below a folder, sorted; none if there is no such folder.

        Raises:
            Failure: a folder cannot be listed, which is not to be taken for an empty one; or there is a link in it.
        """
        return sorted(path for path, _ in self._entries(folder))

    def sizes(self, folder: str) -> dict[str, int]:
        """As `list`, with the bytes of each file."""
        found = {}
        for path, entry in self._entries(folder):
            with contextlib.suppress(FileNotFoundError), _explained(path, FileNotFoundError):
                found[path] = entry.stat(follow_symlinks=False).st_size
        return dict(sorted(found.items()))

    def _entries(self, folder: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Paths of all files below a folder, in no order; see `list`."""
        waiting = [self._at(folder)]
        start = len(str(self.root)) + 1
        while waiting:
            parent = waiting.pop()
            with _explained(str(parent)[start:] or str(self.root)):
                try:
                    entries = os.scandir(parent)
                except FileNotFoundError:  # there is none, or another process has just deleted it
                    continue
                with entries:
                    for entry in entries:
                        if entry.is_symlink():
                            raise _linked(entry.path[start:])
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(Path(entry.path))
                        elif entry.is_file(follow_symlinks=False) or not os.path.lexists(entry.path):
                            yield entry.path[start:], entry
                        else:
                            raise _no_file(entry.path[start:])

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        with _explained(path):
            try:
                return stat.S_ISREG(os.stat(self._at(path)).st_mode)
            except FileNotFoundError:
                return False

    def delete(self, path: str) -> None:
        """Remove a file, if it is there."""
        with _explained(path):
            self._at(path).unlink(missing_ok=True)

    def _at(self, path: str) -> Path:
        """Where a path of the storage is: within its root, and through no link.

        Raises:
            Failure: it would be elsewhere. Results may come from someone else.
        """
        place = self.root
        for name in _names(path):
            place = place / name
            with _explained(path):
                if place.is_symlink():
                    raise _linked(str(place)[len(str(self.root)) + 1 :])
        return place

    def _file(self, path: str) -> Path:
        """Where a file is; a pipe would be waited for without end."""
        place = self._at(path)
        if not stat.S_ISREG(os.stat(place).st_mode):
            raise _no_file(path)
        return place

    def _make(self, folder: Path) -> None:
        """Make a folder, but not the whole storage anew once it was there.

        Raises:
            Failure: it was moved or unmounted.
        """
        if self._was_there and not self.root.is_dir():
            raise Failure(f"the storage {self.root} is no longer there; was it moved or unmounted?")
        folder.mkdir(parents=True, exist_ok=True)
        self._was_there = True

    def pyarrow(self) -> tuple[Any, str]:
        """A pyarrow filesystem, and the storage's path in it."""
        import pyarrow.fs

        return pyarrow.fs.LocalFileSystem(), str(self.root)


def storage_at(location: str) -> Storage:
    """The storage at a folder or a URI, unchecked."""
    if location.startswith(tuple(f"{scheme}://" for scheme in OBJECT_STORES)):
        from rl_alliteration.results.object_store import ObjectStorage  # which builds on this module

        return ObjectStorage(location)
    return Storage(location)


def open_storage(location: str, *, create: bool = False) -> Storage:
    """The storage at a folder or a URI such as s3://bucket/prefix.

    Args:
        location: where.
        create: make the folder, and check that it can be written.

    Raises:
        UserError: it is not there, or cannot be written, or is neither.
    """
    check_location(location)
    try:
        storage = storage_at(location)
        str(storage).encode()  # neither DuckDB nor pyarrow can be given a folder whose name is no UTF-8
        if storage.folder("") is None:
            storage.list("leases")
        elif not create and not storage.root.is_dir():
            raise UserError(f"--storage: no folder {location!r}; give the folder that a sweep wrote to")
    except ImportError as error:
        raise UserError("--storage: object stores need an extra; pip install 'rl_alliteration[s3]'") from error
    except (Failure, OSError, ValueError, RuntimeError) as error:
        raise UserError(f"--storage: {location[:100]!r} cannot be reached ({error})") from error
    if create:
        probe = f"staging/{uuid.uuid4().hex}"
        try:
            storage.put(probe, b"")
            storage.delete(probe)
        except (OSError, Failure) as error:
            raise UserError(f"--storage: {location[:100]!r} cannot be written ({error}); give one that can") from error
    return storage


def existing_storage(location: str) -> Storage | None:
    """The storage at a folder or a URI if it is there and within reach; None if not."""
    try:
        return open_storage(location)
    except UserError:
        return None


def check_location(location: str) -> None:
    """What can be said of a storage's name alone.

    Raises:
        UserError: it carries a password, or is neither a folder nor an object store.
    """
    if not location.strip():
        raise UserError("--storage: '' is not accepted; give a folder or s3://bucket/prefix")
    try:
        parts = urlsplit(location)
    except ValueError as error:
        raise UserError(f"--storage: {location[:100]!r} is not accepted ({error})") from error
    if parts.scheme and "://" in location:
        if "@" in parts.netloc:
            raise UserError(
                "--storage: a URI must not carry a user name or password; give credentials in the environment"
            )
        if parts.scheme not in OBJECT_STORES:
            raise UserError(f"--storage: {parts.scheme}:// is not supported; give a folder or s3://bucket/prefix")
        if not parts.netloc:
            raise UserError(f"--storage: {location!r} names no bucket; give s3://bucket/prefix")


def _names(path: str) -> list[str]:
    """The names that a path within a storage is made of.

    Raises:
        Failure: one of them would lead elsewhere.
    """
    names = path.split("/") if path else []
    for name in names:
        if name in ("", ".", "..") or "\0" in name or os.sep in name:
            raise Failure(f"{path!r} is no path within results")
    return names


def _no_file(path: str) -> Failure:
    return Failure(f"{path} is no file, and nothing that results hold; remove it")


def _linked(path: str) -> Failure:
    return Failure(f"{path} is a link, and links within results are not followed; remove it, or copy what it leads to")


@contextlib.contextmanager
def _explained(path: str, *passed: type[OSError]) -> Iterator[None]:
    """One line for what the system says, but for errors of the kinds `passed`, which mean something to the caller."""
    try:
        yield
    except passed:
        raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise Unavailable(f"no space left for {path}; free some and run the same command again") from error
        raise Unavailable(f"{path}: {error.strerror or error}") from error


@contextlib.contextmanager
def arrow_errors(path: str) -> Iterator[None]:
    """Tell what Arrow says of bytes that make no sense, an `OSError` as well, from what the system says."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise Damaged(f"{path} is damaged: {' '.join(str(error).split())[:100]}") from error
        raise


def _lock(file: BinaryIO, path: str) -> None:
    """Lock a file, waiting a little: its holder may be a process that was stopped."""
    until = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > until:
                raise Failure(f"{path} is locked by a process that does not go on; end it and try again") from None
            time.sleep(0.05)
    if os.fstat(file.fileno()).st_nlink == 0:  # its holder deleted it: another process may lock one of the same name
        raise Failure(f"{path} has just been removed; run the same command again")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
