"""An experiment as Optuna's own tools read it."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from commands import run
from made_up import MadeUp, write_results
from optuna.trial import TrialState

from rl_alliteration.analysis.measure import measure_original
from rl_alliteration.analysis.objective import Objective
from rl_alliteration.analysis.rules import Limits
from rl_alliteration.analysis.stopping import HALVING
from rl_alliteration.errors import UserError
from rl_alliteration.results import reader, schema
from rl_alliteration.results.parts import part_paths, read_part
from rl_alliteration.results.storage import Storage
from rl_alliteration.tune.study import write_study

TRIALS = [
    MadeUp(beta=10.0, falls_at=250),
    MadeUp(beta=40.0, generations=200, status=schema.STOPPED, reason=HALVING),
    MadeUp(beta=90.0, generations=300, learning_rate=5e-4),
    MadeUp(beta=20.0, generations=100, status=schema.FAILED, reason="diverged"),
    MadeUp("reinforce", beta=0.5, seed=3, generations=50),
]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Storage, Path, list[str]]:
    folder = tmp_path_factory.mktemp("study")
    storage = Storage(folder / "results")
    names = write_results(storage, TRIALS)
    assert write_study(storage, "made_up", folder / "study.db") == len(TRIALS)
    return storage, folder / "study.db", names


def test_a_study_has_the_trials_with_what_a_search_tells_of_them(written: tuple[Storage, Path, list[str]]) -> None:
    storage, output, names = written
    study = optuna.load_study(study_name="made_up", storage=f"sqlite:///{output}")
    assert {trial.user_attrs["trial_id"] for trial in study.trials} == set(names[: len(TRIALS)])
    states = {"10": "COMPLETE", "40": "PRUNED", "90": "COMPLETE", "20": "FAIL", "0.5": "FAIL"}
    assert {f"{trial.params['beta']:g}": trial.state.name for trial in study.trials} == states
    for trial in study.trials:
        assert trial.params.keys() == {"algorithm", "beta", "learning_rate", "group_size", "seed"}
        assert trial.datetime_start is not None
    original = next(name for name in names if name.startswith("original"))
    limits = Limits.of(measure_original(reader.connect(storage), "made_up", original))
    for trial in study.trials:
        objective = Objective(limits)
        for path in part_paths(storage, "generations", "made_up", trial.user_attrs["trial_id"]):
            objective.add(read_part(storage, path))
        assert list(trial.intermediate_values.values()) == objective.best
        assert trial.state != TrialState.COMPLETE or trial.value == objective.best[-1]
    ended = study.get_trials(states=[TrialState.COMPLETE])
    assert study.best_trial.value == max(trial.value or 0.0 for trial in ended) > 0


def test_importance_and_more_search_can_begin_from_it(written: tuple[Storage, Path, list[str]]) -> None:
    study = optuna.load_study(study_name="made_up", storage=f"sqlite:///{written[1]}")
    one = study.ask(study.trials[0].distributions)
    assert 0.5 <= one.params["beta"] <= 90


def test_mistakes_are_told_in_one_line(
    written: tuple[Storage, Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, output, _ = written
    words = ["optuna", "--storage", str(storage), "--experiment"]
    code, _, err = run(capsys, *words, "made_up", "--output", str(output))
    assert code == 2 and "is there already; give a new file" in err
    code, _, err = run(capsys, *words, "other", "--output", str(tmp_path / "a.db"))
    assert code == 2 and "--experiment: 'other' is not in" in err
    code, _, err = run(capsys, *words, "made_up", "--output", str(tmp_path / "none" / "a.db"))
    assert code == 1 and "cannot be written" in err and err.count("\n") == 1
    code, out, _ = run(capsys, *words, "made_up", "--output", str(tmp_path / "a.db"))
    assert code == 0 and "optuna-dashboard sqlite:///" in out
    write_results(Storage(tmp_path / "r"), [MadeUp("original")], "only")
    with pytest.raises(UserError, match="no trial of 'only' is trained"):
        write_study(Storage(tmp_path / "r"), "only", tmp_path / "b.db")
