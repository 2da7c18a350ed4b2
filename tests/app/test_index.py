"""What the page knows is what measuring everything at once gives, also of results that grow or are damaged."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile import TRIALS, hostile_or_story
from made_up import MadeUp, write_results
from served import AtOnce, Client, known

from rl_alliteration.analysis.measure import measure
from rl_alliteration.analysis.metrics import METRICS
from rl_alliteration.app.index import Index
from rl_alliteration.app.server import _moment
from rl_alliteration.app.table import Verdicts, rows
from rl_alliteration.results import schema
from rl_alliteration.results.notes import Note, note_path, read_note, write_note
from rl_alliteration.results.reader import connect, parts
from rl_alliteration.results.storage import Storage


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    storage = Storage(tmp_path_factory.mktemp("index") / "results")
    write_results(storage, [*TRIALS[:3], TRIALS[4], MadeUp(beta=5, generations=650, falls_at=300)])
    return storage


def test_what_is_known_piece_by_piece_is_what_is_measured_at_once(storage: Storage) -> None:
    snapshot = known(storage).snapshot
    assert snapshot.problems == () and snapshot.unmeasured == 0
    whole = measure(connect(storage))
    assert [one.trial.name for one in snapshot.trials.values()] == [trial.name for trial in whole.trials]
    for trial in whole.trials:
        found = snapshot.trials[trial.experiment, trial.trial_id].trial
        assert found.first.tolist() == trial.first.tolist() and found.texts.tolist() == trial.texts.tolist()
        for name in METRICS:
            np.testing.assert_allclose(found.metrics[name], trial.metrics[name], rtol=1e-9, atol=1e-12, err_msg=name)
        np.testing.assert_allclose(found.spread, trial.spread, atol=1e-6)
        np.testing.assert_array_equal(found.by_letter, trial.by_letter)
        assert found.collapse == trial.collapse
        assert (found.original is None) == (trial.original is None)
        for field in dataclasses.fields(trial):
            if field.name not in ("metrics", "intervals", "spread", "by_letter", "curve", "original", "first", "texts"):
                assert getattr(found, field.name) == getattr(trial, field.name), field.name


def test_only_what_is_new_is_read_and_measured(tmp_path: Path) -> None:
    whole = Storage(tmp_path / "whole")
    write_results(whole, [MadeUp(generations=1250, falls_at=600)])
    ids = [(e, t) for e, t in known(whole, measured=False).snapshot.trials if not t.startswith("original")]
    ((experiment, trial_id),) = ids
    paths = parts(whole, "generations", experiment, trial_id)
    assert len(paths) == 3
    late = whole.root / paths[2]
    aside = tmp_path / "aside"
    os.rename(late, aside)
    index = known(whole)
    before = index.snapshot.trials[experiment, trial_id]
    assert before.trial.generations == 1200 and before.unmeasured == 0
    asked: list[int] = []
    query = index.parts.query

    def counted(sql: str, paths: Sequence[str], values: Mapping[str, Any] | None = None) -> pa.Table:
        asked.append(len(paths))
        return query(sql, paths, values)

    index.parts.query = counted  # type: ignore[method-assign]
    index.look()
    assert asked == []  # nothing has changed
    version = index.snapshot.version
    index.look()
    assert index.snapshot.version == version
    os.rename(aside, late)
    index.look()
    assert asked == [1]
    after = index.snapshot.trials[experiment, trial_id]
    assert after.trial.generations == 1250 and after.unmeasured == 1
    kept = after.trial.metrics["variety"][:12]
    np.testing.assert_array_equal(kept, before.trial.metrics["variety"])
    # A window that lies in another part than before is measured again.
    os.remove(late)
    index.look()
    assert index.snapshot.trials[experiment, trial_id].trial.generations == 1200


def test_a_damaged_part_is_a_line_and_the_rest_is_shown(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "results")
    write_results(storage, [MadeUp(beta=beta, generations=200) for beta in (0, 1, 2)])
    pairs = list(known(storage, measured=False).snapshot.trials)
    damaged = [parts(storage, "generations", *pairs[0])[0], parts(storage, "trials", *pairs[1])[0]]
    for path in damaged:
        place = storage.root / path
        place.write_bytes(place.read_bytes()[:-200])
    index = known(storage)
    lines = index.snapshot.problems
    assert len(lines) == 2 and all(any(path in line for line in lines) for path in damaged)
    assert all("\n" not in line and "Traceback" not in line for line in lines)
    assert pairs[1] not in index.snapshot.trials and pairs[2] in index.snapshot.trials
    client = Client(index)
    for path in ("/", "/curves", "/rollouts", "/frontier", "/texts?search=the", f"/trial?trial={'/'.join(pairs[0])}"):
        answer = client.ask(path)
        assert answer.status == 200 and "cannot be read" in answer.text, path


def test_texts_that_cannot_be_measured_are_a_line(storage: Storage) -> None:
    class Broken(AtOnce):
        def submit(self, work, /, *args, **kwargs):  # type: ignore[no-untyped-def]
            return super().submit(lambda: 1 / 0)

    index = Index(storage, str(storage), Broken)
    index.look()
    while index.measure_some():
        pass
    index.look()
    assert index.snapshot.unmeasured == 0
    assert "cannot be measured: division by zero" in index.snapshot.problems[0]


@pytest.mark.parametrize("made", ["nothing", "strangers", "newer", "no_json", "link"])
def test_a_foreign_storage_is_a_line_and_never_a_stack(tmp_path: Path, made: str) -> None:
    root = tmp_path / "results"
    storage = Storage(root)
    root.mkdir()
    folder = root / "generations/experiment=<script>/trial_id=..x"
    if made == "strangers":
        folder.mkdir(parents=True)
        (folder / "part-00000000.parquet").write_bytes(b"PAR1")
        (root / "trials").write_text("a file")
    if made in ("newer", "no_json", "link"):
        write_results(storage, [MadeUp(generations=100)])
    if made == "newer":
        for file in root.glob("trials/**/*.parquet"):
            table = pq.ParquetFile(file).read()
            newer = pa.array([schema.SCHEMA_VERSION + 1] * table.num_rows, pa.int64())
            pq.write_table(table.set_column(table.column_names.index("schema_version"), "schema_version", newer), file)
    if made == "no_json":
        (root / "notes/made_up").mkdir(parents=True)
        (root / "notes/made_up/x.json").write_text("{")
    if made == "link":
        (root / "generations/elsewhere").symlink_to("/etc")
    index = Index(storage, str(storage), AtOnce)
    try:
        index.look()
    except Exception as error:
        index._say(str(error))
    client = Client(index)
    for path in ("/", "/curves", "/rollouts", "/compare", "/frontier", "/search", "/texts?search=a", "/download/"):
        answer = client.ask(path)
        assert answer.status in (200, 400, 503), (path, answer.text)
        assert "Traceback" not in answer.text and "<script>alert" not in answer.text
    if made in ("newer", "no_json", "link"):
        assert index.snapshot.problems


# --- numbers ------------------------------------------------------------------------------------------------------


def test_trials_are_judged_against_doing_nothing(storage: Storage) -> None:
    snapshot = known(storage).snapshot
    verdicts = Verdicts.of(snapshot)
    words = {row.trials[0].trial.name: row.verdict for row in rows(list(snapshot.trials.values()), verdicts)}
    assert words["rloo beta 0 seed 0, alliteration"] == "above"
    assert words["rloo beta 100 seed 0, alliteration"] == "below"
    assert words["original, alliteration"] == ""


# --- notes ---------------------------------------------------------------------------------------------------------


def test_notes_are_files_of_their_own_beside_the_datasets(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "results")
    write_results(storage, [MadeUp(beta=100, generations=100)], "hostile", hostile_or_story)
    index = known(storage, measured=False)
    pair = next(iter(index.snapshot.trials))
    before = storage.sizes("generations") | storage.sizes("trials")
    client = Client(index)
    ours = {"origin": "http://127.0.0.1:8686"}

    def keep(**changes: object) -> int:
        body = {"trial": "/".join(pair), "name": "<b>mine", "note": "see </textarea>", "starred": True} | changes
        return client.ask("/note", ours, "POST", json.dumps(body).encode()).status

    assert keep() == 200
    assert read_note(storage, *pair)[0] == Note("<b>mine", "see </textarea>", True)
    assert [path for path in storage.list("notes") if not path.endswith(".lock")] == [note_path(*pair)]
    assert storage.sizes("generations") | storage.sizes("trials") == before
    index.look()
    page = client.ask(f"/trial?trial={'/'.join(pair)}").text
    assert "&lt;b&gt;mine" in page and "see &lt;/textarea&gt;" in page and "<b>mine" not in page
    assert "&lt;b&gt;mine" in client.ask("/?starred=yes").text
    for changes in (
        {"name": "x" * 81}, {"note": "x" * 4001}, {"starred": "yes"}, {"trial": "../x"}, {"name": 3},
        {"name": "\ud800"}, {"trial": f"{pair[0]}/../{pair[1]}"},
    ):  # fmt: skip
        assert keep(**changes) == 400, changes
    assert client.ask("/note", ours, "POST", b"x" * 70_000).status == 413
    assert client.ask("/note", ours, "POST", b"[]").status == 400


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        ("2026-11-27T17:20:05.123+00:00", "2026-11-27 17:20:05 UTC"),
        ("2026-11-27T01:20:05+09:30", "2026-11-26 15:50:05 UTC"),
        ("0001-01-01T00:00:00+09:30", "0001-01-01T00:00:00+09:30"),
        ("yesterday", "yesterday"),
        ("", ""),
    ],
)
def test_a_time_is_shown_in_words_if_it_is_one(stored: str, shown: str) -> None:
    assert _moment(stored) == shown


def test_a_note_that_was_changed_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "results")
    tag = write_note(storage, "e", "t", Note("one"), None)
    write_note(storage, "e", "t", Note("two"), tag)
    with pytest.raises(Exception, match="changed elsewhere"):
        write_note(storage, "e", "t", Note("three"), tag)
    assert read_note(storage, "e", "t")[0].name == "two"
