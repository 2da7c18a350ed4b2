"""The same on an object store: a real S3 protocol on loopback (moto's server)."""

from __future__ import annotations

import dataclasses
import http.client
import http.server
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from commands import here
from trials import EXPERIMENT, planned, rows, run_trial

from rl_alliteration.config import TrialConfig
from rl_alliteration.errors import Failure, UserError
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.results import reader
from rl_alliteration.results.lease import Lease, check_epoch, read_lease
from rl_alliteration.results.object_store import ObjectStorage
from rl_alliteration.results.storage import Storage, open_storage
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
def store(server: str, request: pytest.FixtureRequest) -> ObjectStorage:
    storage = open_storage(f"s3://{BUCKET}/{request.node.name}", create=True)
    assert isinstance(storage, ObjectStorage)
    return storage


def test_files_come_back_whole(store: ObjectStorage) -> None:
    store.put("a/b/c", b"1")
    store.put("a/d", b"22")
    with store.open("a/b/c") as file:
        assert store.get("a/b/c") == file.read() == b"1"
    assert store.list("a") == ["a/b/c", "a/d"]
    assert store.list("nothing") == []
    assert store.exists("a/d")
    store.delete("a/d")
    store.delete("a/d")
    assert not store.exists("a/d")
    with pytest.raises(FileNotFoundError):
        store.get("a/d")


@pytest.mark.parametrize("kind", ["folder", "object store"])
def test_only_one_of_two_writers_wins(store: ObjectStorage, tmp_path: Path, kind: str) -> None:
    storage = store if kind == "object store" else Storage(tmp_path)
    first = storage.put_if("lease", b"1", None)
    assert first is not None
    assert storage.put_if("lease", b"2", None) is None
    second = storage.put_if("lease", b"3", first)
    assert second is not None
    assert storage.put_if("lease", b"4", first) is None
    assert storage.get_tagged("lease") == (b"3", second)


def test_a_trial_resumes_and_verifies_and_its_rows_are_those_of_a_folder(
    store: ObjectStorage, tmp_path: Path, tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig]
) -> None:
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


def test_queries_read_it_through_pyarrow(
    store: ObjectStorage, tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig]
) -> None:
    trial = planned(make_config(tiny_gpt_neo, max_length=16), 8)
    run_trial(store, trial, tiny_gpt_neo)
    assert reader.trial_ids(store) == [(EXPERIMENT, trial.trial_id)]
    assert reader.run_query(store, "SELECT count(*), max(generation) FROM generations")[1] == [(8, 7)]
    with pytest.raises(UserError, match="query"):
        reader.run_query(store, "SELECT * FROM read_text('/etc/hostname')")


def test_the_lease_passes_on(store: ObjectStorage) -> None:
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
def test_a_store_that_cannot_be_used_is_said_in_one_line(server: str, location: str, named: str) -> None:
    with pytest.raises(UserError, match=named) as error:
        open_storage(location, create=True)
    assert "\n" not in str(error.value)


def test_a_store_that_stops_answering_is_a_failure(store: ObjectStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    import obstore

    def broken(*arguments: object, **options: object) -> None:
        raise obstore.exceptions.GenericError("Server returned non-2xx status code: 503")

    monkeypatch.setattr(obstore, "put", broken)
    with pytest.raises(Failure, match=r"503.*same command"):
        store.put("x", b"")


@pytest.mark.ray
@pytest.mark.usefixtures("on_cluster")
def test_a_sweep_on_s3(server: str, tiny_gpt_neo_folder: Path, tmp_path: Path) -> None:
    location = f"s3://{BUCKET}/sweep"
    command = [
        *("sweep", "--experiment", "tiny", "--storage", location),
        *("--model", str(tiny_gpt_neo_folder), "--max-length", "16", "--group-size", "4", "--beta", "0", "1"),
        *("--max-generations", "16", "--checkpoint-every", "8", "--original-texts", "40"),
    ]
    for told in ("to be started", "finished, left as it is"):
        done = here(*command)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(told) == 3
    storage = open_storage(location)
    for experiment, trial_id in reader.trial_ids(storage):
        assert verify_trial(storage, experiment, trial_id).problem is None


class LossyStore:
    """Passes requests on to the store; of each conditional write that is applied the first answer gets lost."""

    def __init__(self, target: str, loss: str) -> None:
        self.lost = 0
        outer, seen = self, set()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                store = http.client.HTTPConnection(urlsplit(target).netloc)
                store.request(self.command, self.path, body, dict(self.headers))
                answer = store.getresponse()
                content = answer.read()
                store.close()
                conditional = self.headers.get("If-Match") or self.headers.get("If-None-Match")
                if self.command == "PUT" and conditional and answer.status == 200 and body not in seen:
                    seen.add(body)
                    outer.lost += 1
                    if loss == "dropped":
                        self.close_connection = True
                        return
                    self.send_response(500)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(answer.status)
                for name in ("ETag", "Last-Modified", "Content-Type"):
                    if answer.headers[name]:
                        self.send_header(name, answer.headers[name])
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_PUT = do_DELETE = forward

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(params=["500", "dropped"])
def lossy(
    server: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[LossyStore, ObjectStorage]]:
    store = LossyStore(server, request.param)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{store.server.server_port}")
    yield store, ObjectStorage(f"s3://{BUCKET}/lossy-{request.param}")
    store.server.shutdown()


def test_twenty_of_twenty_renewals_survive_a_lost_answer(lossy: tuple[LossyStore, ObjectStorage]) -> None:
    store, storage = lossy
    said: list[str] = []
    lease = Lease(storage, "e", "first")
    lease.acquire(said.append)
    for _ in range(20):
        lease._renewed -= 100
        lease.check()
    assert store.lost == 21
    assert said == [], "not even a failure was to be told"
    check_epoch(storage, "e", 1, "first")
    lease.release()
    state = read_lease(storage, "e")
    assert state is not None and (state.epoch, state.released) == (1, True)


def test_a_lost_answer_makes_nobody_else_the_winner(lossy: tuple[LossyStore, ObjectStorage]) -> None:
    _, storage = lossy
    first = storage.put_if("contended", b"first", None)
    assert first is not None
    assert storage.put_if("contended", b"second", None) is None
    third = storage.put_if("contended", b"third", first)
    assert third is not None
    assert storage.put_if("contended", b"fourth", first) is None
    assert storage.get_tagged("contended") == (b"third", third)


def test_a_file_is_deleted_only_as_it_was_seen(store: ObjectStorage) -> None:
    tag = store.put_if("lease", b"1", None)
    assert tag is not None
    assert not store.delete_if("lease", "another")
    assert store.delete_if("lease", tag)
    assert not store.delete_if("lease", tag)


def test_passing_errors_are_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that answers 503 twice before it takes a file."""
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
