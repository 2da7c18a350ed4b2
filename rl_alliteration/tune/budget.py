"""How long a sweep or a search may run: on the clock, and on devices."""

from __future__ import annotations

import time
from collections.abc import Callable

_HOUR = 3600.0


class Budget:
    """Hours since it was made, and hours of devices that trials have used since; None: as many as it takes."""

    def __init__(
        self, hours: float | None, device_hours: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock`: seconds; for tests."""
        self._hours, self._device_hours = hours, device_hours
        self._clock = clock
        self._began = self._looked = clock()
        self._used = 0.0

    def use(self, devices: float) -> str:
        """Count the time since the last call; why no more may be used, empty if it may.

        Args:
            devices: that trials hold now: GPUs, or CPU cores where they have none.
        """
        now = self._clock()
        self._used += devices * (now - self._looked)
        self._looked = now
        if self._hours is not None and now - self._began >= self._hours * _HOUR:
            return f"the budget of {self._hours:g} hours is spent"
        if self._device_hours is not None and self._used >= self._device_hours * _HOUR:
            return f"the budget of {self._device_hours:g} device hours is spent"
        return ""
