"""MLflow: an experiment for an experiment, a run for a trial; where to is MLFLOW_TRACKING_URI."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rl_alliteration.tune.trackers import TEXT_COLUMNS, Points, Tracked

_TAG = "rl_alliteration.trial"
_DONE = "generations"
_MOST_METRICS = 1000
"""That a request may have."""
_LONGEST = 250
"""Characters of a parameter."""


class MlflowRun:
    """See `trackers.Run`. MLflow gives ids itself: the run is found again by its tag."""

    def __init__(self, trial: Tracked) -> None:
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient()
        found = self._client.get_experiment_by_name(trial.experiment)
        experiment = self._client.create_experiment(trial.experiment) if found is None else found.experiment_id
        runs = self._client.search_runs([experiment], f"tags.`{_TAG}` = '{trial.run_id}'", max_results=1)
        if runs:
            run = runs[0]
        else:
            tags = {_TAG: trial.run_id, "mlflow.runName": trial.trial_id}
            run = self._client.create_run(experiment, tags=tags)
            for name, value in trial.settings.items():
                self._client.log_param(run.info.run_id, name, str(value)[:_LONGEST])
        self._id = run.info.run_id
        self.generations = int(run.data.metrics.get(_DONE, 0))

    def log(self, points: Points, texts: Sequence[Mapping[str, Any]]) -> None:
        """As of `trackers.Run`. The texts of a part are a table among the run's artifacts."""
        from mlflow.entities import Metric

        table = {"columns": list(TEXT_COLUMNS), "data": [[row[name] for name in TEXT_COLUMNS] for row in texts]}
        name = f"texts/{texts[0]['generation']:08d}.json"
        self._client.log_dict(self._id, table, name)
        now = int(1000 * time.time())
        metrics: list[Any] = []
        for at, values in points:
            batch = [Metric(tag, value, now, at) for tag, value in values.items()] + [Metric(_DONE, at, now, at)]
            if len(metrics) + len(batch) > _MOST_METRICS:
                self._client.log_batch(self._id, metrics=metrics)
                metrics = []
            metrics += batch
        self._client.log_batch(self._id, metrics=metrics)
        logged = json.loads(self._client.get_run(self._id).data.tags.get("mlflow.loggedArtifacts", "[]"))
        if {"path": name, "type": "table"} not in logged:  # so that its page shows them as tables
            logged.append({"path": name, "type": "table"})
            self._client.set_tag(self._id, "mlflow.loggedArtifacts", json.dumps(logged))
        self._client.update_run(self._id, status="RUNNING")

    def end(self, status: str) -> None:
        """As of `trackers.Run`."""
        states = {"finished": "FINISHED", "failed": "FAILED"}
        self._client.set_terminated(self._id, states.get(status, "KILLED"))


open_run = MlflowRun
