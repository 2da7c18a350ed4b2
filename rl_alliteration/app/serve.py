"""Run the live page until it is stopped."""

from __future__ import annotations

import atexit
import errno
import multiprocessing
import os
import secrets
import signal
import socket
import threading
import time
from concurrent.futures import Executor, ProcessPoolExecutor

from rl_alliteration.app.index import Index
from rl_alliteration.app.server import application
from rl_alliteration.errors import UserError
from rl_alliteration.results.storage import open_storage
from rl_alliteration.terminal import Screen

HOST = "127.0.0.1"
_NICE = 10


def serve(location: str, port: int) -> int:
    """Serve a storage on this machine, and print the link; the exit code once a signal has ended it.

    Raises:
        UserError: the storage is not there, or the port cannot be had.
    """
    import uvicorn

    if not 0 <= port < 2**16:
        raise UserError(f"--port: {port} is not accepted; give 1 to 65535, or 0 for one that is free")
    storage = open_storage(location)
    listening = _listen(port)
    port = listening.getsockname()[1]
    token = secrets.token_urlsafe(32)
    index = Index(storage, str(location), measurer)
    server = uvicorn.Server(
        uvicorn.Config(
            application(index, storage, token, port),
            log_level="critical", access_log=False, lifespan="off", server_header=False, timeout_graceful_shutdown=1,
        )
    )  # fmt: skip
    screen = Screen()
    screen.say(f"The page of {storage}, until Ctrl-C:")
    screen.say(f"  http://{HOST}:{port}/?token={token}")
    screen.say("It answers on this machine alone, and to this link alone: whoever has it can read the results.")
    ended_by: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):  # the server ends in good order, and then raises them again
        signal.signal(number, lambda number, frame: ended_by.append(number))
    index.start()
    try:
        server.run(sockets=[listening])
    finally:
        index.close()
        listening.close()
    return 128 + ended_by[-1] if ended_by else 0


def measurer() -> Executor:
    """A process that measures texts beside the page: it gives way to everything else, and ends with the server."""
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, spawn, initializer=_beside, initargs=(os.getpid(),))


def _beside(server: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends this
    os.nice(_NICE)

    def end_with_it() -> None:
        while os.getppid() == server:
            time.sleep(1)
        os._exit(0)

    threading.Thread(target=end_with_it, daemon=True).start()
    atexit.register(os._exit, 0)  # beside a thread that sleeps, libraries complain of what they leave behind


def _listen(port: int) -> socket.socket:
    """A socket of this machine's own address.

    Raises:
        UserError: the port is taken, or may not be had.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be had ({error.strerror})"
        raise UserError(f"--port: {port} {why}; give another one, or 0 for one that is free") from error
    return listening
