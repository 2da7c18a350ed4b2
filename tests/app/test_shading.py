"""Tokens shaded by their record: the right pieces, classes and numbers; and what has no record."""

from __future__ import annotations

import html
import io
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from hostile import TRIALS, hostile_or_story
from made_up import write_results
from recorded import token_columns, write_records
from served import Client, known

from rl_alliteration.app.rows import Rollout
from rl_alliteration.app.shading import SHADES, Record, legend, pieces, records
from rl_alliteration.results.parts import encode_part, read_part
from rl_alliteration.results.reader import parts
from rl_alliteration.results.storage import Storage
from rl_alliteration.terminal import printable

FIXTURES = Path(__file__).parents[1] / "results" / "storages"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Client:
    storage = Storage(tmp_path_factory.mktemp("shading") / "results")
    (trial_id, _) = write_results(storage, TRIALS[:1])
    write_records(storage, "made_up", trial_id, range(10))
    (hostile, _) = write_results(storage, [TRIALS[2]], "hostile", hostile_or_story)
    write_records(storage, "hostile", hostile, range(400))
    return Client(known(storage))


def key(client: Client, experiment: str = "made_up") -> str:
    return next("/".join(pair) for pair in client.index.snapshot.trials if pair[0] == experiment)


def tokens(page: str) -> list[list[tuple[str, str, str]]]:
    """Of each text, the class, numbers and characters of its pieces."""
    found = re.findall(r'<p class="text tokens" dir="auto"[^>]*>(.*?)</p>', page, re.S)
    piece = re.compile(r'<span class="token (\w*)" title="([^"<>]*)">([^<>]*)</span>')
    assert all(piece.sub("", text) == "" for text in found)
    return [[tuple(map(html.unescape, one)) for one in piece.findall(text)] for text in found]  # type: ignore[misc]


def rollout(text: str) -> Rollout:
    return Rollout(0, 0, 0, text, 0.0, 0.0, 0.0, 0.0, 5, 1.0)


def test_pieces_have_the_classes_and_numbers_of_their_tokens() -> None:
    text = "Once é b"
    record = Record(
        [-0.05, -1.0, -2.0, -9.0, -0.25], [-0.05, -0.5, -0.5, -1.0, -4.5], [0.0, 1, 2, 3, 9], [4, 5, 5, 6, 8]
    )
    found = {by: pieces(rollout(text), record, by) for by in SHADES if by != "runs"}
    for of in found.values():
        assert [one.text for one in of] == ["Once", " ", "é", " b", "∎"]
        assert [one.title for one in of] == [
            "prompt",
            "log p -0.05, log q -0.05, log p − log q 0.00, entropy 0.00 nats",
            "log p -3.00, log q -1.00, log p − log q -2.00, entropy 3.00 nats (2 tokens)",
            "log p -9.00, log q -1.00, log p − log q -8.00, entropy 3.00 nats",
            "log p -0.25, log q -4.50, log p − log q 4.25, entropy 9.00 nats",
        ]
    assert [one.shade for one in found["log_p"]] == ["", "high0", "high4", "high6", "high1"]
    assert [one.shade for one in found["log_q"]] == ["", "high0", "high3", "high3", "high5"]
    assert [one.shade for one in found["difference"]] == ["", "high0", "low5", "low6", "high6"]
    assert [one.shade for one in found["entropy"]] == ["", "high0", "high5", "high5", "high6"]
    for by, of in found.items():
        assert {one.shade for one in of} - {""} <= {shade for shade, _ in legend(by)}


@pytest.mark.parametrize("by", [shade for shade in SHADES if shade != "runs"])
def test_a_recorded_group_is_shaded_with_a_legend(client: Client, by: str) -> None:
    page = client.ask(f"/rollouts?trial={key(client)}&generation=0&shade={by}").text
    shown = tokens(page)
    assert len(shown) == 10
    plain = client.ask(f"/rollouts?trial={key(client)}&generation=0").text
    texts = re.findall(r'<p class="text" dir="auto">(.*?)</p>', plain, re.S)
    for of, text in zip(shown, texts, strict=True):
        assert "".join(piece for _, _, piece in of) == html.unescape(re.sub(r"</?mark>", "", text)) + "∎"
    assert page.count('<ul class="legend"') == 1 and "no record" not in page
    assert set(re.findall(r'<li><span class="token (\w+)">', page)) == {shade for shade, _ in legend(by)}


def test_texts_without_a_record_are_told_with_the_way_to_one(client: Client) -> None:
    address = f"/rollouts?trial={key(client)}&generation=350&shade=log_p"
    page = client.ask(address).text
    assert tokens(page) == [] and page.count("There is no record of the tokens of these texts.") == 1
    (link,) = re.findall(r'By default those of <a href="([^"]*)">generation 0</a> have one', page)
    assert len(tokens(client.ask("/rollouts" + html.unescape(link)).text)) == 10
    window = client.ask(f"/rollouts?trial={key(client)}&generation=0&scope=window&shade=log_p").text
    assert len(tokens(window)) == 10 and "90 of these texts have no record of their tokens." in window
    assert client.ask(f"/rollouts?trial={key(client)}&shade=colour").status == 400


def test_hostile_texts_stay_texts(client: Client) -> None:
    page = client.ask(f"/rollouts?trial={key(client, 'hostile')}&generation=0&scope=window&shade=entropy").text
    shown = tokens(page)
    assert len(shown) == 100 and any("<script>" in "".join(piece for _, _, piece in of) for of in shown)
    assert all(piece == printable(piece) for of in shown for _, _, piece in of)
    assert "<script>document" not in page and "<img" not in page and not re.findall(r"<[^>]*\son\w+=", page)


def test_a_download_has_what_is_shaded(client: Client) -> None:
    address = f"/download/rollouts?trial={key(client)}&generation=0&shade=log_p"
    table = pyarrow.parquet.read_table(io.BytesIO(client.ask(address + "&format=parquet").body))
    expected = [token_columns(text)["token_log_p"] for text in table["text"].to_pylist()]
    assert table["token_log_p"].to_pylist() == expected
    assert client.ask(address + "&format=csv").text.startswith('"experiment","trial_id","generation"')


@pytest.mark.parametrize("version", ["v1", "v2", "v3"])
def test_storages_of_every_version_are_shown(tmp_path: Path, version: str) -> None:
    shutil.copytree(FIXTURES / version / "results", tmp_path / "results")
    one = Client(known(Storage(tmp_path / "results")))
    trial = next("/".join(pair) for pair in one.index.snapshot.trials if pair[1].startswith("rloo"))
    page = one.ask(f"/rollouts?trial={trial}&generation=8&shade=difference")
    assert page.status == 200
    assert len(tokens(page.text)) == (4 if version == "v3" else 0)
    assert ("There is no record" in page.text) == (version != "v3")


def test_parts_of_two_versions_side_by_side(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "results")
    (trial_id, _) = write_results(storage, [TRIALS[0]])
    (path,) = parts(storage, "generations", "made_up", trial_id)
    rows = read_part(storage, path)
    old = [{**row, "schema_version": 2} for row in rows[:100]]
    storage.put(path, encode_part(old, "generations"))
    new = [{**row, **token_columns(row["text"])} for row in rows[100:]]
    storage.put(path.replace("00000000", "00000100"), encode_part(new, "generations"))
    index = known(storage)
    one = next(one for one in index.snapshot.trials.values() if one.trial.trial_id == trial_id)
    assert sorted(records(index, one, 90, 110)) == list(range(100, 110))


@pytest.mark.parametrize(
    "change",
    [
        {"token_log_p": [-1.0]},
        {"token_log_q": [float("nan")] * 3},
        {"token_starts": [30, 20, 10]},
        {"token_starts": [0, 1, 10**6]},
        {"token_entropy": []},
    ],
)
def test_a_record_that_does_not_fit_together_is_none(tmp_path: Path, change: Any) -> None:
    storage = Storage(tmp_path / "results")
    (trial_id, _) = write_results(storage, [TRIALS[0]])
    (path,) = parts(storage, "generations", "made_up", trial_id)
    record = {
        "token_log_p": [-1.0] * 3,
        "token_log_q": [-1.0] * 3,
        "token_entropy": [1.0] * 3,
        "token_starts": [1, 2, 3],
    }
    for given, expected in ((record, 10), (record | change, 0)):
        rows = [{**row, **given} if row["generation"] < 10 else row for row in read_part(storage, path)]
        storage.put(path, encode_part(rows, "generations"))
        index = known(storage)
        one = next(one for one in index.snapshot.trials.values() if one.trial.trial_id == trial_id)
        assert len(records(index, one, 0, 100)) == expected
