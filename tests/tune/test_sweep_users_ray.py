"""Real Ray at tiny size: what nodes, users and rewards do to a sweep."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from commands import assert_verified, command, flags, here, texts
from instruct import instruct_folder

from rl_alliteration.results import reader
from rl_alliteration.results.storage import Storage

pytestmark = pytest.mark.ray


def run_in(folder: Path, arguments: list[str], **environment: str | None) -> subprocess.Popen[str]:
    """The command in a folder of the user's, which holds `mine.py`; a variable that is None is not set."""
    variables = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": "1", **environment}
    return subprocess.Popen(
        arguments, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={name: value for name, value in variables.items() if value is not None},
    )  # fmt: skip


@pytest.mark.chaos
def test_a_stop_keeps_every_finished_group_though_a_step_takes_minutes(
    tmp_path: Path, tiny_gpt_neo_folder: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "import os, pathlib, time\ncount = 0\n"
        "def slow(text):\n"
        "    global count\n    count += 1\n"
        "    if count > 30:\n"  # in the middle of the eighth group of four
        "        pathlib.Path(f'slow-{os.getpid()}').touch()\n        time.sleep(300)\n"
        "    return float(len(text.split()))\n"
    )
    storage = tmp_path / "results"
    grid = ("--beta", "0", "1", "--reward", "mine:slow", "--max-generations", "400")
    driver = run_in(tmp_path, command(*flags(tiny_gpt_neo_folder, storage, *grid)))
    until = time.monotonic() + 120
    while len(list(tmp_path.glob("slow-*"))) < min(2, os.cpu_count() or 1):
        assert driver.poll() is None and time.monotonic() < until
        time.sleep(0.1)
    assert not list(storage.glob("generations/**/part-*")), "an interval is 400 texts or more"
    driver.send_signal(signal.SIGTERM)
    out, err = driver.communicate(timeout=40)
    assert driver.returncode == 143, err
    assert "The same command goes on from here" in out
    sql = "SELECT status, reason, generations FROM trials WHERE generations > 0 ORDER BY generations DESC"
    stopped = reader.run_query(Storage(storage), sql)[1]
    finished = [30, *[28] * len(stopped)][: len(list(tmp_path.glob("slow-*")))]  # the original's groups are of ten
    assert stopped == [("stopped", "SIGTERM", count) for count in finished]
    assert len(texts(storage)) == sum(finished)
    assert list((storage / "staging").iterdir()) == []
    assert_verified(storage)


@pytest.mark.chaos
def test_where_memory_runs_out_the_trial_is_tried_again_with_fewer_beside_it(
    tmp_path: Path, tiny_gpt_neo_folder: Path
) -> None:
    from ray._common.utils import get_system_memory
    from ray._private.utils import get_used_memory

    (tmp_path / "mine.py").write_text(
        "import pathlib, time\ncount = 0\n"
        "def hungry(text):\n"
        "    global count\n    count += 1\n"
        "    if count > 3 and not pathlib.Path('eaten').exists():\n"  # not where it is tried
        "        pathlib.Path('eaten').touch()\n        eaten = []\n"
        "        for _ in range(25):\n            eaten.append(b'x' * (200 << 20))\n            time.sleep(0.1)\n"
        "    return float(len(text.split()))\n"
    )
    storage = tmp_path / "results"
    threshold = (get_used_memory() + (3 << 30)) / get_system_memory()
    grid = ("--beta", "0", "1", "--reward", "mine:hungry", "--max-generations", "16", "--original-texts", "40")
    driver = run_in(
        tmp_path, command(*flags(tiny_gpt_neo_folder, storage, *grid)),
        RAY_memory_usage_threshold=f"{threshold:.4f}", RAY_memory_monitor_refresh_ms="50",
    )  # fmt: skip
    out, err = driver.communicate(timeout=240)
    assert driver.returncode == 0, out + err
    assert re.search(r"memory ran out on \S+: [\d.]+ GiB of [\d.]+; run fewer trials .* going on with 1 at once", out)
    assert out.count("finished") == 3
    assert_verified(storage)


@pytest.mark.chaos
def test_a_sweep_leaves_no_secret_and_needs_no_character_beyond_ascii(
    tmp_path: Path, tiny_gpt_neo_folder: Path
) -> None:
    """One sweep: nothing that it leaves holds a secret, Ray's folder is its user's alone, and its log is ASCII."""
    marker = "MARKER0123456789"
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "GOOGLE_API_KEY")
    ray_folder = Path(tempfile.mkdtemp(prefix="r-", dir="/tmp"))
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "loud.py").write_text("def loud(text):\n    print('naïve ’', text)\n    return 1.0\n")
    few = ("--max-generations", "8", "--original-texts", "40", "--reward", "loud:loud", "--prompt", "naïve ’ cats")
    try:
        driver = run_in(
            tmp_path, command(*flags(tiny_gpt_neo_folder, tmp_path / "results", "--beta", "0", *few)),
            RAY_TMPDIR=str(ray_folder), HOME=str(home), RAY_AUTH_MODE=None, RAY_AUTH_TOKEN=None,
            PYTHONIOENCODING="ascii", **dict.fromkeys(names, marker),
        )  # fmt: skip
        out, err = driver.communicate(timeout=240)
        assert (driver.returncode, err) == (0, "")
        assert "na?ve ? cats" in out
        assert_verified(tmp_path / "results")
        assert marker not in out
        ((session),) = ray_folder.iterdir()
        assert session.stat().st_mode & 0o077 == 0
        files = [path for folder in (ray_folder, tmp_path) for path in folder.rglob("*") if path.is_file()]
        assert any(path.name == "runtime_env_agent.log" for path in files)
        assert any(path.suffix == ".pkl" for path in files) and any("/runs/" in str(path) for path in files)
        assert [path for path in files if marker.encode() in path.read_bytes()] == []
        assert [path for path in home.rglob("*auth_token*") if path.stat().st_mode & 0o077] == []
        parts = list((tmp_path / "results").glob("generations/**/part-*"))
        assert {path.stat().st_mode & 0o777 for path in parts} == {0o666 & ~_umask()}, "results are not made private"
    finally:
        shutil.rmtree(ray_folder)


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value


@pytest.mark.chaos
def test_a_sweep_runs_in_a_thread_without_a_home_and_with_a_reward_that_cannot_be_sent(
    tmp_path: Path, tiny_gpt_neo_folder: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "import os, threading, torch\nLOCK, LOG = threading.Lock(), open('log.txt', 'a')\n"
        "def own(text):\n"
        "    torch.set_grad_enabled(False)\n    torch.set_num_threads(2)\n"
        "    with LOCK:\n        factor = float(open('factor.txt').read())\n"
        "    os.chdir('/')\n"
        "    print('a word from a reward')\n"
        "    return torch.tensor(factor * len(text.split()))\n"
    )
    (tmp_path / "factor.txt").write_text("2")
    script = tmp_path / "script.py"
    grid = ("--beta", "0", "--max-generations", "8", "--reward", "mine:own", "--original-texts", "40")
    script.write_text(
        "import threading\nfrom rl_alliteration.cli.main import call\ncodes = []\n"
        f"arguments = {flags(tiny_gpt_neo_folder, tmp_path / 'r', *grid)!r}\n"
        "thread = threading.Thread(target=lambda: codes.append(call(arguments)))\n"
        "thread.start()\nthread.join()\nraise SystemExit(codes[0])\n"
    )
    long = tmp_path / ("a-folder-whose-name-is-long" * 4)
    long.mkdir()
    driver = run_in(
        tmp_path,
        [sys.executable, str(script)],
        HOME=None,
        TMPDIR=str(long),
        RAY_TMPDIR=None,
        RAY_AUTH_MODE=None,
        RAY_AUTH_TOKEN=None,
    )
    out, err = driver.communicate(timeout=240)
    assert (driver.returncode, err) == (0, "")
    assert out.count("finished") == 2
    rows = reader.run_query(Storage(tmp_path / "r"), "SELECT raw_reward, num_words FROM generations")[1]
    assert len(rows) == 48 and all(raw == 2 * words for raw, words in rows)
    assert_verified(tmp_path / "r")


@pytest.mark.chaos
@pytest.mark.parametrize("name", ["gcs_server", "raylet"])
def test_a_core_of_rays_that_dies_as_it_starts_is_told_in_one_line_at_once(
    tmp_path: Path, tiny_gpt_neo_folder: Path, request: pytest.FixtureRequest, name: str
) -> None:
    folder = tempfile.mkdtemp(prefix="r-", dir="/tmp")  # its logs stay
    request.addfinalizer(lambda: shutil.rmtree(folder))
    driver = run_in(tmp_path, command(*flags(tiny_gpt_neo_folder, tmp_path / "r", "--beta", "0")), RAY_TMPDIR=folder)
    victim = None
    until = time.monotonic() + 60
    while victim is None:
        assert driver.poll() is None and time.monotonic() < until
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                stat = path.read_text()
                if f"({name})" in stat and int(stat.rsplit(")", 1)[1].split()[1]) == driver.pid:
                    victim = int(path.parent.name)
    time.sleep(0.2)  # it has been seen
    os.kill(victim, signal.SIGKILL)
    killed = time.monotonic()
    _, err = driver.communicate(timeout=60)
    assert driver.returncode == 1
    assert time.monotonic() - killed < 15
    assert len(err.splitlines()) == 1 and "Ray could not be started on this machine" in err, err


@pytest.mark.usefixtures("on_cluster")
def test_an_instruct_model_is_swept_through_its_chat_template(tmp_path: Path) -> None:
    """And the same command finds its trials again."""
    model = instruct_folder(tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("Tell me a story.\nSay it.\n", encoding="utf-8")
    sweep = flags(model, tmp_path / "r", "--beta", "3", "--max-generations", "16", "--original-texts", "20", "--chat")
    sweep += ["--max-length", "60", "--prompts", str(tmp_path / "prompts.txt")]
    done = here(*sweep)
    assert done.returncode == 0, done.stderr
    assert "the reward is of the completion alone" in done.stdout and "assistant" not in done.stdout
    assert_verified(tmp_path / "r")
    sql = "SELECT algorithm, count(*), count(DISTINCT prompt) FROM generations WHERE ended GROUP BY ALL ORDER BY 1"
    ended = reader.run_query(Storage(tmp_path / "r"), sql)[1]
    assert [(name, prompts) for name, _, prompts in ended] == [("original", 2), ("rloo", 2)]
    before = texts(tmp_path / "r")
    assert len(before) == 36
    assert here(*sweep).returncode == 0 and texts(tmp_path / "r") == before
