"""Where a trial is below doing nothing, or nothing beats it: what `status` says, and what a recommendation adds."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from commands import run
from made_up import MadeUp, story, write_results

from rl_alliteration.analysis.card import model_card
from rl_alliteration.analysis.frontier import Recommendation, recommended
from rl_alliteration.analysis.measure import measure
from rl_alliteration.analysis.summary import summarise
from rl_alliteration.analysis.verdict import verdicts
from rl_alliteration.config import ORIGINAL, TrialConfig
from rl_alliteration.results.reader import connect, last_event
from rl_alliteration.results.storage import Storage


def of_reward(trial: MadeUp, generation: int) -> str:
    """Rewards 4 to 6 of the original and of beta 0, 9 to 11 of beta 20: for the rest less than the KL costs."""
    reward = 4 + generation % 3 + (5 if trial.algorithm != ORIGINAL and trial.beta == 20 else 0)
    return " ".join(["tall"] * (reward + 1) + [f"{generation}"])


def judged(folder: Path, *trials: MadeUp) -> Storage:
    storage = Storage(folder)
    write_results(storage, trials, text=of_reward)
    return storage


def test_trials_are_judged_beyond_noise(tmp_path: Path) -> None:
    storage = judged(tmp_path, MadeUp(beta=0), MadeUp(beta=20), MadeUp(beta=100, learning_rate=4e-4), MadeUp(beta=200))
    (verdict,) = verdicts(storage, summarise(storage))
    reward = measure(connect(storage)).trained[0].original
    assert reward is not None and verdict.nothing.objective == pytest.approx(reward.raw_reward.value)
    assert [trial.beta for trial in verdict.trials] == [0, 20, 100, 200]
    # The made-up KL is 0.025 nats a token in the mean: 0.5 reward at beta 20, 2.5 at beta 100, 5 at beta 200.
    assert [trial.beta for trial in verdict.below] == [200, 100]
    assert [trial.beta for trial in verdict.above] == [20]
    worst = verdict.below[0]
    rows = connect(storage).execute(
        "SELECT avg(reward), stddev_samp(reward) / 10 FROM generations WHERE beta = 200 AND generation >= 300"
    )
    assert (worst.objective, worst.objective_error) == pytest.approx(rows.fetchall()[0])


def test_status_says_it_in_a_line_and_names_what_to_try(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    storage = judged(tmp_path / "a", MadeUp(beta=100, learning_rate=4e-4), MadeUp(beta=50), MadeUp(beta=0))
    code, out, _ = run(capsys, "status", "--storage", str(storage))
    said = [line for line in out.splitlines() if "doing nothing" in line or "beats" in line]
    assert code == 0 and len(said) == 2
    assert "Below doing nothing: 2 of 3 trials" in said[0] and "the lowest rloo beta 100 seed 0" in said[0]
    assert said[0].endswith("Try the same command with --beta 200 or --learning-rate 0.0002")
    assert "Nothing beats the original: of 3 trials none" in said[1]
    assert said[1].endswith(f"search --storage {storage} --experiment made_up_search --beta 100 400")
    better = judged(tmp_path / "b", MadeUp(beta=20))
    assert "nothing" not in run(capsys, "status", "--storage", str(better))[1].lower()


def test_what_cannot_be_compared_is_not_judged(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    storage = judged(tmp_path, MadeUp(beta=100, generations=90))
    assert verdicts(storage, summarise(storage)) == []  # less than a window
    alone = Storage(tmp_path / "alone")
    write_results(alone, [MadeUp(beta=100)], text=of_reward)
    for path in [*alone.list("generations"), *alone.list("trials")]:
        if "original" in path:
            alone.delete(path)
    assert verdicts(alone, summarise(alone)) == []
    assert run(capsys, "status", "--storage", str(alone))[0] == 0


def test_many_trials_that_do_nothing_are_not_called_worse_or_better(tmp_path: Path) -> None:
    """40 models that are the original: at 5% each, two would be."""
    storage = Storage(tmp_path)
    write_results(
        storage,
        [MadeUp(beta=0, seed=seed, generations=100) for seed in range(40)],
        text=lambda trial, generation: story(np.random.default_rng([trial.seed, len(trial.algorithm), generation]), 40),
    )
    (verdict,) = verdicts(storage, summarise(storage))
    assert len(verdict.trials) == 40 and not verdict.below and not verdict.above


def test_the_divergence_is_shown_positive(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    storage = judged(tmp_path, MadeUp(beta=20))
    out = run(capsys, "status", "--storage", str(storage))[1]
    assert " 0.03 " in out or " 0.02 " in out
    assert "-0.0" not in out  # neither of the trial nor of the original, whose is 0


# --- the recommendation ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recommendation, TrialConfig]:
    storage = Storage(tmp_path_factory.mktemp("made_up"))
    write_results(storage, [MadeUp(beta=40, generations=300)])
    best = recommended(measure(connect(storage)))
    event = last_event(storage, "made_up", best.trial.trial_id)
    assert event is not None
    return best, TrialConfig.from_json(event["config"])


def test_a_recommendation_says_what_it_has_over_the_original(found: tuple[Recommendation, TrialConfig]) -> None:
    best, config = found
    original = best.trial.original
    assert original is not None
    assert best.gain.value == pytest.approx(best.expected - original.raw_reward.value)
    assert best.gain.low < best.gain.value < best.gain.high
    noise = dataclasses.replace(best, gain=dataclasses.replace(best.gain, value=0.2, low=-0.1, high=0.5))
    assert "0.2 [-0.1, 0.5] above" in noise.comparison and noise.comparison.endswith("no more than noise")
    gain = dataclasses.replace(best.gain, value=5.0, low=4.0, high=6.0)
    five = dataclasses.replace(best, gain=gain, worth=4.3)
    assert "5.0 [4.0, 6.0] above the original's" in five.comparison
    assert five.comparison.endswith("worth best-of-5: five samples of it for each text")
    assert dataclasses.replace(five, worth=1200.0).comparison.endswith(
        "best-of-1,200: 1,200 samples of it for each text"
    )
    assert dataclasses.replace(five, worth=math.inf).comparison.endswith("more than the best of 300 of its texts")
    assert five.comparison in str(five)
    assert five.comparison in model_card(config, five.trial, five.generation, [], five)


def test_the_gain_is_that_of_the_window_and_its_worth_that_of_the_reward(
    found: tuple[Recommendation, TrialConfig],
) -> None:
    best, config = found
    original = best.trial.original
    assert original is not None
    assert best.worth == pytest.approx(float(original.best_of_n.worth(best.expected)))
    card = model_card(config, best.trial, best.generation, [])
    (row,) = [line for line in card.splitlines() if line.startswith("| kl divergence per token")]
    assert " 0.02" in row or " 0.03" in row
    assert row.endswith("| 0.000 |")
