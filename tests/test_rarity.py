"""The table of `rare_alliteration`: where it comes from, and that a trial's configuration holds it."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest
from trials import EXPERIMENT, planned, rows, run_trial

from rl_alliteration.config import SHIPPED_MODELS, TrialConfig
from rl_alliteration.language_model import load_model
from rl_alliteration.results.storage import Storage
from rl_alliteration.results.verify import verify_trial
from rl_alliteration.rewards import initial_rarity
from rl_alliteration.tune import rarity
from rl_alliteration.tune.plan import Sweep, plan, resolve
from rl_alliteration.tune.rarity import with_rarity

SMALL = {"beta": (1.0,), "experiment": "e", "max_length": 16, "group_size": 4}


def trials_of(loaded, storage, said, **changes):
    sweep = resolve(Sweep(**{**SMALL, "storage": str(storage), "reward": "rare_alliteration", **changes}))
    return with_rarity(plan(sweep, loaded), loaded, sweep, said.append)


@pytest.mark.parametrize("name", SHIPPED_MODELS)
def test_a_shipped_model_brings_its_table(name, tmp_path):
    said = []
    loaded = load_model(name)
    trained, original = trials_of(loaded, tmp_path, said, model=name)
    table = json.loads((files("rl_alliteration") / "models" / name / "initials.json").read_text())["rarity"]
    assert json.loads(trained.config.reward_parameters) == json.loads(original.config.reward_parameters)
    assert json.loads(trained.config.reward_parameters)["rarity"] == table
    assert min(table.values()) == table["t"] == 1 < table["s"] < table["z"] <= table[""]
    assert said == [] and list(tmp_path.iterdir()) == []
    assert TrialConfig.from_json(trained.config.to_json()).trial_id == trained.trial_id
    (plain, _) = trials_of(loaded, tmp_path, said, model=name, reward="alliteration")
    assert plain.config.reward_parameters == ""


@pytest.fixture
def few_texts(monkeypatch):
    monkeypatch.setattr(rarity, "ORIGINAL_GENERATIONS", 20)


def test_another_models_table_is_of_its_originals_texts_and_is_kept(few_texts, tiny_gpt_neo, tmp_path):
    storage = Storage(tmp_path)
    said: list[str] = []
    dry, _ = trials_of(tiny_gpt_neo, tmp_path, said, dry_run=True)
    assert len(said) == 1 and storage.list("") == []
    trained, original = trials_of(tiny_gpt_neo, tmp_path, said)
    assert trained.trial_id == dry.trial_id
    (again, _) = trials_of(tiny_gpt_neo, tmp_path, said)
    assert again == trained and len(said) == 2
    original = planned(original.config, 20, every=10)
    run_trial(storage, original, tiny_gpt_neo)
    expected = initial_rarity(row["text"] for row in rows(storage, original))
    assert json.loads(trained.config.reward_parameters)["rarity"] == expected
    # Another prompt's texts are others; one that is not the original's does not move the table.
    other, _ = trials_of(tiny_gpt_neo, tmp_path, said, prompt=("One day",))
    assert len(said) == 3 and other.config.reward_parameters != trained.config.reward_parameters
    seeded, _ = trials_of(tiny_gpt_neo, tmp_path, said, seed=(7,))
    assert len(said) == 3 and seeded.config.reward_parameters == trained.config.reward_parameters


def test_a_stored_trial_needs_no_table_beside_it(few_texts, tiny_gpt_neo, make_config, tmp_path):
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
