"""Whatever is missing or damaged is noticed, told, and put right where it can be; nothing outside is touched."""

from __future__ import annotations

import builtins
import dataclasses
import errno
import io
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faults
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from again import look, same_command
from trials import EXPERIMENT, open_run, planned, rows, run_trial

from rl_alliteration.config import PlannedTrial, TrialConfig
from rl_alliteration.errors import Failure, UserError
from rl_alliteration.foreign import Damaged, Newer, encode_record
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.results import reader, schema
from rl_alliteration.results.events import EventLog
from rl_alliteration.results.integrity import checkpoint_folder, checkpoint_problem, read_events
from rl_alliteration.results.maintenance import compact, removal
from rl_alliteration.results.parts import encode_part, read_part, stored_generations
from rl_alliteration.results.storage import Storage, Unavailable
from rl_alliteration.results.verify import verify_trial
from rl_alliteration.trial.checkpoints import CheckpointStore
from rl_alliteration.trial.replay import open_trial, replay
from rl_alliteration.tune.resume import Found, Standing

LENGTH, EVERY = 24, 8


@pytest.fixture(scope="module")
def written(
    tmp_path_factory: pytest.TempPathFactory, tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig]
) -> tuple[Storage, PlannedTrial]:
    """A finished trial whose KL coefficient is controlled, with all of its checkpoints."""
    storage = Storage(tmp_path_factory.mktemp("written"))
    config = make_config(tiny_gpt_neo, max_length=12, learning_rate=0.01, target_kl=0.1)
    trial = planned(config, LENGTH, EVERY)
    run_trial(storage, trial, tiny_gpt_neo, keep=None)
    return storage, trial


@pytest.fixture
def copy(written: tuple[Storage, PlannedTrial], tmp_path: Path) -> tuple[Storage, PlannedTrial]:
    storage, trial = written
    shutil.copytree(storage.root, tmp_path / "copy")
    return Storage(tmp_path / "copy"), trial


def problem(storage: Storage, trial: PlannedTrial) -> str | None:
    return verify_trial(storage, EXPERIMENT, trial.trial_id).problem


def flip(storage: Storage, path: str, place: float = 0.5) -> None:
    file = storage.root / path
    data = bytearray(file.read_bytes())
    data[int(len(data) * place)] ^= 1
    file.write_bytes(data)


def part(dataset: str, number: int) -> Callable[[str], str]:
    return lambda trial_id: schema.part_path(dataset, EXPERIMENT, trial_id, number)


FILES: dict[str, Callable[[str], str]] = {
    "first texts": part("generations", 0),
    "middle texts": part("generations", 8),
    "last texts": part("generations", 16),
    "first updates": part("steps", 0),
    "last updates": part("steps", 16),
    "first manifest": lambda trial_id: schema.manifest_path(EXPERIMENT, trial_id, 0),
    "last manifest": lambda trial_id: schema.manifest_path(EXPERIMENT, trial_id, 16),
    "first event": part("trials", 0),
    "last event": part("trials", 1),
    "first event's checksum": lambda trial_id: schema.event_manifest_path(EXPERIMENT, trial_id, 0),
    "last event's checksum": lambda trial_id: schema.event_manifest_path(EXPERIMENT, trial_id, 1),
    "old checkpoint's state": lambda trial_id: f"{checkpoint_folder(EXPERIMENT, trial_id, 8)}/state.json",
    "old checkpoint's weights": lambda trial_id: f"{checkpoint_folder(EXPERIMENT, trial_id, 8)}/weights.safetensors",
    "last checkpoint's state": lambda trial_id: f"{checkpoint_folder(EXPERIMENT, trial_id, 24)}/state.json",
    "last checkpoint's weights": lambda trial_id: f"{checkpoint_folder(EXPERIMENT, trial_id, 24)}/weights.safetensors",
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["deleted", "flipped", "truncated"])
def test_what_is_damaged_is_noticed_and_the_same_command_restores_it(
    written: tuple[Storage, PlannedTrial],
    copy: tuple[Storage, PlannedTrial],
    tiny_gpt_neo: LoadedModel,
    name: str,
    how: str,
) -> None:
    storage, trial = copy
    path = FILES[name](trial.trial_id)
    if how == "deleted":
        storage.delete(path)
    elif how == "flipped":
        flip(storage, path)
    else:
        (storage.root / path).write_bytes((storage.root / path).read_bytes()[:-9])
    verdict = verify_trial(storage, EXPERIMENT, trial.trial_id)
    # A checkpoint may be pruned, and a kill may come before the last checksum: neither is wrong, the second is noted.
    optional = how == "deleted" and ("state" in name or "last manifest" in name or "last event" in name)
    assert verdict.problem is not None or optional or ("old checkpoint" in name and verdict.notes)
    same_command(storage, trial, tiny_gpt_neo)
    verdict = verify_trial(storage, EXPERIMENT, trial.trial_id)
    assert verdict.problem is None
    assert all("stand-in" in note or "a newer one is there" in note for note in verdict.notes)
    for dataset in ("generations", "steps"):
        assert rows(storage, trial, dataset) == rows(written[0], trial, dataset)
    assert look(storage, trial).standing is Standing.FINISHED


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_byte_is_noticed_or_changes_nothing(copy: tuple[Storage, PlannedTrial], name: str) -> None:
    storage, trial = copy
    path = FILES[name](trial.trial_id)
    whole = (storage.root / path).read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 40)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        (storage.root / path).write_bytes(damaged)
        if path.endswith(".json"):
            try:
                if json.loads(damaged) == json.loads(whole):  # white space
                    continue
            except ValueError:
                pass
        verdict = verify_trial(storage, EXPERIMENT, trial.trial_id)
        assert verdict.problem is not None or ("old checkpoint" in name and verdict.notes), place


@pytest.mark.parametrize("how", ["a column of another name", "a column of another type", "a value that is missing"])
@pytest.mark.parametrize("dataset", ["generations", "steps"])
def test_a_part_with_damaged_columns_is_told_by_whoever_reads_it(
    copy: tuple[Storage, PlannedTrial],
    tiny_gpt_neo: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
    dataset: str,
    how: str,
) -> None:
    """A flipped byte of a Parquet file's own description may leave a file that can be read."""
    storage, trial = copy
    path = schema.part_path(dataset, EXPERIMENT, trial.trial_id, 16)
    table = pq.read_table(io.BytesIO(storage.get(path)), use_threads=False)
    index = table.column_names.index("learning_rate")
    if how == "a column of another name":
        table = table.rename_columns(
            [f"{name[:-1]}X" if name == "learning_rate" else name for name in table.schema.names]
        )
    else:
        values = pa.array([b"1"] * len(table)) if "type" in how else pa.array([None] * len(table), pa.float64())
        table = table.set_column(index, "learning_rate", values)
    pq.write_table(table, storage.root / path)
    told = r"part-00000016.parquet is damaged: (its columns are not|a value is missing)"
    with pytest.raises(Damaged, match=told):
        read_part(storage, path)
    assert re.search(told, str(problem(storage, trial)))

    def work() -> None:
        replay(open_trial(storage, EXPERIMENT, trial.trial_id, str(tiny_gpt_neo.name)), LENGTH - 4, lambda line: None)

    with pytest.raises(Failure, match=told):
        work()
    same_command(storage, trial, tiny_gpt_neo)
    assert problem(storage, trial) is None


def test_an_event_that_is_lost_has_a_stand_in_that_says_so(
    copy: tuple[Storage, PlannedTrial], tiny_gpt_neo: LoadedModel
) -> None:
    storage, trial = copy
    storage.delete(FILES["first event"](trial.trial_id))
    _, told = same_command(storage, trial, tiny_gpt_neo)
    assert any("what this event said is lost" in line for line in told)
    assert [row["reason"] for row in read_events(storage, EXPERIMENT, trial.trial_id).rows.values()] == ["lost", ""]
    assert any("stand-in" in note for note in verify_trial(storage, EXPERIMENT, trial.trial_id).notes)


def test_a_damaged_trial_is_not_replaced_by_what_another_machine_computes(
    copy: tuple[Storage, PlannedTrial], tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig]
) -> None:
    """The stored rows and their checksums are of another machine: the trial's own learning rate is changed."""
    storage, trial = copy
    storage.delete(FILES["first updates"](trial.trial_id))
    before = rows(storage, trial)
    found = look(storage, trial)
    assert (found.standing, found.repairs) == (Standing.DAMAGED, True)
    run = open_run(storage, found.trial, tiny_gpt_neo, "again", repairs=True)
    for group in run.trainer.optimizer.param_groups:
        group["lr"] *= 1.001

    def all_steps() -> None:
        while not run.done:
            run.step()

    with pytest.raises(Failure, match=r"cannot be restored here: from generation \d+ on this machine computes other"):
        all_steps()
    run.close()
    assert rows(storage, trial) == before


def lose_part(storage: Storage, trial: PlannedTrial, number: int) -> None:
    """All files of a part."""
    for dataset in ("generations", "steps"):
        storage.delete(schema.part_path(dataset, EXPERIMENT, trial.trial_id, number))
    storage.delete(schema.manifest_path(EXPERIMENT, trial.trial_id, number))


def on_another_machine(storage: Storage, trial: PlannedTrial, loaded: LoadedModel) -> tuple[Found, str]:
    """The same command where rows come out differently, as by another learning rate; what the trial ends with."""
    found = look(storage, trial)
    log = EventLog(storage, EXPERIMENT, "elsewhere", {})
    log.append(found.trial, schema.RUNNING)
    run = open_run(storage, found.trial, loaded, "elsewhere", keep=None, repairs=found.repairs)
    for group in run.trainer.optimizer.param_groups:
        group["lr"] *= 1.01
    told = ""
    try:
        while not run.done:
            run.step()
        run.publish(end=True)
    except Failure as failure:
        told = str(failure)
        log.append(found.trial, schema.FAILED, error=told)
    finally:
        run.close()
    return found, told


@pytest.mark.parametrize("number", [0, 8, 16])
def test_a_part_that_is_lost_altogether_comes_back(
    written: tuple[Storage, PlannedTrial], copy: tuple[Storage, PlannedTrial], tiny_gpt_neo: LoadedModel, number: int
) -> None:
    storage, trial = copy
    lose_part(storage, trial, number)
    same_command(storage, trial, tiny_gpt_neo)
    assert problem(storage, trial) is None
    for dataset in ("generations", "steps"):
        assert rows(storage, trial, dataset) == rows(written[0], trial, dataset)


@pytest.mark.parametrize("number", [0, 8, 16])
@pytest.mark.parametrize("how", ["lost", "flipped"])
def test_another_machine_restores_nothing_however_often_it_tries(
    copy: tuple[Storage, PlannedTrial], tiny_gpt_neo: LoadedModel, number: int, how: str
) -> None:
    storage, trial = copy
    if how == "lost":
        lose_part(storage, trial, number)
    else:
        flip(storage, schema.part_path("generations", EXPERIMENT, trial.trial_id, number))
    store = CheckpointStore(storage, EXPERIMENT, trial.trial_id)
    if number == 8:
        store.delete(8)  # so that the part before it is computed again too, and compared
    before = {path: storage.get(path) for path in storage.list("generations") + storage.list("steps")}
    for _ in range(2):
        found, told = on_another_machine(storage, trial, tiny_gpt_neo)
        assert found.repairs
        assert "cannot be restored here" in told
        assert {path: storage.get(path) for path in storage.list("generations") + storage.list("steps")} == before
    same_command(storage, trial, tiny_gpt_neo)
    assert problem(storage, trial) is None


def test_what_a_kill_left_of_a_stopped_trial_is_no_damage(
    copy: tuple[Storage, PlannedTrial], tiny_gpt_neo: LoadedModel
) -> None:
    """The driver writes `stopped` after a while, though the trial may be between a part and its checksums."""
    storage, trial = copy
    for path in ("last event", "last event's checksum", "last manifest"):
        storage.delete(FILES[path](trial.trial_id))
    CheckpointStore(storage, EXPERIMENT, trial.trial_id).delete(24)
    EventLog(storage, EXPERIMENT, "run", {}).append(trial, schema.STOPPED, generations=24, reason="SIGTERM")
    found = look(storage, trial)
    assert (found.standing, found.repairs) == (Standing.CONTINUE, False)
    run = on_another_machine(storage, trial, tiny_gpt_neo)
    assert run[1] == ""


def test_parts_of_two_processes_are_left_alone_and_told(
    copy: tuple[Storage, PlannedTrial], tiny_gpt_neo: LoadedModel
) -> None:
    storage, trial = copy
    part = read_part(storage, schema.part_path("generations", EXPERIMENT, trial.trial_id, 8))
    storage.put(schema.part_path("generations", EXPERIMENT, trial.trial_id, 12), encode_part(part[4:], "generations"))
    found = look(storage, trial)
    assert (found.standing, found.to_run) == (Standing.TWICE, False)
    assert "at generation 8 and 12 overlap" in found.error


@pytest.mark.parametrize("name", ["middle manifest", "last checkpoint's state", "first event's checksum", "texts"])
def test_what_a_newer_version_wrote_is_not_taken_for_damaged(copy: tuple[Storage, PlannedTrial], name: str) -> None:
    storage, trial = copy
    if name == "texts":
        path = schema.part_path("generations", EXPERIMENT, trial.trial_id, 8)
        changed = [{**row, "schema_version": schema.SCHEMA_VERSION + 1} for row in read_part(storage, path)]
        storage.put(path, encode_part(changed, "generations"))
        with pytest.raises(Newer, match="newer version"):
            read_part(storage, path)
        return
    path = FILES[name](trial.trial_id) if name in FILES else schema.manifest_path(EXPERIMENT, trial.trial_id, 8)
    values = json.loads(storage.get(path))
    values = {key: value for key, value in values.items() if key not in ("seal", "version")}
    storage.put(path, encode_record({**values, "more": 1}, version=99))
    before = {path: storage.get(path) for path in storage.list("")}
    with pytest.raises(Newer, match="was written by a newer version"):
        look(storage, trial)
    assert "newer version" in str(problem(storage, trial))
    assert {path: storage.get(path) for path in storage.list("")} == before


def test_a_name_alone_makes_no_trial_longer_and_no_log_endless(copy: tuple[Storage, PlannedTrial]) -> None:
    storage, trial = copy
    some = storage.get(schema.part_path("generations", EXPERIMENT, trial.trial_id, 0))
    storage.put(schema.part_path("generations", EXPERIMENT, trial.trial_id, 99_999_992), some)
    assert look(storage, trial).standing is Standing.FINISHED
    assert look(storage, dataclasses.replace(trial, max_generations=32)).trial.max_generations == 32
    storage.put(schema.part_path("trials", EXPERIMENT, trial.trial_id, 99_999_999_999), some)
    assert len(read_events(storage, EXPERIMENT, trial.trial_id).problems) < 10


def test_a_pipe_among_results_is_not_waited_for(copy: tuple[Storage, PlannedTrial]) -> None:
    storage, trial = copy
    os.mkfifo(storage.root / f"generations/experiment={EXPERIMENT}/trial_id={trial.trial_id}/part-00000032.parquet")
    with pytest.raises(Failure, match="is no file"):
        look(storage, trial)


def test_asking_for_less_still_restores_all_that_is_there(
    copy: tuple[Storage, PlannedTrial], tiny_gpt_neo: LoadedModel
) -> None:
    storage, trial = copy
    storage.delete(FILES["last updates"](trial.trial_id))
    same_command(storage, dataclasses.replace(trial, max_generations=8), tiny_gpt_neo)
    assert problem(storage, trial) is None


@pytest.mark.parametrize("left", [(), (8,), (8, 16)])
def test_a_killed_trial_that_is_asked_for_less_loses_nothing(
    copy: tuple[Storage, PlannedTrial], tiny_gpt_neo: LoadedModel, left: Any
) -> None:
    storage, trial = copy
    before = rows(storage, trial)
    store = CheckpointStore(storage, EXPERIMENT, trial.trial_id)
    for generation in set(store.generations()) - set(left):
        store.delete(generation)
    storage.delete(FILES["last event"](trial.trial_id))
    storage.delete(FILES["last event's checksum"](trial.trial_id))
    found, _ = same_command(storage, dataclasses.replace(trial, max_generations=4), tiny_gpt_neo)
    assert found.standing is Standing.CONTINUE
    assert rows(storage, trial) == before
    assert problem(storage, trial) is None


@pytest.mark.parametrize("key", ["beta", "recent_rewards", "step", "generation", "end"])
def test_a_digit_changed_in_a_checkpoint_s_state_is_noticed(
    tmp_path: Path, tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig], key: str
) -> None:
    storage = Storage(tmp_path)
    changes = {"algorithm": "reinforce_baseline", "group_size": 1} if key == "recent_rewards" else {"target_kl": 0.1}
    trial = planned(make_config(tiny_gpt_neo, max_length=12, learning_rate=0.01, **changes), LENGTH, EVERY)
    undisturbed = Storage(tmp_path / "undisturbed")
    run_trial(undisturbed, trial, tiny_gpt_neo)
    run_trial(storage, trial, tiny_gpt_neo, stop_after=16 // trial.config.group_size)
    path = f"{checkpoint_folder(EXPERIMENT, trial.trial_id, 16)}/state.json"
    state = json.loads(storage.get(path))
    if key == "recent_rewards":
        state[key][3] += 1.0
    else:
        state[key] = (not state[key]) if key == "end" else state[key] + 1
    storage.put(path, json.dumps(state).encode())
    run = run_trial(storage, trial, tiny_gpt_neo)
    assert run.resumed_at == 8
    assert rows(storage, trial) == rows(undisturbed, trial)


def test_checkpoints_of_before_there_were_checksums_are_read(
    copy: tuple[Storage, PlannedTrial], tiny_gpt_neo: LoadedModel
) -> None:
    storage, trial = copy
    path = f"{checkpoint_folder(EXPERIMENT, trial.trial_id, 24)}/state.json"
    state = json.loads(storage.get(path))
    del state["seal"], state["version"]
    storage.put(path, json.dumps(state).encode())
    assert problem(storage, trial) is None
    assert open_run(storage, trial, tiny_gpt_neo).resumed_at == 24


def test_strange_folders_among_checkpoints_are_not_ours(copy: tuple[Storage, PlannedTrial]) -> None:
    storage, trial = copy
    for name in ("old/state.json", "generation-x/state.json", "generation-00000008/extra/state.json", "notes.txt"):
        storage.put(f"checkpoints/{EXPERIMENT}/{trial.trial_id}/{name}", b"{}")
    assert CheckpointStore(storage, EXPERIMENT, trial.trial_id).generations() == [8, 16, 24]


@pytest.mark.parametrize("at", range(4))
def test_an_event_whose_writing_failed_half_way_is_never_overwritten(
    copy: tuple[Storage, PlannedTrial], monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """The system may say of a file that it was not written although it was."""
    storage, trial = copy
    log, sync, calls = EventLog(storage, EXPERIMENT, "again", {}), os.fsync, 0
    log.append(trial, schema.RUNNING)

    def failing(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        sync(descriptor)
        if calls == at + 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(Failure):
            log.append(trial, schema.RUNNING, reason="the one")
    before = {path: storage.get(path) for path in storage.list("trials")}
    log.append(trial, schema.FINISHED, generations=LENGTH)
    assert before.items() <= {path: storage.get(path) for path in storage.list("trials")}.items()
    assert problem(storage, trial) is None


# --- listings, links, names --------------------------------------------------------------------------------


class FailingFiles:
    """Stands in for the storage's `os`: listing a folder of that name fails."""

    def __init__(self, name: str, number: int) -> None:
        self._name, self._number = name, number

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def scandir(self, path: Any) -> Any:
        if self._name in str(path):
            raise OSError(self._number, os.strerror(self._number), str(path))
        return os.scandir(path)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("folder", ["generations", "steps", "trials", "manifests", "checkpoints"])
def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(
    copy: tuple[Storage, PlannedTrial],
    tiny_gpt_neo: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
    folder: str,
    number: int,
) -> None:
    import rl_alliteration.results.storage as module

    storage, trial = copy
    before = {path: storage.get(path) for path in storage.list("")}
    with monkeypatch.context() as patch:
        patch.setattr(module, "os", FailingFiles(f"{folder}/", number))
        with pytest.raises(Failure, match=os.strerror(number)):
            look(storage, trial)
        if folder != "checkpoints":
            with pytest.raises(Failure, match=os.strerror(number)):
                compact(storage, Storage(storage.root.parent / "compacted"))
        if folder in ("generations", "steps", "trials"):
            with pytest.raises(Failure, match=os.strerror(number)):
                reader.connect(storage).sql("SELECT * FROM generations").fetchall()
        with pytest.raises(Failure, match=os.strerror(number)):
            removal(storage, EXPERIMENT, None)
        assert os.strerror(number) in str(problem(storage, trial))
    assert {path: storage.get(path) for path in storage.list("")} == before


def test_a_part_that_no_listing_told_of_is_compared_before_it_is_replaced(
    copy: tuple[Storage, PlannedTrial], tiny_gpt_neo: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a network file system that shows an old state of a folder."""
    storage, trial = copy
    for generation in (8, 16, 24):
        CheckpointStore(storage, EXPERIMENT, trial.trial_id).delete(generation)
    path = FILES["first texts"](trial.trial_id)
    changed = read_part(storage, path)
    changed[5]["lm_cross_entropy"] += 1e-6
    monkeypatch.setattr(Storage, "list", lambda self, folder: [])
    storage.put(path, encode_part(changed, "generations"))
    run = open_run(storage, trial, tiny_gpt_neo)

    def all_steps() -> None:
        while not run.done:
            run.step()

    with pytest.raises(Failure, match="written by another process meanwhile"):
        all_steps()
    run.close()
    assert read_part(storage, path) == changed


@pytest.mark.parametrize(
    "link",
    [
        "generations/experiment=tiny",
        "checkpoints/tiny/{trial}",
        "runs/tiny/x.json",
        "manifests/tiny/{trial}/part-00000032.json",
        "models",
        "staging",
    ],
)
def test_links_within_results_are_not_followed(copy: tuple[Storage, PlannedTrial], tmp_path: Path, link: str) -> None:
    storage, trial = copy
    place = storage.root / link.format(trial=trial.trial_id)
    outside = tmp_path / "outside"
    if place.exists():
        shutil.move(place, outside)
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        outside.mkdir() if link == "staging" else outside.write_text("{}")
    place.symlink_to(outside)
    before = sorted(outside.rglob("*")), outside.stat().st_mtime_ns
    target = Storage(tmp_path / "target")
    refused = 0

    def remove() -> None:
        for path in removal(storage, EXPERIMENT, None):
            storage.delete(path)

    for work in (
        lambda: compact(storage, target),
        remove,
        lambda: storage.put(f"{link.format(trial=trial.trial_id)}/x", b""),
    ):
        try:
            work()
        except Failure as failure:
            refused += "is a link" in str(failure) or "is WRONG" in str(failure)
    assert refused >= 1
    assert (sorted(outside.rglob("*")), outside.stat().st_mtime_ns) == before
    assert outside.name not in {path.name for path in target.root.rglob("*")} and not (target.root / "runs").exists()


def test_compact_does_not_copy_results_into_themselves(copy: tuple[Storage, PlannedTrial]) -> None:
    storage, _ = copy
    for place in (storage.root / "generations" / "copy", storage.root, storage.root.parent):
        with pytest.raises(UserError, match="give a folder elsewhere"):
            compact(storage, Storage(place))


def test_a_copy_of_a_part_beyond_a_trials_end_is_told_and_lengthens_nothing(copy: tuple[Storage, PlannedTrial]) -> None:
    storage, trial = copy
    part = storage.get(schema.part_path("generations", EXPERIMENT, trial.trial_id, 16))
    storage.put(schema.part_path("generations", EXPERIMENT, trial.trial_id, 24), part)
    found = look(storage, trial)
    assert (found.standing, found.trial.max_generations) == (Standing.FINISHED, LENGTH)
    assert any("part-00000024" in line and "delete it" in line for line in found.damages)


def test_the_root_itself_may_be_a_link(copy: tuple[Storage, PlannedTrial], tmp_path: Path) -> None:
    storage, trial = copy
    (tmp_path / "link").symlink_to(storage.root)
    assert problem(Storage(tmp_path / "link"), trial) is None


@pytest.mark.parametrize("name", ["..", ".", "", "a/../b", "/etc", "a//b", "a\0b"])
def test_a_path_leads_nowhere_but_into_the_storage(tmp_path: Path, name: str) -> None:
    storage = Storage(tmp_path / "results")
    for work in (
        lambda: storage.put(f"x/{name}/y", b""),
        lambda: storage.get(f"x/{name}/y"),
        lambda: storage.delete(f"x/{name}/y"),
        lambda: storage.list(f"x/{name}/y"),
        lambda: storage.exists(f"x/{name}/y"),
        lambda: storage.put_if(f"x/{name}/y", b"", None),
    ):
        with pytest.raises(Failure, match="no path within results"):
            work()


def test_foreign_names_delete_and_write_nothing_outside(copy: tuple[Storage, PlannedTrial], tmp_path: Path) -> None:
    storage, trial = copy
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    for experiment, trial_id in (("..", trial.trial_id), (EXPERIMENT, ".."), ("..", "..")):
        for dataset in schema.DATASETS:
            source = storage.root / schema.trial_folder(dataset, EXPERIMENT, trial.trial_id)
            shutil.copytree(source, storage.root / schema.trial_folder(dataset, experiment, trial_id))
    assert reader.trial_ids(storage) == reader.all_trials(storage) == [(EXPERIMENT, trial.trial_id)]
    assert reader.connect(storage).sql("SELECT count(*) FROM generations").fetchall() == [(LENGTH,)]
    assert reader.strangers(storage) == sorted(
        f"{name}/experiment={experiment}/trial_id={trial_id}"
        for name in schema.DATASETS
        for experiment, trial_id in (("..", trial.trial_id), (EXPERIMENT, ".."), ("..", ".."))
    )
    with pytest.raises(UserError, match="experiment"):
        removal(storage, "..", None)
    target = Storage(tmp_path / "deep" / "target")
    assert compact(storage, target) == 1
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["target"]
    assert victim.read_text() == "mine"


def test_partition_keys_come_from_below_the_storage_alone(
    written: tuple[Storage, PlannedTrial], tmp_path: Path
) -> None:
    source, trial = written
    for above in ("beta=5/seed=7/experiment=outer/trial_id=x", "a=b?*[c]"):
        shutil.copytree(source.root, tmp_path / above / "results")
        storage = Storage(tmp_path / above / "results")
        columns, answer = reader.run_query(
            storage, "SELECT DISTINCT experiment, trial_id, beta > 5 AS own, seed FROM generations"
        )
        assert answer == [(EXPERIMENT, trial.trial_id, True, 0)], columns
        assert reader.run_query(storage, "SELECT DISTINCT experiment, seed FROM trials")[1] == [(EXPERIMENT, 0)]


# --- compact -----------------------------------------------------------------------------------------------


def test_compact_copies_nothing_that_is_wrong(copy: tuple[Storage, PlannedTrial], tmp_path: Path) -> None:
    storage, trial = copy
    path = FILES["first updates"](trial.trial_id)
    changed = read_part(storage, path)
    changed[1]["grad_norm"] *= 10
    storage.put(path, encode_part(changed, "steps"))
    with pytest.raises(Failure, match=r"is WRONG: generation 4: a value in .* is not the one that was written"):
        compact(storage, Storage(tmp_path / "target"))


def test_compact_notices_what_changes_while_it_copies(
    copy: tuple[Storage, PlannedTrial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rl_alliteration.results.maintenance as module

    storage, _ = copy

    def altered(source: Storage, path: str) -> list[dict[str, Any]]:
        found = read_part(source, path)
        if path.startswith("steps/"):
            found[0]["grad_norm"] *= 10
        return found

    monkeypatch.setattr(module, "read_part", altered)
    with pytest.raises(Failure, match="changed while it was copied"):
        compact(storage, Storage(tmp_path / "target"))


def test_a_storage_that_was_moved_is_not_made_anew(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "results")
    storage.put("a/b", b"1")
    os.rename(tmp_path / "results", tmp_path / "moved")
    with pytest.raises(Failure, match="moved or unmounted"):
        storage.put("a/c", b"1")
    assert not Path(tmp_path / "results").exists()


@pytest.mark.parametrize("path", ["last texts", "last checkpoint's weights"])
def test_a_file_that_is_opened_and_then_cannot_be_read_is_told_in_one_line(
    copy: tuple[Storage, PlannedTrial], tmp_path: Path, path: str
) -> None:
    storage, trial = copy
    path = FILES[path](trial.trial_id)
    failing = faults.Faults(storage.root / path, tmp_path / "faults", "seed", limit=1, rate=1000.0)
    failing.kinds = {faults.READ}

    def look_at_it() -> None:
        if path.endswith(".parquet"):
            reader.last_rows(storage, [path], 4, ["generation"])
        else:
            checkpoint_problem(storage, EXPERIMENT, trial.trial_id, 24)

    with failing.active(), pytest.raises(Unavailable, match=rf"^{path}: "):
        look_at_it()
    (storage.root / path).write_bytes((storage.root / path).read_bytes()[:-9])
    if path.endswith(".parquet"):
        assert stored_generations(storage, EXPERIMENT, trial.trial_id) == 16


def test_a_file_that_cannot_be_read_is_not_a_missing_one(
    copy: tuple[Storage, PlannedTrial], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, trial = copy
    path = FILES["last checkpoint's state"](trial.trial_id)

    def failing(self: Path) -> bytes:
        if str(self).endswith(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        with builtins.open(self, "rb") as file:
            return file.read()

    monkeypatch.setattr(Path, "read_bytes", failing)
    with pytest.raises(Failure, match=rf"state.json: {os.strerror(errno.EIO)}"):
        look(storage, trial)


@pytest.mark.parametrize("command", ["report", "claims"])
def test_a_text_that_is_no_utf8_is_told_in_one_line(
    copy: tuple[Storage, PlannedTrial],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    command: str,
) -> None:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    from rl_alliteration.cli import main as cli

    storage, trial = copy
    path = FILES["last event"](trial.trial_id)
    table = pq.ParquetFile(io.BytesIO(storage.get(path))).read()
    place = table.schema.get_field_index("model")
    table = table.set_column(place, "model", pa.array([b"tiny\xf2@0"], pa.binary()).view(pa.string()))
    pq.write_table(table, storage.root / path)
    monkeypatch.chdir(tmp_path)
    assert cli.call([command, "--storage", str(storage)]) == 1
    err = capsys.readouterr().err
    assert err.startswith("rl-alliteration: ") and err.count("\n") == 1, err
