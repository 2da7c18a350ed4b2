"""Helper: a real Ray head of this machine's own, on loopback, with token authentication."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TOKEN = "0123456789abcdef" * 4


@dataclasses.dataclass(frozen=True)
class Head:
    """A head that runs, and what its user has in the environment."""

    dashboard: str
    address: str
    token: str
    environment: dict[str, str]
    metrics_port: int


@contextlib.contextmanager
def ray_head(cpus: int = 3, *, dashboard: bool = True, **extra: str) -> Iterator[Head]:
    """Start `ray start --head`, with `extra` in the environment; end it, by its own process group alone.

    The dashboard takes jobs; it is a dozen processes that a sweep does without.
    """
    home = Path(tempfile.mkdtemp(prefix="h-"))  # short: a socket's path has at most 107 characters
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text(TOKEN)
    ports = dict(zip(("gcs", "dashboard", "metrics", "agent", "client"), free_ports(5), strict=True))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "RAY_USAGE_STATS_ENABLED": "0",
        **extra,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
            *("--node-ip-address", "127.0.0.1", "--port", str(ports["gcs"])),
            *("--dashboard-host", "127.0.0.1", "--dashboard-port", str(ports["dashboard"])),
            *("--dashboard-agent-listen-port", str(ports["agent"])),  # another Ray of this machine may have its default
            *("--metrics-export-port", str(ports["metrics"]), "--num-cpus", str(cpus)),
            *("--include-dashboard", str(dashboard).lower()),
            *("--ray-client-server-port", str(ports["client"])),  # another head of this machine may have its default
            *("--temp-dir", str(home / "r")),
        ],
        env={**environment, "RAY_AUTH_MODE": "token"},
        stdout=(home / "log").open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{ports['dashboard']}"
    log = (home / "log").read_text
    try:
        wait_for(lambda: "Ray runtime started" in log(), 60, log)
        wait_for(lambda: not dashboard or _answers(f"{url}/api/version", TOKEN), 60, log)
        yield Head(url, f"127.0.0.1:{ports['gcs']}", TOKEN, environment, ports["metrics"])
    finally:
        end(process)
        shutil.rmtree(home, ignore_errors=True)


def add_node(head: Head, gpus: int) -> subprocess.Popen[bytes]:
    """Start another node of `head`'s cluster, with a CPU a fake GPU; to be ended with `end`, or killed."""
    agent, metrics = free_ports(2)
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--address", head.address),
            *("--node-ip-address", "127.0.0.1", "--dashboard-agent-listen-port", str(agent)),
            *("--metrics-export-port", str(metrics), "--num-cpus", str(gpus), "--num-gpus", str(gpus)),
        ],
        env={**head.environment, "RAY_AUTH_MODE": "token"},
        stdout=Path(head.environment["HOME"], f"node-{agent}").open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


@contextlib.contextmanager
def prometheus(head: Head, folder: Path) -> Iterator[Callable[[str], list[Any]] | None]:
    """A real Prometheus that scrapes the head: the answer to a query. None where it is not installed."""
    program = shutil.which("prometheus")
    if program is None:
        yield None
        return
    (port,) = free_ports(1)
    target = f"127.0.0.1:{head.metrics_port}"
    jobs = [{"job_name": "ray", "static_configs": [{"targets": [target]}]}]
    (folder / "prometheus.yml").write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}))
    process = subprocess.Popen(
        [
            program, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'prometheus'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip

    def ask(query: str) -> list[Any]:
        url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        try:
            found: list[Any] = json.load(urllib.request.urlopen(url, timeout=5))["data"]["result"]
            return found
        except urllib.error.HTTPError as error:
            raise AssertionError(f"Prometheus does not understand {query}: {error.read().decode()}") from error
        except OSError:  # it starts
            return []

    try:
        yield ask
    finally:
        end(process)


def node_logs(head: Head) -> str:
    """What the nodes of `add_node` have said."""
    return "\n".join(path.read_text() for path in Path(head.environment["HOME"]).glob("node-*"))


def kill_node(process: subprocess.Popen[bytes]) -> None:
    """What losing a machine is: all of its processes, which are one session, at once."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rsplit(")", 1)[1].split()[3]) == process.pid:
                os.kill(int(path.parent.name), signal.SIGKILL)
    process.wait()


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop a node of ours."""
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(30)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for(holds: Callable[..., object], seconds: float, otherwise: Callable[..., object] = lambda: "") -> None:
    """Until `holds` is true."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, otherwise()
        time.sleep(0.2)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _answers(url: str, token: str) -> bool:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    with contextlib.suppress(OSError):
        return bool(urllib.request.urlopen(request, timeout=2).status == 200)
    return False
