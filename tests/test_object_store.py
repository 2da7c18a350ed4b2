"""The same on an object store: a real S3 protocol on loopback (moto's server)."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from trials import EXPERIMENT, planned, rows, run_trial

from rl_alliteration.errors import Failure, UserError
from rl_alliteration.results import reader
from rl_alliteration.results.lease import Lease
from rl_alliteration.results.storage import ObjectStorage, Storage, open_storage
from rl_alliteration.results.verify import verify_trial

BUCKET = "results"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    endpoint = f"http://127.0.0.1:{port}"
    settings = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        for _ in range(100):
            try:
                urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT"))
                break
            except OSError:
                time.sleep(0.2)
        yield endpoint
    process.terminate()
    process.wait()


@pytest.fixture
def store(server, request) -> ObjectStorage:
    storage = open_storage(f"s3://{BUCKET}/{request.node.name}", create=True)
    assert isinstance(storage, ObjectStorage)
    return storage


def test_files_come_back_whole(store):
    store.put("a/b/c", b"1")
    store.put("a/d", b"22")
    assert store.get("a/b/c") == store.open("a/b/c").read() == b"1"
    assert store.list("a") == ["a/b/c", "a/d"]
    assert store.list("nothing") == []
    assert store.exists("a/d")
    store.delete("a/d")
    store.delete("a/d")
    assert not store.exists("a/d")
    with pytest.raises(FileNotFoundError):
        store.get("a/d")


@pytest.mark.parametrize("kind", ["folder", "object store"])
def test_only_one_of_two_writers_wins(store, tmp_path, kind):
    storage = store if kind == "object store" else Storage(tmp_path)
    first = storage.put_if("lease", b"1", None)
    assert first is not None
    assert storage.put_if("lease", b"2", None) is None
    second = storage.put_if("lease", b"3", first)
    assert second is not None
    assert storage.put_if("lease", b"4", first) is None
    assert storage.get_tagged("lease") == (b"3", second)


def test_a_trial_resumes_and_verifies_and_its_rows_are_those_of_a_folder(store, tmp_path, tiny_gpt_neo, make_config):
    trial = planned(make_config(tiny_gpt_neo, max_length=16), 20)
    run_trial(store, dataclasses.replace(trial, max_generations=12), tiny_gpt_neo, stop_after=2)
    run = run_trial(store, trial, tiny_gpt_neo)
    assert run.resumed_at == 8
    folder = Storage(tmp_path)
    run_trial(folder, trial, tiny_gpt_neo)
    for dataset in ("generations", "steps"):
        assert rows(store, trial, dataset) == rows(folder, trial, dataset)
    assert verify_trial(store, EXPERIMENT, trial.trial_id).problem is None
    events = store.list(f"tensorboard/{EXPERIMENT}/{trial.trial_id}")
    assert len(events) == 2
    assert all(store.get(path) for path in events)


def test_queries_read_it_through_pyarrow(store, tiny_gpt_neo, make_config):
    trial = planned(make_config(tiny_gpt_neo, max_length=16), 8)
    run_trial(store, trial, tiny_gpt_neo)
    assert reader.trial_ids(store) == [(EXPERIMENT, trial.trial_id)]
    assert reader.run_query(store, "SELECT count(*), max(generation) FROM generations")[1] == [(8, 7)]
    with pytest.raises(UserError, match="query"):
        reader.run_query(store, "SELECT * FROM read_text('/etc/hostname')")


def test_the_lease_passes_on(store):
    first = Lease(store, "e", "first")
    first.acquire(print)
    first.release()
    second = Lease(store, "e", "second")
    second.acquire(print)
    assert second.epoch == 2
    second.release()


@pytest.mark.parametrize(
    "location, named",
    [("s3://no-such-bucket/x", "cannot be"), ("s3://", "names no bucket"), ("s3://a:b@results/x", "password")],
)
def test_a_store_that_cannot_be_used_is_said_in_one_line(server, location, named):
    with pytest.raises(UserError, match=named) as error:
        open_storage(location, create=True)
    assert "\n" not in str(error.value)


def test_a_store_that_stops_answering_is_a_failure(store, monkeypatch):
    import obstore

    def broken(*arguments: object, **options: object) -> None:
        raise obstore.exceptions.GenericError("Server returned non-2xx status code: 503")

    monkeypatch.setattr(obstore, "put", broken)
    with pytest.raises(Failure, match=r"503.*same command"):
        store.put("x", b"")


@pytest.mark.ray
def test_a_sweep_on_s3(server, tiny_gpt_neo_folder, tmp_path: Path):
    location = f"s3://{BUCKET}/sweep"
    command = [
        *(sys.executable, "-m", "rl_alliteration.cli", "sweep", "--experiment", "tiny", "--storage", location),
        *("--model", str(tiny_gpt_neo_folder), "--max-length", "16", "--group-size", "4", "--beta", "0", "1"),
        *("--max-generations", "16", "--checkpoint-every", "8"),
    ]
    for told in ("to be started", "finished, left as it is"):
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=os.environ.copy())
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(told) == 3
    storage = open_storage(location)
    for experiment, trial_id in reader.trial_ids(storage):
        assert verify_trial(storage, experiment, trial_id).problem is None


def test_passing_errors_are_tried_again(monkeypatch):
    """A store that answers 503 twice before it takes a file."""
    import http.server
    import threading

    answers = [503, 503, 200]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(answers.pop(0))
            self.send_header("ETag", '"x"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as flaky:
        threading.Thread(target=flaky.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{flaky.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        ObjectStorage("s3://bucket/x").put("file", b"1")
        flaky.shutdown()
    assert answers == []
