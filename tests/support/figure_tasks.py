"""Tasks of a researcher on the live page: curves, comparisons, the frontier, a search, and links to them."""

from __future__ import annotations

from watched import Watched, until

NAMES = ("rloo beta 0 seed 0, made_up", "rloo beta 100 seed 0, made_up")


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


def a_link_holds_the_view(watched: Watched) -> None:
    page = watched.go("/curves?y=near_copies&x=tokens&by=trials&smooth=3&experiment=made_up")
    chosen = {name: page.input_value(f"select[name={name}]") for name in ("x", "y", "by", "smooth")}
    assert chosen == {"x": "tokens", "y": "near_copies", "by": "trials", "smooth": "3"}
    assert page.is_checked("input[name=experiment][value=made_up]")


def smoothed_on_a_logarithmic_axis(watched: Watched) -> None:
    page = watched.go("/curves?experiment=made_up&by=trials")
    before = page.evaluate("document.getElementById('curves').data[0].y")
    page.select_option("select[name=smooth]", "5")
    page.wait_for_selector("figcaption:has-text('Smoothed: mean of 5 windows')")
    page.select_option("select[name=log]", "y")
    until(page, "location.search.includes('log=y')")
    watched.drawn()
    assert page.evaluate("document.getElementById('curves').layout.yaxis.type") == "log"
    assert page.evaluate("document.getElementById('curves').data[0].y") != before


def seeds_as_a_band(watched: Watched) -> None:
    page = watched.go("/curves?experiment=made_up&beta=beta+0")
    assert "toself" in page.evaluate("document.getElementById('curves').data.map(one => one.fill)")
    page.click("summary:has-text('The numbers')")
    assert page.locator("details[open] tbody tr").count() == 1
    page.select_option("select[name=by]", "trials")
    until(page, "location.search.includes('by=trials')")
    watched.drawn()
    names = page.evaluate("document.getElementById('curves').data.map(one => one.name)")
    assert len(set(names)) >= 2 and "toself" not in page.evaluate(
        "document.getElementById('curves').data.map(one => one.fill)"
    )


def compare_three(watched: Watched) -> None:
    page = watched.go("/compare")
    for place, name in enumerate([*NAMES, "rloo beta 0 seed 1, made_up"]):
        page.locator("select[name=trial]").nth(place).select_option(label=name)
        until(page, f"new URLSearchParams(location.search).getAll('trial').length === {place + 1}")
    until(page, "document.querySelectorAll('.sides section').length === 3")
    watched.drawn()
    differ = page.locator("tr.differs th").all_inner_texts()
    assert differ == ["beta", "seed"]
    page.click("summary:has-text('Those that are the same')")
    assert "learning rate" in page.inner_text("details[open]")
    assert len(page.evaluate("document.getElementById('letters').data")) == 3


def never_at_that_kl(watched: Watched) -> None:
    page = watched.go("/compare")
    for place, name in enumerate(NAMES):
        page.locator("select[name=trial]").nth(place).select_option(label=name)
        until(page, f"new URLSearchParams(location.search).getAll('trial').length === {place + 1}")
    page.select_option("select[name=at]", "kl")
    until(page, "location.search.includes('at=kl')")
    page.wait_for_selector("label:has-text('KL') input[name=value]")
    page.fill("input[name=value]", "0.5")
    page.press("input[name=value]", "Enter")
    page.wait_for_selector("td:has-text('never gets there')")
    assert page.locator(".sides section").nth(1).inner_text().endswith("None: it never gets there.")


def best_of_n_beside_it(watched: Watched) -> None:
    page = watched.go("/frontier?experiment=made_up")
    names = page.evaluate("document.getElementById('frontier-2').data.map(one => one.name)")
    assert "best-of-n" in names
    heads = page.locator("#frontier-section thead th").all_inner_texts()
    assert any("best-of" in head.lower() for head in heads)


def other_limits_another_model(watched: Watched) -> None:
    page = watched.go("/frontier?experiment=made_up")
    assert "after" in page.inner_text(".notice:has-text('Which model to keep')")
    page.fill("input[name=keep_sense]", "0")
    page.press("input[name=keep_sense]", "Enter")
    page.wait_for_selector(".notice:has-text('there is nothing to recommend')")
    assert page.locator("#command").count() == 0
    page.go_back()
    page.wait_for_selector("#command")


def a_link_opened_by_a_colleague(watched: Watched) -> None:
    context = watched.browser.new_context(viewport={"width": watched.width, "height": 800})
    page = context.new_page()
    view = "/curves?y=variety&x=kl_penalty&by=trials&smooth=3&experiment=made_up"
    answer = page.goto(watched.base + view)
    assert answer is not None and answer.status == 403  # without the token
    page.goto(f"{watched.base}{view}&{watched.token}")
    page.wait_for_selector("h2:has-text('Variety against KL')")
    assert "token" not in page.url and page.input_value("select[name=smooth]") == "3"
    context.close()


TASKS = (
    curve_of_another_metric,
    from_a_point_to_its_texts,
    no_button_uploads,
    compare_two,
    which_model_to_keep,
    what_a_search_stopped,
    a_link_holds_the_view,
    smoothed_on_a_logarithmic_axis,
    seeds_as_a_band,
    compare_three,
    never_at_that_kl,
    best_of_n_beside_it,
    other_limits_another_model,
    a_link_opened_by_a_colleague,
)
