"""A controlled KL coefficient: by hand, in a trial, after a kill, and as `verify` sees it."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trials import EXPERIMENT, open_run, planned, rows, run_trial

from rl_alliteration.analysis.summary import summarise
from rl_alliteration.config import PlannedTrial, TrialConfig
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.results import schema
from rl_alliteration.results.parts import encode_part, read_part
from rl_alliteration.results.storage import Storage
from rl_alliteration.results.verify import verify_trial
from rl_alliteration.rl import kl as kl_control
from rl_alliteration.rl.kl import next_beta


@pytest.mark.parametrize(
    "kl, expected",
    [(0.1, 40.0), (0.105, 40.2), (0.095, 39.8), (0.12, 40.8), (5.0, 40.8), (0.08, 39.2), (0.0, 39.2), (-0.3, 39.2)],
)
def test_by_hand(kl: float, expected: float) -> None:
    # Off by 5% moves the coefficient by 0.5%; 20% and more by 2%.
    assert next_beta(40.0, kl, 0.1) == pytest.approx(expected, rel=1e-12)


@given(st.floats(1e-3, 1e3), st.floats(-100, 100), st.floats(1e-4, 10))
def test_it_stays_above_zero_and_moves_the_right_way(beta: float, kl: float, target: float) -> None:
    following = next_beta(beta, kl, target)
    assert following > 0
    assert (following > beta) == (kl > target) or following == pytest.approx(beta, rel=1e-12)


def test_it_settles_where_the_divergence_is_the_target() -> None:
    # A world where KL = 4 / beta: 0.1 at beta 40.
    beta = kl_control.INITIAL_BETA
    for _ in range(400):
        beta = next_beta(beta, 4 / beta, 0.1)
    assert beta == pytest.approx(40, rel=1e-3)


def test_examples_in_the_docstring() -> None:
    assert doctest.testmod(kl_control).failed == 0


@pytest.fixture(scope="module")
def controlled(
    tmp_path_factory: pytest.TempPathFactory, tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig]
) -> tuple[Storage, PlannedTrial]:
    storage = Storage(tmp_path_factory.mktemp("controlled"))
    config = make_config(tiny_gpt_neo, beta=5, target_kl=0.01, max_length=16, learning_rate=0.02)
    trial = planned(config, 24)
    run_trial(storage, trial, tiny_gpt_neo)
    return storage, trial


def test_each_row_says_the_coefficient_that_was_used(controlled: tuple[Storage, PlannedTrial]) -> None:
    storage, trial = controlled
    stored = rows(storage, trial)
    assert stored[0]["beta"] == 5
    for start, update in zip(range(0, 24, 4), rows(storage, trial, "steps"), strict=True):
        group, following = stored[start : start + 4], stored[start + 4 : start + 5]
        (beta,) = {row["beta"] for row in group}
        assert update["beta"] == beta
        assert all(row["reward"] == row["raw_reward"] + beta * row["kl_penalty"] for row in group)
        kl = -sum(row["kl_penalty"] for row in group) / 4
        assert all(row["beta"] == pytest.approx(next_beta(beta, kl, 0.01), rel=1e-12) for row in following)
    assert len({row["beta"] for row in stored}) == 6
    assert verify_trial(storage, EXPERIMENT, trial.trial_id).problem is None
    (summary,) = summarise(storage)
    assert (summary.beta, summary.target_kl) == (5, 0.01)


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_a_kill_changes_nothing(
    controlled: tuple[Storage, PlannedTrial], tmp_path: Path, tiny_gpt_neo: LoadedModel, steps: int
) -> None:
    undisturbed, trial = controlled
    storage = Storage(tmp_path)
    run_trial(storage, trial, tiny_gpt_neo, stop_after=steps)
    run_trial(storage, trial, tiny_gpt_neo)
    for dataset in ("generations", "steps"):
        assert rows(storage, trial, dataset) == rows(undisturbed, trial, dataset)
    assert open_run(storage, trial, tiny_gpt_neo).trainer.beta == pytest.approx(
        next_beta(rows(storage, trial)[-1]["beta"], -sum(r["kl_penalty"] for r in rows(storage, trial)[-4:]) / 4, 0.01)
    )


def test_verify_names_a_coefficient_that_the_controller_did_not_set(
    controlled: tuple[Storage, PlannedTrial], tmp_path: Path
) -> None:
    import shutil

    storage, trial = controlled
    shutil.copytree(storage.root, tmp_path / "copy")
    copy = Storage(tmp_path / "copy")
    path = schema.part_path("generations", EXPERIMENT, trial.trial_id, 8)
    part = read_part(copy, path)
    for row in part[:4]:
        row["beta"] *= 1.001
        row["reward"] = row["raw_reward"] + row["beta"] * row["kl_penalty"]
    copy.put(path, encode_part(part, "generations"))
    assert str(verify_trial(copy, EXPERIMENT, trial.trial_id).problem).startswith("generation 8: beta is")
