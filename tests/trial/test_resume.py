"""Nothing lost, nothing twice: whatever stops a trial, going on gives the rows of one that never stopped."""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import errno
import os
import random
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faults
import pytest
from curves import curves
from trials import EXPERIMENT, open_run, planned, rows, run_trial

import rl_alliteration.results.storage as storage_module
from rl_alliteration.config import PlannedTrial, TrialConfig
from rl_alliteration.errors import Failure
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.results import schema
from rl_alliteration.results.parts import part_paths
from rl_alliteration.results.storage import Storage
from rl_alliteration.results.verify import verify_trial
from rl_alliteration.rl.trainer import Step, Trainer
from rl_alliteration.trial.checkpoints import CheckpointStore
from rl_alliteration.trial.run import TrialRun

LENGTH = 20


Kept = tuple[Storage, PlannedTrial]


@pytest.fixture(scope="module", params=["rloo", "reinforce_baseline"])
def undisturbed(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    tiny_gpt_neo: LoadedModel,
    make_config: Callable[..., TrialConfig],
) -> Kept:
    """A trial that was never stopped, and its storage."""
    storage = Storage(tmp_path_factory.mktemp("undisturbed"))
    size = 4 if request.param == "rloo" else 1
    config = make_config(tiny_gpt_neo, algorithm=request.param, group_size=size, max_length=16, learning_rate=0.01)
    trial = planned(config, LENGTH)
    run_trial(storage, trial, tiny_gpt_neo, keep=None)
    return storage, trial


def assert_same(storage: Storage, undisturbed: Kept) -> None:
    reference, trial = undisturbed
    for dataset in ("generations", "steps"):
        assert rows(storage, trial, dataset) == rows(reference, trial, dataset)
    verdict = verify_trial(storage, EXPERIMENT, trial.trial_id)
    assert (verdict.problem, verdict.generations) == (None, trial.max_generations)
    assert curves(storage, trial) == curves(reference, trial)


@pytest.mark.parametrize("stop_after", [0, 1, 2, 3, 4])
def test_a_trial_that_was_killed_goes_on_as_if_it_had_not_been(
    undisturbed: Kept, tmp_path: Path, tiny_gpt_neo: LoadedModel, stop_after: int
) -> None:
    _, trial = undisturbed
    storage = Storage(tmp_path)
    steps = stop_after * 4 // trial.config.group_size
    run_trial(storage, trial, tiny_gpt_neo, stop_after=steps, run_id="first")
    run_trial(storage, trial, tiny_gpt_neo, run_id="second")
    assert_same(storage, undisturbed)


def test_extending_gives_the_rows_of_one_long_run(undisturbed: Kept, tmp_path: Path, tiny_gpt_neo: LoadedModel) -> None:
    _, trial = undisturbed
    storage = Storage(tmp_path)
    run_trial(storage, dataclasses.replace(trial, max_generations=12), tiny_gpt_neo)
    run_trial(storage, trial, tiny_gpt_neo)
    assert_same(storage, undisturbed)


def copy_without_later_checkpoints(source: Storage, target: Path, trial_id: str, *, newest: int) -> Storage:
    """The source's rows, and its checkpoints up to generation `newest`."""
    shutil.copytree(source.root, target)
    storage = Storage(target)
    store = CheckpointStore(storage, EXPERIMENT, trial_id)
    for generation in store.generations():
        if generation > newest:
            store.delete(generation)
    return storage


def test_parts_beyond_the_newest_checkpoint_stay(undisturbed: Kept, tmp_path: Path, tiny_gpt_neo: LoadedModel) -> None:
    reference, trial = undisturbed
    storage = copy_without_later_checkpoints(reference, tmp_path / "copy", trial.trial_id, newest=8)
    path = storage.root / schema.part_path("generations", EXPERIMENT, trial.trial_id, 8)
    before = path.stat().st_mtime_ns
    run = run_trial(storage, trial, tiny_gpt_neo, run_id="second")
    assert run.resumed_at == 8
    assert path.stat().st_mtime_ns == before
    assert_same(storage, undisturbed)


def test_a_pruned_store_can_be_extended(undisturbed: Kept, tmp_path: Path, tiny_gpt_neo: LoadedModel) -> None:
    _, trial = undisturbed
    storage = Storage(tmp_path)
    run_trial(storage, dataclasses.replace(trial, max_generations=12), tiny_gpt_neo, keep=1)
    assert CheckpointStore(storage, EXPERIMENT, trial.trial_id).generations() == [12]
    run_trial(storage, trial, tiny_gpt_neo, keep=1)
    assert CheckpointStore(storage, EXPERIMENT, trial.trial_id).generations() == [12, 20]
    assert_same(storage, undisturbed)


@pytest.mark.parametrize("damage", ["truncate", "flip", "no state", "bad json"])
def test_a_torn_checkpoint_is_noticed_and_the_one_before_used(
    undisturbed: Kept,
    tmp_path: Path,
    tiny_gpt_neo: LoadedModel,
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    _, trial = undisturbed
    storage = Storage(tmp_path)
    run_trial(storage, trial, tiny_gpt_neo, stop_after=16 // trial.config.group_size)
    folder = storage.root / f"checkpoints/{EXPERIMENT}/{trial.trial_id}/generation-00000016"
    weights = folder / "weights.safetensors"
    if damage == "truncate":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "flip":
        weights.write_bytes(weights.read_bytes()[:-1] + bytes([weights.read_bytes()[-1] ^ 1]))
    elif damage == "no state":
        (folder / "state.json").unlink()
    else:
        (folder / "state.json").write_text("{")
    run = run_trial(storage, trial, tiny_gpt_neo)
    assert run.resumed_at == 8
    assert ("torn" in caplog.text) == (damage != "no state")
    assert_same(storage, undisturbed)


def test_rows_that_come_out_differently_replace_all_later_ones(
    undisturbed: Kept, tmp_path: Path, tiny_gpt_neo: LoadedModel
) -> None:
    """As on other hardware: the stored rows from generation 9 on are not what this machine computes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from rl_alliteration.results.parts import read_part

    reference, trial = undisturbed
    storage = copy_without_later_checkpoints(reference, tmp_path / "copy", trial.trial_id, newest=8)
    path = schema.part_path("generations", EXPERIMENT, trial.trial_id, 8)
    stored = read_part(storage, path)
    stored[1]["lm_cross_entropy"] += 1e-6
    pq.write_table(pa.Table.from_pylist(stored, schema=schema.arrow("generations")), storage.folder(path))

    removed = []
    original_delete = Storage.delete

    def delete(self: Storage, path: str) -> None:
        removed.append(path)
        original_delete(self, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Storage, "delete", delete)
        run = run_trial(storage, trial, tiny_gpt_neo, run_id="second")
    assert run.diverged_at == 9
    texts = [schema.part_number(path) for path in removed if path.startswith("generations/")]
    assert texts == sorted(texts, reverse=True) == [16, 8]
    assert_same(storage, undisturbed)


def test_a_superseded_run_leaves_no_trace(undisturbed: Kept, tmp_path: Path, tiny_gpt_neo: LoadedModel) -> None:
    from rl_alliteration.results.lease import Superseded
    from rl_alliteration.rl.rewards import get_reward
    from rl_alliteration.trial.run import TrialRun

    _, trial = undisturbed
    storage = Storage(tmp_path)
    run_trial(storage, trial, tiny_gpt_neo, keep=None)
    before = {path: storage.get(path) for path in storage.list("")}

    def superseded() -> None:
        raise Superseded("another driver has taken over")

    trainer = Trainer(trial.config, tiny_gpt_neo, get_reward("alliteration"), None)
    with pytest.raises(Superseded):
        TrialRun(trainer, trial, storage, EXPERIMENT, "late", keep_checkpoints=2, may_publish=superseded)
    assert {path: storage.get(path) for path in storage.list("")} == before


def test_resuming_needs_no_pickle(
    undisturbed: Kept,
    tmp_path: Path,
    tiny_gpt_neo: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import pickle

    _, trial = undisturbed
    storage = Storage(tmp_path)
    run_trial(storage, trial, tiny_gpt_neo, stop_after=12 // trial.config.group_size)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("unpickled")

    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "Unpickler", refuse)
    assert open_run(storage, trial, tiny_gpt_neo).resumed_at == 8


# --- bounded by time, and ended from another thread --------------------------------------------------------


class Clock:
    """Stands in for `time` of a trial: a step takes so many seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, step: float) -> None:
        self.now = 0.0
        self._step = Trainer.step
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

        def slow(trainer: Trainer) -> Step:
            self.now += step
            return self._step(trainer)

        monkeypatch.setattr(Trainer, "step", slow)


def part_edges(storage: Storage, trial: PlannedTrial) -> list[int]:
    return [schema.part_number(path) for path in part_paths(storage, "generations", EXPERIMENT, trial.trial_id)]


@pytest.mark.parametrize("stop_after", [0, 1, 3, 4])
def test_parts_end_when_they_are_due_and_no_row_is_another(
    undisturbed: Kept,
    tmp_path: Path,
    tiny_gpt_neo: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
    stop_after: int,
) -> None:
    # A part is due after two steps of a minute; the interval is the whole trial, so no other would end before.
    _, trial = undisturbed
    slow = dataclasses.replace(trial, checkpoint_every=LENGTH)
    size = trial.config.group_size
    storage = Storage(tmp_path)
    with monkeypatch.context() as patch:
        Clock(patch, step=60)
        for steps in (stop_after, LENGTH):
            run = open_run(storage, slow, tiny_gpt_neo, publish_every=100)
            while not run.done and run.generations < steps * size:
                run.step()
            run.close()
            if not run.done:  # all but what came after the last part that was due
                assert max(run.writer.boundaries()) == steps // 2 * 2 * size
    edges = part_edges(storage, trial)
    assert edges == list(range(0, LENGTH, 2 * size))
    reference, _ = undisturbed
    for dataset in ("generations", "steps"):
        assert rows(storage, trial, dataset) == rows(reference, trial, dataset)
    # With the interval of others, and nothing due: the edges that are there hold.
    store = CheckpointStore(storage, EXPERIMENT, trial.trial_id)
    for generation in store.generations()[1:]:
        store.delete(generation)
    run = run_trial(storage, trial, tiny_gpt_neo, run_id="third")
    assert run.diverged_at is None
    assert part_edges(storage, trial) == edges
    assert_same(storage, undisturbed)


def test_within_a_part_that_is_there_nothing_is_published_and_nothing_removed(
    undisturbed: Kept, tmp_path: Path, tiny_gpt_neo: LoadedModel
) -> None:
    reference, trial = undisturbed
    storage = copy_without_later_checkpoints(reference, tmp_path / "copy", trial.trial_id, newest=0)
    before = {path: storage.get(path) for path in storage.list("generations")}
    size = trial.config.group_size
    for end in (lambda run: run.finish_now(), lambda run: run.publish(end=True), lambda run: None):
        run = open_run(storage, trial, tiny_gpt_neo, publish_every=1e-9)
        while run.generations < 4 // size * size:
            run.step()
        end(run)
        run.close()
        assert (run.diverged_at, run.published_generations) == (None, 0)
        assert {path: storage.get(path) for path in storage.list("generations")} == before
    run_trial(storage, trial, tiny_gpt_neo)
    assert_same(storage, undisturbed)


def test_a_run_that_is_ended_in_the_middle_of_a_step_keeps_all_finished_ones(
    undisturbed: Kept, tmp_path: Path, tiny_gpt_neo: LoadedModel
) -> None:
    _, trial = undisturbed
    size = trial.config.group_size
    storage = Storage(tmp_path)
    run = open_run(storage, trial, tiny_gpt_neo)
    for _ in range(3):
        run.step()
    entered, go_on = threading.Event(), threading.Event()
    score = run.trainer.reward

    def slow(text: str) -> float:
        entered.set()
        assert go_on.wait(60)
        return score(text)

    run.trainer.reward = dataclasses.replace(score, function=slow)
    with ThreadPoolExecutor(1) as pool:
        step = pool.submit(run.step)
        assert entered.wait(60)
        run.finish_now()
        assert run.over and run.published_generations == 3 * size
        assert len(rows(storage, trial)) == 3 * size
        go_on.set()
        assert step.result() is None
    run.publish(end=True)  # as Tune asks for it afterwards
    run.close()
    run.finish_now()  # too late: it does nothing
    assert (run.generations, len(rows(storage, trial))) == (3 * size, 3 * size)
    assert CheckpointStore(storage, EXPERIMENT, trial.trial_id).generations()[-1] == 3 * size
    assert run_trial(storage, trial, tiny_gpt_neo).resumed_at == 3 * size
    assert_same(storage, undisturbed)


@pytest.mark.chaos
def test_a_run_may_be_ended_at_any_moment(undisturbed: Kept, tmp_path: Path, tiny_gpt_neo: LoadedModel) -> None:
    _, trial = undisturbed
    draw = random.Random(0)
    for number in range(12):
        storage = Storage(tmp_path / str(number))
        run = open_run(storage, trial, tiny_gpt_neo)

        def all_of_it(run: TrialRun = run) -> None:
            while not run.done and run.step() is not None:
                pass

        with ThreadPoolExecutor(1) as pool:
            steps = pool.submit(all_of_it)
            time.sleep(draw.uniform(0, 0.2))
            run.finish_now()
            steps.result()
        run.close()
        reference, _ = undisturbed
        assert rows(storage, trial) == rows(reference, trial)[: run.published_generations]
        run_trial(storage, trial, tiny_gpt_neo)
        assert_same(storage, undisturbed)


def test_a_run_whose_end_the_storage_refuses_ends_at_the_next_try(
    undisturbed: Kept,
    tmp_path: Path,
    tiny_gpt_neo: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reference, trial = undisturbed
    storage = Storage(tmp_path)
    run = open_run(storage, trial, tiny_gpt_neo)
    run.step()
    kept = run.generations
    put = Storage.put

    def refuse(self: Storage, path: str, data: bytes) -> None:
        raise Failure("no space left")

    monkeypatch.setattr(Storage, "put", refuse)
    with pytest.raises(Failure, match="no space left"):
        run.finish_now()
    assert run.step() is None, "the trainer is beyond what is to be published now"
    monkeypatch.setattr(Storage, "put", put)
    run.finish_now()
    run.close()
    assert rows(storage, trial) == rows(reference, trial)[:kept]
    run_trial(storage, trial, tiny_gpt_neo)
    assert_same(storage, undisturbed)


# --- faults at every file operation ------------------------------------------------------------------------


class Killed(BaseException):
    """The process is gone: nothing it would do afterwards happens."""


class FaultyFiles:
    """Stands in for `os` and `open` of the storage: the n-th operation fails, or the process dies there."""

    def __init__(self, at: int, *, dies: bool) -> None:
        self.count, self.at, self.dies = 0, at, dies

    def _operation(self) -> None:
        self.count += 1
        if self.dies and self.count >= self.at:
            raise Killed
        if self.count == self.at:
            raise OSError(errno.ENOSPC, "No space left on device")

    def __getattr__(self, name: str) -> Any:
        value = getattr(os, name)
        if name not in ("replace", "fsync", "open"):
            return value

        def counted(*args: Any) -> Any:
            self._operation()
            return value(*args)

        return counted

    def open_file(self, path: Any, mode: str = "r") -> Any:
        self._operation()
        file = builtins.open(path, mode)  # noqa: SIM115  the caller closes it
        if "w" not in mode:
            return file
        write = file.write

        def torn(data: bytes) -> int:
            self.count += 1
            if self.count >= self.at and (self.dies or self.count == self.at):
                write(data[: len(data) // 2])
                file.flush()
                if self.dies:
                    raise Killed
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(data)

        return _TornFile(file, torn)


class _TornFile:
    def __init__(self, file: Any, write: Any) -> None:
        self._file, self.write = file, write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _TornFile:
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.close()


def _with_faults(work: Callable[..., object], at: int, *, dies: bool) -> FaultyFiles:
    files = FaultyFiles(at, dies=dies)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage_module, "os", files)
        patch.setattr(storage_module, "open", files.open_file, raising=False)
        with contextlib.suppress(Killed, Failure):
            work()
    return files


@pytest.mark.chaos
@pytest.mark.parametrize("dies", [True, False], ids=["dies", "fails"])
def test_a_fault_at_any_file_operation_loses_nothing(
    tmp_path: Path, tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig], dies: bool
) -> None:
    # A whole part and the short one of a run's end, each with its checkpoint: every kind of file that a trial writes.
    trial = planned(make_config(tiny_gpt_neo, learning_rate=0.01, max_length=12), 12, every=8)
    undisturbed = Storage(tmp_path / "undisturbed"), trial
    total = _with_faults(lambda: run_trial(undisturbed[0], trial, tiny_gpt_neo), 10**9, dies=False).count
    assert total > 40
    for at in range(1, total + 1):
        storage = Storage(tmp_path / str(at))
        _with_faults(lambda storage=storage: run_trial(storage, trial, tiny_gpt_neo, run_id="first"), at, dies=dies)
        stored = rows(storage, trial)
        assert stored == rows(undisturbed[0], trial)[: len(stored)], "a reader sees a prefix at any moment"
        run_trial(storage, trial, tiny_gpt_neo, run_id="second")
        assert_same(storage, undisturbed)
        shutil.rmtree(storage.root)


def test_a_full_disk_is_told_in_one_line(tmp_path: Path) -> None:
    files = FaultyFiles(1, dies=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage_module, "open", files.open_file, raising=False)
        with pytest.raises(Failure, match=r"no space left for .*same command"):
            Storage(tmp_path).put("generations/x", b"1")
    assert not list(Path(tmp_path).rglob("part-*"))


def test_a_part_that_was_refused_is_written_when_the_run_ends(
    undisturbed: Kept,
    tmp_path: Path,
    tiny_gpt_neo: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reference, trial = undisturbed
    storage = Storage(tmp_path)
    run_trial(storage, trial, tiny_gpt_neo, stop_after=0)
    put = Storage.put
    refusals: list[str] = []

    def refuse_once(self: Storage, path: str, data: bytes) -> None:
        if path.startswith("generations/") and not refusals:
            refusals.append(path)
            raise Failure("no space left")
        put(self, path, data)

    monkeypatch.setattr(Storage, "put", refuse_once)
    run = open_run(storage, trial, tiny_gpt_neo)

    def on_and_on() -> None:
        while True:
            run.step()

    with pytest.raises(Failure, match="no space left"):
        on_and_on()
    sampled = run.trainer.generation
    assert run.published_generations == 0 and sampled >= 8
    run.publish(end=True)
    assert run.published_generations == sampled
    run.close()
    assert rows(storage, trial) == rows(reference, trial)[:sampled]
    run_trial(storage, trial, tiny_gpt_neo, run_id="second")
    assert_same(storage, undisturbed)


def test_a_run_that_takes_no_step_leaves_the_curves_alone(
    undisturbed: Kept, tmp_path: Path, tiny_gpt_neo: LoadedModel
) -> None:
    """Tune may start an actor for a trial that it then gives to another: it sees the storage before the first part."""
    _, trial = undisturbed
    storage = Storage(tmp_path)
    run_trial(
        storage, trial, tiny_gpt_neo, on_step=lambda run: open_run(storage, trial, tiny_gpt_neo, "unused").close()
    )
    assert_same(storage, undisturbed)


@pytest.mark.parametrize("kind", [faults.OPEN, faults.WRITE, faults.MAKE])
def test_curves_that_could_not_be_written_are_written_all_the_same(
    undisturbed: Kept, tmp_path: Path, tiny_gpt_neo: LoadedModel, kind: str
) -> None:
    """Nor does that keep a text from its part: only publishing says it, and is tried again."""
    reference, trial = undisturbed
    storage = Storage(tmp_path / "results")
    failing = faults.Faults(storage.root / "tensorboard", tmp_path / "faults", "seed", limit=1, rate=1000.0)
    failing.kinds = {kind}
    with failing.active(), contextlib.suppress(Failure):
        run_trial(storage, trial, tiny_gpt_neo)
    assert len(failing.spent()) == 1
    run_trial(storage, trial, tiny_gpt_neo)
    assert rows(storage, trial) == rows(reference, trial)
    assert curves(storage, trial) == curves(reference, trial)
