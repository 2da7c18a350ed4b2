"""The command itself: it prints a link, answers it, and ends cleanly, with what it had started."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from made_up import MadeUp, write_results

from rl_alliteration.cli import main as cli
from rl_alliteration.results.storage import Storage


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_serves_until_it_is_stopped(tmp_path: Path, number: signal.Signals, code: int) -> None:
    write_results(Storage(tmp_path / "results"), [MadeUp(generations=100)])
    command = [sys.executable, "-m", "rl_alliteration.cli", "serve", "--storage", "results", "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        assert server.stdout is not None
        server.stdout.readline()
        link = server.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{43}", link)
        with urllib.request.urlopen(link, timeout=60) as answer:
            cookie = answer.headers["Set-Cookie"].split(";")[0]
        base = link.split("?")[0]
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(base, timeout=60)
        until = time.monotonic() + 60
        page = ""
        while "2 of 2 trials" not in page and time.monotonic() < until:
            with urllib.request.urlopen(urllib.request.Request(base, headers={"Cookie": cookie}), timeout=60) as answer:
                page = answer.read().decode()
        assert "2 of 2 trials" in page
        server.send_signal(number)
        rest = server.stdout.read()  # until every process that has it is gone
        assert server.wait(60) == code
    assert rest.count("\n") == 1 and "Traceback" not in rest


def test_a_storage_that_is_not_there_or_a_port_that_is_taken_is_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.call(["serve", "--storage", str(tmp_path / "nowhere")]) == 2
    assert cli.call(["serve", "--storage", str(tmp_path), "--port", "70000"]) == 2
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert cli.call(["serve", "--storage", str(tmp_path), "--port", str(port)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and f"--port: {port} is taken" in lines[2]
    assert not os.listdir(tmp_path)
