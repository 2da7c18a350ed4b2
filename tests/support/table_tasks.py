"""Tasks of a researcher on the live page: the table of trials, notes, what is kept, and the page as a whole."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet
from watched import Watched, until


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


def download(watched: Watched) -> None:
    page = watched.go("/?experiment=made_up")
    with page.expect_download() as found:
        page.click("#downloads a:has-text('CSV')")
    lines = Path(found.value.path()).read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + page.locator("tbody tr").count()


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
    page.wait_for_selector(".bad-notice:has-text('is not accepted; give one of')")
    watched.refused()


def sort_by_kl(watched: Watched) -> None:
    page = watched.go("/")
    page.click("thead a:has-text('KL')")
    page.wait_for_selector("th[aria-sort=descending]:has-text('KL')")
    page.click("thead a:has-text('KL')")
    page.wait_for_selector("th[aria-sort=ascending]:has-text('KL')")
    found = watched.column("KL")
    assert len(found) > 5 and found == sorted(found)


def leave_columns_out(watched: Watched) -> None:
    page = watched.go("/?experiment=made_up")
    page.click("summary:has-text('Columns to leave out')")
    for name in ("repetition", "collapse"):
        page.check(f"input[name=hide][value={name}]")
        until(page, f"location.search.includes('hide={name}')")
    until(page, "!document.querySelector('thead').textContent.includes('Collapse')")
    heads = page.inner_text("thead")
    assert "Repetition" not in heads and "Variety" in heads
    with page.expect_download() as found:
        page.click("#downloads a:has-text('CSV')")
    assert "repetition" not in Path(found.value.path()).read_text(encoding="utf-8").splitlines()[0]


def open_the_seeds_of_a_setting(watched: Watched) -> None:
    page = watched.go("/?experiment=made_up&group=setting")
    row = page.locator("tbody tr", has_text="rloo beta 100").first
    assert row.locator("td").first.inner_text() == "2"
    row.locator("th a").click()
    until(page, "!location.search.includes('group=')")
    until(page, "document.querySelectorAll('#table tbody tr').length === 2")
    names = page.locator("tbody th").all_inner_texts()
    assert len(names) == 2 and all("beta 100 seed" in name for name in names)


def one_experiment_alone(watched: Watched) -> None:
    page = watched.go("/")
    page.click("summary:has-text('Filter by setting')")
    page.check("input[name=experiment][value=hostile]")
    until(page, "document.querySelector('#count').textContent.startsWith('2 of')")
    page.click("nav >> text=Curves")  # another view begins with all of them again
    watched.drawn()
    assert page.locator("input[name=experiment]:checked").count() == 0


def a_parquet_file(watched: Watched) -> None:
    page = watched.go("/?experiment=made_up&sort=-raw_reward")
    with page.expect_download() as found:
        page.click("#downloads a:has-text('Parquet')")
    rewards = pyarrow.parquet.read_table(found.value.path())["raw_reward"].to_pylist()
    assert len(rewards) == page.locator("#table tbody tr").count() and rewards == sorted(rewards, reverse=True)


def dark_after_a_reload(watched: Watched) -> None:
    page = watched.go("/curves")
    while page.inner_text("#theme") != "Theme: dark":
        page.click("#theme")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.reload()
    watched.drawn()
    assert page.inner_text("#theme") == "Theme: dark"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == background
    ink = page.evaluate("document.getElementById('curves').layout.font.color")
    assert ink == page.evaluate("getComputedStyle(document.body).color")
    page.click("#theme")  # auto
    assert page.inner_text("#theme") == "Theme: auto"


def back_and_forth(watched: Watched) -> None:
    page = watched.go("/")
    page.select_option("select[name=group]", "algorithm")
    until(page, "document.querySelector('#table thead').textContent.includes('Algorithm')")
    page.click("nav >> text=Frontier")
    watched.drawn()
    page.go_back()
    page.wait_for_selector("#table")
    assert page.input_value("select[name=group]") == "algorithm"
    page.go_back()
    until(page, "document.querySelector('#table thead').textContent.includes('State')")
    page.go_forward()
    until(page, "document.querySelector('#table thead').textContent.includes('Algorithm')")


def a_damaged_file_is_a_line(watched: Watched) -> None:
    page = watched.go("/")
    lines = page.locator("#problems li").all_inner_texts()
    assert [line.split(" cannot be read")[0] for line in lines] == [
        "trials/experiment=damaged/trial_id=original-00000000/part-00000000.parquet"
    ]
    assert page.locator("tbody tr").count() > 5


def names_for_a_screen_reader(watched: Watched) -> None:
    page = watched.page
    for path in ("/", "/curves", "/rollouts", "/compare"):
        watched.go(path)
        # Of several controls in a label only the first is named by it.
        nameless = page.eval_on_selector_all(
            "button, select, input:not([type=hidden]), textarea, a",
            "found => found.filter(e => !e.textContent.trim() && !e.getAttribute('aria-label') && "
            "!e.getAttribute('data-title') && !(e.labels || []).length).map(e => e.outerHTML)",
        )
        assert (path, nameless) == (path, [])
        levels = page.eval_on_selector_all("h1, h2, h3", "found => found.map(e => Number(e.tagName[1]))")
        assert levels[0] == 1 and levels.count(1) == 1
        assert page.locator("main").count() == 1 and page.locator("[role=status]").count() >= 1


def a_command_to_go_on_from_it(watched: Watched) -> None:
    watched.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = watched.go("/")
    page.locator("tbody th a", has_text="rloo beta 100 seed 0, made_up").click()
    page.wait_for_selector("#go-on")
    page.fill("#go-on input[name=fork]", "200")
    page.press("#go-on input[name=fork]", "Enter")
    page.wait_for_selector("#fork-command:has-text('@200')")
    page.click("#go-on .copy")
    page.wait_for_selector("#go-on .copy:has-text('Copied')")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("rl-alliteration sweep --storage ") and copied.endswith("@200 --beta 50")
    assert "--from made_up/rloo-beta100-seed0-" in copied


TASKS = (
    sort_by_reward,
    filter_by_beta,
    group_seeds,
    star_and_filter,
    name_and_note,
    download,
    light_and_dark,
    keyboard_alone,
    a_choice_that_is_wrong,
    sort_by_kl,
    leave_columns_out,
    open_the_seeds_of_a_setting,
    one_experiment_alone,
    a_parquet_file,
    dark_after_a_reload,
    back_and_forth,
    a_damaged_file_is_a_line,
    names_for_a_screen_reader,
    a_command_to_go_on_from_it,
)
