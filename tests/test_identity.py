"""A trial's identity and its name: each field of `TrialConfig` declares what it is, and old ids stay for ever."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from settings import VALUES
from stored import load, trials

from rl_alliteration import rows
from rl_alliteration.config import SETTINGS, PlannedTrial, TrialConfig
from rl_alliteration.names import trial_names
from rl_alliteration.trial.run import hyperparameters

CONFIG: dict[str, Any] = {
    "algorithm": "rloo", "beta": 40, "seed": 0, "learning_rate": 1e-3, "group_size": 4, "reward": "alliteration",
    "reward_version": 1, "prompt": "Once upon a time", "max_length": 24, "temperature": 1.0, "top_k": 0,
    "weights": "aa", "tokenizer": "bb", "dtype": "float32", "threads": 1,
}  # fmt: skip

FIRST = {
    "algorithm", "beta", "seed", "learning_rate", "group_size", "reward", "algorithm_version", "reward_version",
    "prompt", "max_length", "temperature", "top_k", "weights", "tokenizer", "dtype", "threads", "reward_parameters",
    "target_kl", "more_prompts", "architecture", "texts_version",
}  # fmt: skip
"""The settings of version 4, whose identity was written out by hand."""


def later(config: TrialConfig) -> list[str]:
    defaults = TrialConfig(**CONFIG)
    return [name for name in SETTINGS.keys() - FIRST if getattr(config, name) != getattr(defaults, name)]


def plain_identity(config: TrialConfig) -> dict[str, Any]:
    """As it was written out by hand until version 4; what came later is there by its name, but at its default."""
    algorithm: dict[str, Any] = {"name": config.algorithm}
    if config.algorithm_version != 1:
        algorithm["version"] = config.algorithm_version
    reward = {"name": config.reward, "version": config.reward_version}
    if config.reward_parameters:
        reward["parameters"] = json.loads(config.reward_parameters)
    return {
        "texts_version": config.texts_version, "algorithm": algorithm, "beta": config.beta,
        "seed": config.seed, "learning_rate": config.learning_rate, "group_size": config.group_size, "reward": reward,
        "prompts": [config.prompt, *config.more_prompts], "max_length": config.max_length,
        "temperature": config.temperature, "top_k": config.top_k, "weights": config.weights,
        "tokenizer": config.tokenizer, "dtype": config.dtype, "threads": config.threads,
        **({} if config.target_kl is None else {"kl_control": {"target": config.target_kl}}),
        **({"architecture": config.architecture} if config.architecture else {}),
        **{name: getattr(config, name) for name in later(config)},
    }  # fmt: skip


changes = {name: st.sampled_from(values) for name, values in VALUES.items()}
configs = st.fixed_dictionaries({}, optional=changes).map(lambda changed: TrialConfig(**(CONFIG | changed)))


def test_every_field_is_declared_and_tried_here() -> None:
    assert SETTINGS.keys() == VALUES.keys() == {field.name for field in dataclasses.fields(TrialConfig)}


@given(configs)
@settings(max_examples=300)
def test_what_is_hashed_is_what_it_always_was(config: TrialConfig) -> None:
    assert config.identity == plain_identity(config)


@given(configs, configs)
@settings(max_examples=300)
def test_two_configurations_have_two_ids(one: TrialConfig, other: TrialConfig) -> None:
    assert (one == other) == (one.identity == other.identity) == (one.trial_id == other.trial_id)


def test_ids_of_stored_trials_stay() -> None:
    folder = Path(__file__).parent / "results" / "storages" / "v1"
    stored = {path.name for path in (folder / "results" / "checkpoints" / "tiny").iterdir()}
    assert stored == {trial.trial_id for trial in trials(load(folder))}


@pytest.mark.parametrize(
    "changes, trial_id",
    [
        ({"texts_version": 1}, "rloo-beta40-seed0-436a8835"),
        ({"texts_version": 3, "target_kl": 0.1}, "rloo-kl0.1-seed0-664b8846"),
        ({"texts_version": 4, "architecture": "cc"}, "rloo-beta40-seed0-f59fe338"),
        (
            {
                "texts_version": 4,
                "architecture": "cc",
                "more_prompts": ("One day",),
                "reward_parameters": '{"rarity":{"a":1.5}}',
            },
            "rloo-beta40-seed0-c1b87993",
        ),
    ],
)
def test_ids_that_were_written_down_stay(changes: dict[str, Any], trial_id: str) -> None:
    assert TrialConfig(**(CONFIG | changes)).trial_id == trial_id


@given(st.lists(configs, min_size=1, max_size=8))
@settings(max_examples=300)
def test_different_trials_have_different_names_and_the_same_ones_the_same(found: list[TrialConfig]) -> None:
    named = trial_names([PlannedTrial(config, "model", 8, 8) for config in found])
    for config, name in zip(found, named, strict=True):
        for other, its_name in zip(found, named, strict=True):
            assert (config == other) == (name == its_name)


@given(configs, configs)
def test_trials_that_tensorboard_lists_alike_are_alike(one: TrialConfig, other: TrialConfig) -> None:
    listed = [hyperparameters(PlannedTrial(config, config.model_fingerprint, 8, 8)) for config in (one, other)]
    assert (listed[0] == listed[1]) == (one == other)
    assert all(isinstance(value, int | float | str) for value in listed[0].values())


def test_a_name_says_no_more_than_it_must() -> None:
    def names(*changes: dict[str, Any]) -> list[str]:
        return trial_names([PlannedTrial(TrialConfig(**(CONFIG | change)), "mine", 8, 8) for change in changes])

    assert names({}) == ["rloo beta 40 seed 0"]
    assert names({}, {"seed": 1}, {"algorithm": "reinforce"}) == [
        "rloo beta 40 seed 0", "rloo beta 40 seed 1", "reinforce beta 40 seed 0",
    ]  # fmt: skip
    assert names({}, {"learning_rate": 5e-4}, {"beta": 60}) == [
        "rloo beta 40 seed 0, rate 0.001", "rloo beta 40 seed 0, rate 0.0005", "rloo beta 60 seed 0",
    ]  # fmt: skip
    # As `status --watch` showed four times "rloo beta 60 seed 0".
    controlled = [{"beta": 60, "target_kl": kl, "learning_rate": rate} for kl in (0.1, 0.2) for rate in (1e-3, 2e-3)]
    assert names(*controlled) == [
        f"rloo KL target {kl} seed 0, rate {rate}" for kl in (0.1, 0.2) for rate in (0.001, 0.002)
    ]
    assert names({}, {"prompt": "One day"}) == [
        'rloo beta 40 seed 0, "Once upon a time"', 'rloo beta 40 seed 0, "One day"',
    ]  # fmt: skip
    assert names({}, {"weights": "cc"})[0].startswith("rloo beta 40 seed 0, mine@")


def test_the_hyperparameters_that_events_show_are_those_of_the_configuration() -> None:
    shown = {column.name for column in rows.columns_of(rows.Event)}
    other_names = {"reward": "reward_function", "more_prompts": "prompt"}
    within = {
        "algorithm_version",
        "reward_version",
        "reward_parameters",
        "target_kl",
        "texts_version",
        "weights",
        "tokenizer",
        "architecture",
    }
    assert {other_names.get(name, name) for name in FIRST - within} <= shown
