"""The table of `rare_alliteration`: where it comes from, and that a trial's configuration holds it."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from commands import flags, run
from trials import EXPERIMENT, planned, rows, run_trial

from rl_alliteration.config import SHIPPED_MODELS, PlannedTrial, TrialConfig
from rl_alliteration.errors import UserError
from rl_alliteration.lm.loading import LoadedModel, load_model
from rl_alliteration.lm.sources import resolve_source
from rl_alliteration.results.storage import Storage
from rl_alliteration.results.verify import verify_trial
from rl_alliteration.rl.rewards import REWARDS, initial_rarity, reward
from rl_alliteration.tune import reward_parameters
from rl_alliteration.tune.plan import Sweep, plan, resolve
from rl_alliteration.tune.reward_parameters import id_is_known, with_reward_parameters

SMALL = {"beta": (1.0,), "experiment": "e", "max_length": 16, "group_size": 4}


def trials_of(loaded: LoadedModel, storage: Path, said: list[str], **changes: Any) -> list[PlannedTrial]:
    sweep = resolve(Sweep(**{**SMALL, "storage": str(storage), "reward": "rare_alliteration", **changes}))
    return with_reward_parameters(plan(sweep, loaded), loaded, sweep, said.append)


@pytest.mark.parametrize("name", SHIPPED_MODELS)
def test_the_table_of_a_shipped_model_says_whose_it_is(name: str) -> None:
    record = json.loads((files("rl_alliteration") / "models" / name / "initials.json").read_text())
    loaded = load_model(name)
    for part in ("weights", "architecture", "tokenizer"):
        assert record[part] == getattr(loaded, f"{part}_fingerprint")


def test_a_shipped_models_weights_under_another_configuration_have_a_table_of_their_own(tmp_path: Path) -> None:
    folder = shutil.copytree(resolve_source("storyteller", "--model"), tmp_path / "model")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"layer_norm_epsilon": 0.5}))
    config = trials_of(load_model(str(folder)), tmp_path, [], model=str(folder), reward="alliteration")[0].config
    assert reward_parameters._shipped(config) is None
    assert (
        reward_parameters._shipped(dataclasses.replace(config, architecture="")) is not None
    )  # a trial of an earlier version


@pytest.mark.parametrize("name", SHIPPED_MODELS)
def test_a_shipped_model_brings_its_table(name: str, tmp_path: Path) -> None:
    said: list[str] = []
    loaded = load_model(name)
    original, trained = trials_of(loaded, tmp_path, said, model=name)
    table = json.loads((files("rl_alliteration") / "models" / name / "initials.json").read_text())["rarity"]
    assert json.loads(trained.config.reward_parameters) == json.loads(original.config.reward_parameters)
    assert json.loads(trained.config.reward_parameters)["rarity"] == table
    assert min(table.values()) == table["t"] == 1 < table["s"] < table["z"] <= table[""]
    assert said == [] and list(tmp_path.iterdir()) == []
    assert TrialConfig.from_json(trained.config.to_json()).trial_id == trained.trial_id
    _, plain = trials_of(loaded, tmp_path, said, model=name, reward="alliteration")
    assert plain.config.reward_parameters == ""


@pytest.fixture
def few_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward_parameters, "ORIGINAL_GENERATIONS", 20)


def test_a_dry_run_samples_nothing(
    tiny_gpt_neo_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> list[str]:
        raise AssertionError("a dry run samples")

    monkeypatch.setattr(reward_parameters, "_sampled", refuse)
    grid = ("--reward", "rare_alliteration", "--beta", "1", "10", "--max-generations", "8", "--dry-run")
    code, out, _ = run(capsys, *flags(tiny_gpt_neo_folder, tmp_path / "s", *grid))
    told, *rows = out.splitlines()
    assert code == 0 and not (tmp_path / "s").exists()
    assert told.startswith("the ids of these trials are not known yet: they contain the reward's rarity, which")
    names = [word for row in rows for word in row.split() if word.endswith("-…")]
    assert names == ["original-…", "rloo-beta1-seed0-…", "rloo-beta10-seed0-…"]
    assert "3 trials, 1,016 texts" in out


def test_another_models_table_is_of_its_originals_texts_and_is_kept(
    few_texts: None, tiny_gpt_neo: LoadedModel, tmp_path: Path
) -> None:
    storage = Storage(tmp_path)
    said: list[str] = []
    original, trained = trials_of(tiny_gpt_neo, tmp_path, said)
    _, dry = trials_of(tiny_gpt_neo, tmp_path, said, dry_run=True)
    assert dry == trained and id_is_known(dry)
    _, again = trials_of(tiny_gpt_neo, tmp_path, said)
    assert again == trained and len(said) == 1
    original = planned(original.config, 20, every=10)
    run_trial(storage, original, tiny_gpt_neo)
    expected = initial_rarity(row["text"] for row in rows(storage, original))
    assert json.loads(trained.config.reward_parameters)["rarity"] == expected
    # Another prompt's texts are others; one that is not the original's does not move the table.
    _, other = trials_of(tiny_gpt_neo, tmp_path, said, prompt=("One day",))
    assert len(said) == 2 and other.config.reward_parameters != trained.config.reward_parameters
    _, seeded = trials_of(tiny_gpt_neo, tmp_path, said, seed=(7,))
    assert len(said) == 2 and seeded.config.reward_parameters == trained.config.reward_parameters


def test_a_stored_trial_needs_no_table_beside_it(
    few_texts: None, tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig], tmp_path: Path
) -> None:
    storage = Storage(tmp_path)
    parameters = json.dumps({"rarity": {"": 5.5, "t": 1.0}})
    config = make_config(
        tiny_gpt_neo, reward="rare_alliteration", reward_parameters=parameters, learning_rate=0.01, max_length=60
    )
    trial = planned(config, 16)
    run_trial(storage, trial, tiny_gpt_neo)
    assert {row["raw_reward"] % 0.5 for row in rows(storage, trial)} == {0}
    assert any(row["raw_reward"] for row in rows(storage, trial))
    verdict = verify_trial(storage, EXPERIMENT, trial.trial_id)
    assert (verdict.problem, verdict.notes) == (None, ())


@pytest.fixture
def common_words() -> Iterator[Callable[[list[str]], dict[str, float]]]:
    def shares(texts: list[str]) -> dict[str, float]:
        words = " ".join(texts).split()
        return {word: words.count(word) / len(words) for word in set(words)}

    @reward("common_words", needs={"share": shares})
    def common_words(text: str, share: dict[str, float]) -> float:
        return sum(share.get(word, 0.0) for word in text.split())

    yield shares
    del REWARDS["common_words"]


def test_a_reward_declares_what_it_needs_in_one_place(
    common_words: Callable[[list[str]], dict[str, float]], few_texts: None, tiny_gpt_neo: LoadedModel, tmp_path: Path
) -> None:
    storage = Storage(tmp_path)
    said: list[str] = []
    original, trained = trials_of(tiny_gpt_neo, tmp_path, said, reward="common_words + rare_alliteration")
    _, again = trials_of(tiny_gpt_neo, tmp_path, said, reward="common_words + rare_alliteration")
    _, alone = trials_of(tiny_gpt_neo, tmp_path, said, reward="common_words")
    assert again == trained and len(said) == 1
    tables = json.loads(trained.config.reward_parameters)
    assert tables.keys() == {"share", "rarity"}
    assert json.loads(alone.config.reward_parameters) == {"share": tables["share"]}
    run_trial(storage, planned(original.config, 20, every=10), tiny_gpt_neo)
    assert tables["share"] == common_words([row["text"] for row in rows(storage, planned(original.config, 20))])
    trial = planned(alone.config, 8)
    run_trial(storage, trial, tiny_gpt_neo)
    assert any(row["raw_reward"] for row in rows(storage, trial))
    assert verify_trial(storage, EXPERIMENT, trial.trial_id).problem is None


def test_tables_of_one_name_are_each_rewards_own(few_texts: None, tiny_gpt_neo: LoadedModel, tmp_path: Path) -> None:
    functions = [lambda texts: {"first": 1.0}, lambda texts: {"second": 2.0}]
    for name, table_of in zip(("one", "two"), functions, strict=True):
        reward(name, needs={"rarity": table_of})(lambda text, rarity: 0.0)
    try:
        said: list[str] = []
        found = [
            json.loads(trials_of(tiny_gpt_neo, tmp_path, said, reward=name)[-1].config.reward_parameters)["rarity"]
            for name in ("one", "two", "rare_alliteration", "one")
        ]
        assert found[0] == found[3] == {"first": 1.0} and found[1] == {"second": 2.0} and "t" in found[2]
        with pytest.raises(UserError, match=r"two of its terms need tables named 'rarity' that differ; rename one"):
            trials_of(tiny_gpt_neo, tmp_path, said, reward="one + two")
    finally:
        del REWARDS["one"], REWARDS["two"]


def test_what_is_no_table_is_refused_in_one_line(few_texts: None, tiny_gpt_neo: LoadedModel, tmp_path: Path) -> None:
    reward("broken", needs={"share": lambda texts: {"a": math.nan}})(lambda text, share: 0.0)
    try:
        with pytest.raises(UserError, match="--reward: its 'share' is not a table of finite numbers"):
            trials_of(tiny_gpt_neo, tmp_path, [], reward="broken")
    finally:
        del REWARDS["broken"]
