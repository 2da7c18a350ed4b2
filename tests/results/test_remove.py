"""`remove` takes the experiment's lease, and deletes under nobody who may be alive."""

from __future__ import annotations

import dataclasses
import errno
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import run
from trials import EXPERIMENT, planned, run_trial

from rl_alliteration.config import TrialConfig
from rl_alliteration.errors import Failure
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.results import lease as lease_module
from rl_alliteration.results import maintenance
from rl_alliteration.results.heartbeat import heartbeat_path
from rl_alliteration.results.lease import Lease, LeaseState, Superseded, await_free, check_epoch, lease_path, read_lease
from rl_alliteration.results.storage import Storage, _lock

DRIVER = """
import sys, time
from rl_alliteration.results.lease import Lease
from rl_alliteration.results.storage import Storage
Lease(Storage(sys.argv[1]), sys.argv[2], "driver").acquire(print)
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def storage(tmp_path: Path, tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig]) -> Storage:
    run_trial(Storage(tmp_path), planned(make_config(tiny_gpt_neo), 8), tiny_gpt_neo)
    return Storage(tmp_path)


@pytest.fixture
def driver(storage: Storage) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(storage), EXPERIMENT], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "await_free", functools.partial(await_free, sleep=lambda seconds: None))


def change(storage: Storage, **fields: Any) -> None:
    state = read_lease(storage, EXPERIMENT)
    assert state is not None
    storage.put(lease_path(EXPERIMENT), dataclasses.replace(state, **fields).encode())


def remove(capsys: pytest.CaptureFixture[str], storage: Storage) -> tuple[int, str, str]:
    return run(capsys, "remove", "--storage", str(storage), "--experiment", EXPERIMENT, "--yes")


@pytest.mark.parametrize("ahead", [-3600.0, -60.0, 0.0, 60.0, 3600.0])
def test_a_running_experiment_stays_whatever_its_clock_says(
    capsys: pytest.CaptureFixture[str], storage: Storage, driver: subprocess.Popen[str], ahead: float
) -> None:
    change(storage, renewed_at=time.time() + ahead)
    before = storage.list("")
    code, out, err = remove(capsys, storage)
    assert (code, err.count("\n")) == (2, 1)
    assert f"is being run by process {driver.pid}" in err
    assert storage.list("") == before
    assert "Deleted" not in out


def test_a_driver_that_is_stopped_but_alive_keeps_its_experiment(
    capsys: pytest.CaptureFixture[str], storage: Storage, driver: subprocess.Popen[str]
) -> None:
    os.kill(driver.pid, signal.SIGSTOP)
    change(storage, renewed_at=time.time() - 600)
    code, _, err = remove(capsys, storage)
    assert (code, err.count("\n")) == (2, 1)
    assert f"process {driver.pid}, is stopped but alive: continue or end it first" in err
    driver.kill()
    driver.wait()
    assert remove(capsys, storage)[0] == 0
    assert [path for path in storage.list("") if EXPERIMENT in path] == []


@pytest.mark.parametrize("ahead", [-3600.0, 0.0, 3600.0])
def test_a_driver_elsewhere_that_renews_keeps_its_experiment(
    capsys: pytest.CaptureFixture[str], storage: Storage, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    state = LeaseState("o", "there", 7, "b", 1, time.time() + ahead)
    storage.put(lease_path(EXPERIMENT), state.encode())
    before = storage.list("")
    looks = iter(range(1, 99))

    def renew(seconds: float) -> None:
        if next(looks) == 5:
            change(storage, writes=2)

    monkeypatch.setattr(maintenance, "await_free", functools.partial(await_free, sleep=renew))
    code, _, err = remove(capsys, storage)
    assert code == 1 and "is driven by process 7 on there" in err
    assert storage.list("") == before


def test_nothing_is_left_of_a_removed_experiment_whose_driver_elsewhere_is_gone(
    capsys: pytest.CaptureFixture[str], storage: Storage, quick: None
) -> None:
    storage.put(lease_path(EXPERIMENT), LeaseState("o", "there", 7, "b", 1, time.time() + 3600).encode())
    storage.put(heartbeat_path(EXPERIMENT), b"{}")
    storage.put(f"runs/{EXPERIMENT}/r.json", b"{}")
    code, out, _ = remove(capsys, storage)
    assert code == 0 and "waiting up to 20 s" in out
    assert [path for path in storage.list("") if EXPERIMENT in path] == []


def test_a_driver_that_wakes_up_while_its_experiment_is_removed_may_publish_nothing(
    storage: Storage, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It slept on another host: the removal has the next epoch from before the first file that goes."""
    old = Lease(storage, EXPERIMENT, "old")
    old.acquire(print)
    old._stop.set()
    seen, tag = lease_module._read(storage, EXPERIMENT)
    removal = Lease(storage, EXPERIMENT, "removal")
    removal.take(seen, tag, print)
    deleted: list[str] = []
    delete = Storage.delete

    def watched(self: Storage, path: str) -> None:
        with pytest.raises(Failure):
            check_epoch(storage, EXPERIMENT, old.epoch, "old")
        deleted.append(path)
        delete(self, path)

    monkeypatch.setattr(Storage, "delete", watched)
    with pytest.raises(Superseded):
        old._write()
    maintenance.remove(storage, EXPERIMENT, None, removal)
    assert deleted[-1] == lease_path(EXPERIMENT)
    assert deleted[-2].startswith("trials/"), "an event is the last: what was broken off can be repeated"
    monkeypatch.setattr(lease_module, "PATIENCE_SECONDS", 0.0)
    with pytest.raises(Failure, match="is gone"):
        check_epoch(storage, EXPERIMENT, old.epoch, "old")
    new = Lease(storage, EXPERIMENT, "new")
    new.acquire(print)
    assert new.epoch == old.epoch, "of the same number, but of another owner"
    with pytest.raises(Superseded):
        check_epoch(storage, EXPERIMENT, old.epoch, "old")
    new.release()


def test_a_driver_that_comes_while_one_is_asked_keeps_its_experiment(storage: Storage) -> None:
    seen, tag = maintenance.await_no_driver(storage, EXPERIMENT, print)
    before = storage.list("generations")
    driver = Lease(storage, EXPERIMENT, "driver")
    driver.acquire(print)
    with pytest.raises(Failure, match="at the same moment"):
        Lease(storage, EXPERIMENT, "removal").take(seen, tag, print)
    assert storage.list("generations") == before
    driver.release()


def test_a_removal_that_loses_its_lease_deletes_no_more(storage: Storage) -> None:
    removal = Lease(storage, EXPERIMENT, "removal")
    removal.acquire(print)
    removal._stop.set()
    change(storage, owner="driver", epoch=2)
    removal._renewed -= 100  # this machine slept
    before = storage.list("")
    with pytest.raises(Superseded):
        maintenance.remove(storage, EXPERIMENT, None, removal)
    assert storage.list("") == before


def test_a_lock_that_was_deleted_is_none(tmp_path: Path) -> None:
    """Who waited for the lock of a lease that was removed meanwhile must not write beside who locks a new one."""
    storage = Storage(tmp_path)
    tag = storage.put_if("leases/e.json", b"1", None)
    assert tag is not None and not storage.delete_if("leases/e.json", "another")
    with (tmp_path / "leases/e.json.lock").open("wb") as waiting:
        assert storage.delete_if("leases/e.json", tag)
        with pytest.raises(Failure, match="has just been removed"):
            _lock(waiting, "leases/e.json")
    assert storage.list("leases") == []


def test_a_removal_that_is_broken_off_anywhere_is_repeated_to_its_end(
    capsys: pytest.CaptureFixture[str],
    storage: Storage,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each deletion in turn fails, before or after it took effect, those of the lease and its lock among them."""
    calls, copies, unlink = 0, tmp_path_factory.mktemp("copies"), os.unlink
    copy = copies

    def failing(path: os.PathLike[str] | str, **others: Any) -> None:
        nonlocal calls
        if not str(path).startswith(str(copy)) or "staging" in str(path):
            return unlink(path, **others)
        calls += 1
        if calls != at:
            return unlink(path, **others)
        if late:
            unlink(path, **others)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "unlink", failing)
    for late in (False, True):
        for at in range(1, 1000):
            copy, calls = copies / f"{at}-{late}", 0
            shutil.copytree(storage.root, copy)
            code, out, err = remove(capsys, Storage(copy))
            if calls < at:  # nothing failed
                break
            assert (code, err.count("\n"), "Deleted" in out) == (1, 1, False), (late, at, out, err)
            code, out, err = remove(capsys, Storage(copy))
            assert code == 0 or "holds no results" in err
            assert [path for path in Storage(copy).list("") if not path.startswith("models/")] == [], (late, at)
    assert at > 10
