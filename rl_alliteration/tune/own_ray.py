"""A Ray of this process's own: started for a sweep without a cluster, private to its user, ended with it."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import secrets
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

from rl_alliteration.errors import Failure, UserError
from rl_alliteration.tune.submission import token_file

_LOCK = "rl_alliteration.lock"
_CORE = ("gcs_server", "raylet")
_LOOK_SECONDS = 0.05
_GRACE_SECONDS = 3.0
_NOT_STARTED = "Ray could not be started on this machine"
_SOCKET = "/r/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store.10"
_LONGEST = 107 - len(_SOCKET)
"""Bytes that the path of Ray's folder may have: those of a socket in it are at most 107."""


@contextlib.contextmanager
def own_ray(**options: Any) -> Iterator[None]:
    """Ray with `options` for `ray.init`.

    Its folder, which everybody might read if Ray had its way, lies in one that is this user's alone. It is removed
    afterwards; not where RAY_TMPDIR says where it shall be, and not if Ray does not start, for its logs.

    Raises:
        UserError: RAY_TMPDIR does not serve.
        Failure: no place serves, or Ray does not start.
    """
    kept = "RAY_TMPDIR" in os.environ
    folder = _private_folder()
    if not kept:
        _remove_left_behind(folder.parent)
    _provide_token()
    with _starting(folder), _of_few_processes(), _in_groups_of_their_own():
        # Ray opens its own folder to everybody: it is within the private one.
        ray.init(address="local", include_dashboard=False, _temp_dir=f"{folder}/r", **options)
    with contextlib.nullcontext() if kept else _held(folder):
        try:
            yield
        finally:
            ray.shutdown()
            if not kept:
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """A lock in the folder for as long as this process lives."""
    with open(folder / f"{_LOCK}.new", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.rename(file.name, folder / _LOCK)  # never there unlocked while this process lives
        yield


def _remove_left_behind(parent: Path) -> None:
    """Remove this user's folders of processes that were killed: nobody holds their lock."""
    for folder in parent.glob("ray-????????"):
        with contextlib.suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            with open(folder / _LOCK) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _of_few_processes() -> Iterator[None]:
    """A Ray that starts without three Python processes, for one of which `ray.init` waits.

    A Ray of one machine, private to this process, has nothing to scale, no logs to send to its driver, and no
    dashboard to serve; Ray has no options for the first two, and starts the last one's server for its statistics.
    Its agent listens at any free port: at Ray's usual one it waits four seconds for another Ray of this machine.
    """
    ordinary = ray._private.node.Node

    class Node(ordinary):  # type: ignore[valid-type, misc]  # Ray's own are not annotated
        def __init__(self, ray_params: Any, **others: Any) -> None:
            ray_params.dashboard_agent_listen_port = 0
            super().__init__(ray_params, **others)

        def start_monitor(self) -> None:
            pass

        def start_log_monitor(self) -> None:
            pass

        def start_api_server(self, **_: Any) -> None:
            self._webui_url = None  # as where it could not be started

    ray._private.node.Node = Node  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        ray._private.node.Node = ordinary  # type: ignore[misc]


@contextlib.contextmanager
def _in_groups_of_their_own() -> Iterator[None]:
    """A signal to this process's group (`timeout`, a shell) is for this process to pass on: a Ray that took it too
    would be gone before a clean stop. The kernel ends Ray's processes with this one where it can; else its group does.
    """
    ordinary = ray._private.services.ConsolePopen
    group = 0 if ray._private.utils.detect_fate_sharing_support() else None
    ray._private.services.ConsolePopen = functools.partial(ordinary, process_group=group)  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        ray._private.services.ConsolePopen = ordinary  # type: ignore[misc]


@contextlib.contextmanager
def _starting(folder: Path) -> Iterator[None]:
    """One line if Ray does not start. Where a process of its core has died, Ray itself waits for it up to a minute.

    Raises:
        Failure: Ray says so.
    """
    over = threading.Event()
    threading.Thread(target=_watch_core, args=(over, folder), name="start", daemon=True).start()
    try:
        yield
    except Exception as error:
        ray.shutdown()
        reason = " ".join(str(error).split())[:300]
        raise Failure(f"{_NOT_STARTED}: {reason}; its logs are in {folder}") from error
    finally:
        over.set()


def _watch_core(over: threading.Event, folder: Path) -> None:
    """End this process soon after one of Ray's core has died; no error reaches a thread that waits within Ray."""
    import psutil  # Ray brings it

    seen: dict[int, psutil.Process] = {}
    while not over.wait(_LOOK_SECONDS):
        with contextlib.suppress(psutil.Error):
            seen |= {child.pid: child for child in psutil.Process().children() if child.name() in _CORE}
        dead = [child for child in seen.values() if not lives(child)]
        if dead and not over.wait(_GRACE_SECONDS):  # Ray may say it better
            line = (
                f"{_NOT_STARTED}: one of its processes has died; its logs are in {folder}; run the same command again"
            )
            print(f"rl-alliteration: {line}", file=sys.stderr, flush=True)
            os._exit(1)


def core_processes() -> list[Any]:
    """The processes that this one's own Ray consists of, agents too, workers aside: as `psutil.Process`."""
    import psutil

    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            words = child.cmdline()
            worker = any("/ray/_private/workers/" in word or word.startswith("ray::") for word in words)
            if child.name() in _CORE or (not worker and any("/ray/" in word for word in words)):
                found.append(child)
    return found


def lives(process: Any) -> bool:
    """Whether a `psutil.Process` has not ended."""
    import psutil

    with contextlib.suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _private_folder() -> Path:
    """A new folder of this user's alone, whose path is short enough for sockets."""
    asked = os.environ.get("RAY_TMPDIR")
    given = asked or tempfile.gettempdir()
    name = f"{given.rstrip('/')}/ray-12345678"
    if len(os.fsencode(name)) > _LONGEST:
        if asked:
            raise UserError(
                f"RAY_TMPDIR: {asked!r} is too long for the sockets that Ray makes there; "
                f"give a path of at most {_LONGEST - len('/ray-12345678')} bytes, such as /tmp"
            )
        given = "/tmp"
    try:
        if asked:
            os.makedirs(given, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="ray-", dir=given))
    except OSError as error:
        if asked:
            raise UserError(f"RAY_TMPDIR: {asked!r} cannot be written ({error.strerror})") from error
        raise Failure(
            f"Ray needs a folder in {given}, which cannot be written ({error.strerror}); set RAY_TMPDIR"
        ) from error


def _provide_token() -> None:
    """Ray requires a token even of its own processes: one that is only in this process's environment, and theirs.

    Ray itself would write one to the home folder, for all to read, and needs a home folder for it. One that is there
    is used, since clusters of this user's want it, and made private.
    """
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    found = token_file()
    if found is None:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # stays: Ray keeps the first that it has seen
        return
    with contextlib.suppress(OSError):
        if found.stat().st_uid == os.geteuid() and found.stat().st_mode & 0o077:
            found.chmod(0o600)
