"""A search: its objective is the recommendation's, its history the results, its stopping halving over windows."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import MadeUp, write_results

from rl_alliteration.analysis.frontier import frontier, recommend
from rl_alliteration.analysis.measure import measure, measure_original
from rl_alliteration.analysis.objective import Objective
from rl_alliteration.analysis.rules import KEEP_VARIETY, SENSE_NATS, Limits
from rl_alliteration.analysis.stopping import HALVING
from rl_alliteration.analysis.types import Analysis
from rl_alliteration.config import PlannedTrial, TrialConfig
from rl_alliteration.errors import UserError
from rl_alliteration.results.reader import connect
from rl_alliteration.results.storage import Storage
from rl_alliteration.tune.history import Past, history
from rl_alliteration.tune.proposals import Proposals
from rl_alliteration.tune.search import (
    FIRST_RUNG,
    LEAST,
    Choice,
    Search,
    Space,
    resolve_search,
    seeds_of,
    space_of,
    sweep_of,
)

# --- the objective -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    storage = Storage(tmp_path_factory.mktemp("made_up"))
    write_results(storage, [MadeUp(beta=40, generations=650, falls_at=400), MadeUp(beta=100, generations=330)])
    return storage


def test_the_objective_of_a_trial_is_its_recommended_window(made_up: Storage) -> None:
    connection = connect(made_up)
    analysis = measure(connection)
    original = next(trial for trial in analysis.trials if trial.is_original)
    limits = Limits.of(
        measure_original(connection, "made_up", original.trial_id), keep_variety=KEEP_VARIETY, nats=SENSE_NATS
    )
    for trial in analysis.trained:
        rows = [
            {"text": text, "reward_of": "text", "original_lm_cross_entropy": cross_entropy}
            for text, cross_entropy in connection.execute(
                "SELECT text, original_lm_cross_entropy FROM generations WHERE trial_id = $1 ORDER BY generation",
                [trial.trial_id],
            ).fetchall()
        ]
        objective = Objective(limits)
        for first in range(0, len(rows), 10):
            objective.add(rows[first : first + 10])
        assert len(objective.best) == trial.generations // 100
        assert objective.best == sorted(objective.best)
        found = recommend(frontier(Analysis([trial, original], 100)))
        assert found is not None
        assert objective.best[-1] == pytest.approx(found.point.alliteration, rel=1e-12)


def test_windows_outside_of_the_limits_count_nothing(made_up: Storage) -> None:
    rows = [{"text": "tall trees tower", "reward_of": "text", "original_lm_cross_entropy": 1.0}] * 100
    kept = Limits(variety=0.0, cross_entropy=1.2, nats=0.25, repetition=1.0)
    for changes, expected in (
        ({}, 100 * 2 / 3),
        ({"variety": 0.1}, 0.0),
        ({"nats": 0.1}, 0.0),
        ({"repetition": -0.1}, 0.0),
    ):
        objective = Objective(dataclasses.replace(kept, **changes))
        objective.add(rows)
        assert objective.best == [pytest.approx(expected)]


def test_a_trial_that_stays_outside_of_the_limits_is_spent() -> None:
    limits = Limits(variety=0.0, cross_entropy=1.0, nats=0.25, repetition=1.0)
    objective = Objective(limits)
    windows = ["o", "i", "o", "i", "i", "o", "o"]
    spent = []
    for where in windows:
        cross_entropy = 1.0 if where == "i" else 2.0
        objective.add([{"text": "tall trees", "reward_of": "text", "original_lm_cross_entropy": cross_entropy}] * 100)
        spent.append(objective.spent)
    assert spent == [False] * 6 + [True]


# --- the request -------------------------------------------------------------------------------------------


def resolved(**changes: Any) -> Search:
    given = {"storage": "s", "experiment": "e", "beta": (10, 100), "learning_rate": (1e-4, 1e-2), **changes}
    return resolve_search(Search(**given))


def test_a_preset_knows_the_learning_rate_of_its_model() -> None:
    shipped = resolve_search(Search(storage="s", preset="frontier"))
    assert (shipped.experiment, shipped.max_texts, shipped.trials) == ("frontier", 28_800, 32)
    assert shipped.learning_rate == (7e-4, 2e-3)
    hub = resolve_search(Search(storage="s", preset="frontier", model="roneneldan/TinyStories-33M"))
    assert hub.learning_rate == (7e-5, 2e-4)
    assert resolved(learning_rate=()).learning_rate == (1e-3, 1e-3)
    assert resolve_search(Search(storage="s", preset="frontier", seeds=3)).trials == 33
    assert (resolved(seeds=5).trials, resolved(seeds=5, trials=10).trials) == (25, 10)
    assert seeds_of(resolved(seed=7, seeds=3)) == (7, 8, 9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "none"}, "--preset: 'none' is unknown; choose one of frontier"),
        (
            {"beta": (100, 10)},
            "--beta: 100 10 is not accepted; give two numbers above 0, 1,000,000 at most, the lower first",
        ),
        ({"beta": (1, 1.7976e308)}, "--beta: 1 1.7976e"),
        ({"learning_rate": (1e-3, 1e300)}, "--learning-rate: 0.001 1e"),
        ({"max_generations": 0}, "--max-generations: 0"),
        ({"beta": (10,)}, "--beta: 10 is not"),
        ({"beta": (0, 10)}, "--beta: 0 10 is not"),
        ({"beta": ()}, "--beta: nothing is not"),
        ({"learning_rate": (1e-2, 1e-3)}, "--learning-rate: 0.01 0.001"),
        ({"learning_rate": (0, 1e-3)}, "--learning-rate: 0"),
        ({"group_size": (10, 7)}, "no multiple of the group size 7"),
        ({"group_size": (1,)}, "--group-size: 1 is too few for rloo"),
        ({"algorithm": ("ppo",)}, "ppo"),
        ({"trials": 0}, "--trials: 0 is not accepted; give 1 or more"),
        ({"max_texts": 100}, f"--max-texts: 100 is not accepted; give {LEAST} or more"),
        ({"max_generations": 1250}, "--max-generations: 1250 is no multiple of 100"),
        ({"keep_variety": 2.0}, "--keep-variety: 2.0"),
        ({"seed": -1}, "--seed"),
        ({"seed": 2**63 - 2, "seeds": 3}, "--seed"),
        ({"seeds": 0}, "--seeds: 0 is not accepted; give 1 to 100"),
        ({"seeds": 10**12}, "--seeds: 1000000000000 is not accepted"),
        ({"seeds": 3, "trials": 10}, "--trials: 10 is no multiple of --seeds 3; give 12"),
        ({"seeds": 3, "max_texts": 2 * LEAST}, f"--max-texts: {2 * LEAST} is not accepted; give {3 * LEAST} or more"),
    ],
)
def test_a_mistake_is_told_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolved(**changes)


# --- proposals ---------------------------------------------------------------------------------------------

SPACE = Space(("rloo", "reinforce"), (10.0, 100.0), (1e-4, 1e-2), (10, 20))


def planned(point: Choice, length: int, seed: int = 3) -> PlannedTrial:
    config = TrialConfig(
        **dataclasses.asdict(point), seed=seed, reward="alliteration", reward_version=1, prompt="p", max_length=100,
        temperature=1.0, top_k=0, weights="00", tokenizer="00", dtype="float32", threads=1,
    )  # fmt: skip
    return PlannedTrial(config, "storyteller", length, 600)


def proposals(
    past: Sequence[Past] = (),
    trials: int = 20,
    max_texts: int | None = None,
    max_generations: int = 3200,
    space: Space = SPACE,
) -> Proposals:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Optuna warns of a past point that it does not take
        return Proposals(
            space, planned, seeds=[3], trials=trials, max_generations=max_generations, max_texts=max_texts, past=past
        )


def proposed(asked: Proposals) -> PlannedTrial:
    """The next trial; there is one."""
    trial = asked.propose()
    assert trial is not None
    return trial


def curve(height: float, windows: int) -> list[float]:
    return [height * (window + 1) / 32 for window in range(windows)]


def test_what_is_proposed_lies_in_the_space_and_can_be_typed_again() -> None:
    asked = proposals()
    for _ in range(20):
        config = proposed(asked).config
        point = Choice(config.algorithm, config.beta, config.learning_rate, config.group_size)
        assert SPACE.holds(point)
        assert point.group_size == 1 or point.algorithm == "rloo"
        for number in (point.beta, point.learning_rate):
            assert number == float(f"{number:.4g}")
        asked.end(planned(point, 0).trial_id, curve(1.0, 32), 3200, failed=False, halved=False)
    assert asked.propose() is None


def test_what_lags_behind_is_stopped_and_what_leads_is_not() -> None:
    asked = proposals()
    lagging = {}
    for height in (1.0, 9.0, 8.0, 2.0, 10.0):
        name = proposed(asked).trial_id
        for windows in range(1, 33):
            if asked.lags(name, curve(height, windows)):
                lagging[height] = windows
                break
        asked.end(name, curve(height, windows), 100 * windows, failed=False, halved=height in lagging)
    # At the first rung the better half goes on, of those that have come there; the first one always does.
    assert lagging == {8.0: FIRST_RUNG, 2.0: FIRST_RUNG}
    assert not asked.lags("another", [1.0])


def test_each_text_is_counted_once_and_the_bound_holds() -> None:
    asked = proposals(max_texts=8000, trials=100)
    running, texts, most = [proposed(asked), proposed(asked)], 0, 0
    while running:
        trial = running.pop(0)
        assert trial.max_generations <= 3200
        done = min(trial.max_generations, 1900)  # stopped early: what is left goes to others
        texts += done
        asked.end(trial.trial_id, curve(1.0, done // 100), done, failed=False, halved=True)
        following = asked.propose()
        if following is not None:
            running.append(following)
        most = max(most, texts + sum(one.max_generations for one in running))
    assert most <= 8000
    assert 8000 - LEAST < texts <= 8000


def test_texts_that_a_trial_leaves_come_to_another() -> None:
    asked = proposals(max_texts=5000, trials=3)
    first = proposed(asked)
    assert first.max_generations == 3200 and asked.propose() is not None  # with what is left
    assert asked.propose() is None and not asked.over  # all is spoken for, but not yet written
    asked.end(first.trial_id, curve(1.0, 2), 200, failed=False, halved=True)
    assert proposed(asked).max_generations == 3000
    assert asked.propose() is None and asked.over  # as many as asked for
    assert asked.why_short == ""


def test_a_search_says_why_it_has_fewer_trials_than_asked_for() -> None:
    asked = proposals(max_texts=2000)
    only = proposed(asked)
    assert asked.propose() is None and not asked.over
    asked.end(only.trial_id, curve(1.0, 20), 2000, failed=False, halved=False)
    assert asked.over and asked.why_short.startswith("2,000 of 2,000 texts are there, and a new trial needs 1,800")
    asked = proposals(space=Space(("rloo",), (40.0, 40.0), (1e-3, 1e-3), (10,)))
    asked.propose()
    assert asked.propose() is None and asked.over
    assert "no other trial was found" in asked.why_short


def test_a_trial_is_not_proposed_twice() -> None:
    narrow = Space(("rloo",), (40.0, 40.0), (1e-3, 1e-3), (10,))
    asked = proposals(space=narrow)
    only = proposed(asked)
    assert asked.propose() is None  # it runs
    asked.end(only.trial_id, [1.0] * 32, 3200, failed=False, halved=False)
    assert asked.propose() is None  # it is there


def past_trial(
    point: Choice, best: list[float], *, ended: bool = True, halved: bool = False, failed: bool = False
) -> Past:
    return Past(planned(point, 3200), point, best, 100 * len(best), ended, failed, halved)


def test_a_search_goes_on_from_what_is_there() -> None:
    there = [
        past_trial(Choice("rloo", 40.0, 1e-3, 10), curve(9.0, 32)),
        past_trial(Choice("reinforce", 20.0, 1e-3, 1), curve(1.0, FIRST_RUNG), halved=True),
        past_trial(Choice("rloo", 90.0, 1e-3, 20), [], failed=True),
        past_trial(Choice("rloo", 50.0, 1e-3, 10), curve(5.0, 4), ended=False),
    ]
    asked = proposals(there, trials=6, max_texts=20_000)
    assert asked.texts == 3200 + 100 * FIRST_RUNG + 0 + 3200
    unfinished = proposed(asked)
    assert unfinished.config.beta == 50.0  # before any new one
    assert asked.lags(unfinished.trial_id, curve(3.0, FIRST_RUNG))  # it is compared with those of earlier runs
    new = [proposed(asked), proposed(asked)]
    assert asked.propose() is None and {trial.trial_id for trial in new}.isdisjoint(p.trial.trial_id for p in there)


PROPOSED = """
new rloo 50 0.001 10 3200
new reinforce 19.54 0.001051 1 3200
halved 50 18
new reinforce 13.35 0.0002597 1 3200
finished 19.54 32
new reinforce 10.71 0.0008197 1 3200
finished 13.35 32
new rloo 47.45 0.00152 20 3200
finished 10.71 32
new reinforce 19.21 0.002434 1 3200
halved 47.45 18
new rloo 35.05 0.003636 10 3200
halved 35.05 18
new reinforce 91.31 0.004101 1 3200
finished 19.21 32
new reinforce 55.91 0.0003088 1 3200
halved 91.31 18
new reinforce 10.08 0.00643 1 3200
failed 10.08 1
new rloo 24.92 0.0001067 20 3200
halved 55.91 18
new rloo 73.04 0.000208 10 3200
halved 24.92 18
new rloo 14.63 0.002101 10 3200
halved 73.04 18
new reinforce 11.76 0.009601 1 3200
failed 11.76 1
new reinforce 26.6 0.0003712 1 3200
halved 26.6 18
new reinforce 10.98 0.00101 1 3200
finished 14.63 32
finished 10.98 32
"""
"""What a search of one seed proposed, and what became of it after how many windows, before there were several."""


def test_a_search_of_one_seed_proposes_what_it_always_did() -> None:
    there = [
        past_trial(Choice("rloo", 40.0, 1e-3, 10), curve(9.0, 32)),
        past_trial(Choice("reinforce", 20.0, 1e-3, 1), curve(1.0, FIRST_RUNG), halved=True),
        past_trial(Choice("rloo", 90.0, 1e-3, 20), [], failed=True),
        past_trial(Choice("rloo", 50.0, 1e-3, 10), curve(5.0, 4), ended=False),
    ]
    asked = proposals(there, trials=24, max_texts=40_000)
    told: list[str] = []
    running: dict[str, tuple[PlannedTrial, int]] = {}
    while True:
        while len(running) < 2 and (trial := asked.propose()) is not None:
            config = trial.config
            point = f"{config.algorithm} {config.beta:g} {config.learning_rate:g} {config.group_size}"
            told.append(f"new {point} {trial.max_generations}")
            running[trial.trial_id] = (trial, 0)
        if not running:
            break
        for name, (trial, windows) in list(running.items()):
            config, windows = trial.config, windows + 1
            running[name] = (trial, windows)
            height = 100 / config.beta + 1000 * config.learning_rate + config.group_size / 10
            best = curve(height, windows)
            halved, failed = asked.lags(name, best) == HALVING, height > 14
            if halved or failed or 100 * (windows + 1) > trial.max_generations:
                asked.end(name, () if failed else best, 100 * windows, failed=failed, halved=halved)
                fate = "failed" if failed else "halved" if halved else "finished"
                told.append(f"{fate} {config.beta:g} {windows}")
                del running[name]
    assert told == PROPOSED.strip().splitlines()
    assert asked.why_short.startswith("38,800 of 40,000 texts are there, and a new trial needs 1,800; for more")


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**63 - 1), heights=st.lists(st.floats(0, 50), min_size=4, max_size=4))
def test_the_same_past_gives_the_same_proposals(seed: int, heights: list[float]) -> None:
    points = [Choice("rloo", beta, 1e-3, 10) for beta in (20.0, 40.0, 60.0, 80.0)]
    there = [
        Past(planned(point, 3200, seed), point, curve(height, 32), 3200, True, False, False)
        for point, height in zip(points, heights, strict=True)
    ]

    def first_three() -> list[str]:
        asked = Proposals(SPACE, planned, seeds=[seed], trials=20, max_generations=3200, max_texts=None, past=there)
        return [proposed(asked).trial_id for _ in range(3)]

    assert first_three() == first_three()


def test_the_history_is_the_results(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    ids = write_results(storage, [MadeUp(beta=40, generations=400), MadeUp(beta=500), MadeUp(beta=50, seed=7)])
    search = resolve_search(
        Search(storage=str(tmp_path), experiment="made_up", beta=(10, 100), learning_rate=(1e-3, 1e-3))
    )
    limits = Limits(variety=0.0, cross_entropy=0.0, nats=math.inf, repetition=1.0)

    def as_made_up(point: Choice, length: int, seed: int) -> PlannedTrial:
        trial = planned(point, length, seed)
        return dataclasses.replace(trial, config=dataclasses.replace(trial.config, prompt="Once upon a time"))

    found = history(storage, search, as_made_up, limits)
    assert [past.trial.trial_id for past in found] == ids[:1]  # not what lies outside, nor another seed's
    assert len(found[0].best) == 4 and found[0].generations == 400 and found[0].ended
    assert not found[0].halved and not found[0].failed


def test_a_spent_trial_goes_on_within_wider_limits(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    write_results(storage, [MadeUp(beta=40, generations=400, status="stopped", reason="spent")])
    search = resolved(storage=str(tmp_path), experiment="made_up", learning_rate=(1e-3, 1e-3))

    def as_made_up(point: Choice, length: int, seed: int) -> PlannedTrial:
        trial = planned(point, length, seed)
        return dataclasses.replace(trial, config=dataclasses.replace(trial.config, prompt="Once upon a time"))

    for variety, ended in ((2.0, True), (0.0, False)):
        limits = Limits(variety=variety, cross_entropy=0.0, nats=math.inf, repetition=1.0)
        assert [past.ended for past in history(storage, search, as_made_up, limits)] == [ended]


def test_a_point_is_the_sweep_that_a_person_would_type() -> None:
    search = resolved(group_size=(10, 20), seed=5, top_k=50)
    sweep = sweep_of(search, Choice("rloo", 12.34, 1.5e-3, 20), 900)
    assert (sweep.algorithm, sweep.beta, sweep.seed) == (("rloo",), (12.34,), (5,))
    assert (sweep.learning_rate, sweep.group_size, sweep.max_generations, sweep.top_k) == ((1.5e-3,), (20,), 900, 50)
    assert space_of(search).group_size == (10, 20)


# --- on a real Ray -----------------------------------------------------------------------------------------


@pytest.mark.ray
@pytest.mark.usefixtures("on_cluster")
def test_a_search_by_the_command_line_and_more_of_it(tmp_path: Path, tiny_gpt_neo_folder: Path) -> None:
    from commands import assert_verified, here

    flags = [
        *("search", "--experiment", "tiny", "--model", str(tiny_gpt_neo_folder), "--storage", str(tmp_path)),
        *("--beta", "1", "100", "--learning-rate", "1e-3", "1e-2", "--group-size", "10", "20", "--seed", "1"),
        *("--max-length", "8", "--max-generations", "300", "--original-texts", "100"),
        *("--keep-variety", "0.5", "--keep-sense", "5"),
    ]
    done = here(*flags, "--trials", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "search, 3 trials; 0 trials are there" in done.stdout
    assert "recommended: rloo-beta" in done.stdout.splitlines()[-1]
    storage = Storage(tmp_path)
    rows = connect(storage).execute("SELECT trial_id, status, reason FROM trials WHERE algorithm = 'rloo'").fetchall()
    assert len(rows) == 3
    assert {status for _, status, _ in rows} <= {"finished", "stopped"}
    assert {reason for _, status, reason in rows if status == "stopped"} <= {"halving", "collapse", "spent"}
    assert_verified(tmp_path)
    more = here(*flags, "--trials", "4")
    assert more.returncode == 0, more.stdout + more.stderr
    assert "search, 4 trials; 3 trials are there" in more.stdout
    after = connect(storage).execute("SELECT trial_id, status, reason FROM trials WHERE algorithm = 'rloo'").fetchall()
    assert len(after) == 4 and set(rows) <= set(after)  # nothing that had ended was run again
    nothing = here(*flags[:-4], "--keep-variety", "1", "--keep-sense", "0", "--trials", "3")
    assert nothing.returncode == 0, nothing.stdout + nothing.stderr
    assert "windows keeps 100% of the original's variety" in " ".join(nothing.stdout.split())
    assert not list(tmp_path.rglob("searcher-state*"))
