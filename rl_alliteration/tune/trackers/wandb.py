"""Weights & Biases: a project for an experiment, a run for a trial; its variables say whose, and whether offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rl_alliteration.tune.trackers import TEXT_COLUMNS, Points, Tracked

_DONE = "generations"


class WandbRun:
    """See `trackers.Run`."""

    def __init__(self, trial: Tracked) -> None:
        import wandb

        self._wandb = wandb
        self._run: Any = wandb.init(
            project=trial.experiment,
            id=trial.run_id,
            name=trial.trial_id,
            config=dict(trial.settings),
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True),
        )
        self._run.define_metric(_DONE)
        self._run.define_metric("*", step_metric=_DONE)
        # Offline it cannot be asked what it has: that is kept beside its files.
        self._kept = Path(self._run.settings.wandb_dir) / f"{trial.run_id}.generations"
        if self._run.offline:
            self.generations = int(self._kept.read_text()) if self._kept.is_file() else 0
        else:
            summary: Any = self._run.summary
            self.generations = int(summary.get(_DONE) or 0)

    def log(self, points: Points, texts: Sequence[Mapping[str, Any]]) -> None:
        """As of `trackers.Run`."""
        for at, values in points:
            self._run.log({**values, _DONE: at})
        data = [[row[name] for name in TEXT_COLUMNS] for row in texts]
        self._run.log({"texts": self._wandb.Table(columns=list(TEXT_COLUMNS), data=data), _DONE: points[-1][0]})
        self.generations = points[-1][0]
        if self._run.offline:
            self._kept.write_text(str(self.generations))

    def end(self, status: str) -> None:
        """As of `trackers.Run`."""
        self._run.finish(exit_code=int(status == "failed"))


open_run = WandbRun
