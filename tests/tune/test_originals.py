"""One original serves all experiments of a storage: when it is sampled, and what is compared with it."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import assert_verified, flags, here, run
from made_up import MadeUp, write_results
from trials import EXPERIMENT, planned, rows, run_trial

from rl_alliteration.analysis.frontier import recommended
from rl_alliteration.analysis.measure import measure, measure_original
from rl_alliteration.analysis.summary import summarise
from rl_alliteration.cli.watch import LiveTrials
from rl_alliteration.config import ORIGINAL, PlannedTrial
from rl_alliteration.errors import Failure, UserError
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.results import maintenance, reader, schema
from rl_alliteration.results.events import EventLog
from rl_alliteration.results.originals import left_without
from rl_alliteration.results.storage import Storage
from rl_alliteration.tune.plan import Sweep, plan, resolve
from rl_alliteration.tune.resume import Found, Standing, find
from rl_alliteration.tune.search import Search, resolve_search

# --- planned ---------------------------------------------------------------------------------------------


def planned_with(loaded: LoadedModel, **changes: Any) -> list[PlannedTrial]:
    return plan(resolve(Sweep(storage="s", experiment="e", beta=(0.0, 10.0), **changes)), loaded)


def test_the_original_is_first_and_its_length_is_no_part_of_its_id(tiny_gpt_neo: LoadedModel) -> None:
    original, *trained = planned_with(tiny_gpt_neo)
    assert [trial.config.algorithm for trial in (original, *trained)] == [ORIGINAL, "rloo", "rloo"]
    assert original.max_generations == 1000
    longer, *same = planned_with(tiny_gpt_neo, original_texts=20_000)
    assert (longer.trial_id, longer.max_generations) == (original.trial_id, 20_000) and same == trained


def test_a_dry_run_lists_it_first(tiny_gpt_neo_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = flags(tiny_gpt_neo_folder, Path("s"), "--beta", "0", "--original-texts", "20", "--dry-run")
    code, out, _ = run(capsys, *sweep)
    lines = out.splitlines()
    assert code == 0 and re.match(r"original-\w{8} +20 ", lines[1]) and lines[2].startswith("rloo-")


@pytest.mark.parametrize("texts", [-10, 0, 5, 1005])
def test_a_number_of_texts_that_is_not_accepted(texts: int) -> None:
    with pytest.raises(UserError, match=f"^--original-texts: {texts} is not accepted; give 10 or a multiple of it$"):
        resolve(Sweep(storage="s", experiment="e", beta=(0.0,), original_texts=texts))


def test_a_search_needs_a_window_of_the_original() -> None:
    request = Search(storage="s", experiment="e", beta=(1.0, 2.0), original_texts=40)
    with pytest.raises(UserError, match=r"^--original-texts: 40 is not accepted; give 100 or more$"):
        resolve_search(request)
    resolve_search(dataclasses.replace(request, original_texts=100))


# --- found -----------------------------------------------------------------------------------------------


@pytest.fixture
def original(tiny_gpt_neo: LoadedModel, make_config: Any) -> PlannedTrial:
    return planned(make_config(tiny_gpt_neo, max_length=8).original(), 40, every=20)


def look(storage: Storage, trial: PlannedTrial, experiment: str = "second") -> Found:
    return find(storage, experiment, [trial], retry_failed=False, recompute=False)[0]


def with_texts(trial: PlannedTrial, texts: int) -> PlannedTrial:
    return dataclasses.replace(trial, max_generations=texts)


def test_what_another_experiment_has_is_not_sampled_again(
    tmp_path: Path, original: PlannedTrial, tiny_gpt_neo: LoadedModel, make_config: Any
) -> None:
    storage = Storage(tmp_path)
    assert look(storage, original).standing is Standing.NEW
    run_trial(storage, original, tiny_gpt_neo)
    for texts in (20, 40):
        found = look(storage, with_texts(original, texts))
        assert not found.to_run and found.damages == ()
        assert str(found) == f"{original.trial_id}: used from experiment tiny, which has it, has 40 of {texts} texts"
    assert look(storage, with_texts(original, 60)).standing is Standing.NEW
    forget(storage, "tiny", original.trial_id)
    assert look(storage, original).standing is Standing.NEW
    run_trial(storage, original, tiny_gpt_neo)
    trained = planned(make_config(tiny_gpt_neo, max_length=8), 8)
    run_trial(storage, trained, tiny_gpt_neo)
    assert look(storage, trained).standing is Standing.NEW, "only an original serves others"
    part = next(tmp_path.glob(f"generations/*/trial_id={original.trial_id}/part-*"))
    part.write_bytes(part.read_bytes()[:-100])
    assert look(storage, original).standing is Standing.NEW, "one that is damaged serves nobody"


def test_more_texts_extend_it_and_fewer_leave_it(
    tmp_path: Path, original: PlannedTrial, tiny_gpt_neo: LoadedModel
) -> None:
    storage = Storage(tmp_path)
    run_trial(storage, with_texts(original, 20), tiny_gpt_neo)
    first = rows(storage, original)
    assert look(storage, original, EXPERIMENT).standing is Standing.EXTEND
    run_trial(storage, original, tiny_gpt_neo)
    assert len(rows(storage, original)) == 40 and rows(storage, original)[:20] == first
    assert look(storage, with_texts(original, 20), EXPERIMENT).standing is Standing.FINISHED


def test_a_longer_one_elsewhere_serves_where_it_was_finished_and_not_where_it_was_begun(
    tmp_path: Path, original: PlannedTrial, tiny_gpt_neo: LoadedModel
) -> None:
    storage = Storage(tmp_path)
    run_trial(storage, original, tiny_gpt_neo)
    run_trial(storage, with_texts(original, 20), tiny_gpt_neo, experiment="second")
    assert look(storage, original).elsewhere == EXPERIMENT
    assert look(storage, with_texts(original, 20)).standing is Standing.FINISHED
    run_trial(storage, original, tiny_gpt_neo, stop_after=3, experiment="third")
    assert look(storage, original, "third").standing is Standing.CONTINUE
    EventLog(storage, "fourth", "run", {}).append(original, schema.PLANNED)
    assert look(storage, original, "fourth").standing is Standing.NEW


# --- compared --------------------------------------------------------------------------------------------


@pytest.fixture
def shared(tmp_path: Path) -> Storage:
    """`first` with an original of 300 texts, `second` without one."""
    storage = Storage(tmp_path)
    for experiment, seed in (("first", 0), ("second", 1)):
        write_results(storage, [MadeUp(beta=0.0, seed=seed, falls_at=200), MadeUp(beta=60.0, seed=seed)], experiment)
    forget(storage, "second", original_of(storage, "first"))
    return storage


def original_of(storage: Storage, experiment: str) -> str:
    (found,) = {name for _, name in reader.trial_ids(storage, experiment) if name.startswith(ORIGINAL)}
    return found


def forget(storage: Storage, experiment: str, trial_id: str) -> None:
    for path in maintenance.removal(storage, experiment, trial_id):
        storage.delete(path)


def test_every_comparison_uses_it(shared: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    connection = reader.connect(shared)
    first, second, both = measure(connection, "first"), measure(connection, "second"), measure(connection)
    assert second.trained[0].collapse is not None and first.trained[0].collapse is not None
    for analysis in (first, second, both):
        assert {trial.original.raw_reward for trial in analysis.trained if trial.original} == {
            first.trained[0].original.raw_reward  # type: ignore[union-attr]
        }
    assert [trial.name for trial in second.trials] == ["rloo beta 0 seed 1", "rloo beta 60 seed 1", "original, first"]
    assert [len(analysis.trials) for analysis in (first, second, both)] == [3, 3, 5]
    found = measure_original(connection, "second", original_of(shared, "first"))
    assert found.raw_reward == first.trained[0].original.raw_reward  # type: ignore[union-attr]
    assert recommended(second).trial.experiment == "second"
    assert [s.experiment for s in summarise(shared, "second")] == ["second", "second", "first"]
    assert {trial.summary.experiment for trial in LiveTrials(shared, "second").look()} == {"second"}
    place = ("--storage", str(shared), "--experiment", "second")
    page = tmp_path / "report.html"
    for command in (("status", *place), ("report", *place, "--output", str(page))):
        assert run(capsys, *command)[::2] == (0, "")
    assert "original, first" in page.read_text()


def test_of_several_the_longest_is_used_and_of_equals_its_own(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    for experiment in ("first", "second"):
        write_results(storage, [MadeUp(beta=60.0)], experiment)
    assert [s.experiment for s in summarise(storage, "second")] == ["second", "second"]
    assert [trial.experiment for trial in measure(reader.connect(storage), "second").trials] == ["second", "second"]
    write_results(storage, [MadeUp(ORIGINAL, generations=400)], "third")
    connection = reader.connect(storage)
    longest = measure_original(connection, "third", original_of(storage, "third"))
    for chosen in ("second", None):
        analysis = measure(connection, chosen)
        assert all(trial.original.raw_reward == longest.raw_reward for trial in analysis.trained if trial.original)
    assert [trial.name for trial in measure(connection, "second").trials][1:] == ["original", "original, third"]


def test_a_removal_says_whose_original_goes(shared: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    trial_id = original_of(shared, "first")
    assert left_without(shared, "first", None) == left_without(shared, "first", trial_id) == {trial_id: ["second"]}
    assert left_without(shared, "second", None) == {}
    code, out, _ = run(capsys, "remove", "--storage", str(shared), "--experiment", "first", "--yes")
    assert code == 0
    assert f"second compares with {trial_id} of this one, and samples it anew when it is next run" in out
    assert all(trial.original is None for trial in measure(reader.connect(shared), "second").trained)


def test_where_it_is_shorter_than_a_window_that_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = Storage(tmp_path / "results")
    write_results(storage, [MadeUp(beta=60.0)])
    forget(storage, "made_up", original_of(storage, "made_up"))
    write_results(storage, [MadeUp(ORIGINAL, generations=40)])
    analysis = measure(reader.connect(storage))
    assert [trial.original for trial in analysis.trained] == [None]
    with pytest.raises(Failure, match=r"^no window can be recommended without 100 texts of the original"):
        recommended(analysis)
    place = ("--storage", str(storage), "--experiment", "made_up")
    for command in (
        ("status", *place),
        ("report", *place, "--output", str(tmp_path / "r.html"), "--figures", str(tmp_path / "figures")),
        ("query", *place[:2], "SELECT keeps_variety FROM windows WHERE algorithm = 'rloo'"),
    ):
        assert run(capsys, *command)[::2] == (0, "")
    code, _, told = run(capsys, "claims", *place)
    assert code == 1 and told.count("\n") == 1 and "no data to say" in told
    code, _, told = run(capsys, "export", *place, "--recommended", "--output", str(tmp_path / "model"))
    assert code == 1 and told.count("\n") == 1 and "--original-texts 1000" in told


# --- on a real Ray ---------------------------------------------------------------------------------------


def _without_a_value(path: Path, column: str, value: object) -> None:
    table = pq.read_table(path, partitioning=None)
    place = table.column_names.index(column)
    kind = table.schema.field(place)
    pq.write_table(table.set_column(place, kind, pa.array([value], kind.type)), path)


@pytest.mark.parametrize(
    ("damage", "own"), [("garbage", True), ("garbage", False), ("no number", False), ("no configuration", True)]
)
def test_a_damaged_event_of_it_elsewhere_is_a_line_and_the_rest_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str, own: bool
) -> None:
    storage = Storage(tmp_path / "results")
    for experiment in ("first", "second"):
        write_results(storage, [MadeUp(beta=10, generations=100)], experiment)
    original = original_of(storage, "second")
    if not own:
        forget(storage, "first", original)
    (event,) = (tmp_path / "results/trials/experiment=second" / f"trial_id={original}").iterdir()
    if damage == "garbage":
        event.write_bytes(b"no Parquet")
    else:
        _without_a_value(event, *(("max_generations", None) if damage == "no number" else ("config", "{}")))
    flags = ("--storage", str(storage), "--experiment", "first")
    code, out, err = run(capsys, "status", *flags)
    (note,) = [line for line in out.splitlines() if line.startswith("note:")]
    assert code == 0 and not err and "100/100" in out
    assert note.startswith("note: the original in experiment second is not compared with: ")
    assert note.endswith("; see `verify`")
    assert ("Nothing beats the original" in out) == own
    page = tmp_path / "page.html"
    code, out, _ = run(capsys, "report", *flags, "--output", str(page))
    assert code == 0 and note in out.splitlines() and page.exists()
    assert len(LiveTrials(storage, "first").look()) == 1 + own
    code, _, err = run(capsys, "status", "--storage", str(storage), "--experiment", "second")
    assert code == 1 and len(err.splitlines()) == 1  # of one's own it is an error


def test_other_damage_elsewhere_does_not_concern_an_experiment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = Storage(tmp_path / "results")
    write_results(storage, [MadeUp(beta=10, generations=100)], "first")
    write_results(storage, [MadeUp(beta=10, generations=100, reward="a_words")], "second")
    for folder in (tmp_path / "results/trials/experiment=second").iterdir():
        for event in folder.iterdir():
            event.write_bytes(b"no Parquet")
    code, out, err = run(capsys, "status", "--storage", str(storage), "--experiment", "first")
    assert code == 0 and "note:" not in out and not err and "Nothing beats the original" in out


@pytest.mark.ray
@pytest.mark.usefixtures("on_cluster")
def test_two_experiments_sample_one_original_first(tmp_path: Path, tiny_gpt_neo_folder: Path) -> None:
    def sweep(experiment: str, texts: int) -> str:
        grid = ("--beta", "0", "--max-generations", "8", "--original-texts", str(texts), "--experiment", experiment)
        done = here(*flags(tiny_gpt_neo_folder, tmp_path, *grid))
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert sweep("first", 40).count("to be started") == 2
    running = "SELECT algorithm FROM trial_events WHERE status = 'running' ORDER BY written_at"
    assert reader.run_query(Storage(tmp_path), running)[1] == [("original",), ("rloo",)]
    told = sweep("second", 20)
    assert told.count("to be started") == 1 and "used from experiment first, which has it" in told
    assert "to be extended, has 40 of 60 texts" in sweep("first", 60)
    counts = "SELECT experiment, algorithm, count(*) FROM generations GROUP BY ALL ORDER BY ALL"
    assert reader.run_query(Storage(tmp_path), counts)[1] == [
        ("first", "original", 60), ("first", "rloo", 8), ("second", "rloo", 8),
    ]  # fmt: skip
    assert_verified(tmp_path)
