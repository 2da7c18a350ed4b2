"""The live page in a real browser, wide and narrow: tasks that a researcher does, no request elsewhere, no complaint,
nothing that axe-core finds serious."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from hostile import TRIALS, hostile_or_story
from made_up import MadeUp, write_results
from served import served

from rl_alliteration.results import schema
from rl_alliteration.results.cards import SEARCH, write_run
from rl_alliteration.results.storage import Storage

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
NAMES = ("rloo beta 0 seed 0, made_up", "rloo beta 100 seed 0, made_up")
SIZES = {"wide": (1280, 900), "narrow": (390, 844)}


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    storage = Storage(tmp_path_factory.mktemp("live") / "results")
    write_results(storage, TRIALS[:4])
    write_results(storage, [TRIALS[2]], "hostile", hostile_or_story)
    sought = [MadeUp(beta=10, generations=200, status=schema.STOPPED, reason="collapse"), MadeUp(beta=20)]
    write_results(storage, sought, "sought")
    write_run(storage, "sought", "run", SEARCH, {"limits": {}})
    return storage


@pytest.fixture(scope="module")
def link(storage: Storage) -> Iterator[str]:
    with served(storage) as printed:
        yield printed


def until(page: Page, condition: str, seconds: float = 120.0) -> None:
    """Wait for a condition. Playwright's own way evaluates text within the page, which its policy forbids.

    Raises:
        AssertionError: it did not come true.
    """
    last = time.monotonic() + seconds
    while time.monotonic() < last:
        try:
            if page.evaluate(condition):
                return
        except Exception as error:  # another page is being loaded
            if "context" not in str(error) and "null" not in str(error):
                raise
        page.wait_for_timeout(50)
    raise AssertionError(f"did not come true: {condition}")


class Watched:
    """A page with what it asked for and complained of."""

    def __init__(self, browser: Browser, link: str, size: str, **context: Any) -> None:
        width, height = SIZES[size]
        self.width = width
        self.base = link.split("/?")[0]
        self.context = browser.new_context(viewport={"width": width, "height": height}, **context)
        self.page: Page = self.context.new_page()
        self.elsewhere: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self._asked(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(link)
        self.page.wait_for_selector("#table tbody tr")
        # Until all is measured, numbers follow.
        until(self.page, "!document.getElementById('left').textContent")

    def _asked(self, url: str) -> None:
        if not url.startswith((self.base, "data:", "blob:")):
            self.elsewhere.append(url)

    def go(self, path: str) -> Page:
        """Open a view; all its figures are drawn."""
        self.page.goto(self.base + path)
        self.drawn()
        return self.page

    def drawn(self) -> None:
        """Wait for the figures."""
        self.page.wait_for_selector("html[data-ready=yes]", state="attached")
        until(self.page, "[...document.querySelectorAll('.plot')].every(div => div.dataset.drawn)")

    def query(self) -> str:
        return urlsplit(self.page.url).query


@pytest.fixture(scope="module", params=SIZES)
def opened(request: pytest.FixtureRequest, browser: Browser, link: str) -> Iterator[Watched]:
    watched = Watched(browser, link, request.param)
    yield watched
    watched.context.close()


@pytest.fixture
def watched(opened: Watched) -> Iterator[Watched]:
    """At the end it has asked for nothing elsewhere, complained of nothing, and is no wider than the screen."""
    yield opened
    assert opened.complaints == [] and opened.elsewhere == []
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= opened.width


# --- tasks ---------------------------------------------------------------------------------------------------------


def sort_by_reward(watched: Watched) -> None:
    page = watched.go("/")
    page.click("thead a:has-text('Reward')")
    page.wait_for_selector("th[aria-sort=descending]")
    assert "sort=-raw_reward" in watched.query()
    assert "beta 0" in page.inner_text("tbody tr:first-child")


def filter_by_beta(watched: Watched) -> None:
    page = watched.go("/")
    page.click("summary:has-text('Filter by setting')")
    page.check("input[name=beta][value='beta 100']")
    until(page, "location.search.includes('beta=')")
    until(page, "[...document.querySelectorAll('tbody th')].every(th => th.textContent.includes('beta 100'))")
    assert page.locator("details.filters[open]").count() == 1
    page.go_back()
    until(page, "!location.search.includes('beta=')")


def group_seeds(watched: Watched) -> None:
    page = watched.go("/?experiment=made_up")
    page.select_option("select[name=group]", "setting")
    until(page, "location.search.includes('group=setting')")
    row = page.locator("tbody tr", has_text="rloo beta 0").first
    row.wait_for()
    assert "[" in row.inner_text()


def star_and_filter(watched: Watched) -> None:
    page = watched.go("/")
    star = page.locator(".star").first
    if star.get_attribute("aria-pressed") == "false":
        star.click()
        page.wait_for_selector(".star[aria-pressed=true]")
    page.wait_for_timeout(300)
    until(page, "fetch('/?starred=yes').then(r => r.text()).then(t => t.includes('★'))")
    page.check("input[name=starred]")
    until(page, "document.querySelectorAll('tbody tr').length === 1")
    page.click(".star")
    until(page, "!document.querySelector('.star[aria-pressed=true]')")


def name_and_note(watched: Watched) -> None:
    page = watched.go("/")
    page.click("tbody th a >> nth=1")
    page.wait_for_selector("#note")
    page.fill("#note input[name=name]", "my <b>favourite</b>")
    page.fill("#note textarea", "it says “tall tree” \u202e a lot")
    page.click("#note button")
    page.wait_for_selector("#kept:has-text('kept')")
    until(page, "fetch('/').then(r => r.text()).then(t => t.includes('my &lt;b&gt;favourite'))")
    watched.go("/")
    assert page.locator("tbody th", has_text="my <b>favourite</b>").count() == 1
    page.click("tbody th a >> nth=1")
    page.wait_for_selector("#note")
    page.fill("#note input[name=name]", "")
    page.fill("#note textarea", "")
    page.click("#note button")
    page.wait_for_selector("#kept:has-text('kept')")


def curve_of_another_metric(watched: Watched) -> None:
    page = watched.go("/curves")
    page.select_option("select[name=y]", "variety")
    page.wait_for_selector("h2:has-text('Variety against generation')")
    page.select_option("select[name=x]", "kl_penalty")
    page.wait_for_selector("h2:has-text('Variety against KL')")
    page.select_option("select[name=log]", "x")
    until(page, "location.search.includes('log=x')")
    watched.drawn()
    assert page.evaluate("document.getElementById('curves').layout.xaxis.type") == "log"


def from_a_point_to_its_texts(watched: Watched) -> None:
    page = watched.go("/curves?by=trials&experiment=made_up&beta=beta+0&seed=seed+0")
    page.evaluate(
        "document.getElementById('curves').emit('plotly_click', "
        "{points: [{customdata: document.getElementById('curves').data[1].customdata[2]}]})"
    )
    page.wait_for_selector(".texts li")
    assert "Generations 200 to 299" in page.inner_text("#texts h2")
    assert page.locator(".texts li").count() == 100


def no_button_uploads(watched: Watched) -> None:
    page = watched.go("/curves")
    page.hover("#curves")
    titles = page.eval_on_selector_all(".modebar-btn", "all => all.map(one => one.dataset.title)")
    assert titles and not [one for one in titles if "share" in one.lower() or "cloud" in one.lower()]


def walk_through_generations(watched: Watched) -> None:
    page = watched.go("/")
    page.locator("tbody tr", has_text="rloo beta 0 seed 0, made_up").locator("th a").click()
    page.click("text=Its texts")
    page.wait_for_selector(".texts li")
    assert page.locator(".texts li").count() == 10
    before = page.inner_text("#texts h2")
    page.keyboard.press("ArrowLeft")
    until(page, f"document.querySelector('#texts h2').innerText !== {json.dumps(before)}")
    page.locator("input[type=range]").fill("100")
    page.locator("input[type=range]").dispatch_event("change")
    page.wait_for_selector("#texts h2:has-text('Generations 100 to 109')")
    page.select_option("select[name=order]", "reward")
    until(page, "location.search.includes('order=reward')")
    assert "generation=100" in watched.query()


def search_words(watched: Watched) -> None:
    page = watched.go("/texts")
    page.fill("#sought", "tall tree")
    page.press("#sought", "Enter")
    page.wait_for_selector("#total")
    watched.drawn()
    assert all("tall" in text.lower() for text in page.locator(".texts .text").all_inner_texts())
    if page.locator("a[rel=next]").count():
        page.click("a[rel=next]")
        page.wait_for_selector("text=page 2 of")


def search_a_hostile_text(watched: Watched) -> None:
    page = watched.go("/texts?search=%3Cscript%3E")
    assert page.title() == "Search the texts – rl-alliteration"
    assert "<script>document.title" in page.inner_text(".texts .text >> nth=0")
    assert page.locator(".texts img, .texts script").count() == 0
    assert page.locator(".texts mark").all_text_contents() == ["the\N{REPLACEMENT CHARACTER}tall"]  # a line separator


def search_what_is_no_expression(watched: Watched) -> None:
    page = watched.go("/texts?kind=regex")
    page.fill("#sought", "(")
    page.press("#sought", "Enter")
    page.wait_for_selector(".bad-notice:has-text('is no regular expression')")
    watched.complaints.clear()  # of the browser: 400


def compare_two(watched: Watched) -> None:
    page = watched.go("/compare")
    for place, name in enumerate(NAMES):
        page.locator("select[name=trial]").nth(place).select_option(label=name)
        until(page, f"new URLSearchParams(location.search).getAll('trial').length === {place + 1}")
    page.wait_for_selector("#compared-section")
    watched.drawn()
    assert page.locator("tr.differs").count() == 1
    page.focus("select[name=at]")
    page.select_option("select[name=at]", "kl")
    until(page, "location.search.includes('at=kl')")
    until(page, "document.activeElement.name === 'at'")
    assert page.locator(".sides section").count() == 2


def which_model_to_keep(watched: Watched) -> None:
    page = watched.go("/frontier?experiment=made_up")
    assert "after" in page.inner_text(".notice:has-text('Which model to keep')")
    page.click("text=its texts")
    page.wait_for_selector(".texts li")


def what_a_search_stopped(watched: Watched) -> None:
    page = watched.go("/search")
    assert "stopped: collapse" in page.inner_text("#search-section")
    page.click("#search-section tbody a >> nth=0")
    page.wait_for_selector("#note")


def download(watched: Watched) -> None:
    page = watched.go("/?experiment=made_up")
    with page.expect_download() as found:
        page.click("#downloads a:has-text('CSV')")
    lines = Path(found.value.path()).read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + page.locator("tbody tr").count()


def a_link_holds_the_view(watched: Watched) -> None:
    page = watched.go("/curves?y=near_copies&x=tokens&by=trials&smooth=3&experiment=made_up")
    chosen = {name: page.input_value(f"select[name={name}]") for name in ("x", "y", "by", "smooth")}
    assert chosen == {"x": "tokens", "y": "near_copies", "by": "trials", "smooth": "3"}
    assert page.is_checked("input[name=experiment][value=made_up]")


def light_and_dark(watched: Watched) -> None:
    page = watched.go("/curves")
    colours = []
    for _ in range(3):
        page.click("#theme")
        colours.append((page.inner_text("#theme"), page.evaluate("getComputedStyle(document.body).backgroundColor")))
    by_name = dict(colours)
    assert by_name["Theme: light"] != by_name["Theme: dark"]


def keyboard_alone(watched: Watched) -> None:
    page = watched.go("/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.evaluate("window.before = document.getElementById('main')")
    page.keyboard.press("Enter")
    until(page, "document.activeElement.id === 'main'", 20)
    page.wait_for_load_state("networkidle")
    assert page.evaluate("document.activeElement === window.before")  # a link within the page fetches nothing
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.name") == "trial"


def a_choice_that_is_wrong(watched: Watched) -> None:
    page = watched.page
    page.goto(f"{watched.base}/curves?y=nonsense")
    assert "is not accepted; give one of" in page.inner_text(".bad-notice >> nth=1")
    watched.complaints.clear()  # of the browser: 400


TASKS: list[Callable[[Watched], None]] = [
    sort_by_reward, filter_by_beta, group_seeds, star_and_filter, name_and_note, curve_of_another_metric,
    from_a_point_to_its_texts, no_button_uploads, walk_through_generations, search_words, search_a_hostile_text,
    search_what_is_no_expression, compare_two, which_model_to_keep, what_a_search_stopped, download,
    a_link_holds_the_view, light_and_dark, keyboard_alone, a_choice_that_is_wrong,
]  # fmt: skip


@pytest.mark.parametrize("task", TASKS, ids=[task.__name__ for task in TASKS])
def test_a_researchers_tasks(watched: Watched, task: Callable[[Watched], None]) -> None:
    task(watched)


# --- accessibility, and life ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Browser, link: str, storage: Storage, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    watched = Watched(browser, link, "narrow" if scheme == "dark" else "wide", color_scheme=scheme)
    some = [path.split("/") for path in sorted(storage.list("generations")) if "made_up/trial_id=rloo" in path]
    first, second = (f"made_up/{parts[2].removeprefix('trial_id=')}" for parts in (some[0], some[-1]))
    views = (
        "/", "/?group=setting", f"/trial?trial={first}", "/curves", f"/rollouts?trial={first}", "/texts?search=tall",
        f"/compare?trial={first}&trial={second}", "/frontier?experiment=made_up", "/search", "/texts",
    )  # fmt: skip
    found = []
    for path in views:
        page = watched.go(path)
        for violation in Axe().run(page).response["violations"]:
            if violation["impact"] in ("serious", "critical"):
                nodes = [node["target"] for node in violation["nodes"][:3]]
                found.append((path, violation["id"], json.dumps(nodes), violation["help"]))
    watched.context.close()
    assert not found


def test_a_page_follows_a_sweep_that_writes(browser: Browser, tmp_path: Path) -> None:
    storage = Storage(tmp_path / "results")
    write_results(storage, [MadeUp(generations=100)])
    with served(storage) as link:
        watched = Watched(browser, link, "wide")
        page = watched.page
        assert page.locator("tbody tr").count() == 2
        write_results(storage, [MadeUp(beta=7, generations=200)], "later")
        page.wait_for_selector("tbody th:has-text('beta 7')", timeout=60_000)
        assert watched.complaints == [] and watched.elsewhere == []
        watched.context.close()
