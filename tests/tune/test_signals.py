"""What a sweep makes of signals."""

from __future__ import annotations

import hashlib
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

    def send() -> None:
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        seen.append((stop.signal, stop.arrived))

    with stop.listening():
        assert stop.arrived is None
        sender = threading.Thread(target=send)
        sender.start()
        while sender.is_alive():  # within one call, as in Ray's, no handler has its turn
            hashlib.pbkdf2_hmac("sha256", b"", b"", 1_000_000)
        sender.join()
        assert stop.arrived == stop.signal == signal.SIGTERM and announced == [True]
    assert seen == [(None, signal.SIGTERM)]
    assert signal.getsignal(signal.SIGTERM) is before and signal.set_wakeup_fd(-1) == -1
