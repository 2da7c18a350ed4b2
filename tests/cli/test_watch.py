"""`status --watch` and the heartbeat it lives on, without Ray."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import run
from made_up import trial_report
from rich.console import Console
from trials import EXPERIMENT, planned, run_trial

from rl_alliteration.analysis.summary import summarise
from rl_alliteration.cli.watch import LiveTrial, LiveTrials, sparkline, table
from rl_alliteration.config import PlannedTrial, TrialConfig
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.results import reader, schema
from rl_alliteration.results.drivers import Drivers
from rl_alliteration.results.events import EventLog
from rl_alliteration.results.heartbeat import Heartbeat, heartbeat_path, read_heartbeat
from rl_alliteration.results.lease import Lease, LeaseState, lease_path, read_lease
from rl_alliteration.results.storage import Storage
from rl_alliteration.terminal import duration
from rl_alliteration.tune.progress import Progress

REPORT = {
    "published": 8, "kl_penalty": -0.5, "entropy": 2.0, "variety": 0.25, "sample_seconds": 0.1, "train_seconds": 0.2,
    "host": "h", "device": "cpu",
}  # fmt: skip


Swept = tuple[Storage, PlannedTrial, PlannedTrial]
"""A finished and a running trial."""


@pytest.fixture
def swept(tmp_path: Path, tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig]) -> Swept:
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


def test_a_heartbeat_keeps_the_table_fresh_between_parts(swept: Swept, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, finished, running = swept
    before = set(storage.list("generations"))
    lease = Lease(storage, EXPERIMENT, "me")
    lease.acquire(print)
    beat = Heartbeat(storage, EXPERIMENT, "r")
    beat.add(running.trial_id, 32)
    watch = LiveTrials(storage)
    clock = iter([100.0, 102.0])
    monkeypatch.setattr("rl_alliteration.results.heartbeat.time.monotonic", lambda: next(clock, 104.0))
    for generations, reward in ((12, 3.0), (16, 7.0)):
        beat.report(running.trial_id, trial_report(**REPORT, generations=generations, raw_reward=reward))
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


def test_trials_of_two_kl_targets_and_two_rates_have_four_names(
    tmp_path: Path, tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig]
) -> None:
    storage = Storage(tmp_path)
    trials = [
        planned(make_config(tiny_gpt_neo, beta=60, target_kl=target, learning_rate=rate), 32)
        for target, rate in itertools.product((0.1, 0.2), (1e-3, 2e-3))
    ]
    log = EventLog(storage, EXPERIMENT, "r", {})
    progress = Progress(Console(width=400, record=True))
    for trial in trials:
        log.append(trial, schema.PLANNED)
        progress.add(trial, 0)
        progress.report(trial.trial_id, trial_report(**REPORT, generations=8, raw_reward=3.0))
    names = {live.summary.name for live in LiveTrials(storage).look()}
    assert len(names) == 4
    assert all(name in shown(LiveTrials(storage).look()) for name in names)
    assert all(f"{name}: reward 3.0" in progress.line() for name in names)


def test_a_trial_without_its_driver_is_stalled(swept: Swept) -> None:
    storage, _, running = swept
    beat = Heartbeat(storage, EXPERIMENT, "r")
    beat.add(running.trial_id, 32)
    beat.report(running.trial_id, trial_report(**REPORT, generations=12, raw_reward=3.0))
    beat.beat(at_once=True)
    lease = Lease(storage, EXPERIMENT, "me")
    lease.acquire(print)
    lease._stop.set()
    state = read_lease(storage, EXPERIMENT)
    assert state is not None
    watch = LiveTrials(storage)

    def shown_as() -> tuple[str, bool]:
        return {t.summary.trial_id: (t.summary.status, math.isnan(t.speed)) for t in watch.look()}[running.trial_id]

    assert shown_as() == ("running", True)  # its speed is not known yet
    assert {t.summary.status for t in watch.look()} == {"running", "finished"}
    for renewed_at in (0.0, time.time() + 1e6):  # its process tells, not its clock
        storage.put(lease_path(EXPERIMENT), dataclasses.replace(state, renewed_at=renewed_at).encode())
        assert (shown_as()[0], watch.has_driver()) == ("running", True)
    changes: list[dict[str, Any]] = [{"started": 1}, {"released": True}, {"host": "there", "renewed_at": 0.0}]
    for fields in changes:
        storage.put(lease_path(EXPERIMENT), dataclasses.replace(state, **fields).encode())
        assert (shown_as(), watch.has_driver()) == (("stalled", True), False)


def test_a_driver_elsewhere_whose_clock_is_off_is_seen_by_its_renewals(
    swept: Swept, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, _, running = swept
    EventLog(storage, EXPERIMENT, "r", {}).append(running, schema.RUNNING)
    now = [0.0]
    seen = Drivers(storage, lambda: now[0])
    monkeypatch.setitem(reader._DRIVERS, str(storage), seen)
    states = []
    state = LeaseState("o", "there", 7, "b", 1, time.time() + 3600)
    watch = LiveTrials(storage)
    for moment, writes in ((0.0, 1), (3.0, 1), (6.0, 2), (25.0, 2), (27.0, 2)):
        now[0] = moment
        storage.put(lease_path(EXPERIMENT), dataclasses.replace(state, writes=writes).encode())
        states.append({t.summary.trial_id: t.summary.status for t in watch.look()}[running.trial_id])
    assert states == ["running"] * 4 + ["stalled"]


def test_status_watches_leases_only_where_a_trial_would_be_shown_as_another(
    swept: Swept, monkeypatch: pytest.MonkeyPatch, tiny_gpt_neo: LoadedModel
) -> None:
    storage, _, running = swept
    state = LeaseState("o", "there", 7, "b", 1, time.time() - 600)
    storage.put(lease_path(EXPERIMENT), state.encode())
    watched: list[str] = []

    def watch(self: Drivers, names: Iterable[str]) -> dict[str, bool]:
        watched.extend(names)
        return dict.fromkeys(watched, False)

    monkeypatch.setattr(Drivers, "watch", watch)
    assert {s.status for s in summarise(storage)} == {"stalled", "finished"}
    assert watched == [EXPERIMENT]
    run_trial(storage, running, tiny_gpt_neo)
    watched.clear()
    assert {s.status for s in summarise(storage)} == {"finished"}
    assert watched == []


def test_one_damaged_lease_does_not_hide_the_other_experiments(
    swept: Swept, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, *_ = swept
    storage.put(lease_path(EXPERIMENT), b'{"pid": 1' + b"0" * 30 + b"}")
    for flags in ((), ("--watch",)):
        code, out, err = run(capsys, "status", "--storage", str(storage), *flags)
        assert "8/32" in out and "stalled" in out
        assert code == 1 and err.count("\n") == 1
        assert ("1 of 2 trials are left by" if flags else f"leases/{EXPERIMENT}.json is damaged") in err


def test_new_parts_and_events_are_seen(swept: Swept, tiny_gpt_neo: LoadedModel) -> None:
    storage, _, running = swept
    watch = LiveTrials(storage, EXPERIMENT)
    assert [t.generations for t in watch.look()] == [8, 8]
    run_trial(storage, running, tiny_gpt_neo)
    assert [(t.generations, t.summary.status) for t in watch.look()] == [(8, "finished"), (32, "finished")]
    assert {t.generations: t.curve[21] is None for t in watch.look()} == {8: False, 32: False}


def test_of_many_trials_those_that_want_to_be_looked_at_are_shown(
    swept: Swept,
) -> None:
    storage, finished, running = swept
    EventLog(storage, EXPERIMENT, "run", {}).append(running, schema.FAILED, error="x")
    text = shown(LiveTrials(storage).look(), rows=1)
    assert "beta 10" in text and "beta 0 " not in text
    assert "1 more trials are not shown" in text
    assert finished.trial_id


def test_in_a_log_it_ends_with_the_driver(capsys: pytest.CaptureFixture[str], swept: Swept) -> None:
    storage, _, running = swept
    code, out, err = run(capsys, "status", "--watch", "--storage", str(storage))
    line = f"1 of 2 trials are left by a driver that is gone; {running.trial_id}"
    assert (code, err) == (1, f"rl-alliteration: {line}\n")
    assert "rloo beta 0 seed 0" in out and "8/8" in out and "8/32" in out


@pytest.mark.parametrize(
    "status, reason, run_id, code, line",
    [
        (schema.FINISHED, "", "run-2", 0, ""),
        (schema.STOPPED, "collapse", "run-2", 0, ""),
        (schema.STOPPED, "SIGINT", "run-2", 130, ""),
        (schema.STOPPED, "SIGTERM", "run-2", 143, ""),
        (schema.STOPPED, "SIGTERM", "run-0", 0, ""),  # of an earlier run, which this one did not go on with
        (schema.STOPPED, "SIGKILL", "run-2", 0, ""),
        (schema.FAILED, "diverged", "run-2", 1, "1 of 2 trials failed; rloo-beta10-seed0-"),
    ],
)
def test_it_exits_with_the_sweeps_code(
    swept: Swept,
    capsys: pytest.CaptureFixture[str],
    status: str,
    reason: str,
    run_id: str,
    code: int,
    line: str,
) -> None:
    storage, finished, running = swept
    EventLog(storage, EXPERIMENT, "run-1", {}).append(finished, schema.FINISHED, generations=8)
    log = EventLog(storage, EXPERIMENT, run_id, {})
    log.append(running, status, generations=8, reason=reason, error="x" if status == schema.FAILED else "")
    found, _, err = run(capsys, "status", "--watch", "--storage", str(storage), "--experiment", EXPERIMENT)
    assert found == code and line in err and bool(line) == bool(err)


def test_it_waits_for_a_sweep_that_has_not_written_yet(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tiny_gpt_neo: LoadedModel,
    make_config: Callable[..., TrialConfig],
) -> None:
    folder = tmp_path / "later"
    trial = planned(make_config(tiny_gpt_neo), 8)

    def others() -> None:
        run_trial(Storage(folder), trial, tiny_gpt_neo, experiment="other")

    def own() -> None:
        run_trial(Storage(folder), trial, tiny_gpt_neo)

    steps: Iterator[Callable[[], None]] = iter([lambda: None, folder.mkdir, others, own])
    monkeypatch.setattr("rl_alliteration.cli.commands.status.time.sleep", lambda seconds: next(steps)())
    code, out, err = run(capsys, "status", "--watch", "--storage", str(folder), "--experiment", EXPERIMENT)
    assert (code, err) == (0, "") and "8/8" in out
    waiting = [line for line in out.splitlines() if line.startswith("Nothing to watch yet")]
    assert [word in line for line, word in zip(waiting, ("no folder", "holds no results", "is not in"), strict=True)]
    for flags in (("--experiment", "No Name"), ("--storage", "ftp://x/y")):
        assert run(capsys, "status", "--watch", "--storage", str(folder), *flags)[0] == 2


def test_it_goes_on_while_one_drives_and_bears_the_gap_within_a_search(
    swept: Swept, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, _, running = swept
    driven = iter([True, False, False, True, *[False] * 10])
    clock = iter([0.0, 3.0, 6.0, 9.0, *map(float, range(12, 99, 3))])
    monkeypatch.setattr(LiveTrials, "has_driver", lambda self: next(driven))
    monkeypatch.setattr("rl_alliteration.cli.commands.status.time.sleep", lambda seconds: None)
    monkeypatch.setattr("rl_alliteration.cli.commands.status.time.monotonic", lambda: next(clock))
    EventLog(storage, EXPERIMENT, "run", {}).append(running, schema.FINISHED, generations=8)
    assert run(capsys, "status", "--watch", "--storage", str(storage))[0] == 0
    assert len(list(driven)) == 6  # ten seconds and more after the last


BEAT = {
    "generations": 12, "published": 8, "speed": 2.0, "raw_reward": 3.0, "kl_penalty": -0.5, "entropy": 2.0,
    "variety": 0.25, "sample_seconds": 0.1, "train_seconds": 0.2, "host": "h", "device": "cpu", "curve": {"9": 3.0},
}  # fmt: skip


def beaten(**changes: object) -> bytes:
    return json.dumps({"run_id": "r", "written_at": 1.0, "trials": {"t": {**BEAT, **changes}}}).encode()


def test_heartbeats_of_earlier_versions_are_read(tmp_path: Path) -> None:
    Storage(tmp_path).put(heartbeat_path("e"), beaten(speed=None))
    beat = read_heartbeat(Storage(tmp_path), "e")["t"]
    assert (beat.generations, beat.speed, beat.curve) == (12, None, {9: 3.0})


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[]", b'{"trials": 3}', b"\xff", b"[" * 100_000, beaten(curve={"24": 1.0}),
        beaten(curve={"x": 1.0}), beaten(curve={"1": None}), beaten(curve=3), beaten(speed="2"), beaten(speed=math.nan),
        beaten(speed=1e-320),
        beaten(speed=-1.0), beaten(generations=1.5), beaten(generations=-1), beaten(generations=10**30),
        beaten(variety="much"), beaten(raw_reward=[]), beaten(host=None), b'{"trials": {"t": {}}}',
    ],
)  # fmt: skip
def test_a_broken_heartbeat_is_none(tmp_path: Path, data: bytes) -> None:
    Storage(tmp_path).put(heartbeat_path("e"), data)
    assert read_heartbeat(Storage(tmp_path), "e") == {}


def test_a_changed_digit_of_a_heartbeat_is_noticed(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    beat = Heartbeat(storage, "e", "r")
    beat.add("t", 32)
    beat.report("t", trial_report(**REPORT, generations=12, raw_reward=math.nan))
    beat.beat(at_once=True)
    assert read_heartbeat(storage, "e")["t"].raw_reward is None
    storage.put(heartbeat_path("e"), storage.get(heartbeat_path("e")).replace(b"12", b"13"))
    assert read_heartbeat(storage, "e") == {}


def test_summaries_read_the_ends_of_trials_alone(swept: Swept) -> None:
    storage, finished, running = swept
    assert [s.trial_id for s in summarise(storage, only=[(EXPERIMENT, running.trial_id)])] == [running.trial_id]
    both = {s.trial_id: s for s in summarise(storage)}
    rows = [row["raw_reward"] for path in sorted(storage.list("generations")) if finished.trial_id in path
            for row in __import__("pyarrow.parquet").parquet.read_table(storage.root / path).to_pylist()]  # fmt: skip
    assert both[finished.trial_id].raw_reward == sum(rows) / len(rows)


def test_a_sparkline_is_of_one_scale() -> None:
    assert sparkline([0.0, None, 5.0, 10.0], 10.0) == "▁ ▅█"
    assert sparkline([-1.0, 0.0], 0.0) == "▁▁"
    assert sparkline([math.nan, -1e308, math.inf], 1e-300) == "▁▁█"
    assert [duration(s) for s in (8, 75, 7260)] == ["8 s", "1 min 15 s", "2 h 1 min"]
