"""One driver an experiment: a lease that is renewed while a sweep runs, with an epoch as its fence.

The holder renews every 5 s. Whoever finds it not renewed for 20 s, or its process dead on this host, takes over
with the next epoch; everyone who publishes asks first whether the epoch is still their own. Only another's epoch ends a
driver at once: a storage that fails is tried again for a while, and a driver that slept goes on where nobody came.

Clocks of two machines are never compared where something is decided. Whoever waits for a renewal counts seconds of
its own; the holder's own clock also runs while its machine sleeps, since the lease runs out meanwhile.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import queue
import threading
import time
from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from rl_alliteration.errors import Failure
from rl_alliteration.foreign import Count, Damaged, Finite, Pid, encode_record, read_record
from rl_alliteration.results.process import Process, process_at, started_at, this_boot
from rl_alliteration.results.storage import Storage

RENEW_SECONDS = 5.0
EXPIRE_SECONDS = 20.0
PATIENCE_SECONDS = 120.0
"""How long a storage that fails is tried again before whoever needs it gives up."""
_RETRY_SECONDS = 1.0
_RELEASE_SECONDS = 15.0


@dataclasses.dataclass(frozen=True)
class LeaseState:
    """What `leases/E.json` says."""

    owner: str
    """Of one run alone."""
    host: str
    pid: Annotated[Pid, Field(gt=0)]
    boot_id: str
    epoch: Count
    renewed_at: Finite
    """Wall clock of the holder, seconds since 1970."""
    released: bool = False
    stopping: bool = False
    """The driver has been asked to stop: trials publish what they have at once."""
    started: Count = 0
    """When the process began, in its system's ticks since boot: process numbers are used again. 0: not known."""
    writes: Count = 0
    """How often the holder has written it: no two versions are of the same bytes."""

    def encode(self) -> bytes:
        """As the file's bytes."""
        return encode_record(self)


class Superseded(Failure):
    """Another driver has taken over the experiment."""


def lease_path(experiment: str) -> str:
    """Where an experiment's lease is."""
    return f"leases/{experiment}.json"


def read_lease(storage: Storage, experiment: str) -> LeaseState | None:
    """The lease as it stands; None if there never was one.

    Raises:
        Failure: it cannot be read, or is damaged.
    """
    return _read(storage, experiment)[0]


def holder(state: LeaseState) -> Process | None:
    """The holder's process; None if it is of another host, or container, or of before a restart of this one."""
    return process_at(state.host, state.boot_id, state.pid, state.started)


def check_epoch(storage: Storage, experiment: str, epoch: int, owner: str) -> None:
    """The fence: asked before anything is published. Waits while the storage fails.

    Raises:
        Superseded: the lease is another's.
        Failure: for two minutes it could not be read, or was gone.
    """
    began = _clock()
    while True:
        try:
            state = read_lease(storage, experiment)
            if state is not None:
                break
            problem: Exception = _gone(storage, experiment)
        except Failure as failure:
            problem = failure
        if _clock() - began >= PATIENCE_SECONDS:
            raise _given_up(storage, problem)
        time.sleep(_RETRY_SECONDS)
    if (state.epoch, state.owner) != (epoch, owner):
        raise _superseded(experiment, state)


def await_free(
    storage: Storage, experiment: str, say: Callable[[str], None], *, sleep: Callable[[float], None] = time.sleep
) -> tuple[LeaseState | None, str | None]:
    """The lease, once it is nobody's, and its tag; a holder that may be alive is watched for 20 s.

    Args:
        storage: of the experiment.
        experiment: whose lease.
        say: called once, if there is something to wait for.
        sleep: for tests.

    Raises:
        Failure: a driver holds it and renews it.
    """
    seen, tag = _read(storage, experiment)
    if seen is None or _is_free(seen):
        return seen, tag
    say(
        f"experiment {experiment!r} has a driver (process {seen.pid} on {seen.host}); "
        f"waiting up to {EXPIRE_SECONDS:.0f} s to see whether it still lives"
    )
    waited = 0.0
    while waited < EXPIRE_SECONDS:  # counted in looks: a waiter that slept itself does not take that for the other's
        sleep(1.0)
        waited += 1.0
        now, tag = _read(storage, experiment)
        if now is None or _is_free(now):
            return now or seen, tag
        if now != seen:
            raise Failure(
                f"experiment {experiment!r} is driven by process {now.pid} on {now.host}; "
                "wait for it, stop it, or use another --experiment"
            )
    return seen, tag


class Lease:
    """The right to drive an experiment; renewed on a thread of its own until released."""

    def __init__(self, storage: Storage, experiment: str, owner: str) -> None:
        """`owner`: a name that no other run has."""
        self._storage = storage
        self._experiment = experiment
        self._owner = owner
        self._path = lease_path(experiment)
        self._say: Callable[[str], None] = lambda message: None
        self._writing = threading.Lock()
        """Held around each write: two threads that renew from one tag would take each other for another driver."""
        self._stop = threading.Event()
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()  # its `put` may be called by a signal's handler
        self._stopping = False
        self._releasing = False
        self._thread: threading.Thread | None = None
        self._tag: str | None = None
        self._writes = 0
        self._renewed = 0.0
        self._problem: Exception | None = None
        self._failing_since = 0.0
        self._over: Failure | None = None
        self.epoch = 0

    def acquire(self, say: Callable[[str], None], *, sleep: Callable[[float], None] = time.sleep) -> None:
        """Take the lease; a holder that may be alive is watched for 20 s first.

        Args:
            say: called if there is something to wait for, now or later.
            sleep: for tests.

        Raises:
            Failure: another driver holds it and renews it, or the storage fails.
        """
        self.take(*await_free(self._storage, self._experiment, say, sleep=sleep), say)

    def take(self, seen: LeaseState | None, tag: str | None, say: Callable[[str], None]) -> None:
        """Take the lease if it is still as `await_free` found it.

        Raises:
            Failure: it is not, or the storage fails.
        """
        self._say = say
        self._tag = tag
        self.epoch = seen.epoch + 1 if seen is not None else 1
        try:
            self._write()
        except Superseded as error:
            raise Failure(
                f"another driver took the experiment {self._experiment!r} at the same moment; try again"
            ) from error
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Returns as soon as it is sure that the lease is held; waits while the storage fails.

        Raises:
            Superseded: another driver has it.
            Failure: it could not be renewed for two minutes; says why.
        """
        began = _clock()
        while self._over is None and self._is_stale:
            self._renew(only_stale=True)
            if self._over is not None or not self._is_stale:
                break
            since = self._failing_since if self._problem is not None else began
            # Nobody can publish meanwhile; who has asked for a stop is not kept waiting for long.
            if _clock() - since >= (EXPIRE_SECONDS if self._stopping else PATIENCE_SECONDS):
                self._over = _given_up(self._storage, self._problem or Failure(f"{self._path}: no answer"))
            else:
                time.sleep(_RETRY_SECONDS)
        if self._over is not None:
            raise self._over

    def announce_stop(self) -> None:
        """Let the lease say that its driver was asked to stop: written at once, and kept by later renewals.

        From any thread, or a signal's handler; never waits and never raises.
        """
        self._stopping = True
        self._wake.put(None)

    def release(self) -> None:
        """Give it back, so that the next driver need not wait. Never raises: how the work ended is told by others."""
        self._releasing = True
        self._halt()

    def delete(self) -> None:
        """Give it back by deleting it, with its lock.

        Raises:
            Superseded: another driver has it.
            Failure: the storage refused.
        """
        self.check()
        self._halt()
        try:
            if self._tag is None or not self._storage.delete_if(self._path, self._tag):
                self._storage.delete_if(self._path, self._confirm_held())
        except Failure:
            self._give_back()
            raise

    @property
    def _is_stale(self) -> bool:
        return _clock() - self._renewed > EXPIRE_SECONDS

    def _halt(self) -> None:
        self._stop.set()
        self._wake.put(None)
        if self._thread is not None:
            self._thread.join(_RELEASE_SECONDS)  # a storage that does not answer may hold it for ever

    def _keep(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(queue.Empty):
                self._wake.get(timeout=RENEW_SECONDS if self._problem is None else _RETRY_SECONDS)
            if not self._stop.is_set():
                self._renew()
            if isinstance(self._over, Superseded):
                return
        if self._releasing:
            self._give_back()

    def _give_back(self) -> None:
        try:
            with self._writing:
                self._write(released=True)
        except Superseded:
            pass
        except Failure as failure:
            self._tell(f"{failure}: the experiment {self._experiment!r} could not be given back")

    def _renew(self, *, only_stale: bool = False) -> None:
        """One try; what became of it is kept."""
        if not self._writing.acquire(timeout=_RETRY_SECONDS):
            return
        try:
            if self._over is not None or (only_stale and not self._is_stale):
                return
            began = _clock()
            try:
                self._write()
            except Superseded as error:
                self._over = error
            except Failure as failure:
                if self._problem is None:
                    self._failing_since = began
                    self._tell(
                        f"the experiment {self._experiment!r} cannot be kept: {failure}; "
                        f"trying again for up to {PATIENCE_SECONDS:.0f} s"
                    )
                self._problem = failure
            else:
                if self._problem is not None:
                    self._problem = None
                    self._tell(f"the storage answers again; the experiment {self._experiment!r} goes on")
        finally:
            self._writing.release()

    def _write(self, *, released: bool = False) -> None:
        """Write the lease if it is ours.

        Raises:
            Superseded: it is another's.
            Failure: the storage refused, or the lease is gone.
        """
        began = _clock()
        self._writes += 1
        state = LeaseState(
            owner=self._owner,
            host=platform.node(),
            pid=os.getpid(),
            boot_id=this_boot(),
            epoch=self.epoch,
            renewed_at=time.time(),
            released=released,
            stopping=self._stopping,
            started=started_at(os.getpid()),
            writes=self._writes,
        )
        tag = self._storage.put_if(self._path, state.encode(), self._tag)
        if tag is None:  # an earlier write may have been applied though it was said to have failed
            self._tag = self._confirm_held()
            tag = self._storage.put_if(self._path, state.encode(), self._tag)
            if tag is None:
                raise Failure(f"{self._path} changes all the time")
        self._tag, self._renewed = tag, began

    def _confirm_held(self) -> str:
        """The tag of the lease as it is, if it is ours.

        Raises:
            Superseded: it is another's.
            Failure: it is gone, or cannot be read.
        """
        state, tag = _read(self._storage, self._experiment)
        if state is None or tag is None:
            raise _gone(self._storage, self._experiment)
        if (state.owner, state.epoch) != (self._owner, self.epoch):
            raise _superseded(self._experiment, state)
        return tag

    def _tell(self, message: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # a terminal that is closed
            self._say(message)


def _read(storage: Storage, experiment: str) -> tuple[LeaseState | None, str | None]:
    path = lease_path(experiment)
    try:
        found = storage.get_tagged(path)
    except OSError as error:
        raise Failure(f"{path}: {error.strerror or error}") from error
    if found is None:
        return None, None
    data, tag = found
    try:
        return read_record(LeaseState, data, path), tag
    except Damaged as error:
        raise Damaged(f"{error}; delete it if no sweep of {experiment!r} is running") from error


def _is_free(state: LeaseState) -> bool:
    return state.released or holder(state) is Process.GONE


def _superseded(experiment: str, state: LeaseState) -> Superseded:
    return Superseded(
        f"another driver has taken over the experiment {experiment!r} "
        f"(process {state.pid} on {state.host}); this one ends"
    )


def _gone(storage: Storage, experiment: str) -> Failure:
    return Failure(f"{lease_path(experiment)} is gone from {storage}: removed, moved or unmounted")


def _given_up(storage: Storage, problem: Exception) -> Failure:
    advice = "" if "same command again" in str(problem) else "; see to it, then run the same command again"
    return Failure(f"the storage {storage} does not work: {problem}{advice}")


def _clock() -> float:
    """Seconds of a clock that runs on while the machine sleeps, as that of Python alone does not on Linux."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
