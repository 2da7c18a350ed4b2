"""The lock of a node's fetching: in a folder of this user's own, and nobody else's files are touched."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from heads import ROOT

from rl_alliteration.errors import UserError
from rl_alliteration.lm import user_cache
from rl_alliteration.lm.user_cache import alone_in_user_cache


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the lock's folder is to be."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    return tmp_path / "cache" / "rl_alliteration"


def held(folder: Path) -> list[Path]:
    with alone_in_user_cache("tiny/model"):
        return list(folder.iterdir())


def test_the_lock_is_in_a_private_folder(cache: Path) -> None:
    (lock,) = held(cache)
    assert cache.stat().st_mode & 0o777 == 0o700
    assert lock.stat().st_mode & 0o077 == 0
    cache.chmod(0o755)
    held(cache)
    assert cache.stat().st_mode & 0o777 == 0o700


def test_a_link_in_the_place_of_the_lock_is_not_followed(cache: Path, tmp_path: Path) -> None:
    (lock,) = held(cache)
    precious = tmp_path / "precious"
    precious.write_text("mine")
    lock.unlink(missing_ok=True)
    lock.symlink_to(precious)
    with pytest.raises(UserError, match="is a link or another user's"):
        held(cache)
    assert precious.read_text() == "mine"


def test_the_locks_file_is_not_emptied(cache: Path) -> None:
    (lock,) = held(cache)
    lock.write_text("something")
    held(cache)
    assert not lock.exists() or lock.read_text() == "something"


def test_a_link_in_the_place_of_the_folder_is_refused(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    cache.parent.mkdir()
    cache.symlink_to(tmp_path / "theirs")
    with pytest.raises(UserError, match="is a link or another user's"):
        held(cache)
    assert not list((tmp_path / "theirs").iterdir())


@pytest.mark.skipif(os.getuid() != 0, reason="needs another user")
def test_another_users_folder_is_refused(cache: Path) -> None:
    cache.mkdir(parents=True)
    os.chown(cache, 12345, -1)
    with pytest.raises(UserError, match="is a link or another user's"):
        held(cache)


def test_where_no_home_can_be_written_to_a_private_folder_in_the_temporary_one_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "below"))  # no folder, whoever asks
    folder = tmp_path / "temporary" / f"rl_alliteration-{os.getuid()}"
    assert len(held(folder)) == 1
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.joinpath("x").write_text("")
    assert len(held(folder)) >= 1


def test_waiting_is_told_and_has_a_limit(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(user_cache, "WAIT_SECONDS", 0.3)
    code = (
        "import sys\nfrom rl_alliteration.lm.user_cache import alone_in_user_cache\n"
        "with alone_in_user_cache('tiny/model'):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    other = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="has been fetching 'tiny/model' for") as caught:
            held(cache)
        assert "\n" not in str(caught.value)
        assert "waiting for another process" in caplog.text
        with alone_in_user_cache("another/model"):  # is no matter of theirs
            pass
        monkeypatch.setattr(user_cache, "WAIT_SECONDS", 60)
        threading.Timer(0.5, other.kill).start()
        started = time.monotonic()
        held(cache)  # the lock of a process that is gone is nobody's
        assert time.monotonic() - started < 30
    finally:
        other.kill()
        other.communicate()
