"""The page: what it says, that it stays one file, and that nothing of a text is taken for markup."""

from __future__ import annotations

import html
import itertools
import json
import math
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import HOSTILE, TRIALS, hostile_or_story
from made_up import MadeUp, write_results

from rl_alliteration.analysis.alliteration import letter_entropy
from rl_alliteration.analysis.claims import BetaSweep, comparable
from rl_alliteration.analysis.frontier import frontier, recommend
from rl_alliteration.analysis.letters import entropy_by_kl
from rl_alliteration.analysis.measure import measure
from rl_alliteration.analysis.metrics import METRICS
from rl_alliteration.analysis.types import Analysis
from rl_alliteration.cli.main import main
from rl_alliteration.flags import UpdateSettings
from rl_alliteration.report.base import Shown, ordered
from rl_alliteration.report.command import Report, report
from rl_alliteration.report.drawing import save_png, to_plotly
from rl_alliteration.report.figures import letters, metrics
from rl_alliteration.report.figures.search import search_figures
from rl_alliteration.report.page import build_page
from rl_alliteration.report.sections import main_figures
from rl_alliteration.report.texts import chosen_generations, sample_texts
from rl_alliteration.results import schema
from rl_alliteration.results.cards import SEARCH, SWEEP, write_run
from rl_alliteration.results.reader import connect, searched
from rl_alliteration.results.storage import Storage
from rl_alliteration.setting import settings_of


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    storage = Storage(tmp_path_factory.mktemp("made_up"))
    write_results(storage, TRIALS)
    write_results(storage, [MadeUp(beta=100, generations=300)], "hostile", hostile_or_story)
    return storage


@pytest.fixture(scope="module")
def page_file(storage: Storage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    report(Report(storage=str(storage), output=str(path)), say=lambda line: None)
    return path


def of_page(page: str, name: str) -> dict[str, Any]:
    data = re.search(f'id="{name}">(.*?)</script>', page, re.S)
    assert data is not None
    found: dict[str, Any] = json.loads(data[1])
    return found


# --- what is in it ------------------------------------------------------------------------------------------


def test_the_figures_of_the_study_are_drawn_from_the_data(storage: Storage) -> None:
    analysis = measure(connect(storage), "made_up")
    figures = {figure.key: figure for figure in main_figures(Shown(analysis))}
    wanted = [
        "raw_reward_alliteration", "kl_penalty_alliteration", "extended_alliteration",
        "raw_reward_a_words", "kl_penalty_a_words", "algorithms_a_words", "frontier",
    ]  # fmt: skip
    assert [key for key in figures if key in wanted] == wanted
    assert not {"algorithms_alliteration", "extended_a_words", "search_history"} & figures.keys()  # no data for them
    thick = [series for series in figures["raw_reward_alliteration"].series if not series.faint]
    assert [series.name for series in thick] == ["beta 0", "beta 100"]
    first, second = (trial.metrics["raw_reward"] for trial in analysis.trials[:2])
    assert thick[0].y == pytest.approx([(a + b) / 2 for a, b in zip(first, second, strict=True)])
    assert thick[1].x[-1] == 750  # beta 100 goes on by its longer seed
    assert figures["raw_reward_alliteration"].references[0][0] == "original model"
    for figure in figures.values():
        json.dumps(to_plotly(figure), allow_nan=False)


def test_all_metrics_and_texts_are_in_the_page(page_file: Path, storage: Storage) -> None:
    page = page_file.read_text()
    figures = of_page(page, "figures-data")
    for metric in METRICS:
        for reward in ("alliteration", "a_words"):
            assert len(figures[f"metric:{metric}_{reward}"]) == 2  # over time, and at the end
    texts = of_page(page, "texts-data")
    total = connect(storage).execute("SELECT count(*) FROM generations").fetchall()[0][0]
    assert texts["shown"] == texts["total"] == total == sum(len(rows) for rows in texts["trials"])
    assert HOSTILE in {row[3] for rows in texts["trials"] for row in rows}


def test_nothing_of_a_text_is_markup_and_nothing_is_loaded(page_file: Path) -> None:
    page = page_file.read_text()
    assert "<script>document" not in page
    assert "<img" not in page.split("</style>")[1].split("figures-data")[0]
    assert "default-src 'none'" in page
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"(?!data:)", page)


def test_names_are_escaped(storage: Storage, tmp_path: Path) -> None:
    analysis = measure(connect(storage), "hostile")
    page = build_page(Shown(analysis), connect(storage), title="<b>x</b>", storage="a b; rm <x>")
    assert "<b>x</b>" not in page
    assert "&lt;b&gt;x&lt;/b&gt;" in page
    assert "--storage &#39;a b; rm &lt;x&gt;&#39;" in page


def test_a_large_trial_is_sampled_at_its_ends_and_everywhere_between() -> None:
    assert chosen_generations(100, 100) == list(range(100))
    picks = chosen_generations(3600, 500)
    assert 480 <= len(picks) <= 500
    assert picks[:20] == list(range(20))
    assert picks[-20:] == list(range(3580, 3600))
    assert max(b - a for a, b in itertools.pairwise(picks)) < 50


def test_short_trials_leave_their_share_to_the_others(storage: Storage) -> None:
    trials = measure(connect(storage), "made_up").trained
    texts = sample_texts(connect(storage), trials, budget=2200)
    assert texts["total"] == 2600
    assert 2100 <= texts["shown"] <= 2200
    assert [len(rows) for rows in texts["trials"]][:3] == [400, 400, 400]


def test_figures_are_written_as_pngs(storage: Storage, tmp_path: Path) -> None:
    figures = main_figures(Shown(measure(connect(storage))))
    chosen = [figure for figure in figures if figure.key in ("frontier", "letters_alliteration", "algorithms_a_words")]
    for path in save_png(chosen, tmp_path):
        assert path.read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 3


def test_what_no_seed_explains_is_told_apart(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    write_results(storage, [MadeUp(beta=0), MadeUp(beta=40), MadeUp(beta=40, seed=1)])
    write_results(storage, [MadeUp(beta=40, learning_rate=5e-4)], "slower")
    analysis = measure(connect(storage))
    figure = main_figures(Shown(analysis))[0]
    thick = [series for series in figure.series if not series.faint]
    assert [series.name for series in thick] == ["beta 0", "beta 40, rate 0.0005", "beta 40, rate 0.001"]
    assert len({series.colour for series in thick}) == 3
    assert len(metrics.at_the_end(Shown(analysis), "alliteration", "variety").series[0].y) == 3
    page = build_page(Shown(analysis), connect(storage), title="t")
    assert "rloo beta 40 seed 0, rate 0.0005, slower" in page
    assert {trial.coefficient for trial in measure(connect(storage), "made_up").trained} == {"beta 0", "beta 40"}


def test_each_precision_is_compared_with_its_own_original(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    write_results(storage, [MadeUp(beta=40)])
    write_results(storage, [MadeUp(beta=40, dtype="bfloat16")], text=lambda trial, generation: HOSTILE)
    write_results(storage, [MadeUp(beta=40)], "elsewhere", text=lambda trial, generation: HOSTILE)
    originals = {(trial.experiment, trial.apart): trial.original for trial in measure(connect(storage)).trained}
    rewards = {key: original.raw_reward.value for key, original in originals.items() if original is not None}
    hostile = rewards["made_up", ", bfloat16"]
    assert rewards["elsewhere", ", float32"] == hostile
    assert rewards["made_up", ", float32"] != hostile


def test_controlled_trials_are_told_apart_by_where_they_began(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    write_results(storage, [MadeUp(beta=20, target_kl=0.1), MadeUp(beta=60, target_kl=0.1, seed=1), MadeUp(beta=60)])
    names = [trial.coefficient for trial in measure(connect(storage)).trained]
    assert sorted(names) == ["KL target 0.1, from beta 20", "KL target 0.1, from beta 60", "beta 60"]


def test_a_controlled_coefficient_is_shown_beside_the_fixed_ones(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    write_results(storage, [MadeUp(beta=60, generations=200), MadeUp(beta=60, target_kl=0.1, generations=200)])
    analysis = measure(connect(storage))
    over_time, at_the_end = metrics.chooser(Shown(analysis)).figures["variety_alliteration"]
    assert [series.name for series in over_time.series if not series.faint] == ["beta 60", "KL target 0.1"]
    assert len({series.colour for series in over_time.series}) == 2
    assert list(at_the_end.series[0].x) == ["60", "KL target 0.1"]
    assert [trial.target_kl for trial in analysis.trained] == [None, 0.1]
    assert BetaSweep(comparable(analysis)).by_beta.keys() == {60.0}
    assert len(BetaSweep(comparable(analysis)).by_beta[60.0]) == 1  # findings are of fixed betas


def test_a_search_is_shown_trial_by_trial(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "results")
    made = [
        MadeUp(beta=20, seed=1, learning_rate=2e-3, generations=200),
        MadeUp(beta=80, seed=1, generations=100, status=schema.STOPPED, reason="halving"),
        MadeUp(beta=10, seed=1, falls_at=0, generations=200, status=schema.STOPPED, reason="collapse"),
    ]
    ids = write_results(storage, made, "looked_for")
    storage.put("runs/looked_for/1.json", json.dumps({"limits": {"variety": 0.5}}).encode())
    write_results(storage, [MadeUp(beta=30, generations=100)], "swept")
    storage.put("runs/swept/1.json", b'{"trials": []}')  # as they were before they had checksums
    assert searched(storage) == {"looked_for"}
    analysis = measure(connect(storage))
    figures = {figure.key: figure for figure in main_figures(Shown(analysis, searches=searched(storage)))}
    history = figures["search_history"]
    points = {series.name: series for series in history.series}
    assert list(points) == ["finished", "stopped (halving)", "stopped (collapse)", "best so far"]
    assert [list(points[name].x) for name in list(points)[:3]] == [[1.0], [2.0], [3.0]]  # as they began
    assert points["stopped (collapse)"].y == [0.0]  # no window of it keeps variety and sense
    best = recommend(frontier(Analysis([t for t in analysis.trials if t.trial_id == ids[0]], 100)))
    assert best is not None
    assert points["finished"].y == [best.point.alliteration]
    assert points["best so far"].y == sorted(points["best so far"].y)
    assert figures["search_beta"].log_x and "search_learning_rate" in figures
    report(Report(storage=str(storage), output=str(tmp_path / "page.html")), lambda line: None)
    page = (tmp_path / "page.html").read_text()
    assert (
        'id="search"' in page and "stopped (halving)" in page and '<button type="button">learning rate</button>' in page
    )
    report(Report(storage=str(storage), experiment="swept", output=str(tmp_path / "page.html")), lambda line: None)
    assert 'id="search"' not in (tmp_path / "page.html").read_text()


def test_a_search_is_shown_by_each_setting_that_it_chose_among(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "results")
    ours = UpdateSettings(credit="to-go", kl="exact", momentum=0.9, warm_up=50)
    made = [
        MadeUp(beta=20, generations=100, group_size=20),
        MadeUp(beta=20, generations=100, status=schema.STOPPED, reason="spent", update=ours),
        MadeUp(beta=20, generations=100, update=UpdateSettings(optimizer="adamw", schedule="linear")),
        MadeUp("grpo", beta=20, generations=100),
    ]
    write_results(storage, made, "looked_for")
    write_run(storage, "looked_for", "1", SEARCH, {})
    shown = Shown(measure(connect(storage)), searches=["looked_for"])
    figures = {figure.key: figure for figure in search_figures(shown)}
    names = ("history", "group_size", "algorithm", *settings_of(UpdateSettings), "parallel")
    assert list(figures) == [f"search_{name}" for name in names]  # beta and rate did not vary
    at = {name: sorted({x for series in figures[f"search_{name}"].series for x in series.x}) for name in names[1:-1]}
    assert at["group_size"] == [10, 20] and at["warm_up"] == [0, 50] and at["momentum"] == [0.0, 0.9]
    assert at["credit"] == ["text", "to-go"] and at["kl"] == ["exact", "sampled"]
    (stopped,) = [one for one in figures["search_credit"].series if one.name == "stopped (outside its limits)"]
    assert list(stopped.x) == ["to-go"]
    drawn = to_plotly(figures["search_credit"])
    assert drawn["layout"]["xaxis"]["type"] == "category" and "credit %{x}," in drawn["data"][0]["hovertemplate"]
    assert len(save_png(list(figures.values()), tmp_path)) == len(names)
    report(Report(storage=str(storage), output=str(tmp_path / "page.html")), lambda line: None)
    page = (tmp_path / "page.html").read_text()
    assert "The search, by warm-up" in page and "stopped (outside its limits)" in page and "(spent)" not in page


def test_letters_of_rewards_are_compared_at_equal_divergence(storage: Storage) -> None:
    analysis = measure(connect(storage), "made_up")
    (figure,) = letters.by_kl(Shown(analysis))
    assert [series.name for series in figure.series] == ["alliteration", "a_words"]
    assert list(figure.series[0].x) == ["0.05 to 0.1", "0.1 to 0.2", "0.2 to 0.4", "0.4 to 0.8", "0.8 to 1.6"]
    json.dumps(to_plotly(figure), allow_nan=False)
    trial = next(trial for trial in analysis.trained if trial.reward_function == "alliteration" and trial.beta == 0)
    kl = -trial.metrics["kl_penalty"]
    inside = trial.full & (kl >= 0.2) & (kl < 0.4)
    expected = letter_entropy(trial.by_letter[inside].sum(axis=0))
    found = entropy_by_kl([trial], (0.2, 0.4))["0.2 to 0.4"]
    assert inside.any() and found.value == pytest.approx(expected)
    assert math.isnan(entropy_by_kl([trial], (90, 99))["90 to 99"].value)


# --- the command ----------------------------------------------------------------------------------------------


def test_the_command_writes_the_page_or_says_why_not(
    storage: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(*flags: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            main(["report", "--storage", str(storage), *flags])
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out + captured.err

    page = tmp_path / "new" / "page.html"
    assert answer("--output", str(page), "--experiment", "hostile")[0] == 0
    assert "Experiment hostile" in page.read_text()
    assert [path.name for path in page.parent.iterdir()] == ["page.html"]
    (tmp_path / "file").write_text("")
    for flags, said in (
        (("--experiment", "nope"), "--experiment: 'nope' is not in"),
        (("--output", str(tmp_path / "file" / "page.html")), "--output"),
        (("--output", str(tmp_path)), "--output"),
        (("--window", "3"), "--window: 3 is not accepted"),
        (("--keep-variety", "7"), "--keep-variety: 7.0"),
        (("--keep-sense", "-1"), "--keep-sense: -1.0"),
    ):
        code, told = answer("--output", str(tmp_path / "x.html"), *flags)
        assert (code, said in told, told.count("\n")) == (2, True, 1)


def test_a_run_says_whether_it_was_a_search(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    storage.put("runs/searched_before/1.json", b'{"limits": {}}')  # earlier versions recorded no kind
    storage.put("runs/swept_before/1.json", b'{"trials": []}')
    write_run(storage, "searched", "1", SEARCH, {})
    write_run(storage, "swept", "1", SWEEP, {"limits": {}})
    assert searched(storage) == {"searched_before", "searched"}


def test_a_watched_page_is_written_again_until_nothing_runs(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "results")
    trial = MadeUp(beta=10, generations=100, status=schema.RUNNING)
    write_results(storage, [trial])
    page = tmp_path / "page.html"
    pages: list[str] = []

    def pause(seconds: float) -> None:
        pages.append(page.read_text())
        if len(pages) == 2:
            write_results(storage, [MadeUp(beta=10, generations=100), MadeUp(beta=20, generations=100)])
        elif len(pages) > 3:
            pytest.fail("it goes on for ever")

    from rl_alliteration.results import drivers
    from rl_alliteration.results.lease import LeaseState, lease_path

    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drivers, "is_live", lambda *_: True)
        storage.put(lease_path("made_up"), LeaseState("o", "h", 1, "b", 1, 0.0).encode())
        report(Report(storage=str(storage), output=str(page), watch=True), said.append, pause)
    assert len(pages) == 2
    assert all('id="watch"' in written for written in pages)
    assert 'id="watch"' not in page.read_text()
    assert len(said) == 2  # nothing had changed at the second look


def test_results_without_a_text_make_a_page_too(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "results")
    write_results(storage, [MadeUp(generations=0, status=schema.PLANNED)])
    for path in storage.list("generations"):
        storage.delete(path)
    report(Report(storage=str(storage), output=str(tmp_path / "page.html")), lambda line: None)
    assert "No trial has a text yet" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("betas", "kept", "asked"),
    [((20, 60, 100), 60, "20 100"), ((60,), 60, "30 120"), ((20, 60), None, "60 240"), ((0,), None, "")],
)
def test_the_answer_says_what_to_try_next(
    betas: tuple[float, ...], kept: float | None, asked: str, tmp_path: Path
) -> None:
    storage = Storage(tmp_path)
    write_results(storage, [MadeUp(beta=beta, generations=300) for beta in betas])
    shown = Shown(measure(connect(storage)))
    vars(shown)["recommendation"] = recommend([point for point in shown.points if point.trial.beta == kept])
    assert (shown.recommendation is None) == (kept is None)
    page = html.unescape(build_page(shown, connect(storage), title="t", storage="a folder"))
    command = page.partition("<code>rl-alliteration search ")[2].partition("<")[0]
    assert command == (f"--storage 'a folder' --experiment made_up_search --beta {asked}" if asked else "")


@pytest.mark.parametrize("count", [2, 3, 7, 20])
def test_colours_of_an_order_rise_in_lightness_and_show_on_a_dark_page(count: int) -> None:
    """Contrast and relative luminance as in WCAG 2.2; 3 is what it wants of graphics."""

    def luminance(colour: str) -> float:
        channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    dark = re.search(
        r"--card: light-dark\(#\w+, (#\w+)\)", files("rl_alliteration.report").joinpath("style.css").read_text()
    )
    assert dark is not None
    found = [luminance(colour) for colour in ordered(count)]
    assert found == sorted(set(found))
    assert (found[0] + 0.05) / (luminance(dark[1]) + 0.05) >= 3
