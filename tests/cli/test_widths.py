"""Tables at the widths that terminals have, by the real commands: nothing is cut unless a mark says so."""

from __future__ import annotations

import re

import pytest
from commands import run
from made_up import MadeUp, write_results

from rl_alliteration.analysis.summary import summarise
from rl_alliteration.cli.watch import LiveTrials, fitting
from rl_alliteration.names import find_trial
from rl_alliteration.results.storage import Storage
from rl_alliteration.terminal import TABLE_WIDTH, Screen

WIDTHS = (60, 80, 100, 130, 200)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    storage = Storage(tmp_path_factory.mktemp("made_up"))
    write_results(
        storage, [MadeUp(beta=beta, seed=seed, generations=200) for beta in (0, 10, 40, 100) for seed in (0, 1)]
    )
    return storage


@pytest.fixture(params=WIDTHS)
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Of what rich takes for a terminal."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "dumb")  # without colours
    monkeypatch.setenv("COLUMNS", str(request.param))
    monkeypatch.setenv("LINES", "20")
    return int(request.param)


def test_the_summary_of_trials(
    storage: Storage, width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run(capsys, "status", "--storage", str(storage))
    table = out[: out.index("Below doing nothing")] if "Below doing nothing" in out else out
    table = table.partition("Nothing beats")[0]
    lines = table.splitlines()
    assert code == 0 and max(map(len, lines)) <= width
    assert ("trial " in lines[1]) == (width >= TABLE_WIDTH)
    assert len(lines) <= 2 + 5 * 9
    words = " ".join(table.split())
    for summary in summarise(storage):
        assert summary.name in words
        text = " ".join(summary.last_text.split())[:139]
        if width < TABLE_WIDTH:
            assert f"{text}…" in words
        else:  # the column of texts is its table's last, so that its lines stand between others
            assert all(word in words for word in text.split()[:-1])
    ids = [one.trial_id for one in summarise(storage)]
    shown = re.findall(r"(?:id |^[a-z0-9 ]+  )([0-9a-f]{4,8}) ", table, re.MULTILINE)
    assert {find_trial(one, ids, "e") for one in shown} == set(ids)


def test_the_plan_of_a_sweep_shows_ids_whole(
    width: int, capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = str(tmp_path_factory.mktemp("none") / "x")
    flags = ("--preset", "efficient", "--credit", "text", "to-go", "--storage", folder, "--dry-run")
    code, out, _ = run(capsys, "sweep", *flags)
    assert code == 0 and "…" not in out
    assert len(re.findall(r"\brloo-beta100-seed0-[0-9a-f]{8}\b", out)) == 2
    assert out.count("credit") >= 1 and "linear" in out


def test_the_findings(storage: Storage, width: int, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "claims", "--storage", str(storage))
    assert max(map(len, out.splitlines())) <= width and "…" not in out
    assert "The unmodified model alliterates little" in " ".join(out.split()) or width >= TABLE_WIDTH


def test_a_query_keeps_its_table(storage: Storage, width: int, capsys: pytest.CaptureFixture[str]) -> None:
    sql = "SELECT trial_id, beta, seed, text FROM generations WHERE generation = 0"
    _, out, _ = run(capsys, "query", "--storage", str(storage), sql)
    assert out.splitlines()[0][0] == "┏" and "…" not in out
    assert max(map(len, out.splitlines())) <= width


def test_the_live_table_has_no_more_lines_than_the_terminal(storage: Storage, width: int) -> None:
    console = Screen()
    shown = fitting(LiveTrials(storage).look(), console)
    with console.capture() as capture:
        console.print(shown)
    lines = capture.get().splitlines()
    assert len(lines) <= 20 and max(map(len, lines)) <= width
    assert "…" not in capture.get()
    assert ("more trials are not shown" in lines[0]) == (width < 80) or width < 100
