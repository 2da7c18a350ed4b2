"""What a sweep is: the user's request, the study's presets, and the trials they come to. No Ray, no torch."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from rl_alliteration.config import (
    ORIGINAL_GENERATIONS,
    ORIGINAL_GROUP_SIZE,
    SHIPPED_MODELS,
    TEXTS_VERSION,
    PlannedTrial,
    TrialConfig,
)
from rl_alliteration.errors import UserError
from rl_alliteration.flags import COMPLETION, FIRST_GROUP, STUDY_TOP_K, TEXT, Sampling, SharedSettings
from rl_alliteration.identifiers import check_experiment_name
from rl_alliteration.lm.chat import chat_prompts, end_of_turn
from rl_alliteration.rl.advantages import ALGORITHMS, get_algorithm
from rl_alliteration.rl.kl import INITIAL_BETA
from rl_alliteration.rl.rewards import PER_100_WORDS, REWARDS, get_reward
from rl_alliteration.rl.update import UpdateRule
from rl_alliteration.setting import check, values_of
from rl_alliteration.tune.axes import FLAGS, UPDATE, SeveralUpdates, as_tuples, unique, update_values, updates
from rl_alliteration.tune.presets import PRESETS, Preset
from rl_alliteration.tune.prompts import prompts_of
from rl_alliteration.tune.run_flags import check_run_flags, gpus_asked

if TYPE_CHECKING:
    from rl_alliteration.lm.loading import LoadedModel

_ORIGINAL_CHECKPOINT_EVERY = 500
STUDY_LEARNING_RATE = 1e-4
DTYPES = ("float32", "bfloat16")

# Measured for the shipped models; the study's own rate serves TinyStories-33M.
_LEARNING_RATES: Mapping[str, float] = {"storyteller": 1e-3, "storyteller-2": 5e-4}
_REWARD_LEARNING_RATES: Mapping[tuple[str, str], float] = {
    ("storyteller", "a_words"): 3e-4,
    ("storyteller-2", "a_words"): 1.5e-4,
}

# Help that names what is registered.
ALGORITHM_HELP = f"{', '.join(f'`{name}`' for name in ALGORITHMS)}. Default: rloo."
REWARD_HELP = (
    f"{', '.join(f'`{name}`' for name in REWARDS)}, each also with `{PER_100_WORDS}` after it; MODULE:FUNCTION of your "
    "own; or a weighted sum: 'alliteration + 0.5*mine:rhymes'. Default: the preset's, or alliteration."
)
RATE_HELP = (
    "Of SGD, or of --optimizer; of a schedule the greatest. Default: what suits the model "
    f"({', '.join(f'{model}: {rate:g}' for model, rate in _LEARNING_RATES.items())}; "
    f"else the study's {STUDY_LEARNING_RATE:g})."
)


@dataclasses.dataclass(frozen=True)
class Request:
    """What sweeps and searches ask for: where, of which model, to which reward, from which prompts."""

    storage: str
    """Folder that the results go to; made if it is not there. Default: $RL_ALLITERATION_STORAGE."""
    preset: str | None = None
    """An experiment of the study, or `quickstart`; other flags change it."""
    experiment: str | None = None
    """Name of the experiment, [a-z][a-z0-9_-]{0,63}. Default: the preset's."""
    reward: Annotated[str | None, tyro.conf.arg(help=REWARD_HELP)] = None
    model: str = "storyteller"
    """A shipped one, `storyteller` or `storyteller-2`; a hub id such as roneneldan/TinyStories-33M; or a folder."""
    tokenizer: str | None = None
    """Hub id or folder of another tokenizer than the model's own."""
    revision: str | None = None
    """Revision of a hub model."""
    max_generations: int | None = None
    """Texts per trial, a multiple of the group size. Default: 3600."""
    original_texts: int = ORIGINAL_GENERATIONS
    """Texts of the unmodified model, which every trial is compared with: a multiple of 10. More extend those that are
    there."""
    prompt: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """What every text begins with; given several times, each group has one of them, drawn by the seed.
    Default: "Once upon a time"."""
    prompts: str | None = None
    """A text file of prompts, one per line, instead of --prompt."""
    reward_of: str | None = None
    """What is rewarded, measured and shown: the `text`, which is the prompt and what is sampled after it; or the
    `completion`, which is that alone. Default: text; with --chat completion."""


@dataclasses.dataclass(frozen=True)
class Common(SeveralUpdates, SharedSettings, Request):  # type: ignore[misc]  # fields: of the last base first
    """What sweeps and searches have in common."""

    top_k: int | None = None  # type: ignore[assignment]  # resolved it is a number
    """Sample among the k likeliest tokens; 0: the full distribution. Default: 0; with --as-published 50."""
    as_published: bool = False
    """Sample with top_k 50: so the study's own code did through its library."""
    checkpoint_every: int | None = None
    """Generations per Parquet part and checkpoint, a multiple of the group size. Default: 600."""
    publish_every: float = 5.0
    """Minutes after which finished groups are published at the latest, with a checkpoint, where an interval takes
    longer. Changes no row."""
    gpus_per_trial: str = "auto"
    """`auto`: 1 where there are GPUs, else 0; or a number, such as 0.25."""
    cpus_per_trial: int = 1
    """CPU cores, and threads, per trial."""
    address: str | None = None
    """Ray cluster to use (`auto`, or host:port). Default: $RAY_ADDRESS, else a Ray of its own on this machine."""
    log_to: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TOOL ...")] = ()
    """Tools that are told of each trial as well, with its settings, curves and texts: mlflow, wandb, trackio."""
    record_tokens: str = FIRST_GROUP
    """Of which texts to keep each sampled token's log-probabilities and entropy, and the reward's parts: `none`, `all`,
    or the `first-group` of each checkpoint interval. Changes nothing else."""
    keep_checkpoints: str = "2"
    """How many of the newest checkpoints a trial keeps beside those of a run's end; or `all`."""
    max_failures: int = 3
    """How often a trial is started again after its process or node was lost."""
    max_hours: float | None = None
    """Hours after which trials publish what they have and stop; the same command goes on, for as many again."""
    max_device_hours: float | None = None
    """The same for the hours of all trials together: of GPUs, or of CPU cores where trials have no GPU."""
    notify: str | None = None
    """A command for the shell when the run is over, with RL_ALLITERATION_STATE and others in its environment."""
    notify_url: str | None = dataclasses.field(default=None, repr=False)
    """A web hook that is sent the same as JSON. Default: $RL_ALLITERATION_NOTIFY_URL, which no list of processes
    shows."""

    def __post_init__(self) -> None:
        as_tuples(self, (*UPDATE, "log_to"))


@dataclasses.dataclass(frozen=True)
class Sweep(Common):
    """Run a sweep: one trial for each algorithm, beta and seed, and the original model before them.

    Where a setting of the update, the learning rate or the group size is given several values, each of them makes
    trials of its own.
    """

    algorithm: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help=ALGORITHM_HELP)] = ()
    beta: Annotated[tuple[float, ...], tyro.conf.arg(metavar="FLOAT ...")] = ()
    """KL coefficients, 0 or more."""
    target_kl: Annotated[tuple[float, ...], tyro.conf.arg(metavar="FLOAT ...")] = ()
    """Instead of a fixed beta: mean KL divergences, in nats per token, that a controller steers to; beta is then where
    the coefficient begins. Default of that: 60."""
    seed: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...")] = ()
    """Seeds. Default: 0."""
    learning_rate: Annotated[tuple[float, ...], tyro.conf.arg(metavar="FLOAT ...", help=RATE_HELP)] = ()
    group_size: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...")] = ()
    """Texts per update of algorithms that compare texts. Default: 10. REINFORCE has 1."""
    from_trial: Annotated[
        str | None, tyro.conf.arg(name=FLAGS["from_trial"], metavar="EXPERIMENT/TRIAL@GENERATION")
    ] = None
    """Fork: begin from the model of a trial of the same storage after so many of its texts, a multiple of its group
    size; the reference stays the model before RL. What is not given, the experiment included, is that trial's."""
    stop_on_collapse: bool = False
    """Stop a trial whose texts have lost a third of their variety, and keep all of its checkpoints. Without the flag
    the same command continues it."""
    stop_on_plateau: bool = False
    """Stop a trial whose reward has risen and no longer rises. Without the flag the same command continues it."""
    retry_failed: bool = False
    """Run trials again that diverged in an earlier run."""
    recompute: bool = False
    """Extend a finished trial from an older checkpoint if the one at its end is gone; replace rows that are damaged and
    that this machine computes otherwise."""
    dry_run: bool = False
    """List the trials, texts and disk space, and stop."""

    def __post_init__(self) -> None:
        super().__post_init__()
        as_tuples(self, ("learning_rate", "group_size"))


def resolve(sweep: Sweep) -> Sweep:
    """Fill in what was not said: from the preset, then the defaults. Checks all that needs no model.

    Raises:
        UserError: a field is outside of what it accepts.
    """
    return _resolved(sweep, _preset_of(sweep))


def resolve_all(sweep: Sweep) -> tuple[Sweep, ...]:
    """`resolve`, and what the preset has beside it: sweeps that differ in their trials alone.

    Raises:
        UserError: as for `resolve`.
    """
    preset = _preset_of(sweep)
    asked = sweep.algorithm
    found = [_resolved(sweep, preset)]
    for other in preset.beside:
        algorithm = tuple(name for name in other.algorithm if name in (asked or other.algorithm))
        if algorithm:
            found.append(_resolved(dataclasses.replace(sweep, algorithm=algorithm), other))
    return tuple(found)


def _preset_of(sweep: Sweep) -> Preset:
    if sweep.preset is None:
        return Preset(("rloo",), ())
    if sweep.preset not in PRESETS:
        raise UserError(f"--preset: {sweep.preset!r} is unknown; choose one of {', '.join(PRESETS)}")
    return PRESETS[sweep.preset]


def _resolved(sweep: Sweep, preset: Preset) -> Sweep:
    betas = sweep.beta or (sweep.target_kl and (INITIAL_BETA,)) or preset.beta
    if not betas:
        raise UserError("--beta: give KL coefficients, such as --beta 0 10 100, or a --target-kl, or a --preset")
    experiment = sweep.experiment or sweep.preset
    if experiment is None:
        raise UserError("--experiment: give the experiment a name")
    if sweep.as_published and sweep.top_k not in (None, STUDY_TOP_K):
        raise UserError(f"--top-k: --as-published means {STUDY_TOP_K}; leave one of the two out")
    length = preset.max_generations
    if sweep.model in SHIPPED_MODELS and preset.storyteller_max_generations is not None:
        length = preset.storyteller_max_generations
    reward = get_reward(sweep.reward if sweep.reward is not None else preset.reward).name
    rate = _LEARNING_RATES.get(sweep.model, STUDY_LEARNING_RATE)
    rate = _REWARD_LEARNING_RATES.get((sweep.model, reward), rate)
    if sweep.model == "storyteller" and preset.storyteller_learning_rate is not None:
        rate = preset.storyteller_learning_rate
    resolved = dataclasses.replace(
        sweep,
        model=_absolute(sweep.model),
        tokenizer=None if sweep.tokenizer is None else _absolute(sweep.tokenizer),
        prompt=prompts_of(sweep),
        prompts=None,
        experiment=check_experiment_name(experiment),
        algorithm=unique(sweep.algorithm or preset.algorithm),
        beta=unique(betas),
        target_kl=unique(sweep.target_kl),
        seed=unique(sweep.seed or preset.seed),
        reward=reward,
        reward_of=sweep.reward_of if sweep.reward_of is not None else COMPLETION if sweep.chat else TEXT,
        max_generations=sweep.max_generations if sweep.max_generations is not None else length,
        learning_rate=unique(sweep.learning_rate or (rate,)),
        group_size=unique(sweep.group_size or preset.group_size),
        top_k=_top_k(sweep),
        checkpoint_every=sweep.checkpoint_every if sweep.checkpoint_every is not None else preset.checkpoint_every,
        **update_values(sweep, preset.update),
    )
    if resolved.dtype not in (*DTYPES, "auto"):
        raise UserError(f"--dtype: {resolved.dtype!r} is not accepted; give float32, bfloat16 or auto")
    _check_counts(resolved)
    resolved.check_chat()
    _trials(
        resolved, weights="", tokenizer="", architecture="", texts_version=TEXTS_VERSION
    )  # each TrialConfig checks its own fields
    return resolved


def plan(sweep: Sweep, loaded: LoadedModel, ancestors: tuple[str, ...] = ()) -> list[PlannedTrial]:
    """The trials of a resolved sweep, the original first: everything is compared with it. `ancestors`: of forks.

    Raises:
        UserError: prompt and length do not fit the model.
    """
    rendered = chat_prompts(loaded, sweep.prompt, sweep)
    prompt_length = max(map(len, loaded.prompt_ids(sweep.prompt, rendered).values()))
    if sweep.max_length <= prompt_length:
        template = ", the chat template's included" if sweep.chat else ""
        raise UserError(
            f"--max-length: {sweep.max_length} leaves nothing to sample after a prompt of {prompt_length} tokens"
            f"{template}; give at least {prompt_length + 1}"
        )
    readable = loaded.longest(sweep.max_length)
    if sweep.max_length > readable:
        raise UserError(f"--max-length: {sweep.max_length} is beyond what the model can read; give at most {readable}")
    if sweep.dtype == "auto":
        sweep = dataclasses.replace(sweep, dtype=loaded.fastest_dtype(gpu=bool(gpus_asked(sweep))))
    if (problem := loaded.fails_in(sweep.dtype)) is not None:
        raise UserError(f"--dtype: the model cannot be computed in {sweep.dtype} ({problem}); give float32")
    if sweep.reference_dtype != "float32" and loaded.undescribed is not None:
        reason = f"float32: the model goes through transformers' own code ({loaded.undescribed})"
        check(False, "reference-dtype", reason, sweep.reference_dtype)
    return _trials(
        sweep,
        weights=loaded.weights_fingerprint,
        tokenizer=loaded.tokenizer_fingerprint,
        architecture=loaded.architecture_fingerprint,
        texts_version=loaded.texts_version,
        chat_prompts=rendered,
        end_of_turn=end_of_turn(loaded.pretrained_tokenizer) if sweep.chat else (),
        ancestors=ancestors,
    )


def plan_all(sweeps: Sequence[Sweep], loaded: LoadedModel, ancestors: tuple[str, ...] = ()) -> list[PlannedTrial]:
    """The trials of the sweeps of `resolve_all`, the original first, each once.

    Raises:
        UserError: as for `plan`.
    """
    first, *others = [plan(sweep, loaded, ancestors) for sweep in sweeps]
    trials = {trial.trial_id: trial for trial in first}
    for original, *trained in others:
        assert original == first[0], "the sweeps of a preset have one original"
        for trial in trained:
            trials.setdefault(trial.trial_id, dataclasses.replace(trial, beside=True))
    return list(trials.values())


def _trials(sweep: Sweep, **model: Any) -> list[PlannedTrial]:
    """`model`: the fields of a configuration that say which model a trial begins with."""
    assert sweep.max_generations and sweep.checkpoint_every and sweep.reward is not None and sweep.reward_of is not None
    trials: dict[TrialConfig, PlannedTrial] = {}  # once each: an algorithm with a group size of its own takes no other
    for name, target, beta, update, rate, size, seed in itertools.product(
        sweep.algorithm,
        sweep.target_kl or (None,),
        sweep.beta,
        updates(sweep),
        sweep.learning_rate,
        sweep.group_size or (None,),
        sweep.seed,
    ):
        config = TrialConfig(
            algorithm=name,
            algorithm_version=get_algorithm(name).version,
            beta=beta,
            target_kl=target,
            seed=seed,
            learning_rate=rate,
            group_size=_group_size(size, name),
            reward=sweep.reward,
            reward_of=sweep.reward_of,
            reward_version=get_reward(sweep.reward).version,
            prompt=sweep.prompt[0],
            more_prompts=sweep.prompt[1:],
            **values_of(SharedSettings, sweep),
            **update,
            schedule_length=0 if update["schedule"] == "constant" else sweep.max_generations,
            **model,
            threads=sweep.cpus_per_trial,
        )
        UpdateRule.of(config).check_algorithm(get_algorithm(name))
        trials[config] = PlannedTrial(config, sweep.model, sweep.max_generations, sweep.checkpoint_every)
    original = next(iter(trials)).original()
    return [
        PlannedTrial(original, sweep.model, sweep.original_texts, _ORIGINAL_CHECKPOINT_EVERY),
        *trials.values(),
    ]


def _top_k(sweep: Sweep) -> int:
    if sweep.top_k is not None:
        return sweep.top_k
    return STUDY_TOP_K if sweep.as_published else Sampling().top_k


def _absolute(source: str) -> str:
    """A model's name, or its folder as trials find it: they have a working directory of their own."""
    path = Path(source).expanduser()
    return str(path.resolve()) if source not in SHIPPED_MODELS and path.is_dir() else source


def _group_size(asked: int | None, name: str) -> int:
    """REINFORCE takes its one text; algorithms that compare texts take the flag's."""
    algorithm = get_algorithm(name)
    if asked is None or algorithm.group_size == 1:
        return algorithm.group_size
    if asked < algorithm.least_group_size:
        raise UserError(
            f"--group-size: {asked} is too few for {name}, which compares the texts of a group; "
            f"give {algorithm.least_group_size} or more"
        )
    return asked


def _check_counts(sweep: Sweep) -> None:
    check_run_flags(sweep)
    if min(sweep.group_size, default=1) < 1:
        raise UserError(f"--group-size: {min(sweep.group_size)} is not accepted; give 1 or more (rloo: 2 or more)")
    if sweep.original_texts < 1 or sweep.original_texts % ORIGINAL_GROUP_SIZE:
        raise UserError(
            f"--original-texts: {sweep.original_texts} is not accepted; give {ORIGINAL_GROUP_SIZE} or a multiple of it"
        )
    for field in ("max_generations", "checkpoint_every"):
        value = getattr(sweep, field)
        flag = "--" + field.replace("_", "-")
        if value < 1:
            raise UserError(f"{flag}: {value} is not accepted; give a positive multiple of the group size")
        for name, asked in itertools.product(sweep.algorithm, sweep.group_size or (None,)):
            size = _group_size(asked, name)
            if value % size:
                raise UserError(
                    f"{flag}: {value} is no multiple of the group size {size} of {name}; "
                    f"give {math.ceil(value / size) * size}"
                )
