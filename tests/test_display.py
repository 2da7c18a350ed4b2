"""Texts and comparisons in Python: the live page's numbers, escaped, and one line for what is not there."""

from __future__ import annotations

import math
from typing import Any
from urllib.parse import quote

import pyarrow.csv
import pytest
from hostile import HOSTILE, TRIALS, hostile_or_story
from made_up import write_results
from served import Client, known

from rl_alliteration import Results, UserError, open_results
from rl_alliteration.results.storage import Storage

FAST, SLOW, LONG = "rloo-beta0-seed0", "rloo-beta0-seed1", "rloo-beta100-seed1"


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    storage = Storage(tmp_path_factory.mktemp("display") / "results")
    write_results(storage, TRIALS[:4])
    write_results(storage, [TRIALS[2]], "hostile", hostile_or_story)
    return storage


@pytest.fixture
def results(storage: Storage) -> Results:
    return open_results(str(storage), "made_up")


@pytest.mark.parametrize("at, value", [("kl", 0.4), ("generation", 250)])
def test_a_comparison_is_that_of_the_live_page(results: Results, storage: Storage, at: str, value: Any) -> None:
    found = results.compare(FAST, SLOW, **{f"at_{at}": value})
    ids = found.table["trial_id"].to_pylist()
    trials = "&".join(f"trial={quote(f'made_up/{name}')}" for name in ids)
    answer = Client(known(storage)).ask(f"/download/compare?{trials}&at={at}&value={value}&format=csv")
    page = pyarrow.csv.read_csv(pyarrow.py_buffer(answer.body))
    assert page.column_names == found.table.column_names
    for name in page.column_names[2:]:
        for ours, other in zip(found.table[name].to_pylist(), page[name].to_pylist(), strict=True):
            assert (ours is None) == (other is None) and (ours is None or math.isclose(ours, other, rel_tol=1e-9)), name
    assert found.settings == {"seed": ["seed 0", "seed 1"]}
    first = found.table["first_generation"].to_pylist()
    assert all(start <= row.generation < start + 100 for start, own in zip(first, found.texts, strict=True)
               for row in own.rows)  # fmt: skip


def test_it_is_shown_as_lines_and_as_markup(results: Results) -> None:
    found = results.compare(FAST, LONG, texts=2)
    assert found.title == "2 trials at generation 399, windows of 100 texts"  # the last that both have
    lines = repr(found).splitlines()
    assert lines[0] == found.title and any(line.startswith("Raw reward ") for line in lines)
    markup = found._repr_html_()
    assert markup.count("<table") == 2 and markup.count("<p dir=") == 4 and "<mark" in markup


@pytest.mark.parametrize(
    "ask, line",
    [
        (lambda r: r.compare(FAST), "trials: 1 are too few; give 2 to 4"),
        (lambda r: r.compare(*[FAST] * 5), "trials: 5 are too many; give 2 to 4"),
        (lambda r: r.compare(FAST, LONG, at_kl=0.4), "at_kl: 0.4 is not accepted; .* reaches 0.0.. at most"),
        (lambda r: r.compare(FAST, LONG, at_generation=400), "at_generation: 400 is not accepted; .* has 400 texts"),
        (lambda r: r.compare(FAST, LONG, at_kl=0.1, at_generation=4), "at_kl, at_generation: give one of them"),
        (lambda r: r.rollouts(FAST, order="best"), "order: 'best' is not accepted; give one of sampled, reward"),
        (lambda r: r.rollouts(FAST, around=400), "around: 400 is not accepted; .* has the generations 0 to 399"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_told_in_one_line(results: Results, ask: Any, line: str) -> None:
    with pytest.raises(UserError, match=f"^{line}") as told:
        ask(results)
    assert "\n" not in str(told.value)


def test_texts_are_of_the_window_and_in_order(results: Results) -> None:
    found = results.rollouts(FAST, around=150, number=5, order="reward").rows
    rewards = [row.raw_reward for row in found]
    texts = [row["raw_reward"] for row in results.texts(FAST, number=1000).to_pylist() if row["generation"] // 100 == 1]
    assert rewards == sorted(texts, reverse=True)[:5]
    assert len(results.rollouts(FAST)) == 10


def test_a_hostile_text_is_never_markup(storage: Storage) -> None:
    found = open_results(str(storage), "hostile").rollouts("rloo-beta100", around=7, number=100, order="sampled")
    assert HOSTILE in [row.text for row in found.rows]
    markup = found._repr_html_()
    assert "<script" not in markup and "<img" not in markup and "&lt;script&gt;document" in markup
    assert "the\N{REPLACEMENT CHARACTER}tall</mark>" in markup
