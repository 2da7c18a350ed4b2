"""What fixes a trial's texts: its id, its JSON, what it refuses."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from settings import VALUES

from rl_alliteration import config as config_module
from rl_alliteration.config import TrialConfig, canonical_json
from rl_alliteration.errors import UserError
from rl_alliteration.foreign import Damaged
from rl_alliteration.identifiers import check_experiment_name

FIELDS: dict[str, Any] = {
    "algorithm": "rloo",
    "beta": 40,
    "seed": 0,
    "learning_rate": 1e-3,
    "group_size": 10,
    "reward": "alliteration",
    "reward_version": 1,
    "prompt": "Once upon a time",
    "max_length": 100,
    "temperature": 1,
    "top_k": 0,
    "weights": "a" * 64,
    "tokenizer": "b" * 64,
    "dtype": "float32",
    "threads": 1,
}
CONFIG = TrialConfig(**FIELDS)


def changed(**changes: Any) -> TrialConfig:
    return dataclasses.replace(CONFIG, **changes)


def digest(config: TrialConfig) -> str:
    return config.trial_id.rpartition("-")[2]


def test_known_ids() -> None:
    # If these change, every stored trial is recomputed: raise TEXTS_VERSION only when the texts change.
    assert CONFIG.trial_id == "rloo-beta40-seed0-dc1a1420"
    assert CONFIG.original().trial_id == "original-e8276e28"


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(TrialConfig)])
def test_every_field_changes_the_id(field: str) -> None:
    other = changed(**{field: VALUES[field][-1]})
    assert digest(other) != digest(CONFIG)
    assert other.trial_id != CONFIG.trial_id


def test_the_version_of_the_texts_changes_the_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_module, "TEXTS_VERSION", config_module.TEXTS_VERSION + 1)
    assert digest(TrialConfig(**FIELDS)) != digest(CONFIG)


def test_swapped_fingerprints_are_another_model() -> None:
    swapped = changed(weights=CONFIG.tokenizer, tokenizer=CONFIG.weights)
    assert digest(swapped) != digest(CONFIG)
    assert swapped.model_fingerprint != CONFIG.model_fingerprint


@pytest.mark.parametrize(
    "field, integer", [("beta", 40), ("beta", 0), ("temperature", 2), ("learning_rate", 1), ("beta", 10**21)]
)
def test_an_integer_and_its_real_are_one_number(field: str, integer: int) -> None:
    assert changed(**{field: integer}).trial_id == changed(**{field: float(integer)}).trial_id


def test_minus_zero_is_zero() -> None:
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
def test_beta_in_the_id(beta: float, shown: str) -> None:
    assert changed(beta=beta).trial_id.startswith(f"rloo-beta{shown}-seed0-")


@given(beta=st.floats(0, allow_nan=False, allow_infinity=False), seed=st.integers(0, 2**63 - 1))
def test_the_id_is_safe_in_a_path(beta: float, seed: int) -> None:
    config = changed(beta=beta, seed=seed)
    assert re.fullmatch(r"rloo-beta[0-9.e-]+-seed[0-9]+-[0-9a-f]{8}", config.trial_id)
    assert TrialConfig.from_json(config.to_json()) == config


def test_betas_that_look_alike_have_different_ids() -> None:
    near = changed(beta=0.1234567890123).trial_id, changed(beta=0.1234567890124).trial_id
    assert near[0] != near[1]


def test_prompts_are_drawn_evenly_by_seed_and_group() -> None:
    one, three = CONFIG, changed(more_prompts=("One day", "A cat"))
    assert {one.prompt_at(generation) for generation in range(200)} == {"Once upon a time"}
    drawn = [three.prompt_at(generation) for generation in range(0, 6000, 10)]
    assert [three.prompt_at(generation + 9) for generation in range(0, 6000, 10)] == drawn
    assert all(160 < drawn.count(prompt) < 240 for prompt in three.prompts)  # 200 each, ±3.5 standard deviations
    assert drawn != [changed(more_prompts=three.more_prompts, seed=1).prompt_at(g) for g in range(0, 6000, 10)]


@pytest.mark.parametrize("config", [CONFIG, changed(more_prompts=["One day", "A cat"])])
def test_json_round_trip(config: TrialConfig) -> None:
    assert TrialConfig.from_json(config.to_json()) == config
    text = CONFIG.to_json()
    assert TrialConfig.from_json(text) == CONFIG
    assert TrialConfig.from_json(text).trial_id == CONFIG.trial_id
    assert TrialConfig.from_json(text).to_json() == text
    assert json.loads(text)["beta"] == 40


def older(version: int, **changes: Any) -> tuple[str, str]:
    """A configuration as versions up to 3 stored it, and its id then."""
    config = changed(texts_version=version, **changes)
    values = {key: value for key, value in json.loads(config.to_json()).items() if key in FIELDS or key in changes}
    return json.dumps(values), config.trial_id


def test_ids_of_earlier_versions_are_what_they_were() -> None:
    assert changed(texts_version=3).trial_id == "rloo-beta40-seed0-3c2605e5"
    assert changed(texts_version=3).original().trial_id == "original-d42f7aa0"


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_configuration_of_an_earlier_version_is_read_with_its_id(version: int) -> None:
    text, trial_id = older(version)
    found = TrialConfig.from_json(text, trial_id)
    assert (found.trial_id, found.texts_version, found.architecture) == (trial_id, version, "")
    assert TrialConfig.from_json(found.to_json(), trial_id) == found
    assert found.model_fingerprint == CONFIG.model_fingerprint
    assert found.original().texts_version == version


def test_an_older_configuration_of_another_trial_is_not_taken_for_it() -> None:
    text, _ = older(2)
    assert TrialConfig.from_json(text, older(2, seed=1)[1]).trial_id == older(3)[1]
    assert TrialConfig.from_json(CONFIG.to_json(), older(3)[1]).trial_id == CONFIG.trial_id


def test_the_architecture_is_part_of_the_model_where_there_is_one() -> None:
    assert changed(architecture="d" * 64).model_fingerprint != CONFIG.model_fingerprint
    assert changed(architecture="").trial_id == CONFIG.trial_id


NESTED = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "change",
    [
        {"threads": 1_000_000}, {"threads": "1"}, {"threads": None}, {"threads": True}, {"threads": 1.5},
        {"group_size": 10**12}, {"max_length": 10**12}, {"group_size": 10**6, "max_length": 1000},
        {"dtype": "hub"}, {"dtype": "auto"}, {"dtype": "load"}, {"dtype": 3}, {"seed": 10**30}, {"seed": -1},
        {"beta": "40"}, {"beta": None}, {"beta": 10**400}, {"beta": [1]}, {"target_kl": "x"}, {"temperature": 0},
        {"prompt": 1}, {"prompt": "\ud800"}, {"more_prompts": "One day"}, {"more_prompts": [1]},
        {"algorithm": "../../x"}, {"algorithm": ""}, {"algorithm": ["rloo"]}, {"weights": None}, {"tokenizer": 3},
        {"reward_parameters": NESTED}, {"reward_parameters": "x"}, {"reward_parameters": "[]"},
        {"reward_parameters": '{"a":NaN}'},
        {"reward_parameters": '{"rarity":5}'}, {"reward_parameters": '{"rarity":{"a":"b"}}'},
        {"reward_version": "1"}, {"architecture": 1}, {"texts_version": 0},
        {"texts_version": -1}, {"texts_version": "4"}, {"texts_version": 1.5}, {"texts_version": True},
        {"unknown": 1}, {"__class__": "x"},
    ],
    ids=lambda change: str(change)[:40],
)  # fmt: skip
def test_a_foreign_configuration_is_refused_in_one_line(change: Any) -> None:
    text = json.dumps(json.loads(CONFIG.to_json()) | change)
    with pytest.raises(Damaged) as caught:
        TrialConfig.from_json(text, CONFIG.trial_id)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("text", ["", "null", "[]", "3", "{", "\x00", NESTED, '{"beta": NaN}', CONFIG.to_json()[:-20]])
def test_what_is_no_configuration_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(Damaged) as caught:
        TrialConfig.from_json(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", sorted(FIELDS))
def test_a_configuration_without_a_field_is_refused_by_its_name(field: str) -> None:
    values = json.loads(CONFIG.to_json())
    del values[field]
    with pytest.raises(Damaged, match=field):
        TrialConfig.from_json(json.dumps(values))


def test_a_configuration_of_a_newer_version_is_told_as_one() -> None:
    text = json.dumps(json.loads(CONFIG.to_json()) | {"texts_version": 99, "new_field": 1})
    with pytest.raises(Damaged, match="newer version"):
        TrialConfig.from_json(text)


def test_canonical_json() -> None:
    assert canonical_json({"b": [1.0, 0.5], "a": "é"}) == '{"a":"é","b":[1,0.5]}'
    assert canonical_json({"a": 40}) == canonical_json({"a": 40.0})
    with pytest.raises(ValueError):
        canonical_json(math.nan)


def test_the_original() -> None:
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
        ("threads", 4097, "--cpus-per-trial"),
        ("group_size", 10**7, "--group-size"),
        ("dtype", "hub", "--dtype"),
    ],
)
def test_a_bad_value_names_its_flag(field: str, value: Any, flag: str) -> None:
    with pytest.raises(UserError) as caught:
        changed(**{field: value})
    message = str(caught.value)
    assert message.startswith(f"{flag}: ")
    assert "give " in message
    assert "\n" not in message


def test_a_controlled_coefficient_is_in_the_id_and_begins_above_zero() -> None:
    controlled = changed(target_kl=0.1)
    assert controlled.trial_id.startswith("rloo-kl0.1-seed0-")
    assert controlled.trial_id != changed(target_kl=0.1, beta=50).trial_id
    assert controlled.original() == CONFIG.original()
    with pytest.raises(UserError, match=r"--beta: 0\.0 is not accepted"):
        changed(target_kl=0.1, beta=0)


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONFIG.beta = 0  # type: ignore[misc]


FIRST = string.ascii_lowercase
REST = string.ascii_lowercase + string.digits + "_-"


@given(st.text(FIRST, min_size=1, max_size=1), st.text(REST, max_size=63))
def test_good_experiment_names(first: str, rest: str) -> None:
    assert check_experiment_name(first + rest) == first + rest


@given(st.text(max_size=70))
def test_any_text_is_a_good_experiment_name_or_refused_in_one_line(name: str) -> None:
    good = 1 <= len(name) <= 64 and name[0] in FIRST and set(name) <= set(REST)
    if good:
        assert check_experiment_name(name) == name
    else:
        with pytest.raises(UserError, match=r"^--experiment: ") as caught:
            check_experiment_name(name)
        assert str(caught.value).isprintable()  # a name never reaches a terminal unescaped


@pytest.mark.parametrize("name", ["", "A", "1a", "-a", "a/b", "../a", "a\n", "a b", "a.b", "é", "a" * 65, "a\x1b[0m"])
def test_bad_experiment_names(name: str) -> None:
    with pytest.raises(UserError, match="experiment"):
        check_experiment_name(name)
