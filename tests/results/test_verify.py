"""`verify` passes on what a trial wrote, and names the row after any one change."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from trials import EXPERIMENT, planned, run_trial

from rl_alliteration.config import PlannedTrial, TrialConfig, canonical_json
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.results import schema
from rl_alliteration.results.parts import encode_part, read_part
from rl_alliteration.results.reader import parts
from rl_alliteration.results.storage import Storage
from rl_alliteration.results.verify import verify_trial
from rl_alliteration.trial.replay import open_trial, replay

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def written(
    tmp_path_factory: pytest.TempPathFactory, tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig]
) -> tuple[Storage, PlannedTrial]:
    storage = Storage(tmp_path_factory.mktemp("written"))
    trial = planned(make_config(tiny_gpt_neo, group_size=4, beta=3.0), 24)
    run_trial(storage, trial, tiny_gpt_neo)
    return storage, trial


@pytest.fixture
def copy(written: tuple[Storage, PlannedTrial], tmp_path: Path) -> tuple[Storage, PlannedTrial]:
    storage, trial = written
    shutil.copytree(storage.root, tmp_path / "copy")
    return Storage(tmp_path / "copy"), trial


def rewrite(storage: Storage, trial: PlannedTrial, dataset: str, first: int, change: Callable[[Rows], None]) -> None:
    path = schema.part_path(dataset, EXPERIMENT, trial.trial_id, first)
    rows = read_part(storage, path)
    change(rows)
    table = pa.Table.from_pylist(rows, schema=schema.arrow(dataset))
    pq.write_table(table, storage.folder(path), compression="zstd")


def test_what_was_written_verifies(written: tuple[Storage, PlannedTrial]) -> None:
    storage, trial = written
    verdict = verify_trial(storage, EXPERIMENT, trial.trial_id)
    assert (verdict.problem, verdict.generations, verdict.notes) == (None, 24, ())


@pytest.mark.parametrize("version", [2, 3])
def test_a_trial_of_an_earlier_version_verifies_and_can_be_had_again(
    version: int, tmp_path: Path, tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig]
) -> None:
    storage = Storage(tmp_path)
    trial = planned(make_config(tiny_gpt_neo, group_size=4, beta=3.0, texts_version=version), 24)
    run_trial(storage, trial, tiny_gpt_neo)
    for event, path in enumerate(parts(storage, "trials", EXPERIMENT, trial.trial_id)):
        (row,) = read_part(storage, path)
        config = json.loads(row["config"])
        del config["architecture"], config["texts_version"]  # as it was stored then
        data = encode_part([row | {"config": canonical_json(config)}], "trials")
        (storage.root / path).write_bytes(data)
        manifest = json.dumps({"sha256": hashlib.sha256(data).hexdigest()})
        (storage.root / schema.event_manifest_path(EXPERIMENT, trial.trial_id, event)).write_text(manifest)
    verdict = verify_trial(storage, EXPERIMENT, trial.trial_id)
    assert (verdict.problem, verdict.generations) == (None, 24)
    opened = open_trial(storage, EXPERIMENT, trial.trial_id)
    assert opened.config == trial.config
    assert replay(opened, 20, lambda _: None).generation == 20


def _set(index: int, **values: Callable[[dict[str, Any]], Any]) -> Callable[[Rows], None]:
    def change(rows: Rows) -> None:
        for column, value in values.items():
            rows[index][column] = value(rows[index])

    return change


def _swap(rows: Rows) -> None:
    rows[2], rows[3] = rows[3], rows[2]


def _swap_contents(rows: Rows) -> None:
    _swap(rows)
    for column in ("generation", "sample"):
        rows[2][column], rows[3][column] = rows[3][column], rows[2][column]


@pytest.mark.parametrize(
    "change, generation",
    [
        (_set(3, raw_reward=lambda row: row["raw_reward"] + 1), 11),
        (_set(3, reward=lambda row: row["reward"] + 1e-9), 11),
        (_set(3, text=lambda row: row["text"][:-1] + chr(ord(row["text"][-1]) ^ 1)), 11),
        (_set(5, token_ids=lambda row: [*row["token_ids"][:-1], (row["token_ids"][-1] + 1) % 2000]), 13),
        (
            _set(
                2,
                lm_cross_entropy=lambda row: row["lm_cross_entropy"] + 0.5,
                original_lm_cross_entropy=lambda row: row["original_lm_cross_entropy"] + 0.5,
            ),
            10,
        ),
        (_set(2, advantage=lambda row: -row["advantage"] - 1), 10),
        (_set(1, step=lambda row: row["step"] + 1), 9),
        (_set(1, prompt=lambda row: "Once"), 9),
        (_set(6, ended=lambda row: not row["ended"]), 14),
        (_swap, 10),
        (_swap_contents, 10),
        (lambda rows: rows.pop(), 15),
        (lambda rows: rows.insert(0, rows[0]), 9),
    ],
    ids=[
        "reward",
        "composite",
        "letter",
        "token",
        "cross-entropies",
        "advantage",
        "step",
        "prompt",
        "ended",
        "swap",
        "contents",
        "drop",
        "double",
    ],
)
def test_a_change_is_found_and_its_row_named(copy: tuple[Storage, PlannedTrial], change: Any, generation: int) -> None:
    storage, trial = copy
    rewrite(storage, trial, "generations", 8, change)
    problem = verify_trial(storage, EXPERIMENT, trial.trial_id).problem
    assert problem is not None
    assert problem.startswith(f"generation {generation}:") or f"generation {generation} " in problem


def test_a_change_that_agrees_with_itself_is_found_by_its_checksum(copy: tuple[Storage, PlannedTrial]) -> None:
    storage, trial = copy

    def shift(rows: Rows) -> None:
        rows[4]["lm_cross_entropy"] += 0.25
        rows[4]["original_lm_cross_entropy"] = rows[4]["lm_cross_entropy"] - rows[4]["kl_penalty"]
        rows[4]["kl_penalty"] = rows[4]["lm_cross_entropy"] - rows[4]["original_lm_cross_entropy"]
        rows[4]["reward"] = rows[4]["raw_reward"] + rows[4]["beta"] * rows[4]["kl_penalty"]

    rewrite(storage, trial, "generations", 8, shift)
    assert "generation 12:" in str(verify_trial(storage, EXPERIMENT, trial.trial_id).problem)


def test_an_update_that_does_not_fit_its_texts_is_found(copy: tuple[Storage, PlannedTrial]) -> None:
    storage, trial = copy
    rewrite(storage, trial, "steps", 8, _set(1, loss=lambda row: row["loss"] + 1))
    assert str(verify_trial(storage, EXPERIMENT, trial.trial_id).problem).startswith("generation 12: loss")


@pytest.mark.parametrize("number", [0, 8, 16])
def test_a_dropped_part_is_found(copy: tuple[Storage, PlannedTrial], number: int) -> None:
    storage, trial = copy
    storage.delete(schema.part_path("generations", EXPERIMENT, trial.trial_id, number))
    assert f"generation {number}" in str(verify_trial(storage, EXPERIMENT, trial.trial_id).problem)


def test_a_part_dropped_with_its_manifest_is_found_by_the_event_log(copy: tuple[Storage, PlannedTrial]) -> None:
    storage, trial = copy
    for dataset in ("generations", "steps"):
        storage.delete(schema.part_path(dataset, EXPERIMENT, trial.trial_id, 16))
    storage.delete(schema.manifest_path(EXPERIMENT, trial.trial_id, 16))
    assert "generation 16: missing" in str(verify_trial(storage, EXPERIMENT, trial.trial_id).problem)


def test_a_changed_or_missing_event_is_found(copy: tuple[Storage, PlannedTrial]) -> None:
    storage, trial = copy
    path = schema.part_path("trials", EXPERIMENT, trial.trial_id, 0)
    before = storage.get(path)
    rewrite(storage, trial, "trials", 0, _set(0, host=lambda row: "elsewhere"))
    assert "event 0" in str(verify_trial(storage, EXPERIMENT, trial.trial_id).problem)
    storage.put(path, before)
    storage.delete(schema.part_path("trials", EXPERIMENT, trial.trial_id, 1))
    assert "event" in str(verify_trial(storage, EXPERIMENT, trial.trial_id).problem)


def test_updates_without_texts_are_found(copy: tuple[Storage, PlannedTrial]) -> None:
    storage, trial = copy
    part = storage.get(schema.part_path("steps", EXPERIMENT, trial.trial_id, 16))
    storage.put(schema.part_path("steps", EXPERIMENT, trial.trial_id, 40), part)
    assert "generation 40" in str(verify_trial(storage, EXPERIMENT, trial.trial_id).problem)


def test_a_missing_manifest_is_found_but_for_the_last(copy: tuple[Storage, PlannedTrial]) -> None:
    storage, trial = copy
    storage.delete(schema.manifest_path(EXPERIMENT, trial.trial_id, 16))
    verdict = verify_trial(storage, EXPERIMENT, trial.trial_id)
    assert (verdict.problem, len(verdict.notes)) == (None, 2)
    storage.delete(schema.manifest_path(EXPERIMENT, trial.trial_id, 0))
    assert "has no manifest" in str(verify_trial(storage, EXPERIMENT, trial.trial_id).problem)


def test_a_file_that_is_no_parquet_is_named(copy: tuple[Storage, PlannedTrial]) -> None:
    storage, trial = copy
    path = schema.part_path("generations", EXPERIMENT, trial.trial_id, 8)
    (storage.root / path).write_bytes(b"PAR1 nonsense")
    assert path in str(verify_trial(storage, EXPERIMENT, trial.trial_id).problem)
