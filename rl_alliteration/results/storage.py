"""Where results live, a folder or an object store: every write is whole or not there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from rl_alliteration.errors import Failure, UserError

_LOCK_SECONDS = 10.0
OBJECT_STORES = ("s3", "gs")
"""`gs` goes the same way as `s3`, but is untested."""


class Storage:
    """A folder of results. Paths are relative to it, with forward slashes."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser().resolve()

    def __str__(self) -> str:
        return str(self.root)

    def folder(self, path: str) -> Path | None:
        """The folder of this machine that `path` is, if it is one."""
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
                _lock(held, path)
                now = self.get_tagged(path)
                if (now[1] if now else None) != tag:
                    return None
                self.put(path, data)
                return hashlib.sha256(data).hexdigest()

    def clear_staging(self) -> None:
        """Delete what a kill left half written: staged files of an hour ago and before."""
        for path in self.list("staging"):
            with contextlib.suppress(OSError):  # another driver may be as fast
                if time.time() - (self.root / path).stat().st_mtime > 3600:
                    (self.root / path).unlink()

    def open(self, path: str) -> BinaryIO:
        """A file to read from.

        Raises:
            FileNotFoundError: there is none.
        """
        return (self.root / path).open("rb")

    def list(self, folder: str) -> list[str]:
        """Paths of all files below a folder, sorted; none if there is no such folder."""
        start = len(str(self.root)) + 1
        return sorted(f"{parent[start:]}/{name}" for parent, _, names in os.walk(self.root / folder) for name in names)

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        return (self.root / path).is_file()

    def delete(self, path: str) -> None:
        """Remove a file, if it is there."""
        with _explained(path):
            (self.root / path).unlink(missing_ok=True)

    def pyarrow(self) -> tuple[Any, str]:
        """A pyarrow filesystem, and the storage's path in it."""
        import pyarrow.fs

        return pyarrow.fs.LocalFileSystem(), str(self.root)


class ObjectStorage(Storage):
    """A prefix of a bucket. One put a file; object stores show it whole or not at all.

    Credentials and endpoint come from the environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, …). Passing errors
    are tried again with growing pauses by the client library.
    """

    def __init__(self, location: str) -> None:
        import obstore.store

        self._location = location.rstrip("/")
        self._scheme = urlsplit(location).scheme
        options: Any = {"allow_http": True} if _endpoint().startswith("http://") else None
        self._store = obstore.store.from_url(self._location, client_options=options)

    def __str__(self) -> str:
        return self._location

    def folder(self, path: str) -> Path | None:
        return None

    def put(self, path: str, data: bytes) -> None:
        import obstore

        with _explained_by_store(path):
            obstore.put(self._store, path, data, use_multipart=False)

    def get(self, path: str) -> bytes:
        import obstore

        with _explained_by_store(path):
            return bytes(obstore.get(self._store, path).bytes())

    def get_tagged(self, path: str) -> tuple[bytes, str] | None:
        import obstore

        with _explained_by_store(path):
            try:
                found = obstore.get(self._store, path)
            except FileNotFoundError:
                return None
            return bytes(found.bytes()), str(found.meta["e_tag"])

    def put_if(self, path: str, data: bytes, tag: str | None) -> str | None:
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        mode: Any = "create" if tag is None else {"e_tag": tag}
        with _explained_by_store(path):
            try:
                return str(obstore.put(self._store, path, data, mode=mode, use_multipart=False)["e_tag"])
            except (AlreadyExistsError, PreconditionError):
                return None

    def clear_staging(self) -> None:
        """An object store shows no half-written objects."""

    def open(self, path: str) -> BinaryIO:
        return io.BytesIO(self.get(path))

    def list(self, folder: str) -> list[str]:
        import obstore

        with _explained_by_store(folder):
            return sorted(str(item["path"]) for chunk in obstore.list(self._store, folder) for item in chunk)

    def exists(self, path: str) -> bool:
        import obstore

        with _explained_by_store(path):
            try:
                obstore.head(self._store, path)
            except FileNotFoundError:
                return False
            return True

    def delete(self, path: str) -> None:
        import obstore

        with _explained_by_store(path), contextlib.suppress(FileNotFoundError):
            obstore.delete(self._store, path)

    def pyarrow(self) -> tuple[Any, str]:
        import pyarrow.fs

        parts = urlsplit(self._location)
        path = f"{parts.netloc}{parts.path}"
        if self._scheme == "gs":
            return pyarrow.fs.GcsFileSystem(), path
        endpoint = urlsplit(_endpoint())
        if not endpoint.netloc:
            return pyarrow.fs.S3FileSystem(), path
        # Unlike the AWS tools, pyarrow does not read the endpoint from the environment.
        return pyarrow.fs.S3FileSystem(endpoint_override=endpoint.netloc, scheme=endpoint.scheme), path


def storage_at(location: str) -> Storage:
    """The storage at a folder or a URI, unchecked."""
    is_object_store = location.startswith(tuple(f"{scheme}://" for scheme in OBJECT_STORES))
    return ObjectStorage(location) if is_object_store else Storage(location)


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
        if isinstance(storage, ObjectStorage):
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


def _endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise Failure(f"no space left for {path}; free some and run the same command again") from error
        raise Failure(f"{path}: {error.strerror or error}") from error


@contextlib.contextmanager
def _explained_by_store(path: str) -> Iterator[None]:
    from obstore.exceptions import BaseError

    try:
        yield
    except BaseError as error:
        reason = str(error).split("Debug source")[0]
        raise Failure(
            f"{path}: {' '.join(reason.split())[:300]}; run the same command again once that is mended"
        ) from error


def _lock(file: BinaryIO, path: str) -> None:
    """Lock a file, waiting a little: its holder may be a process that was stopped."""
    until = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                raise Failure(f"{path} is locked by a process that does not go on; end it and try again") from None
            time.sleep(0.05)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
