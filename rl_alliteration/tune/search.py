"""What a search is: the request, its presets, and the trials that a choice comes to. No Ray, no torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from rl_alliteration.analysis.rules import KEEP_VARIETY, SENSE_NATS, check_limits
from rl_alliteration.analysis.types import WINDOW
from rl_alliteration.errors import UserError
from rl_alliteration.flags import UpdateSettings
from rl_alliteration.rl.advantages import get_algorithm
from rl_alliteration.rl.update import UpdateRule
from rl_alliteration.tune.axes import UPDATE, SeveralUpdates, update_values, updates
from rl_alliteration.tune.plan import ALGORITHM_HELP, Common, Sweep, resolve

if TYPE_CHECKING:
    import optuna

DIGITS = 4
"""Significant digits of a proposed number: what a person can type again."""
FIRST_RUNG = 18
"""Windows after which a trial is compared for the first time; then after twice as many. Not earlier: small betas lead
at first, and lose variety and sense before others have risen."""
LEAST = FIRST_RUNG * WINDOW
"""Texts that must be left for a new trial to begin, if its own length is not less."""
GREATEST = 1e6
"""Of a range's ends."""
MOST_SEEDS = 100


@dataclasses.dataclass(frozen=True)
class Search(Common):
    """Search for the most alliteration that keeps variety and sense: Optuna proposes, halving stops what lags behind.

    The same command goes on with what is there, up to --trials in all. Where a setting of the update is given several
    values, it is chosen among them.
    """

    preset: str | None = None
    """`frontier`; other flags change it."""
    algorithm: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help=f"To choose among: {ALGORITHM_HELP}")
    ] = ()
    beta: Annotated[tuple[float, ...], tyro.conf.arg(metavar="LOW HIGH")] = ()
    """KL coefficients to choose from, on a logarithmic scale."""
    learning_rate: Annotated[tuple[float, ...], tyro.conf.arg(metavar="LOW HIGH")] = ()
    """Learning rates to choose from, on a logarithmic scale. Default: what suits the model, and no other."""
    group_size: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...")] = ()
    """Texts per update to choose among, where an algorithm compares texts. Default: 10."""
    seed: int = 0
    """Of all trials, and of the proposals."""
    seeds: int = 1
    """How many seeds a setting is judged by, by the mean of them: --seed and those after it, each a trial. They are the
    same for all settings."""
    trials: int | None = None
    """How many in all, those of earlier runs among them; a multiple of --seeds. Default: 24, or the next."""
    max_texts: int | None = None
    """How many texts all trials together may have, the original's aside. Default: as many as they take."""
    keep_variety: float = KEEP_VARIETY
    """Share of the original's variety that a window must keep to count, 0 to 1."""
    keep_sense: float = SENSE_NATS
    """Most nats by which its cross-entropy under the original model may differ from that of the original's own
    texts."""


@dataclasses.dataclass(frozen=True)
class SearchPreset:
    """A search with its values."""

    algorithm: tuple[str, ...]
    beta: tuple[float, float]
    rates: tuple[float, float]
    """Learning rates, as multiples of the one that suits the model."""
    group_size: tuple[int, ...]
    trials: int
    max_generations: int
    max_texts: int


PRESETS = {
    # At most the texts of the grid of `beta_fine`.
    "frontier": SearchPreset(("rloo",), (20.0, 60.0), (0.7, 2.0), (10, 20, 40), 32, 3600, 28_800),
}


@dataclasses.dataclass(frozen=True)
class Choice(UpdateSettings):
    """What a search chooses for a trial."""

    algorithm: str
    beta: float
    learning_rate: float
    group_size: int
    """The algorithm's own where it has one."""


@dataclasses.dataclass(frozen=True)
class Space(SeveralUpdates):  # type: ignore[misc]
    """What there is to choose from."""

    algorithm: tuple[str, ...]
    beta: tuple[float, float]
    learning_rate: tuple[float, float]
    group_size: tuple[int, ...]

    def suggested(self, trial: optuna.Trial) -> Choice:
        """Optuna's choice."""
        name = trial.suggest_categorical("algorithm", self.algorithm)
        own = get_algorithm(name).group_size
        return Choice(
            algorithm=name,
            beta=_rounded(trial.suggest_float("beta", *self.beta, log=True)),
            learning_rate=_rounded(trial.suggest_float("learning_rate", *self.learning_rate, log=True)),
            group_size=own if own == 1 else trial.suggest_categorical("group_size", self.group_size),
            **{
                name: values[0] if len(values) == 1 else trial.suggest_categorical(name, values)
                for name, values in update_values(self).items()
            },
        )

    def parameters(self, choice: Choice) -> dict[str, Any]:
        """What `suggested` asks Optuna for when it makes this choice."""
        fixed = {name for name, values in update_values(self).items() if len(values) == 1}
        if get_algorithm(choice.algorithm).group_size == 1:
            fixed.add("group_size")
        return {name: value for name, value in dataclasses.asdict(choice).items() if name not in fixed}

    def holds(self, choice: Choice) -> bool:
        """Whether `choice` could be chosen."""
        own = get_algorithm(choice.algorithm).group_size if choice.algorithm in self.algorithm else 0
        return (
            choice.algorithm in self.algorithm
            and self.beta[0] <= choice.beta <= self.beta[1]
            and self.learning_rate[0] <= choice.learning_rate <= self.learning_rate[1]
            and choice.group_size in ((1,) if own == 1 else self.group_size)
            and all(getattr(choice, name) in values for name, values in update_values(self).items())
        )


def resolve_search(search: Search) -> Search:
    """Fill in what was not said: from the preset, then the defaults. Checks all that needs no model.

    Raises:
        UserError: a field is outside of what it accepts.
    """
    if search.preset is not None and search.preset not in PRESETS:
        raise UserError(f"--preset: {search.preset!r} is unknown; choose one of {', '.join(PRESETS)}")
    preset = PRESETS.get(search.preset or "")
    algorithms = search.algorithm or (preset.algorithm if preset else ("rloo",))
    beta = search.beta or (preset.beta if preset else ())
    if len(beta) != 2 or not 0 < _rounded(beta[0]) <= _rounded(beta[1]) <= GREATEST:
        raise UserError(
            f"--beta: {_spelled(beta)} is not accepted; "
            f"give two numbers above 0, {GREATEST:,.0f} at most, the lower first"
        )
    length = search.max_generations
    if length is None:
        length = preset.max_generations if preset else 3600
    if not 1 <= search.seeds <= MOST_SEEDS:
        raise UserError(f"--seeds: {search.seeds} is not accepted; give 1 to {MOST_SEEDS}")
    common = {field.name: getattr(search, field.name) for field in dataclasses.fields(Common)}
    common |= {"preset": None, "experiment": search.experiment or search.preset, "max_generations": length}
    sizes = search.group_size or (preset.group_size if preset else (10,))
    sweep = resolve(  # checks what a search has in common with a sweep, of each range the ends
        Sweep(
            **common, algorithm=algorithms, beta=beta, seed=seeds_of(search), learning_rate=search.learning_rate,
            group_size=sizes,
        )
    )  # fmt: skip
    rate = sweep.learning_rate[0]
    low, high = preset.rates if preset and search.learning_rate == () else (1.0, 1.0)
    rates = search.learning_rate or (_rounded(low * rate), _rounded(high * rate))
    if len(rates) != 2 or not 0 < _rounded(rates[0]) <= _rounded(rates[1]) <= GREATEST:
        raise UserError(
            f"--learning-rate: {_spelled(rates)} is not accepted; "
            f"give two numbers above 0, {GREATEST:,.0f} at most, the lower first"
        )
    for flag, value, least in (
        ("trials", search.trials, 1),
        ("max-texts", search.max_texts, search.seeds * min(LEAST, length)),
        ("original-texts", search.original_texts, WINDOW),  # its limits are those of a window of the original
    ):
        if value is not None and value < least:
            raise UserError(f"--{flag}: {value} is not accepted; give {least} or more")
    trials = search.trials or _multiple(preset.trials if preset else 24, search.seeds)
    if trials % search.seeds:
        raise UserError(
            f"--trials: {trials} is no multiple of --seeds {search.seeds}; give {_multiple(trials, search.seeds)}"
        )
    if length % WINDOW:
        raise UserError(
            f"--max-generations: {length} is no multiple of {WINDOW}, the texts of a window; "
            f"give {_multiple(length, WINDOW)}"
        )
    if search.max_texts or preset:  # what is left of them may make a trial shorter
        for update in updates(sweep):
            UpdateRule(**update, schedule_length=min(LEAST, length))
    check_limits(search.keep_variety, search.keep_sense)
    resolved = {name: getattr(sweep, name) for name in common if name != "preset"}
    return dataclasses.replace(
        search,
        **resolved | {"as_published": False},  # its top_k is there
        algorithm=sweep.algorithm,
        beta=(_rounded(beta[0]), _rounded(beta[1])),
        learning_rate=(_rounded(rates[0]), _rounded(rates[1])),
        group_size=tuple(dict.fromkeys(sizes)),
        trials=trials,
        max_texts=search.max_texts or (preset.max_texts if preset else None),
    )


def seeds_of(search: Search) -> tuple[int, ...]:
    """The seeds that judge a setting."""
    return tuple(range(search.seed, search.seed + search.seeds))


def sweep_of(search: Search, choice: Choice | None = None, length: int | None = None, seed: int | None = None) -> Sweep:
    """A choice of a resolved search as a sweep of one trial; without one, the sweep that the original belongs to.

    Args:
        length: of the trial; default: the search's.
        seed: of the trial; default: the first.
    """
    common = {field.name: getattr(search, field.name) for field in dataclasses.fields(Common)}
    if choice is None:
        first = {name: values[0] for name, values in update_values(search).items()}
        choice = Choice(search.algorithm[0], search.beta[0], search.learning_rate[0], search.group_size[0], **first)
    common |= {name: getattr(choice, name) for name in UPDATE}
    return resolve(
        Sweep(
            **{**common, "preset": None, "max_generations": length or search.max_generations},
            algorithm=(choice.algorithm,),
            beta=(choice.beta,),
            seed=(search.seed if seed is None else seed,),
            learning_rate=(choice.learning_rate,),
            group_size=(choice.group_size,),
        )
    )


def space_of(search: Search) -> Space:
    """The space of a resolved search."""
    (low, high), (slow, fast) = search.beta, search.learning_rate
    return Space(search.algorithm, (low, high), (slow, fast), search.group_size, **update_values(search))


def _multiple(number: int, of: int) -> int:
    """The next one."""
    return math.ceil(number / of) * of


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _spelled(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values) or "nothing"
