"""The live page in a real browser, wide and narrow: 44 tasks that a researcher does, no request elsewhere, no
complaint, nothing that axe-core finds serious."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import figure_tasks
import pytest
import table_tasks
import text_tasks
from hostile import TRIALS, hostile_or_story
from made_up import MadeUp, write_results
from served import served
from watched import SIZES, Watched, serious

from rl_alliteration.results import schema
from rl_alliteration.results.cards import SEARCH, write_run
from rl_alliteration.results.storage import Storage

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser
TASKS: list[Callable[[Watched], None]] = [*table_tasks.TASKS, *figure_tasks.TASKS, *text_tasks.TASKS]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    storage = Storage(tmp_path_factory.mktemp("live") / "results")
    write_results(storage, TRIALS[:4])
    write_results(storage, [TRIALS[2]], "hostile", hostile_or_story)
    sought = [MadeUp(beta=10, generations=200, status=schema.STOPPED, reason="collapse"), MadeUp(beta=20)]
    write_results(storage, sought, "sought")
    write_run(storage, "sought", "run", SEARCH, {"limits": {}})
    storage.put(schema.part_path("trials", "damaged", "original-00000000", 0), b"this was a Parquet file")
    return storage


@pytest.fixture(scope="module")
def link(storage: Storage) -> Iterator[str]:
    with served(storage) as printed:
        yield printed


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


@pytest.mark.parametrize("task", TASKS, ids=[task.__name__ for task in TASKS])
def test_a_researchers_tasks(watched: Watched, task: Callable[[Watched], None]) -> None:
    task(watched)


# --- accessibility, and life ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Browser, link: str, storage: Storage, scheme: str) -> None:
    watched = Watched(browser, link, "narrow" if scheme == "dark" else "wide", color_scheme=scheme)
    some = [path.split("/") for path in sorted(storage.list("generations")) if "made_up/trial_id=rloo" in path]
    first, second = (f"made_up/{parts[2].removeprefix('trial_id=')}" for parts in (some[0], some[-1]))
    views = (
        "/", "/?group=setting", f"/trial?trial={first}", "/curves", f"/rollouts?trial={first}", "/texts?search=tall",
        f"/compare?trial={first}&trial={second}", "/frontier?experiment=made_up", "/search", "/texts",
    )  # fmt: skip
    found = [(path, *one) for path in views for one in serious(watched.go(path))]
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
