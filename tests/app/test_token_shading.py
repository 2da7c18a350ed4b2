"""Shaded tokens in a real browser: chosen, seen, with their numbers; no complaint, nothing that axe finds serious."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from hostile import TRIALS, hostile_or_story
from made_up import write_results
from recorded import write_records
from served import served

from rl_alliteration.app.shading import SHADES
from rl_alliteration.results.storage import Storage

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def shaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The printed link, and a trial whose first group has a record and a hostile text."""
    storage = Storage(tmp_path_factory.mktemp("shaded") / "results")
    (trial_id, _) = write_results(storage, [TRIALS[2]], "hostile", hostile_or_story)
    write_records(storage, "hostile", trial_id, range(10))
    with served(storage) as printed:
        yield printed, f"hostile/{trial_id}"


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_tokens_are_shaded_as_chosen(browser: Browser, shaded: tuple[str, str], width: int, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    link, trial = shaded
    base = link.split("/?")[0]
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request", lambda request: None if request.url.startswith((base, "data:")) else complaints.append(request.url)
    )
    page.goto(link)
    page.wait_for_selector("#table tbody tr")
    page.goto(f"{base}/rollouts?trial={trial}")
    page.wait_for_selector("html[data-ready=yes]", state="attached")
    page.select_option("select[name=shade]", "log_p")
    page.click("text=There is no record of the tokens of these texts >> a")
    page.wait_for_selector(".legend")
    colours = set()
    for by in [shade for shade in SHADES if shade != "runs"]:
        page.select_option("select[name=shade]", by)
        page.wait_for_selector(f"select[name=shade]:has(option[value={by}][selected])")
        assert f"shade={by}" in urlsplit(page.url).query
        assert page.locator(".texts li").count() == page.locator(".texts .tokens").count() == 10
        assert page.locator(".legend li").count() in (7, 13)
        colours |= set(
            page.evaluate(
                "[...document.querySelectorAll('.texts .token')].map(one => getComputedStyle(one).backgroundColor)"
            )
        )
        serious = [
            (one["id"], json.dumps([node["target"] for node in one["nodes"][:3]]))
            for one in Axe().run(page).response["violations"]
            if one["impact"] in ("serious", "critical")
        ]
        assert serious == []
    assert len(colours) > 8
    titles = page.locator(".texts li >> nth=0 >> .token").evaluate_all("all => all.map(one => one.title)")
    assert titles[0] == "prompt" and titles[1] == "log p 0.00, log q 0.00, log p − log q 0.00, entropy 0.00 nats"
    token, line = page.locator(".token.chosen"), page.locator("#token")
    assert line.is_hidden()
    page.locator(".texts .tokens >> nth=0").focus()
    for presses, title in enumerate(titles[:3]):
        page.keyboard.press("ArrowRight")
        assert line.inner_text().endswith(title) and token.count() == 1, presses
    page.keyboard.press("ArrowLeft")
    assert line.inner_text().endswith(titles[1])
    last = page.locator(".texts .tokens >> nth=1 >> .token >> nth=-1")
    last.click()
    assert token.count() == 1 and line.inner_text() == f"“{last.inner_text()}”: {last.get_attribute('title')}"
    page.locator(".texts .tokens >> nth=1").focus()
    page.keyboard.press("ArrowRight")  # there is none after the last
    assert line.inner_text() == f"“{last.inner_text()}”: {last.get_attribute('title')}"
    hostile = page.locator(".texts li", has_text="</script>")
    assert hostile.count() == 1 and "∎" in hostile.inner_text() and page.title() != "owned"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.select_option("select[name=shade]", "runs")
    page.wait_for_selector(".texts mark")
    assert page.locator(".texts .token").count() == 0
    assert complaints == []
    context.close()
