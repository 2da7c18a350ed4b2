"""Each finding holds on made-up results that are like the study's, and does not on results that are not."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import MadeUp, write_results
from scipy.stats import spearmanr

from rl_alliteration.analysis.claims import BetaSweep, beta_to_extend, check_claims, spearman
from rl_alliteration.analysis.measure import measure
from rl_alliteration.analysis.types import Analysis, Trial
from rl_alliteration.cli.main import main
from rl_alliteration.report.base import Shown
from rl_alliteration.report.page import _claims
from rl_alliteration.report.sections import main_figures
from rl_alliteration.results.reader import connect
from rl_alliteration.results.storage import Storage

AND = ("and", "a", "all", "an")
SEEDS = range(3)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    storage = Storage(tmp_path_factory.mktemp("study"))
    betas = [
        MadeUp(beta=beta, seed=seed, generations=length, falls_at=at, kl=kl)
        for seed in SEEDS
        for beta, length, at, kl in ((0, 400, 0, 5), (10, 400, 20, 3), (60, 800, 490, 1), (100, 400, math.inf, 0))
    ]
    fates = (("and", "the"), ("the",), ("the",))  # one seed finds a fair text, two are stuck on a poor one
    letters = [MadeUp("reinforce", 0, seed, 300, -300, fates[seed], reward="a_words") for seed in SEEDS]
    letters += [MadeUp("rloo", 0, seed, 300, -300, AND, reward="a_words") for seed in SEEDS]
    write_results(storage, [*betas, *letters])
    return storage


@pytest.fixture(scope="module")
def analysis(storage: Storage) -> Analysis:
    return measure(connect(storage))


def holding(analysis: Analysis) -> dict[str, bool | None]:
    return {claim.finding: claim.holds for claim in check_claims(analysis)}


Change = Callable[[Trial], Trial]


def changed(analysis: Analysis, change: Change, **chosen: object) -> Analysis:
    """The analysis with `change` made to the trials whose fields are as `chosen`."""
    trials = [
        change(trial) if all(getattr(trial, name) == value for name, value in chosen.items()) else trial
        for trial in analysis.trials
    ]
    return dataclasses.replace(analysis, trials=trials)


def with_metric(**values: float) -> Change:
    """Metrics set to one value in each window."""

    def change(trial: Trial) -> Trial:
        new = {name: np.full(len(trial.first), value) for name, value in values.items()}
        return dataclasses.replace(trial, metrics=trial.metrics | new)

    return change


def test_the_studys_findings_hold_on_results_like_its_own(analysis: Analysis) -> None:
    found = check_claims(analysis)
    assert [claim.finding for claim in found if not claim.holds] == []
    assert len(found) == 15
    said = {claim.finding: claim.figure for claim in found}
    step = said["There is a step in variety between betas that collapse and those that do not"]
    assert step.startswith("between beta 10 and 60")
    assert said["REINFORCE: not every seed on a good text"].startswith("2 of 3 seeds")
    assert said["The smallest beta that has not collapsed does so when it is extended"].startswith(
        "beta 60: 3 of 3 seeds"
    )
    assert beta_to_extend(analysis) == 60


A_WORDS = {"reward_function": "a_words"}
SWEPT = {"reward_function": "alliteration"}


@pytest.mark.parametrize(
    "change, chosen, fails",
    [
        (with_metric(variety=0.5), {"algorithm": "reinforce"}, {"REINFORCE fixates (reward a_words)"}),
        (
            with_metric(raw_reward=90.0),
            {"algorithm": "reinforce"},
            {"REINFORCE: not every seed on a good text"},
        ),
        (
            with_metric(raw_reward=99.0),
            {"algorithm": "reinforce"},
            {"REINFORCE: not every seed on a good text", "RLOO ends above REINFORCE (reward a_words)"},
        ),
        (
            with_metric(raw_reward=3.0),
            {**A_WORDS, "algorithm": "rloo", "seed": 1},
            {"RLOO: no seed is stuck low", "RLOO ends above REINFORCE (reward a_words)"},
        ),
        (with_metric(raw_reward=70.0), {**SWEPT, "beta": 0.0}, {"Without a KL penalty the model collapses"}),
        (
            with_metric(raw_reward=12.0),
            {**SWEPT, "beta": 100.0},
            {"The largest beta has the lowest raw reward"},
        ),
        (with_metric(kl_penalty=-0.0001), {**SWEPT, "beta": 0.0}, {"A larger beta holds the KL penalty down"}),
        (with_metric(repetition=0.1), {**SWEPT, "beta": 100.0}, {"The largest beta keeps the original's grammar"}),
        (with_metric(repetition=0.0), {**SWEPT, "beta": 0.0}, {"Beta 0 does not keep the original's grammar"}),
        (
            lambda trial: dataclasses.replace(trial, collapse=None),
            {**SWEPT, "beta": 60.0},
            {"The smallest beta that has not collapsed does so when it is extended"},
        ),
        (
            lambda trial: dataclasses.replace(
                trial, intervals={"alliteration": (np.zeros(len(trial.first)), np.full(len(trial.first), 99.0))}
            ),
            {**SWEPT, "beta": 60.0},
            {"Before it collapses, the smallest beta that had not alliterates clearly more at most of its variety"},
        ),
        (
            lambda trial: dataclasses.replace(trial, by_letter=np.ones_like(trial.by_letter)),
            SWEPT,
            {"Few initial letters carry most of the alliteration"},
        ),
        (
            lambda trial: dataclasses.replace(
                trial, metrics=trial.metrics | {"variety": np.where(trial.first < 400, 0.7, 0.05)}
            ),
            {**SWEPT, "beta": 60.0},
            set(),
        ),
    ],
)  # fmt: skip
def test_a_finding_fails_where_the_data_do_not_have_it(
    analysis: Analysis, change: Any, chosen: Any, fails: Any
) -> None:
    altered = holding(changed(analysis, change, **chosen))
    failed = {finding for finding, holds in altered.items() if not holds}
    if fails:
        assert failed == fails
    else:  # a step that is small is no step
        assert "There is a step in variety between betas that collapse and those that do not" not in failed


def test_betas_that_collapse_out_of_order_are_no_step(analysis: Analysis) -> None:
    altered = changed(analysis, with_metric(variety=0.05), **SWEPT, beta=100.0)
    found = {claim.finding: claim for claim in check_claims(altered)}
    step = found["There is a step in variety between betas that collapse and those that do not"]
    assert (step.holds, step.figure.startswith("betas not in order")) == (False, True)


def test_what_there_are_no_data_for_is_said(analysis: Analysis) -> None:
    only = dataclasses.replace(analysis, trials=[t for t in analysis.trials if t.beta == 100])
    found = check_claims(only)
    assert {claim.verdict for claim in found} == {"holds", "no data"}
    nothing = check_claims(Analysis([], 100))
    assert {claim.holds for claim in nothing} == {None}


NEED_AN_INTERVAL = {
    "RLOO ends above REINFORCE (reward a_words)",
    "The largest beta keeps the original's grammar",
    "Beta 0 does not keep the original's grammar",
    "Few initial letters carry most of the alliteration",
}


def test_one_seed_leaves_open_what_needs_an_interval_and_decides_the_rest(analysis: Analysis) -> None:
    alone = dataclasses.replace(analysis, trials=[t for t in analysis.trials if t.is_original or t.seed == 0])
    found = check_claims(alone)
    assert {claim.finding for claim in found if claim.holds is None} == NEED_AN_INTERVAL
    for claim in found:
        assert claim.has_data and "nan" not in claim.figure
        if claim.finding in NEED_AN_INTERVAL:
            assert (claim.verdict, claim.cells[-1]) == ("one seed", "1 or more") and "(one seed)" in claim.figure
    correlation = next(claim for claim in found if claim.finding == "A larger beta holds the KL penalty down")
    assert (correlation.holds, correlation.cells[-1]) == (True, "1 or more") and "(one seed)" in correlation.figure
    shown = _claims(alone)
    assert len(shown) == 15 and {row["css"] for row in shown if row["verdict"] == "one seed"} == {"soft"}


def test_one_seed_on_a_side_compares_nothing(analysis: Analysis) -> None:
    lonely = [t for t in analysis.trials if not (t.algorithm == "reinforce" and t.seed > 0)]
    found = {claim.finding: claim for claim in check_claims(dataclasses.replace(analysis, trials=lonely))}
    assert found["RLOO ends above REINFORCE (reward a_words)"].verdict == "one seed"
    assert found["RLOO: no seed is stuck low"].holds is True


def test_claims_say_how_many_more_seeds_would_settle_them(analysis: Analysis) -> None:
    more = {claim.finding: claim.cells[-1] for claim in check_claims(analysis)}
    assert more["RLOO: no seed is stuck low"] == "–"  # a rule for each seed
    assert more["The unmodified model alliterates little"] == "–"  # over texts
    assert more["REINFORCE fixates (reward a_words)"] == "32"  # 2 of 3
    assert more["The smallest beta that has not collapsed does so when it is extended"] == "1"  # 3 of 3
    assert more["Few initial letters carry most of the alliteration"] == "0"
    noisy = [
        with_metric(raw_reward=[99.0, 20.0, 40.0][trial.seed])(trial)
        if trial.reward_function == "a_words" and trial.algorithm == "reinforce"
        else trial
        for trial in analysis.trials
    ]
    altered = {c.finding: c for c in check_claims(dataclasses.replace(analysis, trials=noisy))}
    figure = altered["RLOO ends above REINFORCE (reward a_words)"]
    assert (figure.holds, figure.more is not None and figure.more > 0) == (False, True)


def test_an_extended_trial_is_compared_at_the_length_of_the_others(analysis: Analysis) -> None:
    sweep = BetaSweep([t for t in analysis.trained if t.reward_function == "alliteration"])
    assert sweep.length == 400
    assert (sweep.collapsing, sweep.others) == ([0.0, 10.0], [60.0, 100.0])
    trial = sweep.by_beta[60.0][0]
    assert trial.collapse is not None and trial.collapse >= 400
    assert sweep.final("raw_reward", 60.0)[0] == pytest.approx(trial.metrics["raw_reward"][1:4].mean())


@given(st.lists(st.integers(0, 5), min_size=3, max_size=9))
def test_the_correlation_is_scipys(values: list[int]) -> None:
    got = float(spearman(np.array([values], dtype=float))[0])
    wanted = spearmanr(values, range(len(values))).statistic if len(set(values)) > 1 else math.nan
    assert got == pytest.approx(wanted, nan_ok=True)


def test_the_command_exits_by_the_findings(
    storage: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(*flags: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["claims", *flags])
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    code, out, err = answer("--storage", str(storage))
    assert (code, err, "does not hold" in out) == (0, "", False)
    code, out, _ = answer("--storage", str(storage), "--format", "markdown")
    assert (code, out.count("\n"), out.splitlines()[1]) == (0, 17, "| --- | --- | --- | --- | --- |")
    few = Storage(tmp_path)
    write_results(few, [MadeUp(beta=100, generations=300)])
    code, out, err = answer("--storage", str(few))
    assert (code, err.count("\n")) == (1, 1)
    assert "have no data to say" in err
    assert "no data" in out
    assert ", 1 have one seed, which has no interval" in err and "1 or more" in out
    write_results(few, [MadeUp(beta=100, generations=300, learning_rate=5e-4)], "slower")
    _, _, err = answer("--storage", str(few))
    assert "note: 2 trials differ from others of their beta in more than the seed" in err
    assert "rate 0.0005" in err and "choose with --experiment" in err
    _, _, err = answer("--storage", str(few), "--experiment", "slower")
    assert "note:" not in err


def test_the_job_runs_the_study_and_extends_the_smallest_beta_that_stands(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tune_jobs import study

    renamed = Storage(storage.root.parent / "renamed")
    if not renamed.root.exists():
        shutil.copytree(storage.root, renamed.root)
        for dataset in ("generations", "trials"):
            (renamed.root / dataset / "experiment=made_up").rename(renamed.root / dataset / "experiment=study_betas")
    called: list[list[str]] = []
    codes = iter([0, 0, 0, 1])

    def call(arguments: list[str]) -> int:
        called.append(arguments)
        return next(codes)

    monkeypatch.setattr(study, "call", call)
    flags = ["--storage", str(renamed), "--seed", "0", "1"]
    assert study.run(flags) == 0
    sweep = ["sweep", "--preset", "study_betas", *flags]
    assert called == [
        ["sweep", "--preset", "study_a_words", *flags],
        sweep,
        [*sweep, "--beta", "60", "--max-generations", "6000"],
        ["claims", "--storage", str(renamed)],
    ]
    codes = iter([143])
    assert study.run(flags) == 143
    codes = iter([0, 0])
    assert study.run([*flags, "--dry-run"]) == 0
    assert called[-1] == [*sweep, "--dry-run"]


def test_the_study_is_what_its_presets_say() -> None:
    from rl_alliteration.tune.plan import Sweep as Request
    from rl_alliteration.tune.plan import resolve

    request = resolve(Request(storage="x", preset="study_betas"))
    assert (len(request.beta), request.seed, request.learning_rate) == (14, (100, 101, 102, 103, 104), (1e-3,))
    assert set(request.beta) == {0, 0.01, 0.1, 1, 10, 100} | set(range(20, 91, 10))
    letters = resolve(Request(storage="x", preset="study_a_words"))
    assert (letters.max_generations, letters.learning_rate, letters.algorithm) == (3000, (3e-4,), ("reinforce", "rloo"))
    beside = resolve(Request(storage="x", preset="study_a_words", model="storyteller-2"))
    assert (beside.max_generations, beside.learning_rate) == (3000, (1.5e-4,))
    assert resolve(Request(storage="x", preset="quickstart", model="storyteller-2")).learning_rate == (5e-4,)
    elsewhere = resolve(Request(storage="x", preset="study_betas", model="roneneldan/TinyStories-33M"))
    assert (elsewhere.max_generations, elsewhere.learning_rate) == (3600, (1e-4,))


def test_trials_find_a_folder_wherever_they_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rl_alliteration.tune.plan import Sweep as Request
    from rl_alliteration.tune.plan import resolve

    for name in ("mine", "storyteller"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    sweeps = [
        resolve(Request(storage="x", preset="no_kl", model=name, tokenizer="mine"))
        for name in ("mine", "storyteller", "roneneldan/TinyStories-33M")
    ]
    assert [sweep.model for sweep in sweeps] == [str(tmp_path / "mine"), "storyteller", "roneneldan/TinyStories-33M"]
    assert sweeps[0].tokenizer == str(tmp_path / "mine")


def test_a_kept_summary_says_the_same(analysis: Analysis, tmp_path: Path) -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "study.py"
    if not path.exists():
        pytest.skip("no benchmarks here: this is no checkout of the repository")
    spec = importlib.util.spec_from_file_location("study_benchmark", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.keep(analysis, tmp_path / "study.json.gz")
    again = module.load(tmp_path / "study.json.gz")
    assert [claim.holds for claim in check_claims(again)] == [claim.holds for claim in check_claims(analysis)]
    keys = [[figure.key for figure in main_figures(Shown(one))] for one in (again, analysis)]
    assert keys[0] == keys[1]
