"""Tasks of a researcher on the live page: groups of texts, and searches in all of them."""

from __future__ import annotations

import json
from urllib.parse import quote

from watched import Watched, until


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
    watched.refused()


def trial_key(watched: Watched, name: str) -> str:
    """Experiment and id of a trial, by its name on the page."""
    page = watched.go("/rollouts")
    value = page.locator("select[name=trial] option", has_text=name).first.get_attribute("value")
    assert value is not None
    return value


def order_by_kl(watched: Watched) -> None:
    key = trial_key(watched, "rloo beta 0 seed 0, made_up")
    page = watched.go(f"/rollouts?trial={quote(key)}&scope=window&generation=150")
    page.select_option("select[name=order]", "kl")
    until(page, "location.search.includes('order=kl')")
    page.wait_for_selector(".texts li")
    metas = page.locator(".texts .meta").all_inner_texts()
    kls = [float(meta.split("KL ")[1].split(" ")[0]) for meta in metas]
    assert len(kls) == 100 and kls == sorted(kls, reverse=True)


def typical_of_a_window(watched: Watched) -> None:
    key = trial_key(watched, "rloo beta 0 seed 0, made_up")
    page = watched.go(f"/rollouts?trial={quote(key)}&scope=window&generation=200")
    page.select_option("select[name=order]", "typical")
    page.wait_for_selector("#texts p:has-text('Typical:')")
    first = page.locator(".texts li").first
    assert "the tall" in first.inner_text() or "tree the" in first.inner_text()
    marks = first.locator("mark").all_inner_texts()
    assert marks and all(len({word[0].lower() for word in mark.split()}) == 1 for mark in marks)


def another_random_order(watched: Watched) -> None:
    key = trial_key(watched, "rloo beta 100 seed 0, made_up")
    page = watched.go(f"/rollouts?trial={quote(key)}&scope=window&order=random")
    before = page.locator(".texts .meta").all_inner_texts()
    page.fill("input[name=shuffle]", "5")
    page.press("input[name=shuffle]", "Enter")
    until(page, "location.search.includes('shuffle=5')")
    until(page, f"document.querySelector('.texts .meta').innerText !== {json.dumps(before[0])}")
    after = page.locator(".texts .meta").all_inner_texts()
    assert after != before and sorted(after) == sorted(before)


def runs_of_a_letter(watched: Watched) -> None:
    page = watched.go("/texts?experiment=made_up")
    page.select_option("select[name=kind]", "letter")
    page.fill("#sought", "b")
    page.press("#sought", "Enter")
    page.wait_for_selector("#total")
    watched.drawn()
    for text in page.locator(".texts li").all()[:10]:
        assert any(mark.lower().startswith("b") for mark in text.locator("mark").all_inner_texts())


def search_one_trial(watched: Watched) -> None:
    page = watched.go("/texts")
    page.select_option("select[name=in]", label="rloo beta 100 seed 1, made_up")
    page.fill("#sought", "garden")
    page.press("#sought", "Enter")
    page.wait_for_selector("#total")
    assert "of 800 texts, in 1 trial." in page.inner_text("#total")
    links = page.locator(".texts .meta a").all_inner_texts()
    assert links and set(links) == {"rloo beta 100 seed 1, made_up"}


def when_it_began_to_say_that(watched: Watched) -> None:
    key = trial_key(watched, "rloo beta 0 seed 0, made_up")
    page = watched.go(f"/texts?kind=regex&search={quote('tall (tall|tree)')}&in={quote(key)}")
    shares = page.evaluate("document.getElementById('found-plot').data[0].y")
    assert shares[0] < shares[-1] and shares[-1] > 0.9
    page.evaluate(
        "document.getElementById('found-plot').emit('plotly_click', "
        "{points: [{customdata: document.getElementById('found-plot').data[1].customdata[3]}]})"
    )
    page.wait_for_selector("#texts h2:has-text('Generations 300 to 399')")


def walk_with_the_slider(watched: Watched) -> None:
    key = trial_key(watched, "rloo beta 100 seed 0, made_up")
    page = watched.go(f"/rollouts?trial={quote(key)}&generation=0")
    page.focus("input[type=range]")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#texts h2:has-text('Generations 10 to 19')")
    until(page, "document.activeElement.name === 'generation'")
    assert page.get_attribute("input[type=range]", "aria-valuetext") == "generation 10"


TASKS = (
    walk_through_generations,
    search_words,
    search_a_hostile_text,
    search_what_is_no_expression,
    order_by_kl,
    typical_of_a_window,
    another_random_order,
    runs_of_a_letter,
    search_one_trial,
    when_it_began_to_say_that,
    walk_with_the_slider,
)
