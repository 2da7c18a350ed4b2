"""What a sweep has to do, and how long that takes by the speed of earlier runs in its storage."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Sequence

from rl_alliteration.config import ORIGINAL, PlannedTrial
from rl_alliteration.errors import UserError
from rl_alliteration.results.reader import connect
from rl_alliteration.results.storage import Storage
from rl_alliteration.terminal import duration
from rl_alliteration.tune.plan import Sweep
from rl_alliteration.tune.resume import Found, Standing, find
from rl_alliteration.tune.run_flags import gpus_asked, stop_reasons
from rl_alliteration.tune.submission import ray_address


def as_found(storage: Storage | None, trials: Sequence[PlannedTrial], sweep: Sweep) -> list[Found]:
    """The trials as a run of the sweep would find them; nothing is written.

    Args:
        storage: of the results; None if there are none yet.
        trials: as planned.
        sweep: theirs.
    """
    if storage is None:
        return [Found(trial, Standing.NEW, 0) for trial in trials]
    return find(
        storage,
        str(sweep.experiment),
        trials,
        retry_failed=sweep.retry_failed,
        recompute=sweep.recompute,
        stop_on=stop_reasons(sweep),
    )


@dataclasses.dataclass(frozen=True)
class Speed:
    """Medians of the newest run that is like the trials: of their model, length, precision and threads."""

    sampling: float
    """Seconds a text to sample it."""
    whole: float
    """The same, with scoring and the update."""


def speed(storage: Storage, found: Sequence[Found]) -> Speed | None:
    """Of earlier runs; None if there is none like these trials."""
    config = found[0].trial.config
    try:
        connection = connect(storage, wait=False)
    except UserError:  # it holds nothing
        return None
    rows = connection.execute(
        """
        SELECT median(sample_seconds / s.group_size), median((sample_seconds + train_seconds) / s.group_size)
        FROM steps s JOIN trials t USING (experiment, trial_id)
        WHERE t.model LIKE '%@' || $1 AND t.threads = $2 AND t.max_length = $3 AND t.dtype = $4
        GROUP BY s.run_id ORDER BY s.run_id DESC LIMIT 1
        """,
        [config.model_fingerprint, config.threads, config.max_length, config.dtype],
    ).fetchall()
    return Speed(*rows[0]) if rows else None


def time_told(storage: Storage | None, found: Sequence[Found], sweep: Sweep) -> str:
    """How long the rest takes, in a line.

    Args:
        storage: of the results; None if there are none yet.
        found: every trial, the original first.
        sweep: theirs.
    """
    seconds = speed(storage, found) if storage is not None else None
    left = [f for f in found if f.to_run]
    if not left:
        return "Nothing is left to run."
    if seconds is None:
        threads = found[0].trial.config.threads
        return (
            "How long it takes is not known: the storage has no run of this model with the same length, precision and "
            f"{threads} thread{'s' * (threads > 1)} a trial to go by"
        )
    each = [
        (seconds.sampling if f.trial.config.algorithm == ORIGINAL else seconds.whole)
        * max(f.trial.max_generations - f.generations, 0)
        for f in left
    ]
    by = f"at the {seconds.whole:.2g} s a text of the newest run like it"
    if ray_address(sweep) != "local":
        return f"About {duration(sum(each))} {by}, divided by how many trials the cluster runs at once"
    at_once = _slots(sweep)
    return f"About {duration(makespan(each, at_once))} on this machine, {at_once} trials at once, {by}"


def _slots(sweep: Sweep) -> int:
    """How many trials a Ray of this machine's own runs side by side."""
    from rl_alliteration.tune.cluster import local_resources  # with Ray, which few dry runs need

    there, asked = local_resources(), gpus_asked(sweep)
    gpus = float(there["GPU"] >= 1) if asked is None else asked
    wanted = {"CPU": float(sweep.cpus_per_trial), "GPU": gpus}
    return max(min(int(there[kind] // number) for kind, number in wanted.items() if number), 1)


def makespan(seconds: Sequence[float], at_once: int) -> float:
    """When the last of trials that are begun in this order ends, so many of them side by side.

    >>> makespan([3.0, 1.0, 1.0, 1.0], 2)
    3.0
    """
    free = [0.0] * at_once
    for one in seconds:
        heapq.heapreplace(free, free[0] + one)
    return max(free)
