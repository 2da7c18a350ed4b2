"""An experiment as a study of Optuna's in a file, for its dashboard and its functions. No Ray, no torch."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl_alliteration.analysis.measure import measure_original
from rl_alliteration.analysis.objective import Objective
from rl_alliteration.analysis.rules import KEEP_VARIETY, SENSE_NATS, Limits
from rl_alliteration.analysis.stopping import HALVING
from rl_alliteration.config import ORIGINAL, TrialConfig
from rl_alliteration.errors import Failure, UserError
from rl_alliteration.flags import UpdateSettings
from rl_alliteration.results import schema
from rl_alliteration.results.parts import read_part
from rl_alliteration.results.reader import connect, parts_by_trial, trial_ids
from rl_alliteration.results.storage import Storage
from rl_alliteration.setting import settings_of

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_NUMBERS = ("beta", "learning_rate")
_CHOSEN = ("algorithm", *_NUMBERS, "group_size", "target_kl", "seed", *settings_of(UpdateSettings))
"""Settings that are a study's parameters, where trials differ in them; what a search chooses is among them."""


@dataclasses.dataclass(frozen=True)
class _Stored:
    """A trial that was trained, as it is in the results."""

    trial_id: str
    config: TrialConfig
    best: Sequence[float]
    """Of `Objective`."""
    status: str
    reason: str
    began: str
    written: str


def write_study(
    storage: Storage,
    experiment: str,
    output: Path,
    keep_variety: float = KEEP_VARIETY,
    nats: float = SENSE_NATS,
) -> int:
    """Write the trials of a search, or of a sweep, as a study called as the experiment into a file of SQLite.

    The objective is that of `search`: alliteration per 100 words of the best window that keeps variety and sense; the
    intermediate values are those after each window.

    Returns:
        How many trials it has.

    Raises:
        UserError: there is no such experiment, or none of its trials was trained; or the file is there.
        Failure: there is no original to compare with, or the file cannot be written.
    """
    trials = _trials(storage, experiment, keep_variety, nats)
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    distributions = _distributions([trial.config for trial in trials])
    made = [
        optuna.trial.create_trial(
            state=_state(trial),
            value=trial.best[-1] if _state(trial) == optuna.trial.TrialState.COMPLETE else None,
            params={name: _value(trial.config, name) for name in distributions},
            distributions=distributions,
            intermediate_values={window + 1: value for window, value in enumerate(trial.best)},
            user_attrs={"trial_id": trial.trial_id, "status": trial.status, "reason": trial.reason},
        )
        for trial in trials
    ]
    for one, trial in zip(made, trials, strict=True):
        one.datetime_start = _local(trial.began)
        one.datetime_complete = _local(trial.written) if one.state.is_finished() else None
    if output.exists():
        raise UserError(f"--output: {str(output)!r} is there already; give a new file")
    try:
        study = optuna.create_study(
            storage=f"sqlite:///{output.resolve()}", study_name=experiment, direction="maximize"
        )
        study.set_user_attr("objective", "alliteration per 100 words of the best window within the limits")
        study.add_trials(made)
    except Exception as error:  # of SQLAlchemy, which Optuna is built upon
        output.unlink(missing_ok=True)
        reason = " ".join(str(error).split())[:200]
        raise Failure(f"{str(output)!r} cannot be written ({reason})") from error
    return len(made)


def _trials(storage: Storage, experiment: str, keep_variety: float, nats: float) -> list[_Stored]:
    """The trials that were trained, in the order in which they began."""
    trial_ids(storage, experiment)
    connection = connect(storage)
    rows = connection.execute(
        """
        SELECT t.trial_id, t.config, t.status, t.reason, e.began, t.written_at
        FROM trials t JOIN (SELECT trial_id, min(written_at) AS began FROM trial_events
                            WHERE experiment = $1 GROUP BY trial_id) e USING (trial_id)
        WHERE t.experiment = $1 AND t.algorithm <> $2 ORDER BY e.began, t.trial_id
        """,
        [experiment, ORIGINAL],
    ).fetchall()
    if not rows:
        raise UserError(f"--experiment: no trial of {experiment!r} is trained; a study has nothing to show")

    @functools.cache
    def limits(original: str) -> Limits:
        try:
            return Limits.of(measure_original(connection, experiment, original), keep_variety, nats)
        except StopIteration:
            raise Failure(
                f"{original}, which trials are compared with, is not there; run the same command again"
            ) from None

    parts = parts_by_trial(storage, experiment)
    found = []
    for trial_id, config, status, reason, began, written in rows:
        known = TrialConfig.from_json(config, trial_id)
        objective = Objective(limits(known.original().trial_id))
        for path in parts.get((experiment, trial_id), []):
            objective.add(read_part(storage, path))
        found.append(_Stored(trial_id, known, objective.best, status, reason, began, written))
    return found


def _state(trial: _Stored) -> Any:
    """As `Proposals` tells Optuna."""
    from optuna.trial import TrialState

    if trial.status in (schema.PLANNED, schema.RUNNING, schema.STALLED):
        return TrialState.RUNNING
    if trial.status == schema.FAILED or not trial.best:
        return TrialState.FAIL
    return TrialState.PRUNED if trial.reason == HALVING else TrialState.COMPLETE


def _value(config: TrialConfig, name: str) -> Any:
    """A setting as a parameter: whatever of it is no number of a scale is a choice of texts."""
    value = getattr(config, name)
    return value if name in _NUMBERS or isinstance(value, str) else json.dumps(value)


def _distributions(configs: Sequence[TrialConfig]) -> dict[str, BaseDistribution]:
    """What the trials' settings were chosen from, as far as they show it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    found: dict[str, BaseDistribution] = {}
    for name in _CHOSEN:
        values = list(dict.fromkeys(_value(config, name) for config in configs))
        if name in _NUMBERS and (len(values) > 1 or name == "beta"):
            found[name] = FloatDistribution(min(values), max(values), log=min(values) > 0)
        elif len(values) > 1:
            found[name] = CategoricalDistribution(sorted(values))
    return found


def _local(written_at: str) -> datetime:
    """Optuna has times of this machine without a zone."""
    return datetime.fromisoformat(written_at).astimezone().replace(tzinfo=None)
