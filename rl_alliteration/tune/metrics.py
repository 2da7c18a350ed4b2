"""A sweep's numbers for Prometheus, through `ray.util.metrics`, and the Grafana dashboard that shows them.

The driver sets them from what trials report: Ray exports them, as `ray_rl_alliteration_…`, where it exports its own.
"""

from __future__ import annotations

import contextlib
import math
import shutil
from collections import Counter as Tally
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import ray
from ray.util.metrics import Counter, Gauge

from rl_alliteration.config import TrialConfig
from rl_alliteration.rows import TrialReport, columns_of

TAGS = ("experiment", "trial", "algorithm", "beta", "seed")
_HELP = {one.name: f"{one.meaning}, {one.unit}" if one.unit else one.meaning for one in columns_of(TrialReport)}
_SHOWN = ("raw_reward", "kl_penalty", "entropy", "variety", "generations", "sample_seconds", "train_seconds")
GAUGES = {**{name: _HELP[name] for name in _SHOWN}, "generations_per_second": "texts per second"}
COUNTERS = {name: _HELP[name] for name in ("parts", "checkpoints")}
PREFIX = "rl_alliteration_"
DASHBOARD = files("rl_alliteration") / "tune" / "grafana_dashboard.json"


class Metrics:
    """Gauges and counters of one experiment's trials."""

    def __init__(self, experiment: str) -> None:
        self._experiment = experiment
        self._tags: dict[str, dict[str, str]] = {}
        self._gauges = {name: Gauge(PREFIX + name, text, TAGS) for name, text in GAUGES.items()}
        self._counters = {name: Counter(PREFIX + name, text, TAGS) for name, text in COUNTERS.items()}
        self._counted: Tally[tuple[str, str]] = Tally()
        self._states = Gauge(PREFIX + "trials", "Trials by state", ("experiment", "state"))

    def add(self, config: TrialConfig) -> None:
        """A trial will report."""
        self._tags[config.trial_id] = {
            "experiment": self._experiment, "trial": config.trial_id, "algorithm": config.algorithm,
            "beta": f"{config.beta:g}", "seed": str(config.seed),
        }  # fmt: skip

    def report(self, trial_id: str, report: TrialReport, speed: float) -> None:
        """A trial has reported; `speed` in generations per second."""
        tags = self._tags[trial_id]
        values = {**report.result(), "generations_per_second": speed}
        for name, gauge in self._gauges.items():
            if math.isfinite(values[name]):
                gauge.set(values[name], tags)
        for name, counter in self._counters.items():
            new = values[name] - self._counted[trial_id, name]
            if new < 0:  # the trial started again, on another actor
                new = values[name]
            if new:
                counter.inc(new, tags)
            self._counted[trial_id, name] = values[name]

    def end(self, trial_id: str) -> None:
        """A trial runs no more."""
        self._gauges["generations_per_second"].set(0.0, self._tags[trial_id])

    def states(self, counts: Mapping[str, int]) -> None:
        """How many trials are in each state."""
        for state, count in counts.items():
            self._states.set(count, {"experiment": self._experiment, "state": state})


def provide_dashboard() -> None:
    """Put our Grafana dashboard beside Ray's own on this node: Grafana, started with Ray's configuration, shows it."""
    node = ray._private.worker._global_node
    if node is None:
        return
    folder = Path(node.get_session_dir_path()) / "metrics" / "grafana" / "dashboards"
    if folder.is_dir():  # only a head has it
        with contextlib.suppress(OSError):  # another user's head
            shutil.copyfile(str(DASHBOARD), folder / "rl_alliteration_dashboard.json")
