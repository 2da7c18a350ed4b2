"""Hub models, from a hub of this machine's own: one download a node, the commit recorded, nothing unpickled."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from heads import ROOT

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LOAD = """
import sys
from rl_alliteration.errors import UserError
from rl_alliteration.lm.loading import load_model
names, revision, checked = sys.argv[1].split(), sys.argv[2] or None, sys.argv[3] == "trial"
for name in names:
    try:
        loaded = load_model(name, revision=revision, checked=checked)
        print(loaded.revision, type(loaded.model).__name__)
    except UserError as error:
        print(error)
"""


class Hub(ThreadingHTTPServer):
    """Serves folders as models, each at one commit; remembers who fetched what."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folders = {"tiny/model": folder}
        self.asked: list[tuple[str, str]] = []

    @property
    def downloads(self) -> list[str]:
        return [path.rsplit("/", 1)[1] for method, path in self.asked if method == "GET" and "/resolve/" in path]


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer("HEAD")

    def do_GET(self) -> None:
        self.answer("GET")

    def answer(self, method: str) -> None:
        self.server.asked.append((method, self.path))
        path = self.path.split("?")[0]
        headers = {"X-Repo-Commit": COMMIT}
        status, body = 404, b""
        name = "/".join(path.removeprefix("/api/models").split("/")[1:3])
        folder = self.server.folders.get(name)
        if path == "/":
            status = 200
        elif folder is None:
            pass
        elif "/resolve/" in path:
            file = folder / path.split("/resolve/")[1].split("/", 1)[1]
            if file.is_file():
                status, body = 200, file.read_bytes()
                headers["ETag"] = f'"{hashlib.sha256(body).hexdigest()}"'
            else:
                headers["X-Error-Code"] = "EntryNotFound"
        elif path.startswith("/api/models/"):
            files = [{"type": "file", "rfilename": f.name, "path": f.name, "size": f.stat().st_size, "oid": "0" * 40}
                     for f in folder.iterdir()]  # fmt: skip
            tree = "/tree/" in path
            status = 200
            body = json.dumps(files if tree else {"id": name, "sha": COMMIT, "siblings": files}).encode()
            headers["Content-Type"] = "application/json"
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if method == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tiny_gpt_neo_folder: Path) -> Iterator[Hub]:
    server = Hub(tiny_gpt_neo_folder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def load(
    hub: Hub, home: Path, revision: str = "", kind: str = "", *, names: str = "tiny/model", processes: int = 1
) -> list[str]:
    """What each process says of each model."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    command = [sys.executable, "-c", LOAD, names, revision, kind]
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    ended = [process.communicate(timeout=120) for process in running]
    return [line for out, err in ended for line in (out.strip() or err).split("\n")]


WHOLE, ALONE = f"{COMMIT} GPTNeoForCausalLM", f"{COMMIT} Weights"


def test_a_node_fetches_a_model_once_and_then_asks_no_more(hub: Hub, tmp_path: Path) -> None:
    assert load(hub, tmp_path, "main") == [WHOLE]  # the driver: the branch is resolved
    assert hub.downloads.count("model.safetensors") == 1
    hub.asked.clear()
    other_node = tmp_path / "other"
    trials = load(hub, other_node, COMMIT, "trial", processes=2)  # at once: one fetches
    assert set(trials) <= {WHOLE, ALONE} and len(trials) == 2
    assert hub.downloads.count("model.safetensors") == 1
    hub.asked.clear()
    assert load(hub, other_node, COMMIT, "trial") == [ALONE]
    assert hub.asked == []


class Hostile:
    def __reduce__(self) -> Any:
        return os.system, ("touch pwned",)


def test_a_bin_is_read_without_unpickling_and_a_hostile_one_refused_in_one_line(
    hub: Hub, tmp_path: Path, tiny_gpt_neo_bin_folder: Path
) -> None:
    hostile = shutil.copytree(tiny_gpt_neo_bin_folder, tmp_path / "hostile")
    (hostile / "pytorch_model.bin").write_bytes(pickle.dumps(Hostile()))
    hub.folders = {"tiny/model": tiny_gpt_neo_bin_folder, "tiny/hostile": hostile}
    read, said = load(hub, tmp_path / "a", names="tiny/model tiny/hostile")
    assert read == WHOLE
    assert not [path for _, path in hub.asked if "discussions" in path or "convert" in path]  # no conversion asked for
    assert said.startswith("--model: 'tiny/hostile' could not be loaded")
    assert not list(Path.cwd().glob("pwned"))
