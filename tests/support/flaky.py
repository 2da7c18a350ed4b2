"""Helpers: a cluster's client that fails as real ones do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace


class Status(str):
    def is_terminal(self) -> bool:
        return self != "RUNNING"


class FlakyClient:
    """A cluster whose connection breaks in the middle of the log."""

    def __init__(self, log: list[str], status: str, exit_code: int | None) -> None:
        self.log = log
        message = "the runtime environment\ncould not be made"
        self.job = SimpleNamespace(status=Status(status), driver_exit_code=exit_code, message=message)
        self.connections = 0

    def get_address(self) -> str:
        return "http://x"

    def get_job_info(self, job_id: str) -> SimpleNamespace:
        running = SimpleNamespace(status=Status("RUNNING"))
        return self.job if self.connections > 1 else running

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        self.connections += 1
        for line in self.log[: None if self.connections > 1 else 2]:
            yield line
        if self.connections == 1:
            raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")
