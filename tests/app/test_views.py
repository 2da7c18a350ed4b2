"""What views show: the table, curves, texts, comparisons; every choice counts, and hostile texts stay texts."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
from hostile import HOSTILE, TRIALS, hostile_or_story
from made_up import MadeUp, write_results
from served import Client, known

from rl_alliteration.analysis.alliteration import marked
from rl_alliteration.analysis.diversity import overlaps
from rl_alliteration.analysis.words import Words
from rl_alliteration.app.index import Known
from rl_alliteration.app.views import VIEWS
from rl_alliteration.results import schema
from rl_alliteration.results.cards import SEARCH, write_run
from rl_alliteration.results.reader import connect
from rl_alliteration.results.storage import Storage


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Client:
    storage = Storage(tmp_path_factory.mktemp("views") / "results")
    write_results(storage, [*TRIALS, MadeUp("reinforce", 0, 0, 300, 100)])
    write_results(storage, [TRIALS[2]], "hostile", hostile_or_story)
    searched = [
        MadeUp(beta=10, generations=100, status=schema.STOPPED, reason="collapse"),
        MadeUp(beta=20, generations=200),
    ]
    write_results(storage, searched, "sought")
    write_run(storage, "sought", "run", SEARCH, {"limits": {}})
    return Client(known(storage))


def trial(client: Client, name: str, experiment: str = "made_up") -> Known:
    found = client.index.snapshot.trials.values()
    return next(one for one in found if one.trial.name.startswith(name) and one.trial.experiment == experiment)


def client_index(client: Client) -> Any:
    return client.index


def figures(page: str) -> dict[str, Any]:
    found = re.findall(r'<script type="application/json" data-for="([^"]+)">(.*?)</script>', page, re.S)
    return {key: json.loads(data) for key, data in found}


def key(one: Known) -> str:
    return "/".join(one.pair)


# --- all views -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VIEWS)
def test_a_hostile_text_or_name_is_never_markup(client: Client, name: str) -> None:
    one = trial(client, "rloo beta 100", "hostile")
    words = {
        "trial": f"?trial={key(one)}", "rollouts": f"?trial={key(one)}&generation=7", "texts": "?search=owned",
        "compare": f"?trial={key(one)}&trial={key(trial(client, 'rloo beta 0 seed 0'))}&at=generation&value=7",
    }  # fmt: skip
    answer = client.ask(f"/{name}{words.get(name, '')}")
    assert answer.status == 200
    body = answer.text
    assert "<script>document" not in body and "<img" not in body and "javascript:" not in body
    assert all(re.search(r"src=|type=\"application/json\"", tag) for tag in re.findall(r"<script[^>]*>", body))
    assert not re.findall(r"<[^>]*\son\w+=", body)
    for data in figures(body).values():
        assert data["config"]["showSendToCloud"] is False and data["config"]["plotlyServerURL"] == ""


def test_control_characters_and_turned_text_are_shown_as_such() -> None:
    text = "tall \x1b[31m \u202etree\u202c two\x00 toes"
    assert "".join(piece for piece, _ in marked(text)) == text.replace("\x1b", "�").replace("\u202e", "�").replace(
        "\u202c", "�"
    ).replace("\x00", "�")
    assert [piece for piece, runs in marked("see the tall tree now") if runs] == ["the tall tree"]


@pytest.mark.parametrize(
    "path",
    [
        "/?sort=nothing", "/?group=nothing", "/?page=0", "/?page=1e3", "/?beta=beta+7", "/?starred=maybe",
        "/?state=<script>", "/curves?y=nothing", "/curves?x=", "/curves?log=z", "/curves?by=x", "/curves?smooth=2",
        "/rollouts?order=best", "/rollouts?generation=-1", "/rollouts?scope=all", "/texts?search=(&kind=regex",
        "/texts?search=ab&kind=letter", "/texts?search=x&kind=best", "/frontier?keep_variety=2",
        "/frontier?keep_sense=nan", "/compare?at=time", "/search?experiment=other", "/trial",
        "/texts?search=" + "x" * 300,
    ],
)  # fmt: skip
def test_a_choice_that_is_not_accepted_is_a_line(client: Client, path: str) -> None:
    answer = client.ask(path)
    if path == "/curves?x=":
        assert answer.status == 200  # empty: not chosen
        return
    assert answer.status in (400, 503)
    line = re.findall(r'<p class="card notice bad-notice">(.*?)</p>', answer.text)
    assert len(line) == 1 and "Traceback" not in answer.text


@pytest.mark.parametrize("name", ["", "curves", "rollouts", "compare", "frontier", "search", "trial", "texts"])
def test_what_is_shown_can_be_downloaded(client: Client, name: str) -> None:
    first, second = trial(client, "rloo beta 0 seed 0"), trial(client, "rloo beta 100 seed 0")
    words = {
        "trial": f"?trial={key(first)}", "texts": "?search=tall", "rollouts": f"?trial={key(first)}",
        "compare": f"?trial={key(first)}&trial={key(second)}",
    }.get(name, "?")  # fmt: skip
    csv = client.ask(f"/download/{name}{words}&format=csv")
    parquet = client.ask(f"/download/{name}{words}&format=parquet")
    assert csv.status == parquet.status == 200
    assert csv.headers["content-disposition"].startswith("attachment")
    table = pyarrow.parquet.read_table(io.BytesIO(parquet.body))
    options = pyarrow.csv.ParseOptions(newlines_in_values=True)
    assert table.num_rows and pyarrow.csv.read_csv(io.BytesIO(csv.body), parse_options=options).num_rows


# --- trials ----------------------------------------------------------------------------------------------------------


def names(page: str) -> list[str]:
    return re.findall(r'<th scope="row" class="left">.*?>([^<>]+)</a>', page)


def test_the_table_sorts_filters_and_groups(client: Client) -> None:
    everything = names(client.ask("/").text)
    assert len(everything) == len(client.index.snapshot.trials)
    chosen = names(client.ask("/?beta=beta+0&algorithm=rloo&experiment=made_up").text)
    assert chosen and all(name.startswith("rloo beta 0 ") for name in chosen)
    upwards, downwards = (names(client.ask(f"/?experiment=made_up&sort={by}").text) for by in ("kl", "-kl"))
    assert sorted(upwards) == sorted(downwards)
    first = trial(client, downwards[0]).trial.final("kl_penalty")
    assert first == min(one.trial.final("kl_penalty") for one in client.index.snapshot.trials.values())
    grouped = client.ask("/?group=setting&experiment=made_up&algorithm=rloo&reward=alliteration").text
    assert "rloo beta 0</a></th><td" in re.sub(r"<svg.*?</svg> ", "", grouped) and "[" in grouped
    assert names(client.ask("/?trial=RLOO+beta+100&seed=seed+1&experiment=made_up").text) == [
        "rloo beta 100 seed 1, alliteration, made_up"
    ]
    assert "in 5 rows" in client.ask("/?group=beta&experiment=made_up&experiment=sought").text


def test_a_setting_has_one_colour_whatever_is_shown(client: Client) -> None:
    def colour(page: str) -> set[str]:
        rows = re.findall(r'fill="(#\w+)"/></svg> <a[^>]*>rloo beta 100 seed', page)
        return set(rows)

    everything = colour(client.ask("/").text)
    assert len(everything) == 1 == len(colour(client.ask("/?beta=beta+100").text) | everything)
    data = figures(client.ask("/curves?beta=beta+100&reward=alliteration").text)["curves"]["figure"]["data"]
    assert {trace["line"]["color"] for trace in data if trace.get("mode") == "lines" and trace["line"]["width"]} == (
        everything
    )


# --- curves ----------------------------------------------------------------------------------------------------------


def test_a_point_leads_to_exactly_the_texts_of_its_window(client: Client) -> None:
    one = trial(client, "rloo beta 0 seed 0")
    page = client.ask(f"/curves?by=trials&trial={one.trial.trial_id}&experiment=made_up").text
    data = figures(page)["curves"]
    points = next(trace for trace in data["figure"]["data"] if trace["mode"] == "markers")
    place = points["customdata"][1]
    assert place[1] == 100 and points["x"][1] == 150  # at the middle of the window that begins at 100
    texts = client.ask(f"/rollouts?trial={data['places'][place[2]]}&generation={place[1]}&scope=window").text
    shown = [int(number) for number in re.findall(r'<div class="meta">generation (\d+)', texts)]
    assert shown == list(range(100, 200))
    rewards = [float(number) for number in re.findall(r"reward <b>([\d.]+)</b>", texts)]
    assert np.mean(rewards) == pytest.approx(points["y"][1], abs=0.06)


@pytest.mark.parametrize("x", ["generation", "tokens", "kl_penalty", "raw_reward", "variety"])
@pytest.mark.parametrize("by", ["seeds", "trials"])
def test_any_number_of_windows_against_any_other(client: Client, x: str, by: str) -> None:
    page = client.ask(f"/curves?x={x}&y=variety&by={by}&log=x&smooth=3&experiment=made_up").text
    figure = figures(page)["curves"]["figure"]
    assert figure["layout"]["xaxis"]["type"] == "log" and figure["data"]
    assert "Smoothed: mean of 3 windows" in page


def test_seeds_are_a_band_around_their_middle(client: Client) -> None:
    page = client.ask("/curves?experiment=made_up&reward=alliteration&algorithm=rloo&beta=beta+0").text
    band, line, _ = figures(page)["curves"]["figure"]["data"]
    one, other = (trial(client, f"rloo beta 0 seed {seed}").trial.metrics["raw_reward"] for seed in (0, 1))
    assert line["y"] == pytest.approx(((one + other) / 2).tolist(), rel=1e-4)
    assert band["y"] == pytest.approx([*np.maximum(one, other), *np.minimum(one, other)[::-1]], rel=1e-4)


# --- texts -----------------------------------------------------------------------------------------------------------


def shown_texts(page: str) -> list[int]:
    return [int(found.replace(",", "")) for found in re.findall(r"generation ([\d,]+) · reward", page)]


def test_a_steps_whole_group_in_any_order(client: Client) -> None:
    one = trial(client, "rloo beta 0 seed 0")
    base = f"/rollouts?trial={key(one)}&generation=234"
    assert shown_texts(client.ask(base).text) == list(range(230, 240))
    by_reward = client.ask(f"{base}&order=reward").text
    rewards = [float(found) for found in re.findall(r"reward <b>([\d.]+)</b>", by_reward)]
    assert rewards == sorted(rewards, reverse=True)
    divergences = [float(found) for found in re.findall(r"· KL (-?[\d.]+)", client.ask(f"{base}&order=kl").text)]
    assert divergences == sorted(divergences, reverse=True)
    shuffled = [shown_texts(client.ask(f"{base}&order=random&shuffle={k}").text) for k in (1, 1, 2)]
    assert shuffled[0] == shuffled[1] != shuffled[2] and sorted(shuffled[2]) == list(range(230, 240))
    texts = connect(client.index.storage).execute(
        "SELECT text FROM generations WHERE experiment = ? AND trial_id = ? AND generation BETWEEN 200 AND 299 "
        "ORDER BY generation", list(one.pair),
    ).fetchall()  # fmt: skip
    near = overlaps(Words.of([text for (text,) in texts])).sum(axis=1)
    typical = shown_texts(client.ask(f"{base}&scope=window&order=typical").text)
    assert typical == (200 + np.argsort(-near, kind="stable")).tolist()
    assert "these are the last" in client.ask(f"/rollouts?trial={key(one)}&generation=4000").text


@pytest.mark.parametrize(
    ("words", "kind", "expression"),
    [
        ("Lily DOG", "words", None),
        ('"the tall"', "words", None),
        ("a.b%_'\"; DROP TABLE parts", "words", None),
        (r"(?i)\blily\b.*\bdog\b", "regex", None),
        ("z", "letter", r"(?:^|\s)[zZ]\S*\s+[zZ]"),
        ("T", "letter", r"(?:^|\s)[tT]\S*\s+[tT]"),
        (".", "letter", r"(?:^|\s)\.\S*\s+\."),
    ],
)
def test_search_finds_what_a_plain_loop_finds(client: Client, words: str, kind: str, expression: str | None) -> None:
    rows = connect(client.index.storage).execute("SELECT text FROM generations").fetchall()
    texts = [text for (text,) in rows]
    if kind == "words":
        parts = [phrase or word for phrase, word in re.findall(r'"([^"]+)"|(\S+)', words)]
        expected = sum(all(part.lower() in text.lower() for part in parts) for text in texts)
    else:
        expected = sum(bool(re.search(expression or words, text)) for text in texts)
    from urllib.parse import urlencode

    page = client.ask("/texts?" + urlencode({"search": words, "kind": kind})).text
    assert f"<b>{expected:,}</b> of {len(texts):,} texts" in page
    assert len(shown_texts(page)) == min(expected, 40)
    if expected > 40:
        last = -(-expected // 40)
        more = client.ask("/texts?" + urlencode({"search": words, "kind": kind, "page": str(last)})).text
        assert len(shown_texts(more)) == expected - 40 * (last - 1)


def test_search_in_one_trial_with_counts_over_time(client: Client) -> None:
    one = trial(client, "rloo beta 0 seed 0")
    page = client.ask(f"/texts?search=tall+tree&in={key(one)}").text
    line = next(trace for trace in figures(page)["found-plot"]["figure"]["data"] if trace["mode"] == "lines")
    rows = connect(client.index.storage).execute(
        "SELECT generation // 100, avg((text ILIKE '%tall%' AND text ILIKE '%tree%')::INT) FROM generations "
        "WHERE experiment = ? AND trial_id = ? GROUP BY 1 ORDER BY 1", list(one.pair),
    ).fetchall()  # fmt: skip
    assert line["y"] == pytest.approx([share for _, share in rows], rel=1e-4)
    assert HOSTILE not in page
    every = figures(client.ask("/texts?search=tall").text)["found-plot"]["figure"]["data"]
    originals = {trace["name"] for trace in every if "original" in trace["name"]}
    assert originals and all(name.startswith("original") for name in originals)  # it has no beta


# --- comparisons -----------------------------------------------------------------------------------------------------


def test_trials_are_compared_at_equal_generation_or_equal_divergence(client: Client) -> None:
    first, second = trial(client, "rloo beta 0 seed 0"), trial(client, "rloo beta 0 seed 1")
    query = f"/compare?trial={key(first)}&trial={key(second)}"
    page = client.ask(f"{query}&at=generation&value=150").text
    assert page.count("100 to 199") == 2
    assert '<tr class="differs"><th scope="row" class="left">seed</th>' in page
    page = client.ask(f"{query}&at=kl&value=1").text
    for one in (first, second):
        reached = one.trial.first[np.flatnonzero(-one.trial.metrics["kl_penalty"] >= 1)[0]]
        assert f"{reached} to {reached + 99}" in page
    assert client.ask(f"{query}&at=kl&value=50").text.count("never gets there") >= 2
    four = "&".join(f"trial={'/'.join(pair)}" for pair in list(client.index.snapshot.trials)[:5])
    assert client.ask(f"/compare?{four}").status == 400
    assert "Choose two to 4 trials" in client.ask("/compare").text


def test_the_recommendation_says_why_and_how_to_have_it(client: Client) -> None:
    page = client.ask("/frontier?experiment=made_up&reward=alliteration&keep_variety=0.5").text
    assert "Which model to keep" in page and "keep the original&#39;s sense" in page
    assert "rl-alliteration export --storage" in page and "best-of-n" in page
    assert len(figures(page)) >= 2
    nothing = client.ask("/frontier?keep_sense=0").text
    assert "there is nothing to recommend" in nothing


def test_a_search_shows_what_was_stopped_and_why(client: Client) -> None:
    page = client.ask("/search").text
    assert "2 trials, 1 of them stopped" in page and "stopped: collapse" in page
    assert figures(page)
