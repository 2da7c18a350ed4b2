"""Results of every version of the schema, in every command: those kept here, those of the next version, and both."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from commands import run
from hypothesis import given
from hypothesis import strategies as st
from made_up import trial_report
from stored import LENGTH, load, trials, write_storage
from trials import EXPERIMENT, rows, run_trial

import rl_alliteration.rl.trainer as trainer
from rl_alliteration import rows as records
from rl_alliteration.analysis.summary import summarise
from rl_alliteration.config import TrialConfig
from rl_alliteration.foreign import Newer
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.results import reader, schema
from rl_alliteration.results.maintenance import compact
from rl_alliteration.results.parts import decode_part, encode_part, first_difference, read_part, row_digest
from rl_alliteration.results.storage import Storage
from rl_alliteration.results.verify import verify_trial

STORAGES = sorted((Path(__file__).parent / "storages").iterdir())


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class NextText(records.Text):
    """A text as a later version may store it."""

    later_letters: int = records.column("letters of the text", since=schema.SCHEMA_VERSION + 1, default=-1)


@pytest.fixture
def next_version(monkeypatch: pytest.MonkeyPatch) -> int:
    """The code of the next version, which has one more column of texts."""

    class Writer:
        @staticmethod
        def of(config: TrialConfig, **given: Any) -> NextText:
            text = records.Text.of(config, **given)
            return NextText(**text.row(), later_letters=sum(map(str.isalpha, text.text)))

    monkeypatch.setattr(trainer, "Text", Writer)
    monkeypatch.setitem(schema.RECORDS, "generations", NextText)
    monkeypatch.setattr(schema, "SCHEMA_VERSION", records.version_of(list(schema.RECORDS.values())))
    return schema.SCHEMA_VERSION


@pytest.fixture(params=STORAGES, ids=[path.name for path in STORAGES])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Storage, LoadedModel]:
    """A copy of a storage of an earlier version, and its model."""
    shutil.copytree(request.param, tmp_path / "kept")
    return Storage(tmp_path / "kept" / "results"), load(tmp_path / "kept")


@pytest.fixture
def fresh(tmp_path: Path) -> tuple[Storage, LoadedModel]:
    """The same storage as this code and this machine write it: another kind of CPU computes other low-order bits."""
    write_storage(tmp_path / "kept")
    return Storage(tmp_path / "kept" / "results"), load(tmp_path / "kept")


def assert_every_command_reads(
    capsys: pytest.CaptureFixture[str], storage: Storage, model: str, folder: Path, length: int = LENGTH
) -> None:
    where = ("--storage", str(storage))

    def done(*arguments: str) -> str:
        code, out, err = run(capsys, *arguments)
        assert code == 0, (out, err)
        return out

    assert f"{length}/{length}" in done("status", *where).replace(" ", "")
    done("verify", *where)
    done("verify", "--deep", "--model", model, *where)
    answer = done("query", *where, "--format", "csv", "SELECT sum(reward) > -1e9, count(*) FROM generations")
    assert answer.splitlines()[-1].endswith(str(2 * length + 20))
    done("report", *where, "--experiment", EXPERIMENT, "--window", "10", "--output", str(folder / "r.html"))
    assert all(one.generations for one in summarise(storage, EXPERIMENT))
    trial = next(name for _, name in reader.trial_ids(storage) if name.startswith("rloo"))
    exported = ("export", *where, "--experiment", EXPERIMENT, "--trial", trial, "--model", model)
    done(*exported, "--generation", str(length), "--output", str(folder / f"model{length}"))
    target = Storage(folder / f"compacted{length}")
    assert compact(storage, target) == 3
    for experiment, name in reader.trial_ids(target):
        assert verify_trial(target, experiment, name).problem is None


class Remote(Storage):
    """A folder that DuckDB reads as it reads an object store."""

    def folder(self, path: str) -> None:
        return None


def extend(storage: Storage, loaded: LoadedModel, length: int) -> None:
    for trial in trials(loaded, length)[:2]:
        run_trial(storage, trial, loaded, run_id="later", keep=1)


def test_every_command_reads_and_extends_a_storage_of_an_earlier_version(
    kept: tuple[Storage, LoadedModel], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, loaded = kept
    assert_every_command_reads(capsys, storage, str(tmp_path / "kept" / "model"), tmp_path)
    extend(storage, loaded, 24)
    assert_every_command_reads(capsys, storage, str(tmp_path / "kept" / "model"), tmp_path, 24)


def test_the_next_version_reads_and_extends_it_too(
    kept: tuple[Storage, LoadedModel], tmp_path: Path, next_version: int, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, loaded = kept
    model = str(tmp_path / "kept" / "model")
    sql = "SELECT schema_version, min(later_letters), max(later_letters) > 0 FROM generations GROUP BY ALL ORDER BY 1"
    old = set(storage.list("generations"))
    assert_every_command_reads(capsys, storage, model, tmp_path)
    ((version, least, more),) = reader.run_query(storage, sql)[1]
    assert version < next_version and (least, more) == (-1, False)
    extend(storage, loaded, 24)
    found = reader.run_query(storage, sql)[1]
    assert [row[0] for row in found] == [version, next_version] and found[0][1:] == (-1, False) and found[1][2]
    assert reader.run_query(Remote(storage.root), sql)[1] == found
    for path in storage.list("generations"):
        assert ("later_letters" in pq.read_schema(storage.folder(path)).names) == (path not in old)
    assert_every_command_reads(capsys, storage, model, tmp_path, 24)
    parts = reader.parts_by_trial(storage)
    for (_, name), paths in parts.items():
        table = reader.last_rows(storage, paths, 100, ["generation", "later_letters"])
        assert [row["later_letters"] > 0 for row in table.to_pylist()] == [
            row["generation"] >= LENGTH and not name.startswith("original") for row in table.to_pylist()
        ]


def test_what_is_computed_again_by_the_next_version_equals_what_is_stored(
    fresh: tuple[Storage, LoadedModel], next_version: int
) -> None:
    storage, loaded = fresh
    trial = trials(loaded)[0]
    before = rows(storage, trial)
    folder = schema.trial_folder("generations", EXPERIMENT, trial.trial_id)
    files = {path: storage.get(path) for path in storage.list(folder)}
    for path in storage.list(f"checkpoints/{EXPERIMENT}/{trial.trial_id}"):
        storage.delete(path)
    run = run_trial(storage, trial, loaded, run_id="again", keep=1)
    assert run.diverged_at is None
    assert {path: storage.get(path) for path in files} == files  # an old part that is right stays as it is
    assert rows(storage, trial) == before
    assert verify_trial(storage, EXPERIMENT, trial.trial_id).problem is None


def test_a_lost_part_of_an_earlier_version_is_restored_by_the_next_one(
    fresh: tuple[Storage, LoadedModel], next_version: int
) -> None:
    storage, loaded = fresh
    trial = trials(loaded)[0]
    before = rows(storage, trial)
    lost = schema.part_path("generations", EXPERIMENT, trial.trial_id, 8)
    storage.delete(lost)
    for path in storage.list(f"checkpoints/{EXPERIMENT}/{trial.trial_id}"):
        storage.delete(path)
    run_trial(storage, trial, loaded, run_id="again", keep=1)
    restored = rows(storage, trial)
    left_out = ("later_letters", "schema_version")
    assert [{k: v for k, v in row.items() if k not in left_out} for row in restored] == [
        {k: v for k, v in row.items() if k not in left_out} for row in before
    ]
    assert [row["schema_version"] for row in restored] == [next_version - 1] * 8 + [next_version] * 8
    assert verify_trial(storage, EXPERIMENT, trial.trial_id).problem is None


def test_what_a_newer_version_has_written_is_named_in_one_line(
    kept: tuple[Storage, LoadedModel],
    tmp_path: Path,
    next_version: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    storage, loaded = kept
    extend(storage, loaded, 24)
    trial = trials(loaded)[0].trial_id
    monkeypatch.undo()
    before = {path: storage.get(path) for path in storage.list("")}
    with pytest.raises(Newer, match=r"^generations/.*part-00000016\.parquet was written by a newer version"):
        read_part(storage, schema.part_path("generations", EXPERIMENT, trial, 16))
    one, model = ("--experiment", EXPERIMENT), ("--model", str(tmp_path / "kept" / "model"))
    for command in (
        ("status",),
        ("query", "SELECT 1 FROM generations"),
        ("report", *one, "--output", str(tmp_path / "r.html")),
        ("verify",),
        ("export", *one, *model, "--trial", trial, "--generation", "12", "--output", str(tmp_path / "exported")),
        ("compact", "--output", str(tmp_path / "compacted")),
    ):
        code, out, err = run(capsys, *command, "--storage", str(storage))
        said = [line for line in (out + err).splitlines() if "newer version" in line]
        assert code == 1 and said and "Traceback" not in err, command
        assert command == ("verify",) or len((out + err).splitlines()) == 1, command
    for path in storage.list(f"checkpoints/{EXPERIMENT}/{trial}"):
        storage.delete(path)
        del before[path]
    with pytest.raises(Newer):
        run_trial(storage, trials(loaded, 24)[0], loaded, run_id="later")
    assert {path: storage.get(path) for path in before} == before


def test_rows_of_a_newer_version_are_not_replaced_where_this_machine_computes_others(
    kept: tuple[Storage, LoadedModel], next_version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, loaded = kept
    trial = trials(loaded, 24)[0]
    extend(storage, loaded, 24)
    monkeypatch.undo()
    path = schema.part_path("generations", EXPERIMENT, trial.trial_id, 0)
    different = [{**row, "lm_cross_entropy": row["lm_cross_entropy"] + 1e-9} for row in read_part(storage, path)]
    storage.put(path, encode_part(different, "generations"))
    for path in (*storage.list(f"checkpoints/{EXPERIMENT}"), *storage.list(f"manifests/{EXPERIMENT}")):
        storage.delete(path)
    before = {path: storage.get(path) for path in storage.list("generations")}
    with pytest.raises(Newer):
        run_trial(storage, trial, loaded, run_id="later")
    assert {path: storage.get(path) for path in before} == before


@given(st.sampled_from(["generations", "steps"]), st.data())
def test_an_unknown_or_missing_column_is_an_error_where_it_is_written(dataset: str, data: Any) -> None:
    values: dict[Any, Any] = {int: 1, float: 1.5, str: "a", bool: True, list[int]: [1], list[float]: [1.5]}
    row = {column.name: values[column.type] for column in schema.describe(dataset)}
    row["schema_version"] = schema.SCHEMA_VERSION
    (again,) = decode_part(encode_part([row], dataset), dataset)
    assert again == row and row_digest(again, dataset) == row_digest(row, dataset)
    name = data.draw(st.sampled_from(sorted(row.keys() - {"schema_version"})))
    without = {key: value for key, value in row.items() if key != name}
    for wrong in (without, {**row, "raw_rewrd": 1.0}, {**without, f"{name}s": row[name]}):
        with pytest.raises(ValueError, match=f"a row of {dataset} has unknown columns, or lacks some: "):
            encode_part([row, wrong], dataset)


def test_digests_of_rows_of_any_version_are_compared_column_by_column(next_version: int) -> None:
    values: dict[Any, Any] = {int: 1, float: 1.5, str: "a", bool: True, list[int]: [1], list[float]: [1.5]}
    new = {column.name: values[column.type] for column in schema.describe("generations")}
    new["schema_version"] = next_version
    old = {name: value for name, value in new.items() if name != "later_letters"} | {"schema_version": 1}
    assert first_difference([new], "generations", [row_digest(old, "generations")]) is None
    assert first_difference([new], "generations", [row_digest({**new, "later_letters": 2}, "generations")]) == 0
    assert first_difference([new], "generations", [row_digest({**old, "reward": 2.5}, "generations")]) == 0


@pytest.mark.parametrize("folder", STORAGES, ids=lambda folder: folder.name)
def test_a_version_has_the_columns_that_it_was_written_with(folder: Path) -> None:
    for dataset in schema.DATASETS:
        for path in (folder / "results" / dataset).rglob("*.parquet"):
            assert pq.read_schema(path).equals(schema.arrow(dataset, int(folder.name.removeprefix("v"))))


def test_a_report_comes_back_from_tune_as_it_was() -> None:
    report = trial_report(name="t", generations=8, raw_reward=0.5, best=[1.0])
    result = {**report.result(), "training_iteration": 3}
    assert records.TrialReport.of_result(result) == report
    with pytest.raises(TypeError, match="raw_rewrd"):
        trial_report(raw_rewrd=0.5)
    with pytest.raises(KeyError, match="published"):
        records.TrialReport.of_result({name: value for name, value in result.items() if name != "published"})


def test_every_column_is_described() -> None:
    for dataset in schema.DATASETS:
        for column in schema.describe(dataset):
            assert column.meaning and column.since >= 1
            assert (column.default is None) == (column.since == 1)
    for one in records.columns_of(records.TrialReport):
        assert one.meaning and one.name != "schema_version"
