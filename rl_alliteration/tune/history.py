"""What a search has tried: the trials in the results that it could have proposed. Nothing else is kept of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from rl_alliteration.analysis.objective import Objective
from rl_alliteration.analysis.rules import Limits
from rl_alliteration.analysis.stopping import COLLAPSE, HALVING, SPENT
from rl_alliteration.config import ORIGINAL, PlannedTrial, TrialConfig
from rl_alliteration.flags import UpdateSettings
from rl_alliteration.foreign import Damaged
from rl_alliteration.results import schema
from rl_alliteration.results.parts import read_part
from rl_alliteration.results.reader import connect, parts_by_trial
from rl_alliteration.results.storage import Storage
from rl_alliteration.setting import values_of
from rl_alliteration.tune.search import Choice, Search, seeds_of, space_of

STOPPED_FOR_GOOD = (COLLAPSE, HALVING, SPENT)

Plan = Callable[[Choice, int, int], PlannedTrial]
"""A trial of a choice, a length and a seed."""


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


def history(storage: Storage, search: Search, planned: Plan, limits: Limits) -> list[Past]:
    """The trials that are there and could have been proposed by this search, in the order in which they began."""
    rows = (
        connect(storage)
        .execute(
            """
            SELECT t.trial_id, t.algorithm, t.beta, t.learning_rate, t.group_size, t.seed, t.config,
                   t.max_generations, t.status, t.reason
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
    for trial_id, algorithm, beta, rate, size, seed, config, length, status, reason in rows:
        try:
            update = values_of(UpdateSettings, TrialConfig.from_json(config, trial_id))
        except Damaged:  # or of a newer version: none that this search could have proposed
            continue
        choice = Choice(algorithm, beta, rate, size, **update)
        if seed not in seeds_of(search) or not space.holds(choice):
            continue
        trial = planned(choice, length, seed)
        if trial.trial_id != trial_id:  # of another reward, model …
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
