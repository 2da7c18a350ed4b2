"""What a search does next: what Optuna proposes, from what is in the results.

No Ray, no torch. The history of a search is its results: nothing else is kept, and nothing is ever unpickled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from rl_alliteration.analysis.objective import Objective
from rl_alliteration.analysis.rules import Limits
from rl_alliteration.analysis.stopping import COLLAPSE, HALVING, SPENT
from rl_alliteration.config import ORIGINAL, PlannedTrial, TrialConfig, UpdateSettings
from rl_alliteration.foreign import Damaged
from rl_alliteration.results import schema
from rl_alliteration.results.parts import read_part
from rl_alliteration.results.reader import connect, parts_by_trial
from rl_alliteration.results.storage import Storage
from rl_alliteration.setting import values_of
from rl_alliteration.tune.search import FIRST_RUNG, LEAST, Choice, Search, Space, space_of

if TYPE_CHECKING:
    import optuna

STOPPED_FOR_GOOD = (COLLAPSE, HALVING, SPENT)
REDUCTION = 2
"""One in so many goes on at each rung."""
STARTUP = 8
"""Trials drawn at random before Optuna's TPE sampler models the others."""
_TRIES = 100


@dataclasses.dataclass(frozen=True)
class Past:
    """A trial of an earlier run."""

    trial: PlannedTrial
    choice: Choice
    best: Sequence[float]
    """Of `Objective`."""
    generations: int
    ended: bool
    """Whether it is not to be continued."""
    failed: bool
    halved: bool


def history(
    storage: Storage, search: Search, planned: Callable[[Choice, int], PlannedTrial], limits: Limits
) -> list[Past]:
    """The trials that are there and could have been proposed by this search, in the order in which they began."""
    rows = (
        connect(storage)
        .execute(
            """
            SELECT t.trial_id, t.algorithm, t.beta, t.learning_rate, t.group_size, t.config, t.max_generations,
                   t.status, t.reason
            FROM trials t JOIN (SELECT trial_id, min(written_at) AS began FROM trial_events
                                WHERE experiment = $1 GROUP BY trial_id) e USING (trial_id)
            WHERE t.experiment = $1 AND t.algorithm <> $2 ORDER BY e.began, t.trial_id
            """,
            [search.experiment, ORIGINAL],
        )
        .fetchall()
    )
    space = space_of(search)
    parts = parts_by_trial(storage, search.experiment)
    found = []
    for trial_id, algorithm, beta, rate, size, config, length, status, reason in rows:
        try:
            update = values_of(UpdateSettings, TrialConfig.from_json(config, trial_id))
        except Damaged:  # or of a newer version: none that this search could have proposed
            continue
        choice = Choice(algorithm, beta, rate, size, **update)
        if not space.holds(choice):
            continue
        trial = planned(choice, length)
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
        found.append(Past(trial, choice, objective.best, generations, ended, failed, reason == HALVING))
    return found


class Proposals:
    """Asks Optuna for points and tells it what became of them.

    One objective, since the bounds on variety and sense are within it (`Objective`). Stopping is Optuna's
    asynchronous successive halving over windows (arXiv 1810.05934).
    """

    def __init__(
        self,
        space: Space,
        planned: Callable[[Choice, int], PlannedTrial],
        *,
        seed: int,
        trials: int,
        max_generations: int,
        max_texts: int | None,
        past: Iterable[Past] = (),
    ) -> None:
        """`past`: Optuna learns of those that ended; the others are proposed first."""
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
        self._reported: dict[str, int] = {}
        """Windows that Optuna knows of."""
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
            f"{self.texts:,} of {self._max_texts:,} texts are there, and a new trial needs {self._least:,}; "
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
            choice = self._space.suggested(asked)
            length -= length % choice.group_size
            trial = self._planned(choice, length)
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
        for window in range(self._reported[trial_id], len(best)):
            asked.report(best[window], window + 1)
            lagging = asked.should_prune() or lagging
        self._reported[trial_id] = max(self._reported[trial_id], len(best))
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
        self._asked[trial_id], self._reported[trial_id], self._texts[trial_id] = asked, 0, texts

    def _recall(self, past: Past) -> None:
        """As if it had been proposed just now."""
        self._study.enqueue_trial(self._space.parameters(past.choice))
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
