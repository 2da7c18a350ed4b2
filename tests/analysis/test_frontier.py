"""The frontier, the recommendation and the card of an exported model."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import MadeUp, write_results

from rl_alliteration.analysis.card import model_card
from rl_alliteration.analysis.frontier import frontier, non_dominated, recommend, recommended
from rl_alliteration.analysis.measure import measure
from rl_alliteration.analysis.types import Analysis
from rl_alliteration.config import TrialConfig
from rl_alliteration.errors import Failure, UserError
from rl_alliteration.results.reader import connect, last_event
from rl_alliteration.results.storage import Storage


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    storage = Storage(tmp_path_factory.mktemp("made_up"))
    write_results(storage, [MadeUp(beta=40, generations=400, falls_at=350), MadeUp(beta=100, generations=400)])
    return measure(connect(storage))


def with_metrics(analysis: Analysis, **changes: list[float]) -> Analysis:
    """The analysis with other numbers for its first trial's windows."""
    trial = analysis.trials[0]
    metrics = trial.metrics | {name: np.array(values) for name, values in changes.items()}
    return dataclasses.replace(analysis, trials=[dataclasses.replace(trial, metrics=metrics), *analysis.trials[1:]])


def test_what_nothing_beats() -> None:
    values = np.array([[1, 1], [2, 0], [0, 2], [0, 0], [1, 1], [2, -1]], dtype=float)
    assert non_dominated(values).tolist() == [True, True, True, False, True, False]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
def test_each_window_is_on_the_frontier_or_beaten_by_one_that_is(rows: list[tuple[int, int]]) -> None:
    values = np.array(rows, dtype=float)
    best = non_dominated(values)
    assert best.any()
    for row in values[~best]:
        assert ((values[best] >= row).all(axis=1) & (values[best] > row).any(axis=1)).any()


def test_the_most_alliteration_that_keeps_variety_and_sense(analysis: Analysis) -> None:
    base = analysis.trials[0].original
    assert base is not None
    variety, sense = base.metrics["variety"], base.cross_entropy
    changed = with_metrics(
        analysis,
        alliteration=[20, 30, 40, 50],
        variety=[variety, 0.91 * variety, 0.89 * variety, variety],
        original_lm_cross_entropy=[sense, sense - 0.2, sense, sense + 0.3],
        repetition=[0, 0, 0, 0],
        raw_reward=[15, 19, 17, 40],
    )
    found = recommended(changed)
    assert (found.trial.beta, found.point.first, found.generation) == (40, 100, 150)
    assert found.expected == pytest.approx(16)  # of the windows beside it, not of the one chosen for being high
    assert found.low < 16 < found.high
    rising = recommended(with_metrics(changed, raw_reward=[5, 10, 80, 90]))
    assert rising.expected == pytest.approx(10)  # where the curve takes off, those beside it say nothing of it
    assert recommended(changed, keep_variety=0.88).point.first == 200
    assert recommended(changed, nats=0.31).point.first == 300
    assert recommended(changed, trial_id=changed.trials[1].trial_id).trial.beta == 100
    on_it = {(p.trial.beta, p.first) for p in frontier(changed) if p.best}
    assert {(40.0, 100), (40.0, 200), (40.0, 300)} <= on_it


def test_repetitive_texts_have_lost_their_sense(analysis: Analysis) -> None:
    changed = with_metrics(analysis, alliteration=[90, 90, 90, 90], repetition=[0.5, 0.5, 0.5, 0.5])
    assert recommended(changed).trial.beta == 100


def test_no_recommendation_has_a_reason(analysis: Analysis) -> None:
    fallen = Analysis([analysis.trials[0], *analysis.trials[2:]], 100)
    with pytest.raises(Failure, match="none of 4 windows keeps 100%"):
        recommended(fallen, keep_variety=1.0)
    assert recommend([]) is None
    with pytest.raises(UserError, match="--keep-variety: 1"):
        recommended(analysis, keep_variety=1.5)
    with pytest.raises(UserError, match="--keep-sense: nan"):
        recommended(analysis, nats=float("nan"))
    with pytest.raises(UserError, match="--trial: 'x'"):
        recommended(analysis, trial_id="x")


def test_the_card_says_what_the_data_say_and_stays_a_card(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    write_results(storage, [MadeUp(beta=40, generations=300)])
    analysis = measure(connect(storage))
    found = recommended(analysis)
    event = last_event(storage, "made_up", found.trial.trial_id)
    assert event is not None
    config = TrialConfig.from_json(event["config"])
    hostile = "a ``` b\n````\n# not a heading <script>"
    card = model_card(config, found.trial, found.generation, [hostile], found)
    assert f"mean raw reward of {found.expected:.1f}" in card
    assert "beta 40" in card
    assert "`storyteller` after" in card and "base_model" not in card
    assert f"{found.trial.metrics['variety'][found.point.index]:.2f}" in card
    fence = "`````"
    inside = card.split(f"{fence}text\n")[1].split(f"\n{fence}\n")[0]
    assert inside == "a ``` b ```` # not a heading <script>"
    hub = dataclasses.replace(found.trial, model="roneneldan/TinyStories-33M@0")
    assert "base_model: roneneldan/TinyStories-33M\n" in model_card(config, hub, 100, [])
    folder = dataclasses.replace(found.trial, model="/home/me/model@0")
    assert "base_model" not in model_card(config, folder, 100, [])
