"""Any generation's model can be had again; results can be copied compactly and removed."""

from __future__ import annotations

import builtins
import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from trials import EXPERIMENT, planned, rows, run_trial

from rl_alliteration.cli.main import main
from rl_alliteration.config import PlannedTrial, TrialConfig
from rl_alliteration.errors import Failure, UserError
from rl_alliteration.lm.loading import LoadedModel, load_model
from rl_alliteration.results import reader, schema
from rl_alliteration.results.maintenance import compact
from rl_alliteration.results.parts import encode_part, read_part
from rl_alliteration.results.storage import Storage
from rl_alliteration.results.verify import verify_trial
from rl_alliteration.trial.checkpoints import CheckpointStore
from rl_alliteration.trial.replay import StoredTrial, export, open_trial, replay, verify_deep
from rl_alliteration.trial.run import TrialRun

LENGTH = 24

Written = tuple[Storage, PlannedTrial, dict[int, dict[str, Tensor]]]
"""A storage, its trial, and the weights of each generation."""


@pytest.fixture(scope="module")
def written(
    tmp_path_factory: pytest.TempPathFactory, tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig]
) -> Written:
    """A finished trial, and the policy's weights after each of its steps."""
    storage = Storage(tmp_path_factory.mktemp("replay"))
    trial = planned(make_config(tiny_gpt_neo, max_length=16, learning_rate=0.01), LENGTH)
    weights = {}

    def remember(run: TrialRun) -> None:
        weights[run.trainer.generation] = run.trainer.state().weights

    run_trial(storage, trial, tiny_gpt_neo, keep=1, on_step=remember)
    return storage, trial, weights


@pytest.fixture
def stored(written: Written, monkeypatch: pytest.MonkeyPatch, tiny_gpt_neo: LoadedModel) -> StoredTrial:
    """The trial as its storage has it; "tiny" is a name of these tests alone."""
    import rl_alliteration.trial.replay as module

    monkeypatch.setattr(module, "load_model", lambda name, **_: tiny_gpt_neo)
    storage, trial, _ = written
    return open_trial(storage, EXPERIMENT, trial.trial_id)


@pytest.mark.parametrize("generation", [0, 4, 12, 20, 24, None])
def test_the_model_of_any_generation_comes_back_bit_for_bit(
    written: Written, stored: StoredTrial, generation: int | None
) -> None:
    _, _, weights = written
    said: list[str] = []
    trainer = replay(stored, generation, said.append)
    reached = LENGTH if generation is None else generation
    assert trainer.generation == reached
    if reached:
        for name, value in trainer.state().weights.items():
            assert torch.equal(value, weights[reached][name])
    assert bool(said) == (reached not in (0, LENGTH))


def test_recent_rewards_come_back_with_the_model(
    tmp_path: Path, tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    import rl_alliteration.trial.replay as module

    monkeypatch.setattr(module, "load_model", lambda name, **_: tiny_gpt_neo)
    storage = Storage(tmp_path)
    config = make_config(tiny_gpt_neo, algorithm="reinforce_baseline", group_size=1, max_length=12, learning_rate=0.01)
    run = run_trial(storage, planned(config, 16), tiny_gpt_neo)
    assert len(set(run.trainer.recent_rewards)) > 1
    again = open_trial(storage, EXPERIMENT, config.trial_id)
    # 11 is replayed from the checkpoint at 8, and each row compared: its advantages need the rewards before 8.
    assert replay(again, 11, print).recent_rewards == [row["reward"] for row in again.rows(1)][:10]
    assert verify_trial(storage, EXPERIMENT, config.trial_id).problem is None


@pytest.mark.parametrize("generation", [-4, 2, 28])
def test_a_generation_without_a_model_is_refused(stored: StoredTrial, generation: int) -> None:
    with pytest.raises(UserError, match="every 4 texts, from 0 to 24"):
        replay(stored, generation, print)


def test_a_replay_that_does_not_meet_the_stored_rows_is_a_failure(stored: StoredTrial, tmp_path: Path) -> None:
    shutil.copytree(stored.storage.root, tmp_path / "copy")
    storage = Storage(tmp_path / "copy")
    path = schema.part_path("generations", EXPERIMENT, stored.trial_id, 0)
    changed = read_part(storage, path)
    changed[5]["lm_cross_entropy"] += 1e-6
    storage.put(path, encode_part(changed, "generations"))
    with pytest.raises(Failure, match="generation 5: this machine computes another row"):
        replay(open_trial(storage, EXPERIMENT, stored.trial_id), 12, print)


def test_an_exported_model_is_a_transformers_folder(stored: StoredTrial, written: Written, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trainer = replay(stored, 12, print)
    export(stored, trainer, tmp_path / "model", "the card")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, written[2][12][name])
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "model")("Once upon a time").input_ids
        == trainer.prompt_ids["Once upon a time"]
    )
    assert (tmp_path / "model" / "README.md").read_text() == "the card"
    with pytest.raises(UserError, match="not empty"):
        export(stored, trainer, tmp_path / "model", "the card")


def test_the_recommended_model_is_exported_with_a_card_of_its_data(
    tmp_path: Path,
    tiny_gpt_neo: LoadedModel,
    make_config: Callable[..., TrialConfig],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import rl_alliteration.trial.replay as module

    monkeypatch.setattr(module, "load_model", lambda name, **_: tiny_gpt_neo)
    storage = Storage(tmp_path / "results")
    config = make_config(tiny_gpt_neo, max_length=16, learning_rate=0.01, group_size=5)
    trial = planned(config, 30, every=10)
    remembered = {}

    def remember(run: TrialRun) -> None:
        remembered[run.trainer.generation] = run.trainer.state().weights

    run_trial(storage, trial, tiny_gpt_neo, on_step=remember)
    run_trial(storage, planned(config.original(), 20, every=10), tiny_gpt_neo)
    flags = ["export", "--storage", str(storage), "--experiment", EXPERIMENT, "--output", str(tmp_path / "model")]

    def answer(*more: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            main([*flags, *more])
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out + captured.err

    wanted = ("--recommended", "--window", "10", "--keep-variety", "0", "--keep-sense", "100")
    assert answer()[0] == 2
    assert answer("--recommended", "--generation", "5")[0] == 2
    assert "--keep-variety: 2.0" in answer("--recommended", "--window", "10", "--keep-variety", "2")[1]
    code, told = answer("--recommended", "--window", "10", "--keep-variety", "1", "--keep-sense", "0")
    assert (code, "none of 3 windows keeps 100%" in told) == (1, True)
    assert not (tmp_path / "model").exists()
    code, told = answer(*wanted)
    assert code == 0
    best = max(range(3), key=lambda w: _alliteration_of(rows(storage, trial)[10 * w : 10 * w + 10]))
    generation = 10 * best + 5
    assert f"after {generation} texts" in told
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, remembered[generation][name])
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"generation {generation}" in card
    assert "Recommended: of all windows" in card
    assert rows(storage, trial)[generation - 1]["text"].split()[-1] in card
    assert answer(*wanted)[1].count("is not empty") == 1


def _alliteration_of(texts: list[dict[str, Any]]) -> float:
    total: float = sum(row["raw_reward"] / row["num_words"] for row in texts)
    return total


def test_deep_verification_finds_numbers_that_only_the_model_can_check(stored: StoredTrial, tmp_path: Path) -> None:
    assert verify_deep(stored) is None
    for column, generation in (("original_lm_cross_entropy", 5), ("lm_cross_entropy", 2)):
        target = tmp_path / column
        shutil.copytree(stored.storage.root, target)
        storage = Storage(target)
        path = schema.part_path("generations", EXPERIMENT, stored.trial_id, 0)
        changed = read_part(storage, path)
        changed[generation][column] += 1e-3
        storage.put(path, encode_part(changed, "generations"))
        problem = verify_deep(open_trial(storage, EXPERIMENT, stored.trial_id))
        assert str(problem).startswith(f"generation {generation}: {column}")


def test_a_compact_copy_has_the_same_rows_and_verifies(stored: StoredTrial, written: Written, tmp_path: Path) -> None:
    source, trial, _ = written
    before = source.list("")
    target = Storage(tmp_path)
    assert compact(source, target) == 1
    assert len(reader.parts(target, "generations", EXPERIMENT, trial.trial_id)) == 1
    for dataset in ("generations", "steps"):
        assert rows(target, trial, dataset) == rows(source, trial, dataset)
    assert verify_trial(target, EXPERIMENT, trial.trial_id).problem is None
    assert source.list("") == before
    with pytest.raises(UserError, match="holds results already"):
        compact(source, target)


def test_remove_lists_then_asks(
    written: Written,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tiny_gpt_neo: LoadedModel,
    make_config: Callable[..., TrialConfig],
) -> None:
    shutil.copytree(written[0].root, tmp_path / "copy")
    storage = Storage(tmp_path / "copy")
    other = planned(make_config(tiny_gpt_neo, seed=1, max_length=16), 8)
    run_trial(storage, other, tiny_gpt_neo)
    flags = ["remove", "--storage", str(storage), "--experiment", EXPERIMENT]
    before = storage.list("")

    def answer(code: int, *more: str) -> str:
        with pytest.raises(SystemExit) as end:
            main([*flags, *more])
        assert (end.value.code or 0) == code
        return capsys.readouterr().out

    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    answer(2)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(builtins, "input", lambda question: "n")
    assert "24 texts" in answer(0)
    assert storage.list("") == before
    monkeypatch.setattr(builtins, "input", lambda question: "y")
    answer(0, "--trial", other.trial_id)
    assert reader.trial_ids(storage) == [(EXPERIMENT, written[1].trial_id)]
    assert CheckpointStore(storage, EXPERIMENT, other.trial_id).generations() == []
    assert verify_trial(storage, EXPERIMENT, written[1].trial_id).problem is None
    answer(0, "--yes")
    assert not [path for path in storage.list("") if EXPERIMENT in path]
    answer(2, "--trial", "nothing")


def test_a_model_that_was_moved_still_computes_the_stored_rows(
    tmp_path: Path, tiny_gpt_neo_folder: Path, make_config: Callable[..., TrialConfig]
) -> None:
    """Its name is in every row, and no part of what it computes."""
    for name in ("before", "after"):
        shutil.copytree(tiny_gpt_neo_folder, tmp_path / name)
    loaded = load_model(str(tmp_path / "before"))
    storage, trial = Storage(tmp_path / "results"), planned(make_config(loaded), 16)
    trial = dataclasses.replace(trial, model=loaded.name)
    run_trial(storage, trial, loaded)
    before = rows(storage, trial)
    moved = load_model(str(tmp_path / "after"))
    stored = open_trial(storage, EXPERIMENT, trial.trial_id, str(tmp_path / "after"))
    assert replay(stored, 12, lambda line: None).generation == 12
    for path in storage.list(f"checkpoints/{EXPERIMENT}/{trial.trial_id}"):
        storage.delete(path)
    again = run_trial(storage, dataclasses.replace(trial, model=moved.name), moved, run_id="again")
    assert again.diverged_at is None and rows(storage, trial) == before
