"""The figures and the table of what a nat buys, on made-up results."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import MadeUp, write_results

from rl_alliteration.analysis.best_of_n import kl_bound
from rl_alliteration.analysis.measure import measure
from rl_alliteration.analysis.seeds import Estimate
from rl_alliteration.analysis.types import Analysis, Original
from rl_alliteration.report import settings
from rl_alliteration.report.base import Series, Shown
from rl_alliteration.report.command import Report, report
from rl_alliteration.report.drawing import save_png, to_plotly
from rl_alliteration.report.figures import yardsticks
from rl_alliteration.report.page import build_page
from rl_alliteration.results.reader import connect
from rl_alliteration.results.storage import Storage

TRIALS = [
    MadeUp(beta=0, seed=0, falls_at=150),
    MadeUp(beta=0, seed=1, falls_at=170),
    MadeUp(beta=40, seed=0, falls_at=300),
    MadeUp(beta=100, seed=0),
    MadeUp(beta=100, seed=1),
]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    storage = Storage(tmp_path_factory.mktemp("made_up"))
    write_results(storage, TRIALS)
    return storage


@pytest.fixture(scope="module")
def shown(storage: Storage) -> Shown:
    return Shown(measure(connect(storage)))


def original_of(shown: Shown) -> Original:
    original = shown.analysis.trained[0].original
    assert original is not None
    return original


def by_name(series: list[Series]) -> dict[str, list[Series]]:
    found: dict[str, list[Series]] = {}
    for one in series:
        found.setdefault(one.name, []).append(one)
    return found


def test_every_trial_has_a_path_beside_best_of_n(shown: Shown) -> None:
    (figure,) = yardsticks.reward_against_kl(shown)
    assert figure.log_x and figure.references == [("original model", original_of(shown).raw_reward.value)]
    series = by_name(figure.series)
    for trial in shown.analysis.trained:
        (path,) = series[trial.name]
        assert path.faint and path.y == trial.metrics["raw_reward"].tolist()
        assert list(path.x) == np.maximum(trial.metrics["kl_per_text"], yardsticks.LEAST_NATS).tolist()
    (points,) = series["beta 0"]
    assert len(points.y) == 8 and points.targets is not None and points.targets[4][1] == 0
    best = original_of(shown).best_of_n
    band, line = series["best-of-n"]
    assert band.kind == "band" and band.bounds is not None
    assert line.x[-1] == pytest.approx(float(kl_bound(6))) and line.y[-1] == pytest.approx(best.mean(6).value)
    assert all(low < y < high for low, y, high in zip(band.bounds[0], line.y, band.bounds[1], strict=True))
    (far,) = series["best-of-n, no interval"]
    assert far.dash == "dash" and far.y[-1] == best.rewards.max()
    assert min(map(float, line.x)) >= yardsticks.LEAST_NATS


def test_the_optimum_is_drawn_only_where_enough_texts_carry_it(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    (figure,) = yardsticks.reward_against_kl(shown)
    (optimum,) = by_name(figure.series)["optimum, estimated"]
    assert max(map(float, optimum.x)) < math.log(300 / 100) + 0.1  # more nats leave fewer than 100 of 300 texts
    assert "With 95% confidence its objective is at least" in figure.caption
    original = dataclasses.replace(original_of(shown), rewards=np.arange(99.0), tokens=np.full(99, 99))
    few = [dataclasses.replace(trial, original=original) for trial in shown.analysis.trained]
    (figure,) = yardsticks.reward_against_kl(Shown(Analysis(few, 100)))
    assert "optimum, estimated" not in by_name(figure.series)
    assert "is not drawn: for no beta do 100 of these texts carry it" in figure.caption


def test_the_envelope_is_coloured_by_variety_and_its_transition_marked(shown: Shown) -> None:
    (figure,) = yardsticks.envelope_over_beta(shown)
    ((name, transition),) = figure.marks
    assert name == "transition" and 0 < transition.value < 100
    assert f"beta {transition.value:.3g} [" in figure.caption
    series = by_name(figure.series)
    (fallen,), (nothing,) = series["variety under 33% (collapsed)"], series["doing nothing is best"]
    assert max(map(float, fallen.x)) <= transition.value <= min(map(float, nothing.x))
    assert fallen.targets is not None and {place for _, place in fallen.targets} <= {200, 300}
    assert nothing.targets is None and set(nothing.y) == {figure.references[0][1]}
    (collapsed,) = series["best collapsed window"]
    assert min(collapsed.y) > -100  # a line far below doing nothing would hide the rest
    alone = Analysis([trial for trial in shown.analysis.trials if trial.seed == 0], 100)
    (figure,) = yardsticks.envelope_over_beta(Shown(alone))
    assert "one seed of each setting: no interval" in figure.caption


def test_the_objective_has_the_line_of_doing_nothing(shown: Shown) -> None:
    figure = yardsticks.objective(shown, "alliteration")
    ((name, value),) = figure.references
    assert name == "doing nothing (J0)"
    assert value == pytest.approx(original_of(shown).metrics["raw_reward"])
    thick = [series.name for series in figure.series if not series.faint]
    assert thick == ["beta 0", "beta 40", "beta 100"]


def test_marks_and_bands_are_drawn_in_the_page_and_in_files(shown: Shown, tmp_path: Path) -> None:
    figures = [*yardsticks.reward_against_kl(shown), *yardsticks.envelope_over_beta(shown)]
    against, envelope = (to_plotly(figure) for figure in figures)
    json.dumps([against, envelope], allow_nan=False)
    (band,) = [trace for trace in against["data"] if trace.get("fill") == "toself"]
    assert len(band["x"]) == len(band["y"]) and "error_y" not in band and not band["showlegend"]
    vertical = [shape for shape in envelope["layout"]["shapes"] if shape.get("yref") == "paper"]
    assert [shape["type"] for shape in vertical] == ["rect", "line"]
    assert [path.stem for path in save_png(figures, tmp_path)] == [figure.key for figure in figures]


def test_settings_have_intervals_over_their_seeds(shown: Shown) -> None:
    rows = settings.rows(shown)
    assert [row.name for row in rows] == ["rloo beta 0", "rloo beta 40", "rloo beta 100"]
    titles = [title for title, _ in settings.COLUMNS]
    cells = [dict(zip(titles, [cell(row) for _, cell in settings.COLUMNS], strict=True)) for row in rows]
    assert [row["seeds"] for row in cells] == ["2", "one seed", "2"]
    assert [row["more seeds"] for row in cells][:2] == ["told apart", "–"] and cells[1]["J"].endswith(" (one seed)")
    assert "[" in cells[0]["J"] and "[" not in cells[1]["J"] and "[" in cells[1]["J0, doing nothing"]
    assert cells[0]["J*, the optimum"] == "–"  # with beta 0 there is none
    assert cells[1]["J*, the optimum"].startswith("at least")
    assert cells[0]["worth best-of"] == "over 300" and cells[0]["nats wasted"] == "–"
    kl = float(cells[2]["KL, nats a text"].split(" ")[0])
    assert kl == pytest.approx(99 * 0.025, abs=0.2)
    assert float(cells[2]["nats wasted"].split(" ")[0]) <= kl


def test_settings_say_how_many_more_seeds_would_tell_j_from_j0(shown: Shown) -> None:
    row = settings.rows(shown)[0]
    told = dict(settings.COLUMNS)["more seeds"]

    def of(*estimates: Estimate) -> str:
        objective, nothing = estimates
        return told(
            dataclasses.replace(row, worth=dataclasses.replace(row.worth, objective=objective, nothing=nothing))
        )

    nothing = Estimate(5.0, 4.9, 5.1)
    assert row.worth.seeds == 2
    assert of(Estimate(6.0, 5.5, 6.5), nothing) == "told apart"
    assert of(Estimate(6.0, 4.0, 6.5), nothing) == "14"  # beside the two, as 15.1 would do
    assert of(Estimate(5.05, 4.0, 6.5), nothing) == "no number of seeds like these"  # J0 is not known that well
    assert of(Estimate(6.0), nothing) == "–"


def test_the_page_has_no_divergence_below_zero(storage: Storage, shown: Shown) -> None:
    page = build_page(shown, connect(storage), title="t")
    data: dict[str, Any] = json.loads(page.split('id="figures-data">')[1].split("</script>")[0])
    for key in ("kl_penalty_alliteration", "reward_against_kl_alliteration"):
        axis = "x" if key.startswith("reward") else "y"
        assert min(value for trace in data[key]["data"] for value in trace[axis]) > 0
    assert data["metric:kl_penalty_alliteration"][0]["title"] == "KL divergence per token by generation"
    texts = json.loads(page.split('id="texts-data">')[1].split("</script>")[0])
    assert min(row[2] for trial in texts["trials"] for row in trial) == 0  # the original's
    assert 'id="settings"' in page and "KL penalty by" not in page


def test_results_without_an_original_have_no_yardsticks(shown: Shown) -> None:
    alone = Shown(Analysis([dataclasses.replace(trial, original=None) for trial in shown.analysis.trained], 100))
    assert not [*yardsticks.reward_against_kl(alone), *yardsticks.envelope_over_beta(alone), *settings.rows(alone)]
    assert yardsticks.objective(alone, "alliteration").references == []


@pytest.fixture(scope="module")
def page_file(storage: Storage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    report(Report(storage=str(storage), output=str(path)), lambda line: None)
    return path


@pytest.mark.browser
@pytest.mark.parametrize("width, scheme", [(1280, "light"), (390, "dark")])
def test_they_are_drawn_wide_and_narrow(browser: Any, page_file: Path, width: int, scheme: str) -> None:
    page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(page_file.as_uri())
    page.wait_for_selector("html[data-ready=yes]", state="attached")
    for key in ("reward_against_kl", "envelope", "objective"):
        page.locator(f"#plot-{key}_alliteration").scroll_into_view_if_needed()
        page.wait_for_selector(f"#plot-{key}_alliteration .main-svg", state="attached")
    assert page.locator("#plot-reward_against_kl_alliteration .fills path").count() == 1
    assert page.locator("#plot-envelope_alliteration .shapelayer path").count() == 3
    assert page.locator("#settings tbody tr").count() == 3
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert complaints == []
    page.context.close()
