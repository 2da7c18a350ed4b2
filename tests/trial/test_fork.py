"""Forks: trials that begin from another trial's model, and need it no more once they have begun."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from trials import EXPERIMENT, planned, rows, run_trial

import rl_alliteration.trial.replay as replay_module
from rl_alliteration.config import PlannedTrial, TrialConfig
from rl_alliteration.errors import Failure, UserError
from rl_alliteration.foreign import Damaged
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.results.forks import orphaned
from rl_alliteration.results.integrity import checkpoint_folder
from rl_alliteration.results.maintenance import removal
from rl_alliteration.results.storage import Storage
from rl_alliteration.results.verify import verify_trial
from rl_alliteration.trial.averaging import averaged
from rl_alliteration.trial.checkpoints import CheckpointStore
from rl_alliteration.trial.replay import open_trial, replay, verify_deep
from rl_alliteration.tune.fork import Parent, parent_of, place_of
from rl_alliteration.tune.plan import Sweep
from rl_alliteration.tune.resume import Standing, find

AT = 12
"""Between two checkpoints of the parent, which keeps the last alone: a fork replays its steps."""
LENGTH = 20


@pytest.fixture(autouse=True)
def tiny_is_a_name(monkeypatch: pytest.MonkeyPatch, tiny_gpt_neo: LoadedModel) -> None:
    monkeypatch.setattr(replay_module, "load_model", lambda name, **_: tiny_gpt_neo)


Written = tuple[Storage, PlannedTrial]


@pytest.fixture(scope="module")
def written(
    tmp_path_factory: pytest.TempPathFactory, tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig]
) -> Written:
    storage = Storage(tmp_path_factory.mktemp("parent"))
    trial = planned(make_config(tiny_gpt_neo, max_length=16, learning_rate=0.01), LENGTH)
    run_trial(storage, trial, tiny_gpt_neo, keep=1)
    return storage, trial


def copied(written: Written, folder: Path) -> Written:
    shutil.copytree(written[0].root, folder)
    return Storage(folder), written[1]


def fork_of(trial: PlannedTrial, at: int = AT, length: int = 8, **changes: Any) -> PlannedTrial:
    ancestors = (*trial.config.ancestors, f"{trial.trial_id}@{at}")
    return planned(dataclasses.replace(trial.config, ancestors=ancestors, **changes), length)


def remove(storage: Storage, trial: PlannedTrial) -> None:
    for path in removal(storage, EXPERIMENT, trial.trial_id):
        storage.delete(path)


def beginning(storage: Storage, trial: PlannedTrial) -> Path:
    return storage.root / checkpoint_folder(EXPERIMENT, trial.trial_id, 0)


def later(rows: list[dict[str, Any]], first: int) -> list[dict[str, Any]]:
    """The rows from generation `first` on, as a fork from there counts them."""
    found = [row for row in rows if row["generation"] >= first]
    return [row | {name: row[name] - found[0][name] for name in ("generation", "step")} for row in found]


def assert_right(storage: Storage, trial: PlannedTrial) -> None:
    assert verify_trial(storage, EXPERIMENT, trial.trial_id).problem is None
    assert verify_deep(open_trial(storage, EXPERIMENT, trial.trial_id)) is None


# --- rows ------------------------------------------------------------------------------------------------


def test_with_its_parents_settings_a_fork_goes_on_as_its_parent_did(
    written: Written, tmp_path: Path, tiny_gpt_neo: LoadedModel
) -> None:
    storage, parent = copied(written, tmp_path / "copy")
    fork = fork_of(parent)
    run_trial(storage, fork, tiny_gpt_neo)
    for dataset in ("generations", "steps"):
        assert rows(storage, fork, dataset) == later(rows(storage, parent, dataset), AT)
    grandchild = fork_of(fork, 4, 4)
    assert grandchild.config.texts_before == AT + 4
    run_trial(storage, grandchild, tiny_gpt_neo)
    assert rows(storage, grandchild) == later(rows(storage, parent), AT + 4)
    assert_right(storage, fork)
    assert_right(storage, grandchild)


def test_of_several_prompts_it_goes_on_with_those_of_its_parent(
    make_config: Callable[..., TrialConfig], tiny_gpt_neo: LoadedModel
) -> None:
    config = make_config(tiny_gpt_neo, more_prompts=("One day", "A cat", "The sun"))
    fork = dataclasses.replace(config, ancestors=("rloo-beta40-seed0-1a2b3c4d@12", "rloo-beta1-seed0-1a2b3c4d@8"))
    assert [fork.prompt_at(g) for g in range(40)] == [config.prompt_at(g + 20) for g in range(40)]
    assert fork.original() == config.original()


@pytest.mark.parametrize(
    "changes",
    [
        {"beta": 1.0},
        {"algorithm": "reinforce_baseline", "group_size": 1},
        {"optimizer": "adamw", "learning_rate": 1e-3},
        {"target_kl": 0.1, "momentum": 0.9, "schedule": "linear", "schedule_length": 8},
    ],
)
def test_a_fork_that_was_killed_goes_on_as_if_it_had_not_been(
    written: Written, tmp_path: Path, tiny_gpt_neo: LoadedModel, changes: dict[str, Any]
) -> None:
    whole, parent = copied(written, tmp_path / "whole")
    fork = dataclasses.replace(fork_of(parent, **changes), checkpoint_every=4)
    run_trial(whole, fork, tiny_gpt_neo)
    storage, _ = copied(written, tmp_path / "killed")
    for stop_after in (0, 1):
        steps = stop_after * 4 // fork.config.group_size
        run_trial(storage, fork, tiny_gpt_neo, stop_after=steps, run_id=f"run{stop_after}")
    run_trial(storage, fork, tiny_gpt_neo, run_id="last")
    for dataset in ("generations", "steps"):
        assert rows(storage, fork, dataset) == rows(whole, fork, dataset)
    assert_right(storage, fork)


def test_only_the_weights_are_its_parents(
    tmp_path: Path, tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig]
) -> None:
    storage = Storage(tmp_path)
    steered = make_config(
        tiny_gpt_neo, algorithm="reinforce_baseline", group_size=1, max_length=16, target_kl=0.1, optimizer="adamw"
    )
    parent = planned(steered, 8)
    parents = run_trial(storage, parent, tiny_gpt_neo).trainer
    fork = fork_of(parent, 8)
    trainer = run_trial(storage, fork, tiny_gpt_neo, stop_after=0).trainer
    assert parents.recent_rewards and parents.beta != steered.beta
    assert (trainer.recent_rewards, trainer.beta, trainer.state().optimizer) == ([], steered.beta, {})
    for name, value in trainer.state().weights.items():
        assert torch.equal(value, parents.state().weights[name])


# --- without its parent ----------------------------------------------------------------------------------


def test_a_fork_that_has_begun_needs_its_parent_no_more(
    written: Written, tmp_path: Path, tiny_gpt_neo: LoadedModel
) -> None:
    storage, parent = copied(written, tmp_path / "copy")
    fork = fork_of(parent, beta=1.0)
    run_trial(storage, fork, tiny_gpt_neo, keep=1)
    planned_only = fork_of(parent, beta=2.0)
    assert orphaned(storage, EXPERIMENT, parent.trial_id) == [(parent.trial_id, f"{EXPERIMENT}/{fork.trial_id}", True)]
    assert orphaned(storage, EXPERIMENT, fork.trial_id) == []
    remove(storage, parent)
    longer = dataclasses.replace(fork, max_generations=16)
    run_trial(storage, longer, tiny_gpt_neo, keep=1)
    assert CheckpointStore(storage, EXPERIMENT, fork.trial_id).generations() == [0, 8, 16]
    assert_right(storage, fork)
    stored = open_trial(storage, EXPERIMENT, fork.trial_id)
    assert replay(stored, 4, lambda line: None).generation == 4
    assert averaged(stored, 16, 3)[1] == [0, 8, 16]
    run_trial(storage, planned_only, tiny_gpt_neo)  # from the beginning of the other
    assert_right(storage, planned_only)
    assert kept_parent_of(storage, parent).config == parent.config
    with pytest.raises(Failure, match=f"the model of {parent.trial_id} after 4 texts cannot be had .*no other fork"):
        run_trial(storage, fork_of(parent, 4), tiny_gpt_neo)


def kept_parent_of(storage: Storage, parent: PlannedTrial) -> Parent:
    found = parent_of(Sweep(storage=str(storage), from_trial=f"{EXPERIMENT}/{parent.trial_id}@{AT}"))
    assert found is not None
    return found


@pytest.mark.parametrize("damage", ["gone", "torn"])
def test_a_beginning_that_is_damaged_is_noticed_and_made_again(
    written: Written, tmp_path: Path, tiny_gpt_neo: LoadedModel, damage: str
) -> None:
    storage, parent = copied(written, tmp_path / "copy")
    fork = fork_of(parent, beta=1.0)
    run_trial(storage, fork, tiny_gpt_neo)
    state = beginning(storage, fork) / "state.json"
    written_before = state.read_bytes()
    if damage == "torn":
        state.write_bytes(written_before[:-20])
        assert "is torn" in str(verify_trial(storage, EXPERIMENT, fork.trial_id).problem)
    else:
        state.unlink()
        (note,) = verify_trial(storage, EXPERIMENT, fork.trial_id).notes
        assert note.startswith(f"the model that it begins with, {parent.trial_id}@{AT}, is not there")
    with pytest.raises(Failure, match=r"the model that .* begins with, is gone or torn"):
        replay(open_trial(storage, EXPERIMENT, fork.trial_id), 4, lambda line: None)
    (found,) = find(storage, EXPERIMENT, [fork], retry_failed=False, recompute=False)
    assert found.standing is Standing.DAMAGED and parent.trial_id in found.damages[0]
    run_trial(storage, found.trial, tiny_gpt_neo)
    assert state.read_bytes() == written_before
    assert_right(storage, fork)


# --- the request -----------------------------------------------------------------------------------------


def request(storage: Storage, parent: PlannedTrial, at: int = AT, **changes: Any) -> Sweep:
    sweep = Sweep(storage=str(storage), from_trial=f"{EXPERIMENT}/{parent.trial_id}@{at}", **changes)
    found = parent_of(sweep)
    assert found is not None and found.ancestors == (f"{parent.trial_id}@{at}",)
    return found.completed(sweep)


def test_what_is_not_given_is_the_parents(written: Written, tiny_gpt_neo: LoadedModel) -> None:
    storage, parent = written
    sweep = request(storage, parent, beta=(30.0, 50.0), optimizer="adamw")
    config, model = parent.config, tiny_gpt_neo.name
    assert (sweep.experiment, sweep.model, sweep.prompt) == (EXPERIMENT, model, config.prompts)
    assert (sweep.max_length, sweep.temperature, sweep.top_k) == (16, config.temperature, config.top_k)
    assert (sweep.algorithm, sweep.seed, sweep.reward) == (("rloo",), (0,), "alliteration")
    assert (sweep.learning_rate, sweep.group_size) == ((0.01,), (4,))
    assert (sweep.beta, sweep.optimizer, sweep.momentum) == ((30.0, 50.0), ("adamw",), (0.0,))
    assert request(storage, parent).beta == (config.beta,)


@pytest.mark.parametrize(
    "changes, flag",
    [
        ({"preset": "no_kl"}, "preset"),
        ({"top_k": 50}, "top-k"),
        ({"max_length": 30}, "max-length"),
        ({"prompt": ("A cat",)}, "prompt"),
    ],
)
def test_what_a_fork_cannot_have_of_its_own_is_refused(written: Written, changes: dict[str, Any], flag: str) -> None:
    with pytest.raises(UserError, match=f"^--{flag}: .*--from"):
        request(*written, **changes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tiny",
        "tiny/rloo-beta1-seed0-1a2b3c4d",
        "s3://b/tiny/rloo-beta1-seed0-1a2b3c4d@4",
        "tiny/original-1a2b3c4d@4",
        "tiny/rloo-beta1-seed0-1a2b3c4d@0",
        "../x/rloo-beta1-seed0-1a2b3c4d@4",
        "tiny/rloo-beta1-seed0-1a2b3c4d@4\n",
    ],
)
def test_a_place_that_is_none(text: str) -> None:
    with pytest.raises(UserError, match=r"^--from: .* is not accepted; give EXPERIMENT/TRIAL@GENERATION"):
        place_of(text)


def test_a_trial_that_is_not_there_and_a_generation_that_it_has_not(written: Written, tmp_path: Path) -> None:
    storage, parent = written
    for at in (6, LENGTH + 4):
        with pytest.raises(
            UserError, match=f"^--from: generation {at} is not accepted; .* after every 4 texts, up to 20"
        ):
            request(storage, parent, at)
    other = f"{EXPERIMENT}/rloo-beta1-seed0-1a2b3c4d@4"
    with pytest.raises(UserError, match=f"^--from: 'rloo-.*' is not in 'tiny'; there is: {parent.trial_id}"):
        parent_of(Sweep(storage=str(storage), from_trial=other))
    with pytest.raises(UserError, match=r"^--from: 'rloo-.*' is not in 'tiny', which is not in this storage"):
        parent_of(Sweep(storage=str(tmp_path), from_trial=other))


def test_a_parent_may_be_named_by_as_much_of_its_id_as_no_other_trial_has(written: Written) -> None:
    storage, parent = written
    name, _, digest = parent.trial_id.rpartition("-")
    whole = parent_of(Sweep(storage=str(storage), from_trial=f"{EXPERIMENT}/{parent.trial_id}@4"))
    for part in (name, name.rpartition("-")[0], digest[:4]):
        assert parent_of(Sweep(storage=str(storage), from_trial=f"{EXPERIMENT}/{part}@4")) == whole
    assert (
        whole is not None
        and whole.completed(Sweep(storage=str(storage))).from_trial == f"{EXPERIMENT}/{parent.trial_id}@4"
    )
    with pytest.raises(UserError, match=r"^--from: 'reinforce' is not in 'tiny'; there is: "):
        parent_of(Sweep(storage=str(storage), from_trial=f"{EXPERIMENT}/reinforce@4"))


def test_another_model_is_refused(written: Written, storyteller: LoadedModel) -> None:
    parent = parent_of(Sweep(storage=str(written[0]), from_trial=f"{EXPERIMENT}/{written[1].trial_id}@4"))
    assert parent is not None
    with pytest.raises(UserError, match=r"^--model: 'storyteller' is not the model that .*: its weights differ"):
        parent.check(storyteller, "storyteller")


@pytest.mark.parametrize("ancestor", ["../../x@4", "rloo-beta40-seed0-1a2b3c4d", "rloo-beta40-seed0-1a2b3c4d@0", 4])
def test_a_stored_lineage_that_is_none_is_damaged(written: Written, ancestor: object) -> None:
    import json

    values = json.loads(written[1].config.to_json()) | {"ancestors": [ancestor]}
    with pytest.raises(Damaged, match="is damaged"):
        TrialConfig.from_json(json.dumps(values))
