"""Results in an object store, such as S3."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from rl_alliteration.errors import Failure
from rl_alliteration.results.storage import Storage, Unavailable, arrow_errors


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
        from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

        mode: Any = "create" if tag is None else {"e_tag": tag}
        with _explained_by_store(path):
            try:
                return str(obstore.put(self._store, path, data, mode=mode, use_multipart=False)["e_tag"])
            except (AlreadyExistsError, PreconditionError):
                return self._applied(path, data)
            except BaseError:
                written = self._applied(path, data)
                if written is None:
                    raise
                return written

    def _applied(self, path: str, data: bytes) -> str | None:
        """The tag of `path` if it holds these bytes: a write whose answer was lost, and that was refused when repeated.

        So whoever may write at the same time as another must write bytes that the other does not.
        """
        with contextlib.suppress(Failure):  # what went wrong before is told
            found = self.get_tagged(path)
            if found is not None and found[0] == data:
                return found[1]
        return None

    def delete_if(self, path: str, tag: str) -> bool:
        found = self.get_tagged(path)  # the protocol has no such condition for a deletion
        if found is None or found[1] != tag:
            return False
        self.delete(path)
        return True

    def clear_staging(self) -> None:
        """An object store shows no half-written objects."""

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        data = self.get(path)
        with arrow_errors(path):
            yield io.BytesIO(data)

    def list(self, folder: str) -> list[str]:
        import obstore

        with _explained_by_store(folder):
            return sorted(str(item["path"]) for chunk in obstore.list(self._store, folder) for item in chunk)

    def sizes(self, folder: str) -> dict[str, int]:
        import obstore

        with _explained_by_store(folder):
            found = {
                str(item["path"]): int(item["size"]) for chunk in obstore.list(self._store, folder) for item in chunk
            }
        return dict(sorted(found.items()))

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


def _endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


@contextlib.contextmanager
def _explained_by_store(path: str) -> Iterator[None]:
    from obstore.exceptions import BaseError

    try:
        yield
    except BaseError as error:
        reason = str(error).split("Debug source")[0]
        raise Unavailable(
            f"{path}: {' '.join(reason.split())[:300]}; run the same command again once that is mended"
        ) from error
