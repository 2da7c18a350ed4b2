"""Signals that ask a driver for a clean stop."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any


class StopRequest:
    """SIGINT and SIGTERM ask for a clean stop, and so does a budget that is spent; a second signal ends at once."""

    def __init__(self, announce: Callable[[], None], lost: Callable[[int], None] = lambda code: None) -> None:
        """`announce` lets the trials know; called in the signal's handler. `lost` is called with the exit code when
        this process ends at once, as its Ray has ended."""
        self.signal: int | None = None
        self.spent = ""
        """The budget that is, in words."""
        self.since = 0.0
        self._announce = announce
        self.lost = lost
        self._noted: int | None = None
        self._early: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {}

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals over for a while."""
        if threading.current_thread() is not threading.main_thread():  # they are the program's own affair
            yield
            return
        before = {number: signal.signal(number, self._take) for number in (signal.SIGINT, signal.SIGTERM)}
        # A handler waits for as long as the main thread is within Ray; a note of the signal does not.
        reading, writing = socket.socketpair()
        reading.setblocking(False)
        writing.setblocking(False)
        earlier = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        self._noted = reading.fileno()
        try:
            yield
        finally:
            self._noted = None
            signal.set_wakeup_fd(earlier)
            for number, handler in before.items():
                signal.signal(number, handler)
            reading.close()
            writing.close()

    @property
    def arrived(self) -> int | None:
        """The signal, also one whose handler has had no turn yet."""
        if self.signal is not None:
            return self.signal
        if self._early is None and self._noted is not None:
            with contextlib.suppress(BlockingIOError):
                noted = os.read(self._noted, 64)
                self._early = next((number for number in noted if number in (signal.SIGINT, signal.SIGTERM)), None)
        return self._early

    @property
    def asked(self) -> bool:
        """Whether trials are to publish what they have and stop."""
        return self.signal is not None or bool(self.spent)

    @property
    def reason(self) -> str:
        """The signal's name, or what is spent."""
        return signal.Signals(self.signal).name if self.signal is not None else self.spent

    def end(self, spent: str) -> None:
        """Ask for it as a budget is spent."""
        if not self.asked:
            self.spent, self.since = spent, time.monotonic()
            self._announce()

    def _take(self, number: int, frame: object) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal, self.since = number, time.monotonic()
        self._announce()
