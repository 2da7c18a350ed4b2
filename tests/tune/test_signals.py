"""What a sweep makes of signals."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time

from rl_alliteration.tune.signals import StopRequest


def test_a_signal_is_known_while_the_main_thread_is_busy_elsewhere() -> None:
    announced: list[bool] = []
    stop = StopRequest(lambda: announced.append(True))
    before = signal.getsignal(signal.SIGTERM)
    seen: list[tuple[int | None, int | None]] = []

    libc = ctypes.CDLL(None)
    barrier = ctypes.create_string_buffer(64)
    assert libc.pthread_barrier_init(barrier, None, 2) == 0

    def send() -> None:
        time.sleep(0.1)  # the main thread is at the barrier by then
        os.kill(os.getpid(), signal.SIGTERM)
        while stop.arrived is None and time.monotonic() < deadline:
            time.sleep(0.01)
        seen.append((stop.signal, stop.arrived))
        libc.pthread_barrier_wait(barrier)

    deadline = time.monotonic() + 30
    with stop.listening():
        assert stop.arrived is None
        sender = threading.Thread(target=send)
        sender.start()
        libc.pthread_barrier_wait(barrier)  # a call that no signal interrupts, as Ray's: no handler has its turn
        sender.join()
        assert stop.arrived == stop.signal == signal.SIGTERM and announced == [True]
    assert seen == [(None, signal.SIGTERM)]
    assert signal.getsignal(signal.SIGTERM) is before and signal.set_wakeup_fd(-1) == -1
