"""What fixes a trial's texts: its id, its JSON, what it refuses."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_alliteration import config as config_module
from rl_alliteration.config import TrialConfig, canonical_json, check_experiment_name
from rl_alliteration.errors import UserError

CONFIG = TrialConfig(
    algorithm="rloo",
    beta=40,
    seed=0,
    learning_rate=1e-3,
    group_size=10,
    reward="alliteration",
    reward_version=1,
    prompt="Once upon a time",
    max_length=100,
    temperature=1,
    top_k=0,
    weights="a" * 64,
    tokenizer="b" * 64,
    dtype="float32",
    threads=1,
)

OTHER = {
    "algorithm": "reinforce",
    "beta": 40.5,
    "seed": 1,
    "learning_rate": 1e-4,
    "group_size": 5,
    "reward": "a_words",
    "reward_version": 2,
    "prompt": "Once upon a time ",
    "max_length": 99,
    "temperature": 0.9,
    "top_k": 50,
    "weights": "c" * 64,
    "tokenizer": "c" * 64,
    "dtype": "float64",
    "threads": 2,
    "more_prompts": ("One day",),
    "target_kl": 0.1,
    "reward_parameters": '{"rarity":{"":2,"t":1}}',
}


def changed(**changes):
    return dataclasses.replace(CONFIG, **changes)


def digest(config):
    return config.trial_id.rpartition("-")[2]


def test_known_ids():
    # If these change, every stored trial is recomputed: raise TEXTS_VERSION only when the texts change.
    assert CONFIG.trial_id == "rloo-beta40-seed0-3c2605e5"
    assert CONFIG.original().trial_id == "original-d42f7aa0"


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(TrialConfig)])
def test_every_field_changes_the_id(field):
    other = changed(**{field: OTHER[field]})
    assert digest(other) != digest(CONFIG)
    assert other.trial_id != CONFIG.trial_id


def test_the_version_of_the_texts_changes_the_id(monkeypatch):
    before = digest(CONFIG)
    monkeypatch.setattr(config_module, "TEXTS_VERSION", config_module.TEXTS_VERSION + 1)
    assert digest(CONFIG) != before


def test_swapped_fingerprints_are_another_model():
    swapped = changed(weights=CONFIG.tokenizer, tokenizer=CONFIG.weights)
    assert digest(swapped) != digest(CONFIG)
    assert swapped.model_fingerprint != CONFIG.model_fingerprint


@pytest.mark.parametrize(
    "field, integer", [("beta", 40), ("beta", 0), ("temperature", 2), ("learning_rate", 1), ("beta", 10**21)]
)
def test_an_integer_and_its_real_are_one_number(field, integer):
    assert changed(**{field: integer}).trial_id == changed(**{field: float(integer)}).trial_id


def test_minus_zero_is_zero():
    assert changed(beta=-0.0).trial_id == changed(beta=0).trial_id


@pytest.mark.parametrize(
    "beta, shown",
    [
        (0, "0"),
        (0.01, "0.01"),
        (8000, "8000"),
        (1e-7, "1e-07"),
        (1e21, "1e21"),
        (0.1234567890123, "0.123456789012"),
    ],
)
def test_beta_in_the_id(beta, shown):
    assert changed(beta=beta).trial_id.startswith(f"rloo-beta{shown}-seed0-")


@given(beta=st.floats(0, allow_nan=False, allow_infinity=False), seed=st.integers(0, 2**63 - 1))
def test_the_id_is_safe_in_a_path(beta, seed):
    config = changed(beta=beta, seed=seed)
    assert re.fullmatch(r"rloo-beta[0-9.e-]+-seed[0-9]+-[0-9a-f]{8}", config.trial_id)
    assert TrialConfig.from_json(config.to_json()) == config


def test_betas_that_look_alike_have_different_ids():
    near = changed(beta=0.1234567890123).trial_id, changed(beta=0.1234567890124).trial_id
    assert near[0] != near[1]


def test_prompts_are_drawn_evenly_by_seed_and_group():
    one, three = CONFIG, changed(more_prompts=("One day", "A cat"))
    assert {one.prompt_at(generation) for generation in range(200)} == {"Once upon a time"}
    drawn = [three.prompt_at(generation) for generation in range(0, 6000, 10)]
    assert [three.prompt_at(generation + 9) for generation in range(0, 6000, 10)] == drawn
    assert all(160 < drawn.count(prompt) < 240 for prompt in three.prompts)  # 200 each, ±3.5 standard deviations
    assert drawn != [changed(more_prompts=three.more_prompts, seed=1).prompt_at(g) for g in range(0, 6000, 10)]


@pytest.mark.parametrize("config", [CONFIG, changed(more_prompts=["One day", "A cat"])])
def test_json_round_trip(config):
    assert TrialConfig.from_json(config.to_json()) == config
    text = CONFIG.to_json()
    assert TrialConfig.from_json(text) == CONFIG
    assert TrialConfig.from_json(text).trial_id == CONFIG.trial_id
    assert TrialConfig.from_json(text).to_json() == text
    assert json.loads(text)["beta"] == 40


def test_canonical_json():
    assert canonical_json({"b": [1.0, 0.5], "a": "é"}) == '{"a":"é","b":[1,0.5]}'
    assert canonical_json({"a": 40}) == canonical_json({"a": 40.0})
    with pytest.raises(ValueError):
        canonical_json(math.nan)


def test_the_original():
    original = CONFIG.original()
    assert original == changed(beta=10, seed=7, learning_rate=0.5, group_size=3).original()
    assert original != changed(prompt="One day").original()
    assert original != changed(top_k=50).original()
    assert (original.beta, original.seed, original.learning_rate) == (0, 0, 0)


@pytest.mark.parametrize(
    "field, value, flag",
    [
        ("beta", -1, "--beta"),
        ("beta", math.nan, "--beta"),
        ("beta", math.inf, "--beta"),
        ("target_kl", 0, "--target-kl"),
        ("target_kl", math.inf, "--target-kl"),
        ("target_kl", "x", "--target-kl"),
        ("seed", -1, "--seed"),
        ("seed", 2**63, "--seed"),
        ("learning_rate", 0, "--learning-rate"),
        ("learning_rate", -1e-3, "--learning-rate"),
        ("learning_rate", math.nan, "--learning-rate"),
        ("learning_rate", math.inf, "--learning-rate"),
        ("group_size", 0, "--group-size"),
        ("max_length", 1, "--max-length"),
        ("temperature", 0, "--temperature"),
        ("temperature", -1, "--temperature"),
        ("temperature", math.nan, "--temperature"),
        ("temperature", math.inf, "--temperature"),
        ("top_k", -1, "--top-k"),
        ("threads", 0, "--cpus-per-trial"),
    ],
)
def test_a_bad_value_names_its_flag(field, value, flag):
    with pytest.raises(UserError) as caught:
        changed(**{field: value})
    message = str(caught.value)
    assert message.startswith(f"{flag}: ")
    assert "give " in message
    assert "\n" not in message


def test_a_controlled_coefficient_is_in_the_id_and_begins_above_zero():
    controlled = changed(target_kl=0.1)
    assert controlled.trial_id.startswith("rloo-kl0.1-seed0-")
    assert controlled.trial_id != changed(target_kl=0.1, beta=50).trial_id
    assert controlled.original() == CONFIG.original()
    with pytest.raises(UserError, match=r"--beta: 0\.0 is not accepted"):
        changed(target_kl=0.1, beta=0)


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONFIG.beta = 0  # type: ignore[misc]


FIRST = string.ascii_lowercase
REST = string.ascii_lowercase + string.digits + "_-"


@given(st.text(FIRST, min_size=1, max_size=1), st.text(REST, max_size=63))
def test_good_experiment_names(first, rest):
    assert check_experiment_name(first + rest) == first + rest


@given(st.text(max_size=70))
def test_any_text_is_a_good_experiment_name_or_refused_in_one_line(name):
    good = 1 <= len(name) <= 64 and name[0] in FIRST and set(name) <= set(REST)
    if good:
        assert check_experiment_name(name) == name
    else:
        with pytest.raises(UserError, match=r"^--experiment: ") as caught:
            check_experiment_name(name)
        assert str(caught.value).isprintable()  # a name never reaches a terminal unescaped


@pytest.mark.parametrize("name", ["", "A", "1a", "-a", "a/b", "../a", "a\n", "a b", "a.b", "é", "a" * 65, "a\x1b[0m"])
def test_bad_experiment_names(name):
    with pytest.raises(UserError, match="experiment"):
        check_experiment_name(name)
