"""Several values of a setting: each makes trials of its own, or is what a search chooses among."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import optuna
import pytest
from made_up import MadeUp, write_results

from rl_alliteration.analysis.rules import Limits
from rl_alliteration.cli import main as cli
from rl_alliteration.config import PlannedTrial, TrialConfig
from rl_alliteration.errors import UserError
from rl_alliteration.flags import UpdateSettings
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.names import trial_names
from rl_alliteration.results.storage import Storage
from rl_alliteration.tune import submission
from rl_alliteration.tune.history import Past, history
from rl_alliteration.tune.plan import Sweep, plan, resolve
from rl_alliteration.tune.proposals import Proposals
from rl_alliteration.tune.search import Choice, Search, Space, resolve_search, space_of, sweep_of

OTHER: dict[str, Any] = {
    "credit": "to-go", "kl": "exact", "optimizer": "adamw", "momentum": 0.9, "schedule": "linear", "warm_up": 100,
}  # fmt: skip
"""A value of each setting of the update that is not the study's."""


def trials(loaded: LoadedModel, **flags: Any) -> list[PlannedTrial]:
    asked = {"storage": "unused", "experiment": "e", "beta": (40.0,), "max_generations": 3600, **flags}
    return [trial for trial in plan(resolve(Sweep(**asked)), loaded) if trial.config.algorithm != "original"]


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(UpdateSettings)])
def test_each_setting_of_an_update_is_an_axis(tiny_gpt_neo: LoadedModel, name: str) -> None:
    study = getattr(UpdateSettings(), name)
    both = trials(tiny_gpt_neo, **{name: (study, OTHER[name])})
    assert [getattr(trial.config, name) for trial in both] == [study, OTHER[name]]
    each = [trials(tiny_gpt_neo, **{name: value})[0] for value in (study, OTHER[name])]
    assert both == each  # one value, given alone, is the same trial
    assert len(set(trial_names(both))) == 2
    words = ["sweep", "--storage", "s", "--" + name.replace("_", "-"), str(study), str(OTHER[name])]
    parsed = vars(cli.parse(words))
    assert parsed[name] == (study, OTHER[name])
    assert vars(cli.parse([*words[:-2], words[-1]]))[name] == (OTHER[name],)
    assert vars(cli.parse(submission.sweep_arguments(Sweep(**parsed)))) == parsed


def test_all_combinations_are_run(tiny_gpt_neo: LoadedModel) -> None:
    axes: dict[str, tuple[Any, ...]] = {
        "credit": ("text", "to-go"), "schedule": ("linear", "constant"), "learning_rate": (1e-3, 2e-3),
        "group_size": (10, 20), "seed": (0, 1),
    }  # fmt: skip
    found = trials(tiny_gpt_neo, **axes)
    given = [tuple(getattr(trial.config, name) for name in axes) for trial in found]
    assert sorted(given) == sorted(itertools.product(*axes.values()))
    assert {trial.config.schedule_length for trial in found if trial.config.schedule == "constant"} == {0}
    assert {trial.config.schedule_length for trial in found if trial.config.schedule == "linear"} == {3600}
    assert len(set(trial_names(found))) == len(found) == len({trial.trial_id for trial in found})


def test_a_trial_is_planned_once_whatever_leads_to_it(tiny_gpt_neo: LoadedModel) -> None:
    found = trials(tiny_gpt_neo, algorithm=("rloo", "reinforce"), group_size=(10, 20), learning_rate=(1e-3, 1e-3))
    sizes = [(trial.config.algorithm, trial.config.group_size) for trial in found]
    assert sizes == [("rloo", 10), ("rloo", 20), ("reinforce", 1)]


def test_without_a_rate_it_is_the_models(tiny_gpt_neo: LoadedModel) -> None:
    assert resolve(Sweep(storage="s", experiment="e", beta=(1.0,))).learning_rate == (1e-3,)
    assert resolve(Sweep(storage="s", experiment="e", beta=(1.0,), model="storyteller-2")).learning_rate == (5e-4,)
    assert resolve(Sweep(storage="s", experiment="e", beta=(1.0,), learning_rate=())).group_size == ()


@pytest.mark.parametrize(
    "flags, told",
    [
        ({"credit": ("text", "later")}, "--credit: 'later' is not accepted; give text or to-go"),
        ({"learning_rate": (1e-3, 0)}, "--learning-rate: 0.0 is not accepted"),
        ({"group_size": (10, 0)}, "--group-size: 0 is not accepted"),
        ({"group_size": (10, 1)}, "--group-size: 1 is too few for rloo"),
        ({"group_size": (10, 7)}, "--max-generations: 3600 is no multiple of the group size 7"),
        ({"optimizer": ("sgd", "adamw"), "momentum": 0.9}, "--momentum: 0.9 is not accepted; give 0"),
        ({"kl": ("sampled", "exact"), "algorithm": ("rloo", "reinforce_baseline")}, "--kl: 'exact' is not accepted"),
    ],
)
def test_each_combination_must_fit(tiny_gpt_neo: LoadedModel, flags: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as caught:
        trials(tiny_gpt_neo, **flags)
    assert str(caught.value).startswith(told)


# --- the preset ------------------------------------------------------------------------------------------------


def test_the_preset_efficient_is_what_the_prototype_had(tiny_gpt_neo: LoadedModel) -> None:
    sweep = resolve(Sweep(storage="s", preset="efficient", seed=(0, 1)))
    planned = [trial for trial in plan(sweep, tiny_gpt_neo) if trial.config.algorithm != "original"]
    assert [trial.config.seed for trial in planned] == [0, 1]
    config = planned[0].config
    assert (config.credit, config.kl, config.schedule, config.optimizer) == ("to-go", "exact", "linear", "sgd")
    assert (config.beta, config.group_size, config.learning_rate) == (100.0, 20, 3e-3)
    assert (planned[0].max_generations, config.schedule_length) == (14_400, 14_400)


def test_flags_override_the_preset(tiny_gpt_neo: LoadedModel) -> None:
    sweep = resolve(Sweep(storage="s", preset="efficient", credit="text", kl=("sampled", "exact"), group_size=(10,)))
    configs = [trial.config for trial in plan(sweep, tiny_gpt_neo) if trial.config.algorithm != "original"]
    assert [(one.credit, one.kl, one.schedule, one.group_size) for one in configs] == [
        ("text", "sampled", "linear", 10),
        ("text", "exact", "linear", 10),
    ]


# --- a search --------------------------------------------------------------------------------------------------

KEPT = Limits(variety=0.0, cross_entropy=0.0, nats=float("inf"), repetition=1.0)


def search(**changes: Any) -> Search:
    given = {"storage": "s", "experiment": "made_up", "beta": (10, 100), "learning_rate": (1e-3, 1e-3), **changes}
    return resolve_search(Search(**given))


def made_up_trial(choice: Choice, length: int, seed: int) -> PlannedTrial:
    config = TrialConfig(
        **dataclasses.asdict(choice), seed=seed, reward="alliteration", reward_version=1, prompt="Once upon a time",
        max_length=100, temperature=1.0, top_k=0, weights="00", tokenizer="00", dtype="float32", threads=1,
        schedule_length=0 if choice.schedule == "constant" else length,
    )  # fmt: skip
    return PlannedTrial(config, "storyteller", length, 600)


def proposals(space: Space, past: list[Past] | None = None) -> Proposals:
    return Proposals(space, made_up_trial, seeds=[0], trials=24, max_generations=3600, max_texts=None, past=past or [])


def test_a_search_chooses_among_several_values_and_keeps_one(tiny_gpt_neo: LoadedModel) -> None:
    asked = search(credit=("text", "to-go"), kl=("sampled", "exact"), schedule=("constant", "linear"), warm_up=100)
    space = space_of(asked)
    running = proposals(space)
    proposed = [running.propose() for _ in range(20)]
    configs = [trial.config for trial in proposed if trial is not None]
    assert {config.credit for config in configs} == {"text", "to-go"}
    assert {config.kl for config in configs} == {"sampled", "exact"}
    assert {config.schedule for config in configs} == {"constant", "linear"}
    assert {(config.optimizer, config.warm_up) for config in configs} == {("sgd", 100)}
    choice = Choice("rloo", 20.0, 1e-3, 10, credit="to-go", schedule="linear", warm_up=100)
    (trained,) = (one.config for one in plan(sweep_of(asked, choice, 1800), tiny_gpt_neo) if one.config.beta)
    assert (trained.credit, trained.kl, trained.schedule) == ("to-go", "sampled", "linear")
    assert (trained.warm_up, trained.schedule_length) == (100, 1800)
    assert space.holds(choice)
    assert not space.holds(dataclasses.replace(choice, warm_up=0))
    assert not space.holds(dataclasses.replace(choice, kl="k2"))


def test_what_is_fixed_leaves_the_proposals_as_they_were() -> None:
    """Optuna draws no number for it."""
    plain, fixed = (proposals(space_of(search(credit=credit))) for credit in ("text", "to-go"))
    for _ in range(5):
        one, other = plain.propose(), fixed.propose()
        assert one is not None and other is not None
        assert one.config.beta == other.config.beta
        assert (one.config.credit, other.config.credit) == ("text", "to-go")


def test_a_history_of_before_counts_in_a_search_that_has_the_studys_update_among_others(tmp_path: Any) -> None:
    storage = Storage(tmp_path)
    ids = write_results(storage, [MadeUp(beta=40, generations=400)])
    for changes, known in (({}, ids[:1]), ({"credit": ("text", "to-go")}, ids[:1]), ({"credit": "to-go"}, [])):
        asked = search(storage=str(tmp_path), **changes)
        found = history(storage, asked, made_up_trial, KEPT)
        assert [past.trial.trial_id for past in found] == known
        assert proposals(space_of(asked), found).propose() is not None


def test_a_warm_up_fits_the_shortest_trial_of_a_search() -> None:
    assert search(schedule=("constant", "linear"), warm_up=2000).warm_up == (2000,)
    with pytest.raises(UserError, match="--warm-up: 2000 is not accepted; give fewer texts than the 1,800"):
        search(schedule=("constant", "linear"), warm_up=2000, max_texts=10_000)


def test_optuna_knows_what_is_recalled_and_only_that() -> None:
    space = Space(("rloo",), (10.0, 100.0), (1e-3, 1e-3), (10,), credit=("text", "to-go"))
    choice = Choice("rloo", 40.0, 1e-3, 10, credit="to-go")
    study = optuna.create_study()
    study.enqueue_trial(space.parameters(choice))
    asked = study.ask()
    assert space.suggested(asked) == choice
    assert asked.params == space.parameters(choice)
