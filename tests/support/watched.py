"""A page in a real browser, with what it asks for and complains of."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SIZES = {"wide": (1280, 900), "narrow": (390, 844)}


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


def serious(page: Page) -> list[tuple[str, str, str]]:
    """What axe-core finds in a page that is serious or worse: the rule, where, and what to do."""
    from axe_playwright_python.sync_playwright import Axe

    return [
        (one["id"], json.dumps([node["target"] for node in one["nodes"][:3]]), one["help"])
        for one in Axe().run(page).response["violations"]
        if one["impact"] in ("serious", "critical")
    ]


class Watched:
    """The live page at one size."""

    def __init__(self, browser: Browser, link: str, size: str, **context: Any) -> None:
        width, height = SIZES[size]
        self.width = width
        self.link = link
        self.base, _, query = link.partition("/?")
        self.token = query
        self.browser = browser
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

    def refused(self) -> None:
        """The browser has complained of an answer of 400, and of nothing else: that was to be."""
        last = time.monotonic() + 20
        while not self.complaints and time.monotonic() < last:
            self.page.wait_for_timeout(20)
        assert all("400" in line for line in self.complaints) and len(self.complaints) == 1
        self.complaints.clear()

    def query(self) -> str:
        return urlsplit(self.page.url).query

    def column(self, title: str) -> list[float]:
        """The numbers of a column of the table of trials, those that are known."""
        heads = self.page.locator("#table thead th").all_inner_texts()
        place = next(k for k, head in enumerate(heads) if head.split(" ↑")[0].split(" ↓")[0] == title)
        cells = self.page.locator(f"#table tbody tr > :nth-child({place + 1})").all_inner_texts()
        return [float(cell.split()[0].replace(",", "")) for cell in cells if cell.strip() not in ("", "–")]
