"""One driver an experiment: a lease that is renewed while a sweep runs, with an epoch as its fence.

The holder renews every 5 s. Whoever finds it not renewed for 20 s, or its process dead on this host, takes over
with the next epoch; everyone who publishes asks first whether the epoch is still their own.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import threading
import time
from collections.abc import Callable
from pathlib import Path

from rl_alliteration.errors import Failure
from rl_alliteration.results.storage import Storage

RENEW_SECONDS = 5.0
EXPIRE_SECONDS = 20.0


@dataclasses.dataclass(frozen=True)
class LeaseState:
    """What `leases/E.json` says."""

    owner: str
    host: str
    pid: int
    boot_id: str
    epoch: int
    renewed_at: float
    """Wall clock of the holder, seconds since 1970."""
    released: bool = False

    def encode(self) -> bytes:
        """As the file's bytes."""
        return json.dumps(dataclasses.asdict(self)).encode()


class Superseded(Failure):
    """Another driver has taken over the experiment."""


def lease_path(experiment: str) -> str:
    """Where an experiment's lease is."""
    return f"leases/{experiment}.json"


def read_lease(storage: Storage, experiment: str) -> LeaseState | None:
    """The lease as it stands; None if there never was one."""
    return _read(storage, experiment)[0]


def is_live(state: LeaseState | None, now: float) -> bool:
    """Whether a driver holds it. `now` is wall clock time, seconds since 1970."""
    if state is None or state.released or _is_dead(state):
        return False
    return now - state.renewed_at <= EXPIRE_SECONDS


def check_epoch(storage: Storage, experiment: str, epoch: int) -> None:
    """The fence: asked before anything is published.

    Raises:
        Superseded: the epoch is no longer this one.
    """
    state = read_lease(storage, experiment)
    if state is None or state.epoch != epoch:
        raise Superseded(f"another driver has taken over the experiment {experiment!r}; this one ends")


class Lease:
    """The right to drive an experiment; renewed on a thread of its own until released."""

    def __init__(self, storage: Storage, experiment: str, owner: str) -> None:
        self._storage = storage
        self._experiment = experiment
        self._owner = owner
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._tag: str | None = None
        self._renewed = 0.0
        self.epoch = 0
        self.lost = False
        """Whether another driver has it, or it could not be renewed in time."""

    def acquire(self, say: Callable[[str], None], *, sleep: Callable[[float], None] = time.sleep) -> None:
        """Take the lease; a holder that may be alive is watched for 20 s first.

        Args:
            say: told once, if there is something to wait for.
            sleep: for tests.

        Raises:
            Failure: another driver holds it and renews it.
        """
        seen, tag = _read(self._storage, self._experiment)
        if seen is not None and not seen.released and not _is_dead(seen):
            say(
                f"experiment {self._experiment!r} has a driver (process {seen.pid} on {seen.host}); "
                f"waiting up to {EXPIRE_SECONDS:.0f} s to see whether it still lives"
            )
            waited = 0.0
            while waited < EXPIRE_SECONDS:
                sleep(1.0)
                waited += 1.0
                now, tag = _read(self._storage, self._experiment)
                if now is not None and now.released:
                    seen = now
                    break
                if now != seen:
                    holder = now or seen
                    raise Failure(
                        f"experiment {self._experiment!r} is driven by process {holder.pid} on {holder.host}; "
                        "wait for it, stop it, or use another --experiment"
                    )
        self.epoch = seen.epoch + 1 if seen is not None else 1
        self._tag = tag
        if not self._write(released=False):
            raise Failure(f"another driver took the experiment {self._experiment!r} at the same moment; try again")
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises `Superseded` if the lease is lost."""
        if not self.lost and time.monotonic() - self._renewed > EXPIRE_SECONDS:
            self.lost = not self._write(released=False)  # this process was stopped past the expiry
        if self.lost:
            raise Superseded(f"another driver has taken over the experiment {self._experiment!r}; this one ends")

    def release(self) -> None:
        """Give it back, so that the next driver need not wait."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if not self.lost and self._tag is not None:
            self._write(released=True)

    def _keep(self) -> None:
        while not self._stop.wait(RENEW_SECONDS):
            try:
                if not self._write(released=False):
                    self.lost = True
                    return
            except Failure:  # tried again at the next turn; the fence holds meanwhile
                self.lost = time.monotonic() - self._renewed > EXPIRE_SECONDS
                if self.lost:
                    return

    def _write(self, *, released: bool) -> bool:
        state = LeaseState(self._owner, platform.node(), os.getpid(), _boot_id(), self.epoch, time.time(), released)
        tag = self._storage.put_if(lease_path(self._experiment), state.encode(), self._tag)
        if tag is None:
            return False
        self._tag, self._renewed = tag, time.monotonic()
        return True


def _read(storage: Storage, experiment: str) -> tuple[LeaseState | None, str | None]:
    found = storage.get_tagged(lease_path(experiment))
    if found is None:
        return None, None
    data, tag = found
    try:
        state = LeaseState(**json.loads(data))
        if not (isinstance(state.pid, int) and isinstance(state.epoch, int) and state.renewed_at >= 0):
            raise ValueError("its numbers are none")
        return state, tag
    except (ValueError, TypeError) as error:
        raise Failure(f"{lease_path(experiment)} is no lease; remove it if no sweep is running") from error


def _is_dead(state: LeaseState) -> bool:
    """Whether the holder was a process of this host that is gone."""
    if state.host != platform.node():
        return False
    boot, _, namespace = state.boot_id.partition("pid:")
    own_boot, _, own_namespace = _boot_id().partition("pid:")
    if boot != own_boot:
        return True
    if namespace != own_namespace:
        return False
    try:
        os.kill(state.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    # A zombie has been killed; its parent has not yet looked.
    try:
        return Path(f"/proc/{state.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return False


def _boot_id() -> str:
    try:
        # Processes of another container on this host have numbers of their own.
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
