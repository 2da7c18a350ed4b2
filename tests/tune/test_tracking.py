"""`--log-to`: each trial is one run of a tool, however often its sweep goes on; a tool that fails stops nothing."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import flags, run
from made_up import MadeUp, write_results
from trials import EXPERIMENT as TINY
from trials import planned, rows, run_trial

import rl_alliteration.tune.tracking as tracking_module
from rl_alliteration.config import PlannedTrial, TrialConfig
from rl_alliteration.errors import UserError
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.results import reader
from rl_alliteration.results.parts import part_paths, read_part
from rl_alliteration.results.storage import Storage
from rl_alliteration.tune import trackers
from rl_alliteration.tune.plan import Sweep, resolve
from rl_alliteration.tune.trackers import TEXT_COLUMNS, Points, Tracked, check_installed
from rl_alliteration.tune.trackers.__main__ import Told, follow
from rl_alliteration.tune.trackers.published import published
from rl_alliteration.tune.tracking import Tracking, settings_of

EXPERIMENT = "made_up"
TEXTS = 230


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    results = Storage(tmp_path_factory.mktemp("results"))
    write_results(results, [MadeUp(generations=TEXTS, beta=10.0)], EXPERIMENT)
    return results


@pytest.fixture(scope="module")
def trial(storage: Storage) -> PlannedTrial:
    (name,) = [name for _, name in reader.trial_ids(storage) if name.startswith("rloo")]
    event = reader.last_event(storage, EXPERIMENT, name)
    assert event is not None
    return PlannedTrial(TrialConfig.from_json(event["config"], name), "storyteller", TEXTS, 600)


def told(trial: PlannedTrial, status: str = "") -> Told:
    return Told(EXPERIMENT, trial.trial_id, settings_of(trial), status)


class Memory:
    """A tool that keeps what it is told, over all its processes."""

    def __init__(self) -> None:
        self.runs: dict[str, list[tuple[int, Mapping[str, float]]]] = {}
        self.texts: list[Mapping[str, Any]] = []
        self.ends: list[str] = []
        self.fails_at = -1
        self.opened: list[Tracked] = []

    def open_run(self, trial: Tracked) -> Any:
        memory, points = self, self.runs.setdefault(trial.run_id, [])
        self.opened.append(trial)

        class Run:
            generations = points[-1][0] if points else 0

            def log(self, new: Points, texts: Sequence[Mapping[str, Any]]) -> None:
                for point in new:
                    if point[0] == memory.fails_at:
                        raise OSError("no route to host")
                    points.append(point)
                memory.texts += texts

            def end(self, status: str) -> None:
                memory.ends.append(status)

        return Run()


# --- what is told ----------------------------------------------------------------------------------------


def test_points_are_means_of_groups_and_metrics_of_windows(storage: Storage, trial: PlannedTrial) -> None:
    stored = [
        row for path in part_paths(storage, "generations", EXPERIMENT, trial.trial_id)
        for row in read_part(storage, path)
    ]  # fmt: skip
    ((points, texts),) = published(storage, EXPERIMENT, trial.trial_id, 0)
    groups = [(at, values) for at, values in points if "reward/raw_reward" in values]
    assert [at for at, _ in groups] == list(range(10, TEXTS + 1, 10))
    for at, values in groups:
        group = stored[at - 10 : at]
        for column in ("raw_reward", "reward"):
            assert values[f"reward/{column}"] == pytest.approx(np.mean([row[column] for row in group]))
        assert {"kl/kl_penalty", "kl/lm_cross_entropy", "optim/advantage"} <= values.keys()
    assert [at for at, values in points if "diversity/variety" in values] == [100, 200]
    assert [row["generation"] for row in texts] == list(range(0, TEXTS, 10))
    assert tuple(texts[0]) == TEXT_COLUMNS


def test_points_of_updates_are_beside_those_of_their_texts(
    tmp_path: Path, tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig]
) -> None:
    trial = planned(make_config(tiny_gpt_neo, max_length=16), 8)
    run_trial(Storage(tmp_path), trial, tiny_gpt_neo)
    ((points, _),) = published(Storage(tmp_path), TINY, trial.trial_id, 0)
    losses = [row["loss"] for row in rows(Storage(tmp_path), trial, "steps")]
    assert [(at, values["optim/loss"]) for at, values in points] == [(4, losses[0]), (8, losses[1])]


@pytest.mark.parametrize("there", [10, 90, 100, 110, 200, TEXTS])
def test_a_run_that_goes_on_is_told_the_rest(storage: Storage, trial: PlannedTrial, there: int) -> None:
    ((points, texts),) = published(storage, EXPERIMENT, trial.trial_id, 0)
    rest = list(published(storage, EXPERIMENT, trial.trial_id, there))
    assert [point for part, _ in rest for point in part] == [point for point in points if point[0] > there]
    assert [row for _, part in rest for row in part] == [row for row in texts if row["generation"] >= there]


def test_each_trial_is_one_run_and_nothing_is_told_twice(storage: Storage, trial: PlannedTrial) -> None:
    memory = Memory()
    for _ in range(3):
        follow("memory", storage, [told(trial), told(trial), told(trial, "finished")], memory.open_run, pytest.fail)
    ((points, _),) = published(storage, EXPERIMENT, trial.trial_id, 0)
    assert list(memory.runs.values()) == [list(points)] and memory.ends == ["finished"] * 3
    assert memory.opened[0].settings["beta"] == 10.0 and memory.opened[0].settings["model"] == "storyteller"


def test_a_trial_without_texts_has_no_run(storage: Storage, trial: PlannedTrial) -> None:
    memory = Memory()
    none = Told("other", trial.trial_id, {}, "stopped")
    follow("memory", storage, [none], memory.open_run, pytest.fail)
    assert not memory.runs


def test_a_tool_that_fails_is_told_of_once_and_tried_again(storage: Storage, trial: PlannedTrial) -> None:
    memory, said = Memory(), list[str]()
    memory.fails_at = 50

    def lines() -> Any:
        yield told(trial)
        yield told(trial)
        memory.fails_at = -1
        yield told(trial)

    follow("memory", storage, lines(), memory.open_run, said.append)
    assert said == [
        "--log-to: memory failed (OSError: no route to host); the sweep goes on, and the same command again brings "
        "it up to date"
    ]
    ((points, _),) = published(storage, EXPERIMENT, trial.trial_id, 0)
    assert list(memory.runs.values()) == [list(points)]


# --- processes and requests ------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", ["import sys; sys.exit(3)", "import os; os.close(0); import time; time.sleep(60)"])
def test_a_process_that_ends_or_hangs_stops_nothing(
    storage: Storage, trial: PlannedTrial, monkeypatch: pytest.MonkeyPatch, tool: str
) -> None:
    monkeypatch.setattr(tracking_module, "_COMMAND", [sys.executable, "-S", "-c", tool])
    monkeypatch.setattr(tracking_module, "_PATIENCE_SECONDS", 2.0)
    said: list[str] = []
    tracked = Tracking(["wandb"], storage, EXPERIMENT, said.append)
    tracked.published(trial, 10)
    tracked.close(stopped=False)
    assert len(said) == 1 and said[0].startswith("--log-to: ")


def test_a_tool_that_is_not_there_is_refused_before_anything_starts(
    tmp_path: Path, tiny_gpt_neo_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code, _, err = run(capsys, *flags(tiny_gpt_neo_folder, tmp_path / "r", "--beta", "1", "--log-to", "trackio"))
    assert code == 2 and not (tmp_path / "r").exists()
    assert "--log-to: trackio is not installed; pip install 'rl_alliteration[trackio]'" in err
    with pytest.raises(UserError, match=r"^--log-to: 'excel' is not accepted; give one or more of mlflow, wandb, tra"):
        resolve(Sweep(storage="s", experiment="e", beta=(1.0,), log_to=("excel",)))


# --- the real tools, offline -----------------------------------------------------------------------------


def begin(name: str, storage: Storage, trial: PlannedTrial) -> None:
    """As two sweeps, one after the other, would tell it."""
    check_installed([name])
    opener = importlib.import_module(f"{trackers.__name__}.{name}").open_run
    for _ in range(2):
        follow(name, storage, [told(trial), told(trial, "finished")], opener, pytest.fail)


def test_trackio(storage: Storage, trial: PlannedTrial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    said: list[str] = []
    for _ in range(2):  # in processes, as a sweep does
        tracked = Tracking(["trackio"], storage, EXPERIMENT, said.append)
        tracked.published(trial, TEXTS)
        tracked.ended(trial, "finished")
        tracked.close(stopped=False)
    assert said == []
    reading = (
        "import json; from trackio.sqlite_storage import SQLiteStorage as S; print(json.dumps([S.get_runs('made_up'), "
    )
    code = f"{reading}S.get_logs('made_up', {trial.trial_id!r}), S.get_run_config('made_up', {trial.trial_id!r})]))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    runs, logs, config = json.loads(shown.splitlines()[-1])
    assert runs == [trial.trial_id] and config["beta"] == 10.0
    assert [row["step"] for row in logs if "reward/raw_reward" in row] == list(range(9, TEXTS, 10))
    assert [row["step"] for row in logs if "diversity/variety" in row] == [99, 199]
    (table,) = [row["texts"] for row in logs if "texts" in row]
    assert len(table["_value"]) == TEXTS // 10


def test_wandb(storage: Storage, trial: PlannedTrial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    begin("wandb", storage, trial)
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    run_id = Tracked(EXPERIMENT, trial.trial_id, {}).run_id
    assert {file.name for file in files} == {f"run-{run_id}.wandb"}
    assert (tmp_path / "wandb" / f"{run_id}.generations").read_text() == str(TEXTS)
    counts = [file.read_bytes().count(b"reward/raw_reward") for file in files]
    assert counts[0] >= TEXTS // 10 and sum(counts[1:]) == 0


def test_mlflow(storage: Storage, trial: PlannedTrial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", exc_type=ImportError)
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)  # where its artifacts go
    begin("mlflow", storage, trial)
    client = MlflowClient()
    (found,) = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    assert found.info.run_name == trial.trial_id and found.info.status == "FINISHED"
    assert found.data.params["beta"] == "10.0" and found.data.metrics["generations"] == TEXTS
    history = client.get_metric_history(found.info.run_id, "reward/raw_reward")
    assert [metric.step for metric in history] == list(range(10, TEXTS + 1, 10))
    assert [one.path for one in client.list_artifacts(found.info.run_id, "texts")] == ["texts/00000000.json"]
