"""What is added in one place shows everywhere: a metric in `METRICS`, a figure in `SECTIONS`."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from made_up import MadeUp, write_results

from rl_alliteration.analysis.measure import measure
from rl_alliteration.analysis.metrics import METRICS, Metric
from rl_alliteration.handle import open_results
from rl_alliteration.report import sections
from rl_alliteration.report.base import BLUE, Figure, Series, Shown
from rl_alliteration.report.page import build_page
from rl_alliteration.results.reader import connect
from rl_alliteration.results.storage import Storage


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    storage = Storage(tmp_path_factory.mktemp("made_up"))
    write_results(storage, [MadeUp(beta=0), MadeUp(beta=40)], text=lambda trial, generation: f"a b{generation}!")
    return storage


def page_of(storage: Storage) -> tuple[str, dict[str, Any]]:
    """The page, and what it draws."""
    connection = connect(storage)
    page = build_page(Shown(measure(connection)), connection, title="t")
    data = re.search(r'id="figures-data">(.*?)</script>', page, re.S)
    assert data is not None
    return page, json.loads(data[1])


def hooks() -> ModuleType:
    path = Path(__file__).parents[2] / "docs" / "hooks.py"
    if not path.exists():
        pytest.skip("no documentation here: this is no checkout of the repository")
    spec = importlib.util.spec_from_file_location("documentation_hooks", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_metric_is_in_the_windows_the_page_and_the_reference(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    exclaimed = Metric("exclaimed", "Exclamations", "exclamation marks", lambda w: sum(t.count("!") for t in w.texts))
    monkeypatch.setitem(METRICS, "exclaimed", exclaimed)
    results = open_results(str(storage))
    assert set(results.windows()["exclaimed"].to_pylist()) == {100.0}
    assert results.query("SELECT DISTINCT exclaimed FROM windows").to_pydict() == {"exclaimed": [100.0]}
    page, drawn = page_of(storage)
    assert '<option value="exclaimed">Exclamations</option>' in page
    assert drawn["metric:exclaimed_alliteration"][0]["title"] == "Exclamations by generation"
    module = hooks()
    assert "| `exclaimed` | float64 |  | exclamation marks |" in module.columns().split("## windows")[1]
    assert "| Exclamations | `exclaimed` | exclamation marks |" in module.metrics()


def test_a_figure_is_on_the_page_and_among_the_files(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    def lengths(shown: Shown) -> list[Figure]:
        texts = [float(trial.generations) for trial in shown.analysis.trained]
        names = [trial.name for trial in shown.analysis.trained]
        series = [Series("texts", names, texts, BLUE, "bar")]
        return [Figure("lengths", "How long", "Texts of each trial.", "trial", "texts", series)]

    added = [
        dataclasses.replace(section, figures=(*section.figures, lengths)) if section.key == "tradeoff" else section
        for section in sections.SECTIONS
    ]
    monkeypatch.setattr(sections, "SECTIONS", added)
    page, drawn = page_of(storage)
    assert '<div class="plot" id="plot-lengths"' in page.split('id="tradeoff"')[1].split("</section>")[0]
    assert drawn["lengths"]["data"][0]["y"] == [400.0, 400.0]
    assert "lengths" in open_results(str(storage)).figures


def test_no_two_trials_have_one_name(storage: Storage) -> None:
    write_results(storage, [MadeUp(beta=40, reward="a_words"), MadeUp(beta=0)], "again")
    trials = measure(connect(storage)).trials
    names = [trial.name for trial in trials]
    assert len({trial.trial_id for trial in trials}) < len(names) == len(set(names))
    assert {"rloo beta 0 seed 0, alliteration, again", "rloo beta 0 seed 0, alliteration, made_up"} < set(names)
    assert measure(connect(storage), "made_up").trials[0].name == "rloo beta 0 seed 0"
