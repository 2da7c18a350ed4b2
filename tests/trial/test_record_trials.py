"""The token record in a storage: which rows have it, whatever is killed, extended, replayed or lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from trials import EXPERIMENT, open_run, planned, rows, run_trial

from rl_alliteration.config import PlannedTrial
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.results import schema
from rl_alliteration.results.parts import encode_part, read_part
from rl_alliteration.results.reader import last_rows, parts, run_query
from rl_alliteration.results.storage import Storage
from rl_alliteration.results.verify import verify_trial
from rl_alliteration.trial.replay import StoredTrial, replay, verify_deep

LENGTH = 24


@pytest.fixture
def trial(storyteller: LoadedModel, make_config: Any) -> PlannedTrial:
    """Groups of 4, parts of 8."""
    return planned(make_config(storyteller, architecture=storyteller.architecture_fingerprint), LENGTH)


def recorded(found: list[dict[str, Any]]) -> list[int]:
    return [row["generation"] for row in found if row["token_log_p"]]


def first_groups(length: int) -> list[int]:
    return [generation for generation in range(length) if generation % 8 < 4]


def assert_right(storage: Storage, trial: PlannedTrial, loaded: LoadedModel, length: int = LENGTH) -> None:
    assert verify_trial(storage, EXPERIMENT, trial.trial_id).problem is None
    there = StoredTrial(storage, EXPERIMENT, trial.trial_id, trial.config, loaded, length)
    assert verify_deep(there, pytest.fail) is None
    replay(there, length, pytest.fail if length in there.checkpoints.generations() else lambda _: None)


def whole_rows(storage: Storage, trial: PlannedTrial) -> list[dict[str, Any]]:
    return rows(storage, trial, record=True)


def test_a_trial_killed_between_and_resumed_has_the_same_rows(
    tmp_path: Path, trial: PlannedTrial, storyteller: LoadedModel
) -> None:
    whole, cut = Storage(tmp_path / "whole"), Storage(tmp_path / "cut")
    run_trial(whole, trial, storyteller)
    for steps in (1, 3, 1):
        run_trial(cut, trial, storyteller, stop_after=steps)
    run_trial(cut, trial, storyteller)
    assert whole_rows(whole, trial) == whole_rows(cut, trial)
    assert recorded(whole_rows(cut, trial)) == first_groups(LENGTH)
    assert_right(cut, trial, storyteller)


def test_a_part_that_begins_within_an_interval_has_none(
    tmp_path: Path, trial: PlannedTrial, storyteller: LoadedModel
) -> None:
    storage = Storage(tmp_path)
    run = open_run(storage, trial, storyteller, publish_every=0.0)
    while not run.done:
        run.step()
    run.close()
    assert len(parts(storage, "generations", EXPERIMENT, trial.trial_id)) == 6
    assert recorded(whole_rows(storage, trial)) == first_groups(LENGTH)


@pytest.mark.parametrize(("first", "then"), [("all", "none"), ("none", "all"), ("first-group", "all")])
def test_a_trial_is_extended_with_another_record(
    tmp_path: Path, trial: PlannedTrial, storyteller: LoadedModel, first: str, then: str
) -> None:
    storage = Storage(tmp_path / "storage")
    run_trial(Storage(tmp_path / "whole"), planned(trial.config, 32), storyteller)

    def with_record(length: int, which: str, stop: int | None = None) -> None:
        run = open_run(storage, planned(trial.config, length), storyteller, record=which)
        while not run.done and stop != 0:
            run.step()
            stop = None if stop is None else stop - 1
        run.close()

    with_record(16, first)
    files = {path: storage.get(path) for path in storage.list("generations")}
    with_record(LENGTH, then, stop=1)
    with_record(32, then)
    run_trial(storage, planned(trial.config, 32), storyteller)  # nothing is missing: its events
    assert {path: storage.get(path) for path in files} == files
    expected = {"all": list(range(32)), "none": [], "first-group": first_groups(32)}
    assert recorded(whole_rows(storage, trial)) == [
        *(g for g in expected[first] if g < 16),
        *(g for g in expected[then] if g >= 16),
    ]
    assert rows(storage, trial) == rows(Storage(tmp_path / "whole"), trial)
    assert_right(storage, trial, storyteller, 32)


def test_what_is_computed_again_with_another_record_stays_as_it_is(
    tmp_path: Path, trial: PlannedTrial, storyteller: LoadedModel
) -> None:
    storage = Storage(tmp_path)
    run_trial(storage, trial, storyteller)
    before = {path: storage.get(path) for path in storage.list("generations")}
    found = rows(storage, trial)
    folder = schema.trial_folder("generations", EXPERIMENT, trial.trial_id)
    storage.put(f"{folder}/part-00000008.parquet", b"damaged")
    for path in storage.list("checkpoints"):
        storage.delete(path)
    run = open_run(storage, trial, storyteller, record="none")
    while not run.done:
        run.step()
    run.close()
    assert run.diverged_at is None
    kept = {path: storage.get(path) for path in before if "00000008" not in path}
    assert kept.items() <= before.items() and len(kept) == 2
    assert rows(storage, trial) == found
    assert recorded(whole_rows(storage, trial)) == [0, 1, 2, 3, 16, 17, 18, 19]
    assert_right(storage, trial, storyteller)


@pytest.mark.parametrize(
    ("column", "change", "what"),
    [
        ("token_log_p", lambda values: [value - 1.0 for value in values], "token_log_p is more than its mean"),
        ("token_log_q", lambda values: values[1:], "token_log_q is not 20 numbers of nats"),
        ("token_log_q", lambda values: [-value for value in values], "token_log_q is not 20 numbers of nats"),
        ("token_entropy", lambda values: [], "token_entropy is not 20 numbers of nats"),
        ("token_entropy", lambda values: [value + 1 for value in values], "its bytes are not those that were written"),
        ("token_starts", lambda values: [*values[1:], 0], "token_starts is "),
        ("token_starts", lambda values: [], "token_log_p is not 0 numbers of nats"),
        ("part_values", lambda values: [*values, 1.0], "its part_values are not the parts"),
    ],
)
def test_verify_finds_what_is_wrong_with_a_record(
    tmp_path: Path, trial: PlannedTrial, storyteller: LoadedModel, column: str, change: Any, what: str
) -> None:
    storage = Storage(tmp_path)
    run_trial(storage, trial, storyteller)
    path = parts(storage, "generations", EXPERIMENT, trial.trial_id)[1]
    changed = read_part(storage, path)
    changed[1] = {**changed[1], column: change(changed[1][column])}
    storage.put(path, encode_part(changed, "generations"))
    problem = verify_trial(storage, EXPERIMENT, trial.trial_id).problem
    assert problem is not None and what in problem


def test_a_wrong_number_that_its_checksum_is_of_is_found_by_deep(
    tmp_path: Path, trial: PlannedTrial, storyteller: LoadedModel
) -> None:
    storage = Storage(tmp_path)
    run_trial(storage, trial, storyteller, keep=None)
    path = parts(storage, "generations", EXPERIMENT, trial.trial_id)[1]
    for column in ("token_log_p", "token_log_q"):
        before = storage.get(path)
        changed = read_part(storage, path)
        changed[1] = {**changed[1], column: [changed[1][column][0] / 2, *changed[1][column][1:]]}
        storage.put(path, encode_part(changed, "generations"))
        there = StoredTrial(storage, EXPERIMENT, trial.trial_id, trial.config, storyteller, LENGTH)
        assert verify_deep(there, pytest.fail) == f"generation 9: {column} is not what the model gives"
        storage.put(path, before)


def test_sql_reads_it_token_by_token(tmp_path: Path, trial: PlannedTrial, storyteller: LoadedModel) -> None:
    storage = Storage(tmp_path)
    run_trial(storage, trial, storyteller)
    sql = "SELECT sum(len(token_log_p)), sum(list_sum(token_log_p)) FROM generations WHERE len(token_log_p) > 0"
    ((tokens, total),) = run_query(storage, sql)[1]
    found = [row for row in whole_rows(storage, trial) if row["token_log_p"]]
    assert tokens == 20 * len(found)
    assert total == pytest.approx(sum(sum(row["token_log_p"]) for row in found))
    table = last_rows(storage, parts(storage, "generations", EXPERIMENT, trial.trial_id), 100, ["token_log_p"])
    assert table["token_log_p"].to_pylist() == [row["token_log_p"] for row in whole_rows(storage, trial)]
