"""One driver an experiment, and what a sweep finds of its trials."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from trials import EXPERIMENT, planned, run_trial

from rl_alliteration.config import PlannedTrial, TrialConfig
from rl_alliteration.errors import Failure
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.results import lease as lease_module
from rl_alliteration.results import schema
from rl_alliteration.results.drivers import WATCH_SECONDS, Drivers, is_live
from rl_alliteration.results.events import EventLog
from rl_alliteration.results.lease import (
    Lease,
    LeaseState,
    Superseded,
    check_epoch,
    holder,
    lease_path,
    read_lease,
)
from rl_alliteration.results.process import Process, this_boot
from rl_alliteration.results.storage import Storage
from rl_alliteration.trial.checkpoints import CheckpointStore
from rl_alliteration.tune.resume import Standing, find


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path)


def hold(storage: Storage, owner: str = "first") -> Lease:
    lease = Lease(storage, "e", owner)
    lease.acquire(print)
    return lease


def held(storage: Storage) -> LeaseState:
    """The lease as it is there."""
    state = read_lease(storage, "e")
    assert state is not None
    return state


def change(storage: Storage, **fields: Any) -> None:
    storage.put(lease_path("e"), dataclasses.replace(held(storage), **fields).encode())


def test_a_released_lease_is_taken_at_once_with_the_next_epoch(storage: Storage) -> None:
    first = hold(storage)
    assert is_live(read_lease(storage, "e"), time.time())
    first.release()
    assert not is_live(read_lease(storage, "e"), time.time())
    second = hold(storage, "second")
    assert second.epoch == first.epoch + 1
    second.release()


def test_a_dead_holder_on_this_host_is_followed_at_once(storage: Storage) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    hold(storage)._stop.set()
    change(storage, pid=dead.pid)
    assert not is_live(read_lease(storage, "e"), time.time())
    waited: list[float] = []
    second = Lease(storage, "e", "second")
    second.acquire(print, sleep=waited.append)
    assert (second.epoch, waited) == (2, [])
    second.release()


@pytest.mark.parametrize("elsewhere", [{"host": "another"}, {"boot_id": "x"}, {"boot_id": None}])
def test_a_holder_that_may_live_is_watched_for_twenty_seconds(storage: Storage, elsewhere: dict[str, Any]) -> None:
    hold(storage)._stop.set()
    if elsewhere.get("boot_id", "") is None:  # another container on this host: its process numbers are not ours
        boot = this_boot().split("pid:")[0]
        elsewhere = {"boot_id": f"{boot}pid:[1]", "pid": 2**22 - 1}
    if elsewhere == {"boot_id": "x"}:
        elsewhere = {"host": "another", "boot_id": "x"}
    change(storage, **elsewhere)
    waited: list[float] = []
    said: list[str] = []
    second = Lease(storage, "e", "second")
    second.acquire(said.append, sleep=waited.append)
    assert sum(waited) == lease_module.EXPIRE_SECONDS
    assert len(said) == 1
    assert second.epoch == 2
    second.release()


def test_a_holder_that_renews_keeps_it(storage: Storage) -> None:
    first = hold(storage)

    def renew(seconds: float) -> None:
        change(storage, renewed_at=time.time() + 1)

    second = Lease(storage, "e", "second")
    with pytest.raises(Failure, match=f"driven by process {os.getpid()}"):
        second.acquire(print, sleep=renew)
    first._stop.set()


def test_whoever_was_superseded_may_publish_nothing(storage: Storage) -> None:
    first = hold(storage)
    first._stop.set()
    check_epoch(storage, "e", first.epoch, "first")
    with pytest.raises(Superseded):  # of an experiment that was removed and begun again
        check_epoch(storage, "e", first.epoch, "another of the same epoch")
    change(storage, epoch=first.epoch + 1, host="there", pid=77)
    with pytest.raises(Superseded):
        check_epoch(storage, "e", first.epoch, "first")
    first._renewed -= 100  # as after a long sleep
    with pytest.raises(Superseded, match="process 77 on there"):
        first.check()
    before = storage.get(lease_path("e"))
    first.release()
    assert storage.get(lease_path("e")) == before


GOOD = {"owner": "x", "host": "h", "pid": 7, "boot_id": "b", "epoch": 1, "renewed_at": 1.5}


def test_leases_of_earlier_versions_are_read(storage: Storage) -> None:
    storage.put(lease_path("e"), json.dumps({**GOOD, "released": False}).encode())
    assert read_lease(storage, "e") == LeaseState("x", "h", 7, "b", 1, 1.5)


@pytest.mark.parametrize(
    "data",
    [
        json.dumps({"owner": 1}).encode(),
        *(
            json.dumps({**GOOD, name: value}).encode()
            for name, value in {
                "pid": 10**30, "epoch": -1, "renewed_at": "now", "host": None, "released": 1, "more": 1, "boot_id": [],
            }.items()
        ),
        json.dumps({**GOOD, "pid": 0}).encode(),
        json.dumps({**GOOD, "pid": -1}).encode(),
        json.dumps({**GOOD, "renewed_at": float("nan")}).encode(),
        json.dumps({name: value for name, value in GOOD.items() if name != "pid"}).encode(),
        b"", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000,
    ],
)  # fmt: skip
def test_a_lease_that_is_none_is_told(storage: Storage, data: bytes) -> None:
    storage.put(lease_path("e"), data)
    with pytest.raises(Failure, match=r"^leases/e.json is damaged.*; delete it if no sweep of 'e' is running$") as told:
        hold(storage)
    assert "\n" not in str(told.value)


def test_a_changed_digit_of_a_lease_is_noticed(storage: Storage) -> None:
    hold(storage)._stop.set()
    data = storage.get(lease_path("e"))
    storage.put(lease_path("e"), data.replace(b'"epoch": 1', b'"epoch": 2'))
    with pytest.raises(Failure, match="it is not what was written there"):
        read_lease(storage, "e")


def test_a_lease_says_at_once_that_its_driver_was_asked_to_stop_and_goes_on_saying_it(storage: Storage) -> None:
    lease = hold(storage)
    assert not held(storage).stopping
    lease.announce_stop()
    until = time.monotonic() + 2
    while not held(storage).stopping:
        assert time.monotonic() < until
        time.sleep(0.01)
    lease.release()
    assert (held(storage).released, held(storage).stopping) == (True, True)
    lease.announce_stop()  # too late, but harmless


# --- a driver that slept, a storage that fails ------------------------------------------------------------


class Faulty(Storage):
    """Does what it is told to before or after each conditional write."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.before: Callable[[], object] = lambda: None
        self.after: Callable[[], object] = lambda: None
        self.reading: Callable[[], object] = lambda: None

    def put_if(self, path: str, data: bytes, tag: str | None) -> str | None:
        self.before()
        written = super().put_if(path, data, tag)
        self.after()
        return written

    def get(self, path: str) -> bytes:
        self.reading()
        return super().get(path)


def fail(reason: str = "leases/e.json: Input/output error") -> None:
    raise Failure(reason)


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Faulty:
    monkeypatch.setattr(lease_module, "_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(lease_module, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(lease_module, "EXPIRE_SECONDS", 1.0)
    return Faulty(tmp_path)


def sleep_on(lease: Lease) -> None:
    """As after a sleep past the expiry."""
    lease._renewed -= 100


def test_a_driver_that_slept_goes_on_when_nobody_came(faulty: Faulty) -> None:
    """Both of its threads wake up and renew at the same time, as often as it takes to meet."""
    lease = hold(faulty)
    faulty.before = lambda: time.sleep(0.005)
    for _ in range(50):
        sleep_on(lease)
        lease._wake.put(None)
        lease.check()
    assert lease.epoch == 1
    check_epoch(faulty, "e", 1, "first")
    lease.release()


SLEEPER = """
import sys, time
from rl_alliteration.results import lease
lease.RENEW_SECONDS, lease.EXPIRE_SECONDS = 0.05, 0.3
held = lease.Lease(lease.Storage(sys.argv[1]), "e", "sleeper")
held.acquire(print)
print("held", flush=True)
until = time.monotonic() + 2.5
while time.monotonic() < until:
    held.check()
    time.sleep(0.001)
held.release()
"""


def test_a_driver_that_was_stopped_by_a_signal_goes_on_when_nobody_came(storage: Storage) -> None:
    process = subprocess.Popen([sys.executable, "-c", SLEEPER, str(storage)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    for _ in range(3):
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(0.4)
        state = read_lease(storage, "e")
        assert state is not None and holder(state) is Process.STOPPED
        assert is_live(state, time.time() + 1e6), "alive, whatever the clocks say"
        os.kill(process.pid, signal.SIGCONT)
        time.sleep(0.1)
    assert process.wait(10) == 0
    assert held(storage).released


def test_a_renewal_that_was_applied_though_it_was_said_to_have_failed_is_ones_own(faulty: Faulty) -> None:
    lease = hold(faulty)
    faulty.after = fail
    with pytest.raises(Failure):
        lease._write()
    faulty.after = lambda: None
    sleep_on(lease)
    lease.check()
    assert held(faulty).writes == 3
    lease.release()
    assert held(faulty).released


def test_a_storage_that_fails_for_a_while_ends_no_driver(faulty: Faulty) -> None:
    said: list[str] = []
    lease = Lease(faulty, "e", "first")
    lease.acquire(said.append)
    failures = iter(range(5))
    faulty.before = lambda: fail() if next(failures, None) is not None else None
    sleep_on(lease)
    lease.check()
    assert "Input/output error; trying again for up to" in said[0]
    assert ["answers again" in line for line in said] == [False, True]
    lease.release()


def test_a_storage_that_goes_on_failing_is_named_and_nobody_else_is_blamed(faulty: Faulty) -> None:
    lease = hold(faulty)
    faulty.before = fail
    sleep_on(lease)
    with pytest.raises(Failure, match=r"leases/e.json: Input/output error; see to it, then run the same") as told:
        lease.check()
    assert not isinstance(told.value, Superseded)
    assert str(faulty) in str(told.value)
    lease.release()


def test_a_storage_that_does_not_answer_at_all_is_given_up(faulty: Faulty) -> None:
    lease = hold(faulty)
    asked, answered = threading.Event(), threading.Event()

    def hang() -> None:
        asked.set()
        answered.wait(9)

    faulty.before = hang
    lease.announce_stop()  # its thread hangs in the write
    asked.wait(9)
    sleep_on(lease)
    with pytest.raises(Failure, match=r"leases/e.json: no answer; see to it"):
        lease.check()
    answered.set()
    lease.release()


def test_a_lease_that_is_gone_is_not_taken_for_anothers_nor_written_again(faulty: Faulty) -> None:
    lease = hold(faulty)
    faulty.delete(lease_path("e"))
    sleep_on(lease)
    for ask in (lease.check, lambda: check_epoch(faulty, "e", 1, "first")):
        with pytest.raises(Failure, match=r"is gone from .*: removed, moved or unmounted") as told:
            ask()
        assert not isinstance(told.value, Superseded)
    lease.release()
    assert not faulty.exists(lease_path("e"))


def test_a_trial_waits_while_the_lease_cannot_be_read(faulty: Faulty) -> None:
    lease = hold(faulty)
    lease._stop.set()
    failures = iter([OSError(5, "Input/output error"), Failure("x"), FileNotFoundError()])

    def now_and_then() -> None:
        error = next(failures, None)
        if error is not None:
            raise error

    faulty.reading = now_and_then
    check_epoch(faulty, "e", 1, "first")
    faulty.reading = fail
    with pytest.raises(Failure, match="Input/output error"):
        check_epoch(faulty, "e", 1, "first")


def test_giving_a_lease_back_never_raises_so_it_hides_nothing(faulty: Faulty) -> None:
    said: list[str] = []
    lease = Lease(faulty, "e", "first")
    lease.acquire(said.append)
    faulty.before = fail
    lease.release()
    assert "could not be given back" in said[-1]


# --- whose lease it is -----------------------------------------------------------------------------------


def test_a_number_that_is_another_process_by_now_is_not_the_holder(storage: Storage) -> None:
    hold(storage)._stop.set()
    state = held(storage)
    assert state.started > 0 and holder(state) is Process.ALIVE
    assert holder(dataclasses.replace(state, started=0)) is Process.ALIVE  # of an earlier version
    recycled = dataclasses.replace(state, started=state.started - 1)
    assert holder(recycled) is Process.GONE
    assert is_live(recycled, time.time()) is False


def test_another_machine_of_the_same_name_is_not_this_one(storage: Storage) -> None:
    hold(storage)._stop.set()
    state = dataclasses.replace(held(storage), boot_id="another boot", pid=2**22 - 1)
    assert holder(state) is None
    assert is_live(state, time.time()) is True


@pytest.mark.parametrize("pid", [1, 2**22, 2**31 - 1])
def test_a_foreign_process_number_does_no_harm(storage: Storage, pid: int) -> None:
    hold(storage)._stop.set()
    assert holder(dataclasses.replace(held(storage), pid=pid, started=1)) is Process.GONE


def elsewhere(storage: Storage, experiment: str, age: float, writes: int = 1) -> None:
    """A lease of another host, whose clock may be off."""
    state = LeaseState("o", "there", 7, "b", 1, time.time() - age, writes=writes)
    storage.put(lease_path(experiment), state.encode())


@pytest.mark.parametrize("age", [-3 * 3600.0, -60.0, 60.0, 3 * 3600.0])
def test_a_clock_that_is_off_makes_no_driver_and_ends_none(storage: Storage, age: float) -> None:
    clock = iter([0.0, 4.0, 8.0, 23.0, 25.0]).__next__
    watched = Drivers(storage, clock)
    elsewhere(storage, "living", age)
    elsewhere(storage, "dead", age)
    both = Drivers(storage, iter([0.0, 0.0, 6.0, 6.0, 8.0, 8.0]).__next__)

    def renew(seconds: float) -> None:
        elsewhere(storage, "living", age - 5, writes=2)

    assert watched.look("living") is None
    assert both.watch(["living", "dead"], renew) == {"living": True, "dead": False}
    assert [watched.look("living") for _ in range(4)] == [True, True, True, False], "until it has run out"


def test_what_is_fresh_or_of_long_ago_is_not_watched(storage: Storage) -> None:
    for age, known in ((5.0, True), (-15.0, True), (2 * 24 * 3600.0, False)):
        elsewhere(storage, "e", age)
        assert Drivers(storage).look("e") is known


def test_many_abandoned_experiments_are_watched_together(storage: Storage) -> None:
    names = [f"e{i}" for i in range(50)]
    for name in names:
        elsewhere(storage, name, 600.0)
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    watched = Drivers(storage, lambda: now[0])
    assert watched.watch(names, sleep) == dict.fromkeys(names, False)
    assert sum(slept) == WATCH_SECONDS
    assert watched.watch(names, sleep) == dict.fromkeys(names, False)
    assert sum(slept) == WATCH_SECONDS, "what was watched is remembered"


# --- standings ---------------------------------------------------------------------------------------------


def standing(
    storage: Storage,
    trial: PlannedTrial,
    *,
    retry_failed: bool = False,
    recompute: bool = False,
    stop_on: tuple[str, ...] = (),
) -> Standing:
    found = find(storage, EXPERIMENT, [trial], retry_failed=retry_failed, recompute=recompute, stop_on=stop_on)
    return found[0].standing


def test_each_trial_is_found_as_it_was_left(
    storage: Storage, tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig]
) -> None:
    trial = planned(make_config(tiny_gpt_neo, max_length=16), 16)
    longer = dataclasses.replace(trial, max_generations=24, checkpoint_every=4)
    shorter = dataclasses.replace(trial, max_generations=8)
    assert standing(storage, trial) is Standing.NEW
    run_trial(storage, trial, tiny_gpt_neo, stop_after=1)
    assert standing(storage, trial) is Standing.NEW  # nothing was published yet
    run_trial(storage, trial, tiny_gpt_neo, stop_after=3)
    assert standing(storage, trial) is Standing.CONTINUE
    assert standing(storage, shorter) is Standing.FINISHED  # that much is there
    run_trial(storage, trial, tiny_gpt_neo)
    assert standing(storage, trial) is Standing.FINISHED
    assert standing(storage, shorter) is Standing.FINISHED
    assert standing(storage, longer) is Standing.EXTEND
    found = find(storage, EXPERIMENT, [longer], retry_failed=False, recompute=False)[0]
    assert found.trial.checkpoint_every == trial.checkpoint_every, "the first event fixed it"
    CheckpointStore(storage, EXPERIMENT, trial.trial_id).delete(16)
    assert standing(storage, longer) is Standing.NO_CHECKPOINT
    assert standing(storage, longer, recompute=True) is Standing.EXTEND
    log = EventLog(storage, EXPERIMENT, "run", {})
    log.append(trial, schema.FAILED, error="no space left")
    assert standing(storage, trial) is Standing.RETRY
    log.append(trial, schema.FAILED, reason="diverged", error="diverged at generation 16: loss nan")
    assert standing(storage, trial) is Standing.DIVERGED
    assert standing(storage, trial, retry_failed=True) is Standing.RETRY
    log.append(longer, schema.STOPPED, reason="collapse")
    assert standing(storage, longer, stop_on=("collapse",)) is Standing.STOPPED
    assert standing(storage, longer, stop_on=("plateau",)) is Standing.CONTINUE
    assert standing(storage, longer) is Standing.CONTINUE
    log.append(longer, schema.STOPPED, reason="SIGINT")
    assert standing(storage, longer, stop_on=("collapse",)) is Standing.CONTINUE


def test_a_scheduler_that_mutates_trials_is_refused(tmp_path: Path) -> None:
    from rl_alliteration.tune.trainable import TrialTrainable

    trainable = TrialTrainable.__new__(TrialTrainable)
    setup: Any = SimpleNamespace(trial=SimpleNamespace(trial_id="mine"))
    trainable._setup = setup
    (tmp_path / "pointer.json").write_text('{"trial_id": "mine", "generation": 4}')
    trainable.load_checkpoint(str(tmp_path))
    (tmp_path / "pointer.json").write_text('{"trial_id": "another", "generation": 4}')
    with pytest.raises(Failure, match="schedulers that mutate trials"):
        trainable.load_checkpoint(str(tmp_path))
