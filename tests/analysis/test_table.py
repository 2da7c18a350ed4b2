"""The view `windows`, against known answers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from made_up import MadeUp, write_results

from rl_alliteration.analysis import table
from rl_alliteration.analysis.summary import summarise
from rl_alliteration.cli.main import main
from rl_alliteration.config import ORIGINAL
from rl_alliteration.handle import open_results
from rl_alliteration.results.parts import read_part
from rl_alliteration.results.reader import run_query
from rl_alliteration.results.storage import Storage


def apart_then_alike(trial: MadeUp, generation: int) -> str:
    if trial.algorithm == ORIGINAL or generation < 100:
        return f"one{generation} Two{generation} three{generation}"
    return "the tall tall tall tall tree"


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    storage = Storage(tmp_path_factory.mktemp("made_up"))
    write_results(storage, [MadeUp(beta=40, generations=350)], text=apart_then_alike)
    return storage


def test_windows_has_a_row_a_window_with_what_its_texts_say(storage: Storage) -> None:
    sql = "SELECT * FROM windows WHERE algorithm = 'rloo' ORDER BY ALL"
    windows = open_results(str(storage)).query(sql).to_pydict()
    assert windows["experiment"] == ["made_up"] * 4 and windows["beta"] == [40.0] * 4
    assert windows["first_generation"] == [0, 100, 200, 300]
    assert windows["last_generation"] == [99, 199, 299, 349]
    assert windows["texts"] == [100, 100, 100, 50]
    assert windows["variety"] == [1.0, 0.0, 0.0, 0.0]
    assert windows["near_copies"] == [0.0, 1.0, 1.0, 1.0]
    assert windows["repetition"] == [0.0, 0.25, 0.25, 0.25]  # of four triples one is there twice
    assert windows["alliteration"] == pytest.approx([100 / 3] + [500 / 6] * 3)
    assert windows["raw_reward"] == windows["raw_reward_low"] == windows["raw_reward_high"] == [1.0, 5.0, 5.0, 5.0]
    assert windows["collapsed"] == [False, True, True, True]
    assert windows["keeps_variety"] == windows["keeps_sense"] == [True, False, False, None]
    _, rows = run_query(storage, "SELECT avg(kl_penalty) FROM generations GROUP BY trial_id, generation // 100")
    assert set(np.round(windows["kl_penalty"], 9)) <= {round(kl, 9) for (kl,) in rows}


def test_the_command_and_the_handle_give_the_same_windows(storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["query", "--storage", str(storage), "--format", "json", "SELECT * FROM Windows ORDER BY ALL"])
    assert not end.value.code
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    results = open_results(str(storage))
    assert told == results.query("SELECT * FROM windows ORDER BY ALL").to_pylist()
    assert sorted(map(str, told)) == sorted(map(str, results.windows().to_pylist()))
    assert list(told[0]) == [column.name for column in table.columns()]


def test_other_queries_do_not_pay_for_it(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(table.VIEWS, "windows", lambda connection: pytest.fail("it was measured"))
    for sql in ("SELECT count(*) FROM generations", "SELECT 1 AS windows_of"):
        run_query(storage, sql, table.VIEWS)


def test_the_original_has_no_beta_in_the_views_and_the_stored_rows_keep_theirs(storage: Storage) -> None:
    for view in ("generations", "trials", "trial_events", "windows"):
        sql = f"SELECT DISTINCT algorithm, beta FROM {view} ORDER BY algorithm"
        assert run_query(storage, sql, table.VIEWS)[1] == [(ORIGINAL, None), ("rloo", 40.0)]
    stored = {read_part(storage, path)[0]["beta"] for path in storage.list("generations") if "=original-" in path}
    assert stored == {0.0}
    assert [one.beta for one in summarise(storage)] == [40.0, 0.0]
