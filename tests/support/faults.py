"""A file system that fails at random: what Python calls of it, wrapped for the paths below one folder. Linux only.

`Faults.active()` makes this process's calls fail; `Faults.environment()` those of a command and of all processes that
it starts, Ray's workers among them: Python imports `sitecustomize`, found on PYTHONPATH, before anything else.
Standard library alone, as every such process imports it.

Which call fails depends on the seed, the kind of call, the path and how often the process has made that call there,
and on nothing else: not on the clock, nor on how the processes take turns. No call fails twice.
"""

from __future__ import annotations

import builtins
import collections
import contextlib
import dataclasses
import errno
import fcntl
import functools
import hashlib
import io
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

VARIABLE = "RL_ALLITERATION_FAULTY_FILES"

_READING = (errno.EIO, errno.ESTALE, errno.EACCES, errno.EMFILE, errno.ETIMEDOUT)
_WRITING = (errno.EIO, errno.ESTALE, errno.EACCES, errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_LOCKING = (errno.EIO, errno.ENOLCK, errno.ESTALE)

ALL, FIRST, OTHERS = "all", "first", "others"

LIST, LIST_ON, STAT = "list", "list on", "stat"
OPEN, READ, WRITE, CLOSE, SYNC = "open", "read", "write", "close", "sync"
RENAME, DELETE, MAKE, LOCK = "rename", "delete", "make", "lock"

KINDS: dict[str, tuple[float, tuple[int, ...]]] = {
    LIST: (0.2, _READING),
    LIST_ON: (0.1, (errno.EIO, errno.ESTALE)),
    STAT: (0.05, (errno.EIO, errno.ESTALE, errno.EACCES)),
    OPEN: (0.3, _READING),
    READ: (0.4, (errno.EIO, errno.ESTALE)),
    WRITE: (2.0, (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE)),
    CLOSE: (1.0, (errno.EIO, errno.ENOSPC, errno.EDQUOT)),
    SYNC: (1.0, (errno.EIO, errno.ENOSPC, errno.EDQUOT)),
    RENAME: (2.0, _WRITING),
    DELETE: (10.0, _WRITING),
    MAKE: (0.3, _WRITING),
    LOCK: (0.3, _LOCKING),
}
"""By kind of call: how often it fails, as a multiple of the rate, and with which errors."""

_DONE_ALL_THE_SAME = (RENAME, DELETE, MAKE, SYNC)
"""Calls that may report an error although they took effect: a server whose answer was lost."""

_RANDOM_NAMES = re.compile(r"[0-9a-f]{32}|\d{8}T\d{6}Z-[0-9a-f]+|\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d")


@dataclasses.dataclass(frozen=True)
class Fault:
    """One call that failed: a line of the log."""

    key: str
    pid: int
    kind: str
    path: str
    """Relative to the folder."""
    number: int
    """Of the error."""
    took_effect: bool

    def __str__(self) -> str:
        late = ", though it took effect" if self.took_effect else ""
        return f"{self.kind} {self.path or '.'}: {errno.errorcode[self.number]}{late} (process {self.pid})"


class Faults:
    """Calls below `root` fail until `limit` of them have, in all processes together."""

    def __init__(
        self, root: Path | str, log: Path | str, seed: str, limit: int, rate: float, victims: str = ALL
    ) -> None:
        """
        Args:
            root: the folder.
            log: a file outside of it, of which there is one for each seed: a line a fault.
            seed: any text.
            limit: number of faults.
            rate: share of calls that fail, see `KINDS`.
            victims: which processes of a command: the one that it began with, those that it starts, or all.
        """
        self.root, self.log, self.seed = os.path.realpath(root), str(log), seed
        self.limit, self.rate, self.victims = limit, rate, victims
        self.kinds = set(KINDS)
        """Those that fail, in this process."""
        self.calls: collections.Counter[str] = collections.Counter()
        """Made by this process, by kind."""
        self._seen: collections.Counter[str] = collections.Counter()
        self._lock = threading.RLock()
        self._spent = False
        self._undo: list[tuple[Any, str, Any]] = []

    def spent(self) -> list[Fault]:
        """Those that came so far, in any process."""
        with contextlib.suppress(FileNotFoundError):
            return [Fault(**json.loads(line)) for line in Path(self.log).read_text().splitlines()]
        return []

    def environment(self, folder: Path) -> dict[str, str]:
        """Variables for a command; `folder` is written to."""
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(
            f"import sys\nsys.path.append({str(Path(__file__).parent)!r})\nimport faults\nfaults.install()\n"
        )
        values = {name: getattr(self, name) for name in ("root", "log", "seed", "limit", "rate", "victims")}
        path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
        return {"PYTHONPATH": path, VARIABLE: json.dumps(values)}

    @contextlib.contextmanager
    def active(self) -> Iterator[Faults]:
        """This process's calls fail meanwhile."""
        self._wrap()
        try:
            yield self
        finally:
            while self._undo:
                setattr(*self._undo.pop())

    # --- which call fails ----------------------------------------------------------------------------------

    def below(self, path: Any) -> str | None:
        """A path relative to the root; None if it is elsewhere, or none."""
        if isinstance(path, int) or path is None:
            return None
        name = os.fspath(path)
        if not isinstance(name, str) or not name.startswith(self.root):
            return None
        rest = name[len(self.root) :]
        return rest.lstrip("/") if not rest or rest[0] == "/" else None

    def draw(self, kind: str, path: str) -> Fault | None:
        """What the next call of a kind at a path (relative) fails with; None if it does not."""
        weight, numbers = KINDS[kind]
        with self._lock:
            self.calls[kind] += 1
            place = _RANDOM_NAMES.sub("*", path)
            self._seen[f"{kind} {place}"] += 1
            key = f"{kind} {place} {self._seen[f'{kind} {place}']}"
            drawn = hashlib.sha256(f"{self.seed} {key}".encode()).digest()
            if int.from_bytes(drawn[:8]) >= weight * self.rate * 2**64 or kind not in self.kinds or self._spent:
                return None
            late = kind in _DONE_ALL_THE_SAME and drawn[9] % 2 == 0
            fault = Fault(key, os.getpid(), kind, path, numbers[drawn[8] % len(numbers)], late)
            return fault if self._claim(fault) else None

    def _claim(self, fault: Fault) -> bool:
        """Note a fault, unless all are spent, or another process had the same one."""
        descriptor = _REAL["os.open"](self.log, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            _REAL["fcntl.flock"](descriptor, fcntl.LOCK_EX)
            lines = os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode().splitlines()
            self._spent = len(lines) >= self.limit
            if self._spent or any(json.loads(line)["key"] == fault.key for line in lines):
                return False
            os.write(descriptor, (json.dumps(dataclasses.asdict(fault)) + "\n").encode())
            return True
        finally:
            os.close(descriptor)

    def call(self, kind: str, path: str, work: Callable[[], Any] = lambda: None) -> Any:
        """Do it, or raise instead, or after.

        Raises:
            OSError: it failed.
        """
        fault = self.draw(kind, path)
        if fault is None:
            return work()
        if fault.took_effect:
            work()
        raise _error(fault, f"{self.root}/{path}")

    # --- what is wrapped -----------------------------------------------------------------------------------

    def _wrap(self) -> None:
        for name, kind in (("stat", STAT), ("lstat", STAT), ("unlink", DELETE), ("remove", DELETE), ("mkdir", MAKE)):
            self._replace(os, name, self._by_first_path(kind, getattr(os, name)))
        for name in ("replace", "rename"):
            self._replace(os, name, self._by_second_path(RENAME, getattr(os, name)))
        self._replace(os, "open", self._by_first_path(OPEN, os.open))
        self._replace(os, "fsync", self._by_descriptor(SYNC, os.fsync))
        self._replace(fcntl, "flock", self._by_descriptor(LOCK, fcntl.flock))
        self._replace(os, "listdir", self._by_first_path(LIST, os.listdir))
        self._replace(os, "scandir", self._scandir(os.scandir))
        opened = self._open(io.open)
        self._replace(io, "open", opened)
        self._replace(builtins, "open", opened)

    def _replace(self, owner: Any, name: str, wrapped: Any) -> None:
        self._undo.append((owner, name, getattr(owner, name)))
        setattr(owner, name, wrapped)

    def _by_first_path(self, kind: str, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def wrapped(path: Any = None, *more: Any, **others: Any) -> Any:
            place = self.below(path)
            if place is None:
                return real(*(() if path is None else (path,)), *more, **others)
            return self.call(kind, place, lambda: real(path, *more, **others))

        return wrapped

    def _by_second_path(self, kind: str, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def wrapped(source: Any, target: Any, **others: Any) -> Any:
            place = self.below(target)
            if place is None:
                return real(source, target, **others)
            return self.call(kind, place, lambda: real(source, target, **others))

        return wrapped

    def _by_descriptor(self, kind: str, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def wrapped(file: Any, *more: Any) -> Any:
            number = file if isinstance(file, int) else file.fileno()
            try:
                place = self.below(os.readlink(f"/proc/self/fd/{number}"))
            except OSError:
                place = None
            if place is None:
                return real(file, *more)
            return self.call(kind, place, lambda: real(file, *more))

        return wrapped

    def _scandir(self, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def wrapped(path: Any = ".") -> Any:
            place = self.below(path)
            if place is None:
                return real(path)
            entries = self.call(LIST, place, lambda: real(path))
            fault = self.draw(LIST_ON, place)
            return entries if fault is None else _Listing(entries, _error(fault, str(path)))

        return wrapped

    def _open(self, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def wrapped(file: Any, mode: str = "r", buffering: int = -1, *text: Any, **others: Any) -> Any:
            place = self.below(file)
            if place is None or others.get("opener"):
                return real(file, mode, buffering, *text, **others)
            raw = self.call(OPEN, place, lambda: _File(self, place, file, mode))
            if buffering == 0:
                return raw
            kind = io.BufferedRandom if "+" in mode else io.BufferedReader if "r" in mode else io.BufferedWriter
            buffered = kind(raw)
            if "b" in mode:
                return buffered
            named = {name: value for name, value in others.items() if name in ("encoding", "errors", "newline")}
            return io.TextIOWrapper(buffered, *text[:3], **named)

        return wrapped


class _File(io.FileIO):
    """A file as the system gives it: a write that fails has written half, as a disk that is full does."""

    def __init__(self, faults: Faults, place: str, file: Any, mode: str) -> None:
        super().__init__(file, mode.replace("b", "").replace("t", ""))
        self._faults, self._place = faults, place
        self._next: OSError | None = None

    def readinto(self, buffer: Any) -> Any:
        return self._faults.call(READ, self._place, lambda: super(_File, self).readinto(buffer))

    def readall(self) -> Any:
        return self._faults.call(READ, self._place, super().readall)

    def read(self, size: int | None = -1) -> Any:
        return self._faults.call(READ, self._place, lambda: super(_File, self).read(-1 if size is None else size))

    def write(self, data: Any) -> Any:
        if self._next is not None:
            error, self._next = self._next, None
            raise error
        fault = self._faults.draw(WRITE, self._place)
        if fault is None:
            return super().write(data)
        error = _error(fault, f"{self._faults.root}/{self._place}")
        half = bytes(data)[: len(data) // 2]
        if not half:
            raise error
        self._next = error
        return super().write(half)

    def close(self) -> None:
        if self.closed or not self.writable() or sys.is_finalizing():
            super().close()
            return
        try:
            self._faults.call(CLOSE, self._place)
        finally:
            super().close()


class _Listing:
    """A listing that breaks off after its first entry."""

    def __init__(self, entries: Any, error: OSError) -> None:
        self._entries, self._error, self._count = entries, error, 0

    def __enter__(self) -> _Listing:
        return self

    def __exit__(self, *what: object) -> None:
        self.close()

    def __iter__(self) -> _Listing:
        return self

    def __next__(self) -> Any:
        self._count += 1
        if self._count > 1:
            raise self._error
        try:
            return next(self._entries)
        except StopIteration:
            raise self._error from None

    def close(self) -> None:
        self._entries.close()


def _error(fault: Fault, path: str) -> OSError:
    return OSError(fault.number, os.strerror(fault.number), path)


_REAL: dict[str, Callable[..., Any]] = {"os.open": os.open, "fcntl.flock": fcntl.flock}


def install() -> None:
    """Of a command that was started with `Faults.environment`: its calls fail from here on."""
    given = os.environ.get(VARIABLE)
    if given:
        faults = Faults(**json.loads(given))
        first = b"rl_alliteration.cli" in Path("/proc/self/cmdline").read_bytes()
        if faults.victims in (ALL, FIRST if first else OTHERS):
            faults._wrap()
