"""One driver an experiment, and what a sweep finds of its trials."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from trials import EXPERIMENT, planned, run_trial

from rl_alliteration.checkpoints import CheckpointStore
from rl_alliteration.errors import Failure
from rl_alliteration.results import lease as lease_module
from rl_alliteration.results import schema
from rl_alliteration.results.lease import Lease, Superseded, check_epoch, is_live, lease_path, read_lease
from rl_alliteration.results.storage import Storage
from rl_alliteration.results.writer import EventLog
from rl_alliteration.tune.resume import Standing, find


@pytest.fixture
def storage(tmp_path) -> Storage:
    return Storage(tmp_path)


def hold(storage: Storage, owner: str = "first") -> Lease:
    lease = Lease(storage, "e", owner)
    lease.acquire(print)
    return lease


def change(storage: Storage, **fields: object) -> None:
    state = read_lease(storage, "e")
    assert state is not None
    storage.put(lease_path("e"), dataclasses.replace(state, **fields).encode())


def test_a_released_lease_is_taken_at_once_with_the_next_epoch(storage):
    first = hold(storage)
    assert is_live(read_lease(storage, "e"), time.time())
    first.release()
    assert not is_live(read_lease(storage, "e"), time.time())
    second = hold(storage, "second")
    assert second.epoch == first.epoch + 1
    second.release()


def test_a_dead_holder_on_this_host_is_followed_at_once(storage):
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
def test_a_holder_that_may_live_is_watched_for_twenty_seconds(storage, elsewhere):
    hold(storage)._stop.set()
    if elsewhere.get("boot_id", "") is None:  # another container on this host: its process numbers are not ours
        boot = lease_module._boot_id().split("pid:")[0]
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


def test_a_holder_that_renews_keeps_it(storage):
    first = hold(storage)

    def renew(seconds: float) -> None:
        change(storage, renewed_at=time.time() + 1)

    second = Lease(storage, "e", "second")
    with pytest.raises(Failure, match=f"driven by process {os.getpid()}"):
        second.acquire(print, sleep=renew)
    first._stop.set()


def test_whoever_was_superseded_may_publish_nothing(storage):
    first = hold(storage)
    first._stop.set()
    check_epoch(storage, "e", first.epoch)
    change(storage, epoch=first.epoch + 1)
    with pytest.raises(Superseded):
        check_epoch(storage, "e", first.epoch)
    first._renewed -= 100  # as after a long sleep
    with pytest.raises(Superseded):
        first.check()
    before = storage.get(lease_path("e"))
    first.release()
    assert storage.get(lease_path("e")) == before


def test_a_lease_that_is_none_is_told(storage):
    storage.put(lease_path("e"), json.dumps({"owner": 1}).encode())
    with pytest.raises(Failure, match="is no lease"):
        hold(storage)


# --- standings ---------------------------------------------------------------------------------------------


def standing(
    storage: Storage, trial, *, retry_failed: bool = False, recompute: bool = False, stop_on: tuple[str, ...] = ()
) -> Standing:
    found = find(storage, EXPERIMENT, [trial], retry_failed=retry_failed, recompute=recompute, stop_on=stop_on)
    return found[0].standing


def test_each_trial_is_found_as_it_was_left(storage, tiny_gpt_neo, make_config):
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


def test_a_scheduler_that_mutates_trials_is_refused(tmp_path: Path):
    from rl_alliteration.tune.trainable import TrialTrainable

    trainable = TrialTrainable.__new__(TrialTrainable)
    trainable._setup = SimpleNamespace(trial=SimpleNamespace(trial_id="mine"))
    (tmp_path / "pointer.json").write_text('{"trial_id": "mine", "generation": 4}')
    trainable.load_checkpoint(str(tmp_path))
    (tmp_path / "pointer.json").write_text('{"trial_id": "another", "generation": 4}')
    with pytest.raises(Failure, match="schedulers that mutate trials"):
        trainable.load_checkpoint(str(tmp_path))
