"""The page in a real browser: figures draw, filters work, nothing is asked of the network, texts stay texts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hostile import HOSTILE, TRIALS, hostile_or_story
from made_up import write_results
from watched import serious

from rl_alliteration.analysis.measure import measure
from rl_alliteration.report.base import Shown
from rl_alliteration.report.command import Report, report
from rl_alliteration.report.sections import drawn_sections
from rl_alliteration.results.reader import connect
from rl_alliteration.results.storage import Storage

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    storage = Storage(folder / "results")
    write_results(storage, TRIALS)
    write_results(storage, [TRIALS[2]], "hostile", hostile_or_story)
    report(Report(storage=str(storage), output=str(folder / "report.html")), lambda line: None)
    return folder / "report.html"


class Watched:
    """A page with what it asked for and complained of."""

    def __init__(self, browser: Browser, file: Path, address: str = "", **context: Any) -> None:
        self.page = browser.new_context(**context).new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        started = time.monotonic()
        self.page.goto(file.as_uri() + address)
        self.page.wait_for_selector("html[data-ready=yes]", state="attached")
        self.seconds = time.monotonic() - started

    def texts(self) -> list[str]:
        return self.page.locator("#texts-list li p").all_inner_texts()

    def metas(self) -> list[str]:
        return self.page.locator("#texts-list .meta").all_inner_texts()


@pytest.fixture(scope="module")
def opened(browser: Browser, page_file: Path) -> Iterator[Watched]:
    watched = Watched(browser, page_file, viewport={"width": 1280, "height": 900})
    yield watched
    watched.page.context.close()


@pytest.fixture
def watched(opened: Watched) -> Iterator[Watched]:
    """The page with its form empty; at the end it has asked for nothing and complained of nothing."""
    opened.page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    for field in ("trial", "order"):
        opened.page.select_option(f"#text-{field}", index=0)
    for field in ("from", "to", "search", "reward"):
        opened.page.fill(f"#text-{field}", "")
    yield opened
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith(("file:", "data:", "blob:"))] == []


def drawn(watched: Watched, selector: str) -> None:
    watched.page.locator(selector).scroll_into_view_if_needed()
    watched.page.wait_for_selector(f"{selector} .main-svg", state="attached")


def test_the_keyboard_reaches_everything_and_everything_has_a_name(opened: Watched) -> None:
    page = opened.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    nameless = page.eval_on_selector_all(
        "button, select, input",
        "found => found.filter(e => !e.textContent.trim() && !e.getAttribute('aria-label') && !(e.labels || []).length)"
        ".length",
    )
    assert nameless == 0
    assert page.locator(".plot:not([aria-label]):not([aria-labelledby])").count() == 0
    assert page.locator("[role=img] a, [role=img] [data-title]").count() == 0  # an image has nothing within to reach
    levels = page.eval_on_selector_all("h1, h2, h3", "found => found.map(e => Number(e.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1


def test_every_figure_draws(watched: Watched, page_file: Path) -> None:
    keys = watched.page.eval_on_selector_all("[data-figure]", "found => found.map(div => '#' + div.id)")
    shown = Shown(measure(connect(Storage(page_file.parent / "results"))))
    assert keys == [f"#plot-{figure.key}" for section in drawn_sections(shown) for figure in section.figures]
    assert len(keys) >= 8 and "#plot-letters_by_kl" in keys
    for selector in [*keys, "#over-time", "#at-the-end", "#letters-plot"]:
        drawn(watched, selector)
    lines = watched.page.locator("#plot-raw_reward_alliteration .scatterlayer .trace").count()
    assert lines == 7  # a line a trial, a thick one a beta
    assert watched.page.locator("#letters-plot .barlayer .point").count() > 3
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= 1280


def test_metrics_are_chosen(watched: Watched) -> None:
    drawn(watched, "#over-time")
    before = watched.page.evaluate("document.getElementById('over-time').data[1].y")
    watched.page.select_option("#metric", "self_bleu")
    watched.page.wait_for_function("document.getElementById('over-time-title').textContent.startsWith('Self-BLEU')")
    assert watched.page.evaluate("document.getElementById('over-time').data[1].y") != before
    assert "metric=self_bleu" in watched.page.url


def test_search_and_filters(watched: Watched) -> None:
    page = watched.page
    assert "of 3,900 in this page" in page.inner_text("#text-count")
    page.fill("#text-search", "LILY")
    assert watched.texts() and all("lily" in text.lower() for text in watched.texts())
    page.fill("#text-search", "no such words")
    assert watched.texts() == []
    page.fill("#text-search", "")
    page.fill("#text-reward", "80")
    page.select_option("#text-order", "reward")
    rewards = [float(meta.split("raw reward ")[1].split(" ")[0]) for meta in watched.metas()]
    assert rewards == sorted(rewards, reverse=True) and min(rewards) >= 80
    page.fill("#text-reward", "")
    page.select_option("#text-order", "generation")
    page.select_option("#text-trial", label="rloo beta 0 seed 1, alliteration, made_up")
    page.fill("#text-from", "200")
    page.fill("#text-to", "214")
    assert sorted(generations(watched)) == list(range(200, 215))
    page.select_option("#text-order", "reward")
    assert sorted(generations(watched)) == list(range(200, 215)) != generations(watched)
    page.select_option("#text-order", "generation")
    page.click("#text-last")
    assert "generation 300" in watched.metas()[0] and "of 100 texts" in page.inner_text("#text-count")
    page.click("#text-first")
    assert "generation 0 " in watched.metas()[0] and "of 100 texts" in page.inner_text("#text-count")
    page.click("#text-more")
    assert len(watched.texts()) == 40
    browser = page.context.browser
    assert browser is not None
    again = Watched(browser, Path(page.url.split("#")[0].removeprefix("file://")), "#" + page.url.split("#")[1])
    assert (again.page.input_value("#text-from"), again.page.input_value("#text-to")) == ("0", "99")
    assert again.metas()[0] == watched.metas()[0]
    again.page.context.close()


def generations(watched: Watched) -> list[int]:
    return [int(meta.split("generation ")[1].split(" ")[0].replace(",", "")) for meta in watched.metas()]


def test_a_text_with_markup_stays_a_text(watched: Watched) -> None:
    page = watched.page
    page.fill("#text-search", "<script>")
    assert [text.replace("\n", "\u2028") for text in watched.texts()] == [HOSTILE]
    assert page.title() == "All experiments"
    assert page.locator("#texts img, #texts script").count() == 0


def test_alliterating_runs_are_highlighted(watched: Watched) -> None:
    watched.page.fill("#text-search", "<script>")
    marks = watched.page.locator("#texts-list mark").all_text_contents()
    assert marks == ["the\u2028tall"]


def test_a_trial_is_read_from_the_table_and_a_window_from_the_frontier(watched: Watched) -> None:
    page = watched.page
    page.locator("#trials-table thead button", has_text="beta").click()
    page.locator("#trials-table thead button", has_text="beta").click()
    first = page.locator("#trials-table tbody tr").first
    assert first.locator("td").nth(2).inner_text() == "100"
    assert page.locator("th[aria-sort=descending]").count() == 1
    first.locator("button").click()
    assert watched.metas()[-1].startswith("rloo beta 100")
    last = page.input_value("#text-to")
    drawn(watched, "#plot-frontier")
    page.evaluate(
        "document.getElementById('plot-frontier').emit('plotly_click', "
        "{points: [{customdata: document.getElementById('plot-frontier').data[0].customdata[2]}]})"
    )
    assert (page.input_value("#text-from"), page.input_value("#text-to")) == ("200", "299")
    assert last in ("299", "399") and {number // 100 for number in generations(watched)} == {2}


def test_axe_finds_nothing_serious(browser: Browser, page_file: Path) -> None:
    watched = Watched(browser, page_file, color_scheme="dark", viewport={"width": 390, "height": 900})
    page = watched.page
    for selector in ("#plot-frontier", "#over-time"):  # one of each kind of place
        drawn(watched, selector)
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    found = serious(page)
    page.context.close()
    assert not found


def test_light_dark_and_narrow(browser: Browser, page_file: Path) -> None:
    dark = Watched(browser, page_file, color_scheme="dark", viewport={"width": 390, "height": 844})
    page = dark.page
    background = "getComputedStyle(document.body).backgroundColor"
    seen = [page.evaluate(background)]
    for name in ("light", "dark"):
        page.click("#theme")
        assert page.inner_text("#theme") == f"Theme: {name}"
        seen.append(page.evaluate(background))
    assert seen[0] == seen[2] != seen[1]
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    drawn(dark, "#plot-frontier")
    assert dark.complaints == []
    page.context.close()
