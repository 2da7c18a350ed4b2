"""trackio: a project for an experiment, a run for a trial; its own variables say where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rl_alliteration.tune.trackers import TEXT_COLUMNS, Points, Tracked


class TrackioRun:
    """See `trackers.Run`. A process has one run of trackio at a time: each call opens it, and ends it."""

    def __init__(self, trial: Tracked) -> None:
        self._trial = trial
        run = self._open()
        self.generations = run._next_step  # of a step after the last: the public ones are those of what is local
        run.finish()

    def log(self, points: Points, texts: Sequence[Mapping[str, Any]]) -> None:
        """As of `trackers.Run`."""
        import trackio

        run = self._open()
        table = trackio.Table(columns=list(TEXT_COLUMNS), data=[[row[name] for name in TEXT_COLUMNS] for row in texts])
        for at, values in points[:-1]:
            run.log(dict(values), step=at - 1)
        at, values = points[-1]
        run.log({**values, "texts": table}, step=at - 1)
        run.finish()

    def end(self, status: str) -> None:
        """As of `trackers.Run`: nothing is open."""

    def _open(self) -> Any:
        import trackio

        return trackio.init(
            project=self._trial.experiment,
            name=self._trial.trial_id,
            config=dict(self._trial.settings),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )


open_run = TrackioRun
