"""Search for the trial that alliterates most within bounds: the request, its presets, and what Optuna proposes.

No Ray, no torch. The history of a search is its results: nothing else is kept, and nothing is ever unpickled.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from rl_alliteration.advantages import get_algorithm
from rl_alliteration.analysis.frontier import KEEP_VARIETY, check_limits
from rl_alliteration.analysis.objective import SPENT, Limits, Objective
from rl_alliteration.analysis.stopping import COLLAPSE
from rl_alliteration.analysis.windows import SENSE_NATS, WINDOW
from rl_alliteration.errors import UserError
from rl_alliteration.results import schema
from rl_alliteration.results.reader import connect, parts_by_trial
from rl_alliteration.results.storage import Storage
from rl_alliteration.results.writer import PlannedTrial, read_part
from rl_alliteration.tune.plan import Common, Sweep, resolve

if TYPE_CHECKING:
    import optuna

HALVING = "halving"
"""Why a trial was stopped: others that had come as far had better windows."""
STOPPED_FOR_GOOD = (COLLAPSE, HALVING, SPENT)
DIGITS = 4
"""Significant digits of a proposed number: what a person can type again."""
FIRST_RUNG = 18
"""Windows after which a trial is compared for the first time; then after twice as many. Not earlier: small betas lead
at first, and lose variety and sense before others have risen."""
REDUCTION = 2
"""One in so many goes on at each rung."""
STARTUP = 8
"""Trials drawn at random before Optuna's TPE sampler models the others."""
LEAST = FIRST_RUNG * WINDOW
"""Texts that must be left for a new trial to begin, if its own length is not less."""
GREATEST = 1e6
"""Of a range's ends."""
_TRIES = 100


@dataclasses.dataclass(frozen=True)
class Search(Common):
    """Search for the most alliteration that keeps variety and sense: Optuna proposes, halving stops what lags behind.

    The same command goes on with what is there, up to --trials in all.
    """

    preset: str | None = None
    """`frontier`; other flags change it."""
    algorithm: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """To choose among: `rloo`, `reinforce`, `reinforce_baseline`, `grpo`, `dr_grpo`. Default: rloo."""
    beta: Annotated[tuple[float, ...], tyro.conf.arg(metavar="LOW HIGH")] = ()
    """KL coefficients to choose from, on a logarithmic scale."""
    learning_rate: Annotated[tuple[float, ...], tyro.conf.arg(metavar="LOW HIGH")] = ()
    """Learning rates to choose from, on a logarithmic scale. Default: what suits the model, and no other."""
    group_size: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...")] = ()
    """Texts per update to choose among, where an algorithm compares texts. Default: 10."""
    seed: int = 0
    """Of all trials, and of the proposals."""
    trials: int | None = None
    """How many in all, those of earlier runs among them. Default: 24."""
    max_texts: int | None = None
    """How many texts all trials together may have, the original's aside. Default: as many as they take."""
    keep_variety: float = KEEP_VARIETY
    """Share of the original's variety that a window must keep to count, 0 to 1."""
    keep_sense: float = SENSE_NATS
    """Nats that its cross-entropy under the original model may be off."""


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
class Point:
    """What a search chooses for a trial."""

    algorithm: str
    beta: float
    learning_rate: float
    group_size: int
    """The algorithm's own where it has one."""


@dataclasses.dataclass(frozen=True)
class Space:
    """What there is to choose from."""

    algorithm: tuple[str, ...]
    beta: tuple[float, float]
    learning_rate: tuple[float, float]
    group_size: tuple[int, ...]

    def suggested(self, trial: optuna.Trial) -> Point:
        """Optuna's choice."""
        name = trial.suggest_categorical("algorithm", self.algorithm)
        own = get_algorithm(name).group_size
        return Point(
            algorithm=name,
            beta=_rounded(trial.suggest_float("beta", *self.beta, log=True)),
            learning_rate=_rounded(trial.suggest_float("learning_rate", *self.learning_rate, log=True)),
            group_size=own if own == 1 else trial.suggest_categorical("group_size", self.group_size),
        )

    def holds(self, point: Point) -> bool:
        """Whether `point` could be chosen."""
        own = get_algorithm(point.algorithm).group_size if point.algorithm in self.algorithm else 0
        return (
            point.algorithm in self.algorithm
            and self.beta[0] <= point.beta <= self.beta[1]
            and self.learning_rate[0] <= point.learning_rate <= self.learning_rate[1]
            and point.group_size in ((1,) if own == 1 else self.group_size)
        )


@dataclasses.dataclass(frozen=True)
class Past:
    """A trial of an earlier run."""

    trial: PlannedTrial
    point: Point
    best: Sequence[float]
    """Of `Objective`."""
    generations: int
    ended: bool
    """Whether it is not to be continued."""
    failed: bool
    halved: bool


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
            f"--beta: {_told(beta)} is not accepted; give two numbers above 0, {GREATEST:,.0f} at most, the lower first"
        )
    length = search.max_generations
    if length is None:
        length = preset.max_generations if preset else 3600
    common = {field.name: getattr(search, field.name) for field in dataclasses.fields(Common)}
    common |= {"preset": None, "experiment": search.experiment or search.preset, "max_generations": length}
    sizes = search.group_size or (preset.group_size if preset else (10,))
    sweeps = [  # `resolve` checks what a search has in common with a sweep, for each size and the ends of each range
        resolve(Sweep(**common, algorithm=algorithms, beta=beta, seed=(search.seed,), learning_rate=rate, group_size=n))
        for n in sizes
        for rate in (search.learning_rate or (None,))
    ]
    rate = sweeps[0].learning_rate
    assert rate is not None and sweeps[0].experiment is not None
    low, high = preset.rates if preset and search.learning_rate == () else (1.0, 1.0)
    rates = search.learning_rate or (_rounded(low * rate), _rounded(high * rate))
    if len(rates) != 2 or not 0 < _rounded(rates[0]) <= _rounded(rates[1]) <= GREATEST:
        raise UserError(
            f"--learning-rate: {_told(rates)} is not accepted; "
            f"give two numbers above 0, {GREATEST:,.0f} at most, the lower first"
        )
    for flag, value, least in (("trials", search.trials, 1), ("max-texts", search.max_texts, min(LEAST, length))):
        if value is not None and value < least:
            raise UserError(f"--{flag}: {value} is not accepted; give {least} or more")
    if length % WINDOW:
        raise UserError(
            f"--max-generations: {length} is no multiple of {WINDOW}, the texts of a window; "
            f"give {math.ceil(length / WINDOW) * WINDOW}"
        )
    check_limits(search.keep_variety, search.keep_sense)
    return dataclasses.replace(
        search,
        experiment=sweeps[0].experiment,
        prompt=sweeps[0].prompt,
        prompts=None,
        reward=sweeps[0].reward,
        top_k=sweeps[0].top_k,
        checkpoint_every=sweeps[0].checkpoint_every,
        max_generations=length,
        algorithm=sweeps[0].algorithm,
        beta=(_rounded(beta[0]), _rounded(beta[1])),
        learning_rate=(_rounded(rates[0]), _rounded(rates[1])),
        group_size=tuple(dict.fromkeys(sizes)),
        trials=search.trials or (preset.trials if preset else 24),
        max_texts=search.max_texts or (preset.max_texts if preset else None),
    )


def sweep_of(search: Search, point: Point | None = None, length: int | None = None) -> Sweep:
    """A point of a resolved search as a sweep of one trial; without one, the sweep that the original belongs to."""
    common = {field.name: getattr(search, field.name) for field in dataclasses.fields(Common)}
    point = point or Point(search.algorithm[0], search.beta[0], search.learning_rate[0], search.group_size[0])
    return resolve(
        Sweep(
            **{**common, "preset": None, "as_published": False, "max_generations": length or search.max_generations},
            algorithm=(point.algorithm,),
            beta=(point.beta,),
            seed=(search.seed,),
            learning_rate=point.learning_rate,
            group_size=point.group_size,
        )
    )


def history(
    storage: Storage, search: Search, planned: Callable[[Point, int], PlannedTrial], limits: Limits
) -> list[Past]:
    """The trials that are there and could have been proposed by this search, in the order in which they began."""
    rows = (
        connect(storage)
        .execute(
            """
            SELECT t.trial_id, t.algorithm, t.beta, t.learning_rate, t.group_size, t.max_generations, t.status, t.reason
            FROM trials t JOIN (SELECT trial_id, min(written_at) AS began FROM trial_events
                                WHERE experiment = $1 GROUP BY trial_id) e USING (trial_id)
            WHERE t.experiment = $1 AND t.algorithm <> 'original' ORDER BY e.began, t.trial_id
            """,
            [search.experiment],
        )
        .fetchall()
    )
    space = space_of(search)
    parts = parts_by_trial(storage, search.experiment)
    found = []
    for trial_id, algorithm, beta, rate, size, length, status, reason in rows:
        point = Point(algorithm, beta, rate, size)
        if not space.holds(point):
            continue
        trial = planned(point, length)
        if trial.trial_id != trial_id:  # of another seed, reward, model …
            continue
        objective = Objective(limits)
        generations = 0
        for path in parts.get((str(search.experiment), trial_id), []):
            part = read_part(storage, path)
            generations += len(part)
            objective.add(part)
        failed = status == schema.FAILED and reason == "diverged"
        # Within other limits than those of then, a trial need not be spent.
        stopped = status == schema.STOPPED and reason in STOPPED_FOR_GOOD and (reason != SPENT or objective.spent)
        ended = failed or status == schema.FINISHED or stopped
        found.append(Past(trial, point, objective.best, generations, ended, failed, reason == HALVING))
    return found


def space_of(search: Search) -> Space:
    """The space of a resolved search."""
    (low, high), (slow, fast) = search.beta, search.learning_rate
    return Space(search.algorithm, (low, high), (slow, fast), search.group_size)


class Proposals:
    """Asks Optuna for points and tells it what became of them.

    One objective, since the bounds on variety and sense are within it (`Objective`). Stopping is Optuna's
    asynchronous successive halving over windows (arXiv 1810.05934).
    """

    def __init__(
        self,
        space: Space,
        planned: Callable[[Point, int], PlannedTrial],
        *,
        seed: int,
        trials: int,
        max_generations: int,
        max_texts: int | None,
        past: Iterable[Past] = (),
    ) -> None:
        """`past`: those that ended are told, the others are proposed first."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._optuna = optuna
        self._space = space
        self._planned = planned
        self._left = trials
        self._length = max_generations
        self._max_texts = max_texts
        self._study = optuna.create_study(
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=seed % 2**32, n_startup_trials=STARTUP, constant_liar=True),
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=FIRST_RUNG, reduction_factor=REDUCTION),
        )
        self._asked: dict[str, optuna.Trial] = {}
        self._told: dict[str, int] = {}
        """Windows that Optuna has been told of."""
        self._scores: dict[str, float] = {}
        """Of trials that ended."""
        self._texts: dict[str, int] = {}
        """Of each trial: what it has if it ended, what it may have if not."""
        self._waiting: list[PlannedTrial] = []
        self._tired = False
        """Whether Optuna proposed nothing new in many tries."""
        for trial in past:
            self._recall(trial)

    @property
    def texts(self) -> int:
        """That all trials have, or may have."""
        return sum(self._texts.values())

    @property
    def over(self) -> bool:
        """Whether there is no next trial, whatever becomes of those that run."""
        return not self._waiting and (self._left <= 0 or self._tired or not (self._asked or self._enough))

    @property
    def why_short(self) -> str:
        """Why a search that is over has fewer trials than asked for; empty if it has not."""
        if self._left <= 0:
            return ""
        if self._tired:
            return f"no other trial was found in this space in {_TRIES} tries; widen a range, or give another --seed"
        assert self._max_texts is not None
        return (
            f"{self.texts:,} of {self._max_texts:,} texts are there, and a new trial wants {self._least:,}; "
            "for more trials raise --max-texts"
        )

    def propose(self) -> PlannedTrial | None:
        """The next trial; None if there is none now: `over` tells whether there may be one later."""
        if self._waiting:
            return self._waiting.pop(0)
        for _ in range(_TRIES):
            if self.over or not self._enough:
                return None
            length = self._room()
            asked = self._study.ask()
            point = self._space.suggested(asked)
            length -= length % point.group_size
            trial = self._planned(point, length)
            if trial.trial_id in self._texts:  # it is there, or runs
                known = self._scores.get(trial.trial_id)
                self._study.tell(asked, known, state=None if known is not None else self._optuna.trial.TrialState.FAIL)
                continue
            self._left -= 1
            self._begin(trial.trial_id, asked, length)
            return trial
        self._tired = True
        return None

    def lags(self, trial_id: str, best: Sequence[float]) -> bool:
        """Tell of a running trial's windows; whether it should be stopped for those that do better."""
        asked = self._asked.get(trial_id)
        if asked is None:
            return False
        lagging = False
        for window in range(self._told[trial_id], len(best)):
            asked.report(best[window], window + 1)
            lagging = asked.should_prune() or lagging
        self._told[trial_id] = max(self._told[trial_id], len(best))
        return lagging

    def end(self, trial_id: str, best: Sequence[float], generations: int, *, failed: bool, halved: bool) -> None:
        """Tell that a trial has ended."""
        asked = self._asked.pop(trial_id, None)
        if asked is None:
            return
        self._texts[trial_id] = generations
        states = self._optuna.trial.TrialState
        if failed or not best:
            self._study.tell(asked, state=states.FAIL)
            return
        self._scores[trial_id] = best[-1]
        if halved:
            self._study.tell(asked, state=states.PRUNED)
        else:
            self._study.tell(asked, best[-1])

    @property
    def _least(self) -> int:
        return min(LEAST, self._length)

    @property
    def _enough(self) -> bool:
        """Whether a new trial may begin; what running ones leave may still come to it."""
        return self._room() >= self._least

    def _room(self) -> int:
        """Texts that the next trial may have."""
        return self._length if self._max_texts is None else min(self._length, self._max_texts - self.texts)

    def _begin(self, trial_id: str, asked: optuna.Trial, texts: int) -> None:
        self._asked[trial_id], self._told[trial_id], self._texts[trial_id] = asked, 0, texts

    def _recall(self, past: Past) -> None:
        """As if it had been proposed just now."""
        parameters: dict[str, Any] = dataclasses.asdict(past.point)
        if get_algorithm(past.point.algorithm).group_size == 1:
            del parameters["group_size"]
        self._study.enqueue_trial(parameters)
        asked = self._study.ask()
        self._space.suggested(asked)
        name = past.trial.trial_id
        self._left -= 1
        self._begin(name, asked, past.trial.max_generations)
        self.lags(name, past.best)  # so that others are compared with it
        if past.ended:
            self.end(name, past.best, past.generations, failed=past.failed, halved=past.halved)
        else:
            self._waiting.append(past.trial)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _told(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values) or "nothing"
