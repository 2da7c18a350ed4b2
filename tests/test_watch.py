"""`status --watch` and the heartbeat it lives on, without Ray."""

from __future__ import annotations

import json
import math

import pytest
from rich.console import Console
from test_cli import run
from trials import EXPERIMENT, planned, run_trial

from rl_alliteration.analysis.summary import summarise
from rl_alliteration.results import schema
from rl_alliteration.results.heartbeat import Heartbeat, heartbeat_path, read_heartbeat
from rl_alliteration.results.lease import Lease, lease_path
from rl_alliteration.results.storage import Storage
from rl_alliteration.results.writer import EventLog
from rl_alliteration.watch import LiveTrial, Watch, duration, sparkline, table

REPORT = {
    "published": 8, "kl_penalty": -0.5, "entropy": 2.0, "variety": 0.25, "sample_seconds": 0.1, "train_seconds": 0.2,
    "host": "h", "device": "cpu",
}  # fmt: skip


@pytest.fixture
def swept(tmp_path, tiny_gpt_neo, make_config):
    storage = Storage(tmp_path)
    finished = planned(make_config(tiny_gpt_neo, beta=0), 8)
    running = planned(make_config(tiny_gpt_neo, beta=10), 32)
    run_trial(storage, finished, tiny_gpt_neo)
    run_trial(storage, running, tiny_gpt_neo, stop_after=2)
    return storage, finished, running


def shown(trials: list[LiveTrial], rows: int | None = None) -> str:
    console = Console(width=160, record=True)
    console.print(table(trials, rows))
    return console.export_text()


def test_a_heartbeat_keeps_the_table_fresh_between_parts(swept, monkeypatch):
    storage, finished, running = swept
    before = set(storage.list("generations"))
    lease = Lease(storage, EXPERIMENT, "me")
    lease.acquire(print)
    beat = Heartbeat(storage, EXPERIMENT, "r")
    beat.add(running.trial_id, 32)
    watch = Watch(storage)
    clock = iter([100.0, 102.0])
    monkeypatch.setattr("rl_alliteration.results.heartbeat.time.monotonic", lambda: next(clock, 104.0))
    for generations, reward in ((12, 3.0), (16, 7.0)):
        beat.report(running.trial_id, {**REPORT, "generations": generations, "raw_reward": reward})
    beat.beat(at_once=True)
    trials = {t.summary.trial_id: t for t in watch.look()}
    live = trials[running.trial_id]
    assert (live.summary.status, live.generations, live.raw_reward, live.variety) == ("running", 16, 7.0, 0.25)
    assert (live.speed, live.seconds_left) == (2.0, 8.0)
    assert live.curve[8:12] == (3.0, None, None, 7.0)
    assert live.curve[0] is not None  # of the parts
    assert trials[finished.trial_id].summary.status == "finished"
    assert (trials[finished.trial_id].generations, math.isnan(trials[finished.trial_id].speed)) == (8, True)
    text = shown(list(trials.values()))
    assert "1 running, 1 finished · 2.0 texts/s" in text
    assert "16/32" in text and "8 s" in text
    lease.release()
    after = {t.summary.trial_id: t for t in watch.look()}[running.trial_id]
    assert after.summary.generations == 8
    assert set(storage.list("generations")) == before
    assert storage.list("heartbeats") == [heartbeat_path(EXPERIMENT)]


def test_a_trial_without_its_driver_is_stalled(swept):
    storage, _, running = swept
    beat = Heartbeat(storage, EXPERIMENT, "r")
    beat.add(running.trial_id, 32)
    beat.report(running.trial_id, {**REPORT, "generations": 12, "raw_reward": 3.0})
    beat.beat(at_once=True)
    lease = Lease(storage, EXPERIMENT, "me")
    lease.acquire(print)
    lease._stop.set()
    state = json.loads(storage.get(lease_path(EXPERIMENT)))
    watch = Watch(storage)
    assert {t.summary.status for t in watch.look()} == {"running", "finished"}
    storage.put(lease_path(EXPERIMENT), json.dumps({**state, "renewed_at": 0}).encode())
    states = {t.summary.trial_id: (t.summary.status, math.isnan(t.speed)) for t in Watch(storage).look()}
    assert states[running.trial_id] == ("stalled", True)


def test_new_parts_and_events_are_seen(swept, tiny_gpt_neo):
    storage, _, running = swept
    watch = Watch(storage, EXPERIMENT)
    assert [t.generations for t in watch.look()] == [8, 8]
    run_trial(storage, running, tiny_gpt_neo)
    assert [(t.generations, t.summary.status) for t in watch.look()] == [(8, "finished"), (32, "finished")]
    assert {t.generations: t.curve[21] is None for t in watch.look()} == {8: False, 32: False}


def test_of_many_trials_those_that_want_to_be_looked_at_are_shown(swept):
    storage, finished, running = swept
    EventLog(storage, EXPERIMENT, "run", {}).append(running, schema.FAILED, error="x")
    text = shown(Watch(storage).look(), rows=1)
    assert "beta 10" in text and "beta 0 " not in text
    assert "1 more trials are not shown" in text
    assert finished.trial_id


def test_in_a_log_it_ends_with_the_driver(capsys, swept):
    code, out, err = run(capsys, "status", "--watch", "--storage", str(swept[0]))
    assert (code, err) == (0, "")
    assert "rloo beta 0 seed 0" in out and "8/8" in out and "8/32" in out


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"trials": 3}'])
def test_a_broken_heartbeat_is_none(tmp_path, data):
    Storage(tmp_path).put(heartbeat_path("e"), data)
    assert read_heartbeat(Storage(tmp_path), "e")["trials"] == {}


def test_summaries_read_the_ends_of_trials_alone(swept):
    storage, finished, running = swept
    assert [s.trial_id for s in summarise(storage, only=[(EXPERIMENT, running.trial_id)])] == [running.trial_id]
    both = {s.trial_id: s for s in summarise(storage)}
    rows = [row["raw_reward"] for path in sorted(storage.list("generations")) if finished.trial_id in path
            for row in __import__("pyarrow.parquet").parquet.read_table(storage.root / path).to_pylist()]  # fmt: skip
    assert both[finished.trial_id].raw_reward == sum(rows) / len(rows)


def test_a_sparkline_is_of_one_scale():
    assert sparkline([0.0, None, 5.0, 10.0], 10.0) == "▁ ▅█"
    assert sparkline([-1.0, 0.0], 0.0) == "▁▁"
    assert [duration(s) for s in (8, 75, 7260)] == ["8 s", "1 min 15 s", "2 h 1 min"]
