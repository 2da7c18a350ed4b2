"""What a sweep is: the user's request, the study's presets, and the trials they come to. No Ray, no torch."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from rl_alliteration.advantages import get_algorithm
from rl_alliteration.analysis.stopping import COLLAPSE, PLATEAU
from rl_alliteration.config import (
    ORIGINAL_GENERATIONS,
    SHIPPED_MODELS,
    STUDY_MAX_LENGTH,
    STUDY_PROMPT,
    STUDY_TOP_K,
    TrialConfig,
    check_experiment_name,
)
from rl_alliteration.errors import UserError
from rl_alliteration.kl_control import INITIAL_BETA
from rl_alliteration.results.writer import PlannedTrial
from rl_alliteration.rewards import get_reward

if TYPE_CHECKING:
    from rl_alliteration.language_model import LoadedModel

MAX_GENERATIONS = 3600
CHECKPOINT_EVERY = 600
_ORIGINAL_CHECKPOINT_EVERY = 500
STUDY_LEARNING_RATE = 1e-4
DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Common:
    """What sweeps and searches have in common."""

    storage: str
    """Folder that the results go to; made if it is not there."""
    preset: str | None = None
    """An experiment of the study, or `quickstart`; other flags change it."""
    experiment: str | None = None
    """Name of the experiment, [a-z][a-z0-9_-]{0,63}. Default: the preset's."""
    reward: str | None = None
    """`alliteration` (the default), `a_words`, `rare_alliteration`, `phonetic_alliteration`, each also with
    `_per_100_words` after it; MODULE:FUNCTION of your own; or a weighted sum: 'alliteration + 0.5*mine:rhymes'."""
    model: str = "storyteller"
    """A shipped one, `storyteller` or `storyteller-2`; a hub id such as roneneldan/TinyStories-33M; or a folder."""
    tokenizer: str | None = None
    """Hub id or folder of another tokenizer than the model's own."""
    revision: str | None = None
    """Revision of a hub model."""
    max_generations: int | None = None
    """Texts per trial, a multiple of the group size. Default: 3600."""
    prompt: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """What every text begins with; given several times, each group has one of them, drawn by the seed.
    Default: "Once upon a time"."""
    prompts: str | None = None
    """A text file of prompts, one a line, instead of --prompt."""
    max_length: int = STUDY_MAX_LENGTH
    """Most tokens of a text, the prompt's included."""
    temperature: float = 1.0
    """Sampling temperature."""
    top_k: int | None = None
    """Sample among the k likeliest tokens; 0, the default: the full distribution."""
    as_published: bool = False
    """Sample with top_k 50, as the study's own code did through its library's default."""
    checkpoint_every: int | None = None
    """Generations per Parquet part and checkpoint, a multiple of the group size. Default: 600."""
    gpus_per_trial: str = "auto"
    """`auto`: 1 where there are GPUs, else 0; or a number, such as 0.25."""
    cpus_per_trial: int = 1
    """CPU cores, and threads, per trial."""
    dtype: str = "float32"
    """Precision of sampling and scoring: float32, bfloat16, or `auto`: bfloat16 where the hardware computes it.
    Weights and updates are float32 always."""
    address: str | None = None
    """Ray cluster to use (`auto`, or host:port). Default: $RAY_ADDRESS, else a Ray of its own on this machine."""
    keep_checkpoints: str = "2"
    """How many of the newest checkpoints a trial keeps beside those of a run's end; or `all`."""
    max_failures: int = 3
    """How often a trial is started again after its process or node was lost."""


@dataclasses.dataclass(frozen=True)
class Sweep(Common):
    """Run a sweep: one trial for each algorithm, beta and seed, and the original model beside them."""

    algorithm: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """`rloo`, `reinforce`, `reinforce_baseline`, `grpo`, `dr_grpo`. Default: rloo."""
    beta: Annotated[tuple[float, ...], tyro.conf.arg(metavar="FLOAT ...")] = ()
    """KL coefficients, 0 or more."""
    target_kl: Annotated[tuple[float, ...], tyro.conf.arg(metavar="FLOAT ...")] = ()
    """Instead of a fixed beta: mean KL divergences, nats a token, that a controller steers to; beta is then where the
    coefficient begins. Default of that: 60."""
    seed: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...")] = ()
    """Seeds. Default: 0."""
    learning_rate: float | None = None
    """Of plain SGD. Default: what suits the model (storyteller: 1e-3, storyteller-2: 5e-4; else the study's 1e-4)."""
    group_size: int | None = None
    """Texts per update of algorithms that compare texts. Default: 10. REINFORCE has 1."""
    stop_on_collapse: bool = False
    """Stop a trial whose texts have lost a third of their variety, and keep all of its checkpoints. Without the flag
    the same command continues it."""
    stop_on_plateau: bool = False
    """Stop a trial whose reward has risen and rises no more. Without the flag the same command continues it."""
    retry_failed: bool = False
    """Run trials again that diverged in an earlier run."""
    recompute: bool = False
    """Extend a finished trial from an older checkpoint if the one at its end is gone."""
    dry_run: bool = False
    """List the trials, texts and disk space, and stop."""


@dataclasses.dataclass(frozen=True)
class Preset:
    """An experiment with its values; the `storyteller_` ones serve a shipped model where it needs others."""

    algorithm: tuple[str, ...]
    beta: tuple[float, ...]
    seed: tuple[int, ...] = (0,)
    reward: str = "alliteration"
    max_generations: int = MAX_GENERATIONS
    storyteller_max_generations: int | None = None
    """Of every shipped model."""
    storyteller_learning_rate: float | None = None
    """Of `storyteller` itself."""
    checkpoint_every: int = CHECKPOINT_EVERY


STUDY_SEEDS = (100, 101, 102, 103, 104)
"""Of the study's one reported run; lengths and learning rates were chosen on seeds 0 to 4."""

PRESETS: dict[str, Preset] = {
    "quickstart": Preset(
        ("rloo", "reinforce"), (0.0, 100.0), max_generations=1200,
        storyteller_learning_rate=1.5e-3, checkpoint_every=200,
    ),
    "reinforce_vs_rloo": Preset(
        ("reinforce", "rloo"), (0.0,), (0, 1), "a_words",
        max_generations=1000, storyteller_max_generations=2500, checkpoint_every=500,
    ),
    "no_kl": Preset(("rloo",), (0.0,), max_generations=1800),
    "beta_coarse": Preset(("rloo",), (0.0, 0.01, 0.1, 1.0, 10.0, 100.0)),
    "beta_fine": Preset(("rloo",), (20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0)),
    "beta_extended": Preset(("rloo",), (40.0,), max_generations=8000),
    "study_a_words": Preset(
        ("reinforce", "rloo"), (0.0,), STUDY_SEEDS, "a_words",
        max_generations=1200, storyteller_max_generations=3000, checkpoint_every=500,
    ),
    "study_betas": Preset(
        ("rloo",), (0.0, 0.01, 0.1, 1.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 100.0), STUDY_SEEDS,
        storyteller_max_generations=2700, checkpoint_every=900,
    ),
}  # fmt: skip

# Measured for the shipped models; the study's own rate serves TinyStories-33M.
_LEARNING_RATES: Mapping[str, float] = {"storyteller": 1e-3, "storyteller-2": 5e-4}
_REWARD_LEARNING_RATES: Mapping[tuple[str, str], float] = {
    ("storyteller", "a_words"): 3e-4,
    ("storyteller-2", "a_words"): 1.5e-4,
}


def resolve(sweep: Sweep) -> Sweep:
    """Fill in what was not said: from the preset, then the defaults. Checks all that needs no model.

    Raises:
        UserError: a field is outside of what it accepts.
    """
    preset = Preset(("rloo",), (), checkpoint_every=CHECKPOINT_EVERY)
    if sweep.preset is not None:
        if sweep.preset not in PRESETS:
            raise UserError(f"--preset: {sweep.preset!r} is unknown; choose one of {', '.join(PRESETS)}")
        preset = PRESETS[sweep.preset]
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
        algorithm=_unique(sweep.algorithm or preset.algorithm),
        beta=_unique(betas),
        target_kl=_unique(sweep.target_kl),
        seed=_unique(sweep.seed or preset.seed),
        reward=reward,
        max_generations=sweep.max_generations if sweep.max_generations is not None else length,
        learning_rate=sweep.learning_rate if sweep.learning_rate is not None else rate,
        top_k=STUDY_TOP_K if sweep.as_published else sweep.top_k or 0,
        checkpoint_every=sweep.checkpoint_every if sweep.checkpoint_every is not None else preset.checkpoint_every,
    )
    if resolved.dtype not in (*DTYPES, "auto"):
        raise UserError(f"--dtype: {resolved.dtype!r} is not accepted; give float32, bfloat16 or auto")
    _check_counts(resolved)
    _trials(resolved, weights="", tokenizer="")  # each TrialConfig checks its own fields
    return resolved


def plan(sweep: Sweep, loaded: LoadedModel) -> list[PlannedTrial]:
    """The trials of a resolved sweep, the original last.

    Raises:
        UserError: prompt and length do not fit the model.
    """
    prompt_length = max(len(loaded.encode(prompt)) for prompt in sweep.prompt)
    if sweep.max_length <= prompt_length:
        raise UserError(
            f"--max-length: {sweep.max_length} leaves nothing to sample after a prompt of {prompt_length} tokens; "
            f"give at least {prompt_length + 1}"
        )
    if loaded.context is not None and sweep.max_length > loaded.context:
        raise UserError(
            f"--max-length: {sweep.max_length} is beyond what the model can read; give at most {loaded.context}"
        )
    if sweep.dtype == "auto":
        sweep = dataclasses.replace(sweep, dtype=loaded.fastest_dtype(gpu=bool(gpus_asked(sweep))))
    return _trials(sweep, loaded.weights_fingerprint, loaded.tokenizer_fingerprint)


def gpus_asked(sweep: Sweep) -> float | None:
    """GPUs per trial; None for `auto`.

    Raises:
        UserError: neither `auto` nor a number that Ray can share out.
    """
    if sweep.gpus_per_trial == "auto":
        return None
    try:
        gpus = float(sweep.gpus_per_trial)
    except ValueError:
        gpus = math.nan
    if not (math.isfinite(gpus) and gpus >= 0 and (gpus <= 1 or gpus.is_integer())):
        raise UserError(
            f"--gpus-per-trial: {sweep.gpus_per_trial!r} is not accepted; "
            "give auto, a share of a GPU such as 0.25, or a whole number"
        )
    return gpus


def checkpoints_kept(sweep: Sweep) -> int | None:
    """How many checkpoints to keep; None for all.

    Raises:
        UserError: neither `all` nor a number.
    """
    if sweep.keep_checkpoints == "all":
        return None
    if not sweep.keep_checkpoints.isdecimal() or int(sweep.keep_checkpoints) < 1:
        raise UserError(f"--keep-checkpoints: {sweep.keep_checkpoints!r} is not accepted; give all, or 1 or more")
    return None if sweep.stop_on_collapse else int(sweep.keep_checkpoints)


def stop_reasons(sweep: Sweep) -> tuple[str, ...]:
    """For what a trial is stopped before its end: the reasons of `analysis.stopping.Watch`."""
    return (COLLAPSE,) * sweep.stop_on_collapse + (PLATEAU,) * sweep.stop_on_plateau


def _trials(sweep: Sweep, weights: str, tokenizer: str) -> list[PlannedTrial]:
    assert sweep.max_generations and sweep.checkpoint_every and sweep.learning_rate is not None
    assert sweep.reward is not None and sweep.top_k is not None
    trials = []
    for name, target, beta, seed in itertools.product(
        sweep.algorithm, sweep.target_kl or (None,), sweep.beta, sweep.seed
    ):
        config = TrialConfig(
            algorithm=name,
            beta=beta,
            target_kl=target,
            seed=seed,
            learning_rate=sweep.learning_rate,
            group_size=_group_size(sweep, name),
            reward=sweep.reward,
            reward_version=get_reward(sweep.reward).version,
            prompt=sweep.prompt[0],
            more_prompts=sweep.prompt[1:],
            max_length=sweep.max_length,
            temperature=sweep.temperature,
            top_k=sweep.top_k,
            weights=weights,
            tokenizer=tokenizer,
            dtype=sweep.dtype,
            threads=sweep.cpus_per_trial,
        )
        trials.append(PlannedTrial(config, sweep.model, sweep.max_generations, sweep.checkpoint_every))
    original = trials[0].config.original()
    return [
        *trials,
        PlannedTrial(original, sweep.model, ORIGINAL_GENERATIONS, _ORIGINAL_CHECKPOINT_EVERY),
    ]


def _absolute(source: str) -> str:
    """A model's name, or its folder as trials find it: they have a working directory of their own."""
    path = Path(source).expanduser()
    return str(path.resolve()) if source not in SHIPPED_MODELS and path.is_dir() else source


def prompts_of(sweep: Sweep) -> tuple[str, ...]:
    """The prompts, of the flags or the file, once each, in the order given.

    Raises:
        UserError: the file cannot be read or is empty, or there are both.
    """
    if sweep.prompts is None:
        return _unique(sweep.prompt) or (STUDY_PROMPT,)
    if sweep.prompt:
        raise UserError("--prompts: give either the file or --prompt, not both")
    try:
        lines = Path(sweep.prompts).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"--prompts: {sweep.prompts!r} cannot be read as a UTF-8 text file ({error})") from error
    prompts = _unique(tuple(line.strip() for line in lines if line.strip()))
    if not prompts:
        raise UserError(f"--prompts: {sweep.prompts!r} has no prompt in it; give one a line")
    return prompts


def _group_size(sweep: Sweep, name: str) -> int:
    """REINFORCE takes its one text; algorithms that compare texts take the flag."""
    algorithm = get_algorithm(name)
    if sweep.group_size is None or algorithm.group_size == 1:
        return algorithm.group_size
    if sweep.group_size < algorithm.least_group_size:
        raise UserError(
            f"--group-size: {sweep.group_size} is too few for {name}, which compares the texts of a group; "
            f"give {algorithm.least_group_size} or more"
        )
    return sweep.group_size


def _check_counts(sweep: Sweep) -> None:
    gpus_asked(sweep)
    checkpoints_kept(sweep)
    if sweep.max_failures < 0:
        raise UserError(f"--max-failures: {sweep.max_failures} is not accepted; give 0 or more")
    if sweep.group_size is not None and sweep.group_size < 1:
        raise UserError(f"--group-size: {sweep.group_size} is not accepted; give 1 or more (rloo: 2 or more)")
    for field in ("max_generations", "checkpoint_every"):
        value = getattr(sweep, field)
        flag = "--" + field.replace("_", "-")
        if value < 1:
            raise UserError(f"{flag}: {value} is not accepted; give a positive multiple of the group size")
        for name in sweep.algorithm:
            size = _group_size(sweep, name)
            if value % size:
                raise UserError(
                    f"{flag}: {value} is no multiple of the group size {size} of {name}; "
                    f"give {math.ceil(value / size) * size}"
                )


def _unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values once each, in the order given."""
    return tuple(dict.fromkeys(values))
