"""The live page without a server: its application asked directly, as a browser with the cookie would."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future
from typing import Any

import uvicorn

from rl_alliteration.app.index import Index
from rl_alliteration.app.serve import _listen
from rl_alliteration.app.server import application
from rl_alliteration.results.storage import Storage

TOKEN = "the-token-of-the-tests"


class AtOnce(Executor):
    """Work is done where it is submitted."""

    def submit(self, work: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def known(storage: Storage, *, measured: bool = True) -> Index:
    """What is known of a storage after one look; nothing goes on in the background."""
    index = Index(storage, str(storage), AtOnce)
    index.look()
    while measured and index.measure_some():
        pass
    index.look()
    return index


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the application answers."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


class Client:
    """Asks an application."""

    def __init__(self, index: Index, port: int = 8686) -> None:
        self.index = index
        self.app = application(index, index.storage, TOKEN, port)
        self.own = {"host": f"127.0.0.1:{port}", "cookie": f"rl_alliteration_{port}={TOKEN}"}

    def ask(
        self, path: str, headers: Mapping[str, str | None] | None = None, method: str = "GET", body: bytes = b""
    ) -> Answer:
        """The answer; headers beside the usual ones, None takes one of these away."""
        given = {name: value for name, value in {**self.own, **(headers or {})}.items() if value is not None}
        bare, _, query = path.partition("?")
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": bare, "raw_path": bare.encode(), "query_string": query.encode(), "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8686),
        }  # fmt: skip
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        try:
            asyncio.run(self.app(scope, receive, send))
        except Exception:  # Starlette raises what it has answered with 500
            if not sent:
                raise
        return Answer(
            sent[0]["status"],
            {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]},
            b"".join(message.get("body", b"") for message in sent[1:]),
        )


@contextlib.contextmanager
def served(storage: Storage) -> Iterator[str]:
    """The printed link of a server in a thread of this process, which measures in it too."""
    listening = _listen(0)
    port = listening.getsockname()[1]
    index = Index(storage, str(storage), AtOnce)
    config = uvicorn.Config(application(index, storage, TOKEN, port), log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    index.start()
    thread.start()
    until = time.monotonic() + 60
    while not server.started and time.monotonic() < until:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port}/?token={TOKEN}"
    finally:
        server.should_exit = True
        thread.join(10)
        index.close()
        listening.close()
