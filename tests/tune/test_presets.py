"""What a preset has beside it: sweeps of their own in the same command, with one original."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import run
from trials import EXPERIMENT, planned, run_trial

from rl_alliteration.config import ORIGINAL, PlannedTrial, TrialConfig
from rl_alliteration.errors import UserError
from rl_alliteration.flags import STUDYS_UPDATE, UpdateSettings
from rl_alliteration.lm.loading import LoadedModel, load_model
from rl_alliteration.names import trial_names
from rl_alliteration.results.storage import Storage
from rl_alliteration.setting import values_of
from rl_alliteration.tune.plan import Sweep, plan, plan_all, resolve, resolve_all
from rl_alliteration.tune.presets import PRESETS
from rl_alliteration.tune.resume import Standing, find

EFFICIENT = PRESETS["efficient"].update


@pytest.fixture(scope="module")
def storyteller() -> LoadedModel:
    return load_model("storyteller")


def quickstart(loaded: LoadedModel, **changes: Any) -> list[PlannedTrial]:
    return plan_all(resolve_all(Sweep(storage="s", preset="quickstart", **changes)), loaded)


def update(trial: PlannedTrial) -> UpdateSettings:
    return UpdateSettings(**values_of(UpdateSettings, trial.config))


def test_quickstart_has_its_trials_as_ever_and_one_of_efficient(storyteller: LoadedModel) -> None:
    *before, new = quickstart(storyteller)
    assert before == plan(resolve(Sweep(storage="s", preset="quickstart")), storyteller) and len(before) == 5
    assert {update(trial) for trial in before} == {STUDYS_UPDATE} and not any(trial.beside for trial in before)
    config = new.config
    assert (update(new), config.group_size, config.learning_rate) == (EFFICIENT, 20, 3e-3)
    assert (config.algorithm, config.beta, config.seed) == ("rloo", 100, 0)
    assert (new.max_generations, config.schedule_length, new.checkpoint_every) == (1200, 1200, 200)
    # It is the preset's own trial, of another length.
    (_, own) = plan(resolve(Sweep(storage="s", preset="efficient", max_generations=1200)), storyteller)
    assert own.trial_id == new.trial_id


def test_a_name_says_what_is_not_the_studys(storyteller: LoadedModel) -> None:
    assert trial_names(quickstart(storyteller))[1:] == [
        "rloo beta 0 seed 0",
        "rloo beta 100 seed 0, rate 0.0015, group 10",
        "reinforce beta 0 seed 0",
        "reinforce beta 100 seed 0",
        "rloo beta 100 seed 0, credit to-go, KL exact, linear rate, rate 0.003, group 20, over 1,200 texts",
    ]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seed": (1, 2)}, [("rloo", 100, seed, EFFICIENT, 20, 3e-3) for seed in (1, 2)]),
        ({"beta": (50.0,)}, [("rloo", 50, 0, EFFICIENT, 20, 3e-3)]),
        ({"learning_rate": 1e-4}, [("rloo", 100, 0, EFFICIENT, 20, 1e-4)]),
        ({"group_size": 40}, [("rloo", 100, 0, EFFICIENT, 40, 3e-3)]),
        ({"credit": "text"}, [("rloo", 100, 0, UpdateSettings(kl="exact", schedule="linear"), 20, 3e-3)]),
        ({"algorithm": ("rloo",)}, [("rloo", 100, 0, EFFICIENT, 20, 3e-3)]),
        ({"algorithm": ("reinforce", "grpo")}, []),
    ],
)
def test_flags_change_it_as_they_change_the_others(
    storyteller: LoadedModel, changes: dict[str, Any], expected: list[tuple[Any, ...]]
) -> None:
    trials = [trial for trial in quickstart(storyteller, **changes) if trial.beside]
    found = [(t.config.algorithm, t.config.beta, t.config.seed, update(t), t.config.group_size, t.config.learning_rate)
             for t in trials]  # fmt: skip
    assert found == expected


def test_what_flags_make_equal_runs_once(storyteller: LoadedModel) -> None:
    same = {name: (value,) for name, value in values_of(UpdateSettings, EFFICIENT).items()}
    trials = quickstart(storyteller, **same, algorithm=("rloo",), beta=(100.0,), learning_rate=1e-3, group_size=20)
    assert [trial.config.algorithm for trial in trials] == [ORIGINAL, "rloo"] and not trials[1].beside


def test_another_model_has_its_own_rate() -> None:
    main, beside = resolve_all(Sweep(storage="s", preset="quickstart", model="storyteller-2"))
    assert main.learning_rate == beside.learning_rate == (5e-4,)


def test_a_length_that_does_not_fit_its_group_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"^--max-generations: 30 is no multiple of the group size 20 of rloo; give 40$"
    ):
        resolve_all(Sweep(storage="s", preset="quickstart", max_generations=30))
    assert len(resolve_all(Sweep(storage="s", preset="quickstart", max_generations=30, algorithm=("reinforce",)))) == 1


def test_of_another_length_it_is_another_trial(
    tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig], tmp_path: Path
) -> None:
    """The others are extended by the same command, which must not be refused for its sake."""

    def of_length(length: int, beside: bool) -> PlannedTrial:
        config = make_config(tiny_gpt_neo, schedule="linear", schedule_length=length)
        return PlannedTrial(config, "tiny", length, 8, beside)

    storage = Storage(tmp_path)
    run_trial(storage, planned(of_length(8, True).config, 8), tiny_gpt_neo)
    options: dict[str, Any] = {"retry_failed": False, "recompute": False}
    (found,) = find(storage, EXPERIMENT, [of_length(16, True)], **options)
    assert found.standing is Standing.NEW and find(storage, EXPERIMENT, [of_length(8, True)], **options)[0].seen
    with pytest.raises(UserError, match="cannot change"):
        find(storage, EXPERIMENT, [of_length(16, False)], **options)


def test_a_dry_run_lists_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, "sweep", "--preset", "quickstart", "--storage", str(tmp_path / "x"), "--dry-run")
    assert code == 0 and "6 trials, 7,000 texts" in out
    last = out[: out.index("6 trials, 7,000 texts")]
    for told in ("0.003", "credit to-go, KL exact, linear rate"):
        assert last.count(told) == 1
