"""What is told when a sweep is over: to a command, to a web hook; and what becomes of it when they fail."""

from __future__ import annotations

import http.server
import json
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import run
from made_up import MadeUp, write_results

from rl_alliteration.errors import Failure, UserError
from rl_alliteration.results import schema
from rl_alliteration.results.storage import Storage
from rl_alliteration.tune import notices, web_hook
from rl_alliteration.tune.driver import Outcome
from rl_alliteration.tune.plan import Sweep
from rl_alliteration.tune.submission import sweep_arguments

SECRET = "T0KEN"


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    storage = Storage(tmp_path_factory.mktemp("made_up"))
    trials = [MadeUp(beta=1, generations=20), MadeUp(beta=2, generations=20, status=schema.FAILED)]
    write_results(storage, trials, experiment="e")
    return storage


def asked(**flags: Any) -> Sweep:
    return Sweep(storage="s", experiment="e", **flags)


def printing(path: Path) -> str:
    """A command that writes what is in its environment."""
    code = f"import json, os; open({str(path)!r}, 'w').write(json.dumps(dict(os.environ)))"
    return shlex.join([sys.executable, "-c", code])


class Hook(http.server.BaseHTTPRequestHandler):
    """Answers with the codes that it is given, the last of them again and again."""

    codes: list[int]
    bodies: list[dict[str, Any]]
    delay = 0.0

    def do_POST(self) -> None:
        self.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        time.sleep(self.delay)
        self.send_response(self.codes.pop(0) if len(self.codes) > 1 else self.codes[0])
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def hook() -> Iterator[type[Hook]]:
    class Own(Hook):
        codes: list[int] = [204]  # noqa: RUF012  # of this class alone
        bodies: list[dict[str, Any]] = []  # noqa: RUF012
        url = ""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Own) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        Own.url = f"http://127.0.0.1:{server.server_address[1]}/hooks/{SECRET}"
        yield Own
        server.shutdown()


@pytest.mark.parametrize(
    "outcome, state, code, message",
    [
        (Outcome({}), "finished", 0, ""),
        (Outcome({"rloo-x": "diverged\n\0here"}), "failed", 1, "rloo-x: diverged \ufffdhere"),
        (Outcome({}, stopped_by=15), "stopped", 143, ""),
        (Outcome({}, spent="the budget of 2 hours is spent"), "budget", 0, "the budget of 2 hours is spent"),
        (UserError("--address: no"), "failed", 2, "--address: no"),
        (Failure("no Ray"), "failed", 1, "no Ray"),
        (KeyboardInterrupt(), "stopped", 130, ""),
    ],
)
def test_a_command_and_a_hook_are_told_how_it_ended(
    storage: Storage,
    tmp_path: Path,
    hook: Any,
    capfd: pytest.CaptureFixture[str],
    outcome: Outcome | BaseException,
    state: str,
    code: int,
    message: str,
) -> None:
    sweep = asked(notify=printing(tmp_path / "told"), notify_url=hook.url)

    def end() -> None:
        with notices.told(sweep, storage) as ended:
            if isinstance(outcome, BaseException):
                raise outcome
            ended(outcome)

    if isinstance(outcome, BaseException):
        with pytest.raises(type(outcome)):
            end()
    else:
        end()
    facts = {
        "experiment": "e", "storage": str(storage), "state": state, "exit_code": code, "message": message,
        "trials": 3, "trials_finished": 2, "trials_stopped": 0, "trials_failed": 1,
    }  # fmt: skip
    ((body),) = hook.bodies
    assert body == facts | {"text": f"e: {state}" + (f", {message}" if message else "")}
    variables = json.loads((tmp_path / "told").read_text())
    assert {name: variables[f"RL_ALLITERATION_{name.upper()}"] for name in facts} == {
        name: str(value) for name, value in facts.items()
    }
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "command, said",
    [
        ("exit 3", "note: --notify: the command ended with 3"),
        ("no-such-command-here 2> /dev/null", "note: --notify: the command ended with 127"),
        ("sleep 100", "note: --notify: the command took too long, and was ended"),
        ("sleep 100 & exit 0", ""),
        ("echo \"$RL_ALLITERATION_MESSAGE\" | grep -q '^$(touch x); `id`$'", ""),
    ],
)
def test_a_command_that_fails_or_hangs_is_one_line(
    storage: Storage, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str, said: str
) -> None:
    monkeypatch.setattr(notices, "_SECONDS", 1.0)
    began = time.monotonic()
    with notices.told(asked(notify=command), storage) as ended:
        ended(Outcome({}, spent="$(touch x); `id`"))
    assert time.monotonic() - began < 10
    assert capfd.readouterr().err == (f"rl-alliteration: {said}\n" if said else "")


@pytest.mark.parametrize(
    "codes, tries, said",
    [
        ([503, 429, 200], 3, ""),
        ([500], 3, "the answer was 500"),
        ([404], 1, "the answer was 404"),
        ([302], 1, "the answer was 302"),
    ],
)
def test_a_hook_is_tried_again_and_its_address_is_never_shown(
    storage: Storage, hook: Any, capfd: pytest.CaptureFixture[str], codes: list[int], tries: int, said: str
) -> None:
    hook.codes = codes
    with notices.told(asked(notify_url=hook.url), storage) as ended:
        ended(Outcome({}))
    out, err = capfd.readouterr()
    assert len(hook.bodies) == tries and out == ""
    assert err == (f"rl-alliteration: note: --notify-url: nobody was told there: {said}\n" if said else "")


def test_a_hook_that_is_not_there_or_does_not_answer_is_one_line(
    storage: Storage, hook: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "_SECONDS", 1.0)
    hook.delay = 3.0
    for url in (hook.url, f"http://127.0.0.1:9/{SECRET}", f"http://{'x' * 70}.invalid/{SECRET}"):
        began = time.monotonic()
        with notices.told(asked(notify_url=url), storage) as ended:
            ended(Outcome({}))
        assert time.monotonic() - began < 2.5
        err = capfd.readouterr().err
        assert err.startswith("rl-alliteration: note: --notify-url: nobody was told there: ") and err.count("\n") == 1
        assert SECRET not in err and "127.0.0.1" not in err


def test_the_address_is_no_part_of_what_is_shown_sent_or_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = asked(notify_url=f"https://example.org/{SECRET}")
    assert SECRET not in repr(sweep)
    with pytest.raises(UserError, match="--notify-url: Ray writes a job's flags to its logs"):
        sweep_arguments(sweep)
    assert "--notify=mail me" in sweep_arguments(asked(notify="mail me"))
    where = ("--storage", "none", "--experiment", "e", "--beta", "1", "--dry-run")
    for wrong in (f"ftp://example.org/{SECRET}", SECRET, f"https:///{SECRET}", f"http://[{SECRET}"):
        code, _, err = run(capsys, "sweep", *where, "--notify-url", wrong)
        assert (code, err.count("\n")) == (2, 1) and "--notify-url: give an address" in err and SECRET not in err
        monkeypatch.setenv(web_hook.NOTIFY_URL, wrong)
        code, _, err = run(capsys, "sweep", *where)
        assert (code, err.count("\n")) == (2, 1) and f"{web_hook.NOTIFY_URL}: give" in err and SECRET not in err
        monkeypatch.delenv(web_hook.NOTIFY_URL)
    monkeypatch.setenv(web_hook.NOTIFY_URL, "https://example.org/x")
    assert web_hook.web_hook(None) == "https://example.org/x" and web_hook.web_hook("http://y") == "http://y"
