"""Which experiments have a driver, for those who only show it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable

from rl_alliteration.errors import Failure
from rl_alliteration.results.lease import EXPIRE_SECONDS, RENEW_SECONDS, LeaseState, holder, read_lease
from rl_alliteration.results.process import Process
from rl_alliteration.results.storage import Storage

WATCH_SECONDS = RENEW_SECONDS + 2.0
"""How long a lease is watched only to show whether somebody renews it."""
ABANDONED_SECONDS = 24 * 3600.0
"""A lease of longer ago is shown as nobody's without watching: clocks and time zones are not that far apart."""
_LOOK_SECONDS = 1.0


def is_live(state: LeaseState | None, now: float) -> bool | None:
    """Whether a driver holds it, as far as one look can tell; None where only watching it can: see `Drivers`.

    Args:
        state: what the lease says.
        now: wall clock of the reader, seconds since 1970.
    """
    if state is None or state.released:
        return False
    process = holder(state)
    if process is not None:
        return process is not Process.GONE
    if abs(now - state.renewed_at) <= EXPIRE_SECONDS:
        return True
    return False if now - state.renewed_at > ABANDONED_SECONDS else None


@dataclasses.dataclass(frozen=True)
class _Sight:
    state: LeaseState
    since: float
    """When it was first seen to be so, on the reader's own clock."""
    renewed: bool
    """Whether it was seen otherwise before."""


class Drivers:
    """Which experiments of a storage have a driver; remembers what it saw of their leases."""

    def __init__(self, storage: Storage, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: for tests."""
        self._storage = storage
        self._clock = clock
        self._sights: dict[str, _Sight] = {}
        self.unreadable: dict[str, str] = {}
        """What is wrong with leases that cannot be read, by experiment: these count as nobody's."""

    def look(self, experiment: str) -> bool | None:
        """Whether it has a driver; None if that is not known yet: it will be within seven seconds."""
        now = self._clock()  # before the lease is read: a reader that sleeps in between saw nothing meanwhile
        self.unreadable.pop(experiment, None)
        try:
            state = read_lease(self._storage, experiment)
        except Failure as failure:
            self.unreadable[experiment] = str(failure)
            return False
        if state is None:
            return False
        seen = self._sights.get(experiment)
        if seen is None or seen.state != state:
            seen = self._sights[experiment] = _Sight(state, now, renewed=seen is not None)
        known = is_live(state, time.time())
        if known is not None:
            return known
        if seen.renewed:
            return now - seen.since <= EXPIRE_SECONDS
        return None if now - seen.since < WATCH_SECONDS else False

    def watch(self, experiments: Iterable[str], sleep: Callable[[float], None] = time.sleep) -> dict[str, bool]:
        """Of each whether it has a driver. Waits for what is not known, for all of them together."""
        found: dict[str, bool] = {}
        unknown = set(experiments)
        while unknown:
            for name in sorted(unknown):
                known = self.look(name)
                if known is not None:
                    found[name] = known
            unknown -= found.keys()
            if unknown:
                sleep(_LOOK_SECONDS)
        return found
