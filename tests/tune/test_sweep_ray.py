"""Real sweeps on a real Ray, by the real command line, at tiny size."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pandas
import polars
import psutil
import pytest
from commands import assert_verified, cli, command, flags, here, texts, wait_for_parts
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from rl_alliteration.analysis.stopping import EarlyStopping
from rl_alliteration.config import TrialConfig
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.results import reader, schema
from rl_alliteration.results.storage import Storage
from rl_alliteration.rl.advantages import get_algorithm
from rl_alliteration.rl.rewards import Reward
from rl_alliteration.rl.trainer import Trainer
from rl_alliteration.tune.budget import Budget

pytestmark = pytest.mark.ray

LONG = 1200  # texts of a trial that is still running when something happens to it


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, tiny_gpt_neo_folder: Path) -> Path:
    """Of a Ray of its own, on both cores of this machine."""
    storage = tmp_path_factory.mktemp("swept")
    grid = ("--algorithm", "rloo", "reinforce", "--beta", "0", "40", "--max-generations", "16")
    done = cli(*flags(tiny_gpt_neo_folder, storage, *grid, "--checkpoint-every", "8", "--original-texts", "40"))
    assert done.returncode == 0, done.stderr
    assert "Over the last 100 texts" in done.stdout
    assert done.stdout.count("finished") == 5
    assert done.stderr == ""
    return storage


def test_a_sweep_leaves_every_text_of_every_trial(swept: Path) -> None:
    assert_verified(swept)
    counts = reader.run_query(
        Storage(swept),
        "SELECT algorithm, beta, count(*), count(DISTINCT generation), min(generation), max(generation) "
        "FROM generations GROUP BY ALL ORDER BY ALL",
    )[1]
    assert counts == [
        ("original", None, 40, 40, 0, 39),
        ("reinforce", 0.0, 16, 16, 0, 15),
        ("reinforce", 40.0, 16, 16, 0, 15),
        ("rloo", 0.0, 16, 16, 0, 15),
        ("rloo", 40.0, 16, 16, 0, 15),
    ]


def test_every_reader_sees_the_same_schema_and_numbers(swept: Path) -> None:
    pattern = f"{swept}/generations/*/*/part-*.parquet"
    relation = duckdb.sql(
        f"SELECT algorithm, beta, avg(raw_reward) FROM read_parquet('{pattern}', hive_partitioning=true) "
        "GROUP BY ALL ORDER BY ALL"
    )
    assert relation is not None
    by_duckdb = relation.fetchall()
    frame = pandas.read_parquet(f"{swept}/generations")
    by_pandas = frame.groupby(["algorithm", "beta"])["raw_reward"].mean().reset_index()
    lazy = polars.read_parquet(pattern, hive_partitioning=True)
    by_polars = lazy.group_by("algorithm", "beta").agg(polars.col("raw_reward").mean()).sort("algorithm", "beta")
    assert [tuple(row) for row in by_pandas.to_numpy()] == by_duckdb == by_polars.rows()
    assert set(frame.columns) == {*schema.arrow("generations").names, "experiment", "trial_id"}
    assert lazy.schema["beta"] == polars.Float64
    assert lazy.schema["token_ids"] == polars.List(polars.Int32)
    for dataset in ("steps", "trials"):
        assert set(pandas.read_parquet(f"{swept}/{dataset}").columns) >= set(schema.arrow(dataset).names)


def test_tensorboard_has_a_point_a_text(swept: Path) -> None:
    folder = next((swept / "tensorboard" / "tiny").glob("rloo-beta40*"))
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    for tag in ("reward/raw_reward", "kl/kl_penalty", "kl/lm_cross_entropy", "optim/advantage"):
        assert [point.step for point in events.Tensors(tag)] == list(range(16))
    assert [point.step for point in events.Tensors("text")] == [0, 4, 8, 12]
    assert "_hparams_/session_start_info" in events.Tags()["tensors"]


@pytest.mark.usefixtures("on_cluster")
def test_the_same_command_again_computes_nothing_and_a_longer_one_extends(
    swept: Path, tmp_path_factory: pytest.TempPathFactory, tiny_gpt_neo_folder: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in swept.glob("generations/**/part-*")}
    grid = ("--algorithm", "rloo", "reinforce", "--original-texts", "40", "--max-generations")
    again = here(*flags(tiny_gpt_neo_folder, swept, "--beta", "0", "40", *grid, "16"))
    assert again.returncode == 0
    assert again.stdout.count("finished, left as it is") == 5
    more = ("--beta", "40", "--seed", "0", "1", *grid, "28")
    longer = here(*flags(tiny_gpt_neo_folder, swept, *more))
    assert longer.returncode == 0, longer.stderr
    assert longer.stdout.count("to be extended") == 2
    assert longer.stdout.count("to be started") == 2
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert_verified(swept)
    at_once = tmp_path_factory.mktemp("at_once")
    assert here(*flags(tiny_gpt_neo_folder, at_once, *more)).returncode == 0
    whole = texts(at_once, record=False)
    trials = {row[0] for row in whole}
    assert len(trials) == 5
    assert [row for row in texts(swept, record=False) if row[0] in trials] == whole


@pytest.mark.chaos
@pytest.mark.usefixtures("on_cluster")
def test_a_budget_that_is_spent_stops_cleanly_and_the_same_command_goes_on(
    tmp_path: Path, tiny_gpt_neo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = tmp_path / "results"
    held: list[float] = []
    enough = 1

    def use(budget: Budget, devices: float) -> str:  # no clock: spent as soon as a trial has published again
        held.append(devices)
        return "the budget of 1 hours is spent" if len(list(storage.glob("generations/*/*rloo*/*"))) >= enough else ""

    monkeypatch.setattr(Budget, "use", use)
    told = f'echo "$RL_ALLITERATION_STATE $RL_ALLITERATION_EXIT_CODE $RL_ALLITERATION_TRIALS" >> {tmp_path}/told'
    grid = ("--beta", "0", "--max-generations", "40000", "--original-texts", "40", "--checkpoint-every", "400")
    asked = flags(tiny_gpt_neo_folder, storage, *grid, "--max-hours", "1", "--notify", told)
    sql = "SELECT status, reason, generations FROM trials WHERE algorithm <> 'original'"
    before = 0
    for _ in range(2):
        done = here(*asked, "--notify-url", "http://127.0.0.1:9/T0KEN")
        assert done.returncode == 0, done.stderr
        assert "Stopped, the budget of 1 hours is spent. The same command goes on from here." in done.stdout
        assert done.stderr == "rl-alliteration: note: --notify-url: nobody was told there: ConnectionError\n"
        ((status, reason, generations),) = reader.run_query(Storage(storage), sql)[1]
        assert (status, reason) == ("stopped", "the budget of 1 hours is spent")
        assert before < generations < 40000 and len(texts(storage)) == generations + 40
        before, enough = generations, len(list(storage.glob("generations/*/*rloo*/*"))) + 1
    assert set(held) == {0.0, 1.0} or max(held) == 2.0
    assert (tmp_path / "told").read_text() == "budget 0 2\n" * 2
    assert [path for path in storage.rglob("*") if path.is_file() and b"T0KEN" in path.read_bytes()] == []
    assert_verified(storage)


@pytest.mark.usefixtures("on_cluster")
def test_another_architecture_is_swept_too_and_said_to_be_slower(tmp_path: Path, tiny_opt_folder: Path) -> None:
    few = ("--max-generations", "8", "--original-texts", "40")
    done = here(*flags(tiny_opt_folder, tmp_path, "--beta", "1", *few, "--dtype", "bfloat16"))
    assert done.returncode == 0, done.stderr
    said = "sampling and scoring go through transformers' own code, which is slower: opt has no description here"
    assert said in done.stdout
    assert_verified(tmp_path)
    ((trial_id,),) = reader.run_query(Storage(tmp_path), "SELECT trial_id FROM trials WHERE algorithm = 'rloo'")[1]
    where = ("--storage", str(tmp_path), "--experiment", "tiny", "--trial", trial_id)
    assert here("sample", *where, "--generation", "4").returncode == 0, "replayed outside of Ray, row by row"


@pytest.mark.usefixtures("on_cluster")
def test_a_users_own_reward_and_algorithm_work_from_a_script(tmp_path: Path, tiny_gpt_neo_folder: Path) -> None:
    script = tmp_path / "own.py"
    few = ("--max-generations", "8", "--original-texts", "40")
    arguments = flags(tiny_gpt_neo_folder, tmp_path / "results", "--beta", "0", *few)
    script.write_text(
        "from rl_alliteration.rl.advantages import algorithm\n"
        "from rl_alliteration.cli.main import main\n"
        "from rl_alliteration.rl.rewards import reward\n"
        "@reward('vowels')\n"
        "def vowels(text):\n    return float(sum(c in 'aeiou' for c in text))\n"
        "@algorithm('centred', group_size=4, least_group_size=2)\n"
        "def centred(rewards):\n    return rewards - rewards.mean()\n"
        f"main({[*arguments, '--reward', 'vowels', '--algorithm', 'centred']!r})\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    rows = reader.run_query(
        Storage(tmp_path / "results"), "SELECT text, raw_reward FROM generations WHERE algorithm = 'centred'"
    )[1]
    assert len(rows) == 8
    assert all(raw == sum(c in "aeiou" for c in text) for text, raw in rows)


@pytest.mark.chaos
@pytest.mark.usefixtures("on_cluster")
def test_a_reward_that_fails_loses_no_text_and_goes_on_when_it_is_mended(
    tmp_path: Path,
    tiny_gpt_neo_folder: Path,
    tiny_gpt_neo: LoadedModel,
    make_config: Callable[..., TrialConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The text that it fails on: the trial's tenth.
    config = make_config(tiny_gpt_neo, beta=0, learning_rate=0.01, max_length=16)
    lengths = Reward("lengths", lambda text: 100 * len(text))
    trainer = Trainer(config, tiny_gpt_neo, lengths, get_algorithm("rloo"))
    tenth = [row["text"] for _ in range(3) for row in trainer.step().texts][9]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    module = tmp_path / "mine.py"  # in the folder that the command is run in, which the actors need not know
    expression = ("--reward", "100*mine:breaks + alliteration - alliteration")
    few = ("--max-generations", "12", "--original-texts", "40")
    arguments = flags(tiny_gpt_neo_folder, tmp_path / "results", "--beta", "0", *few, *expression)

    def sweep(body: str) -> subprocess.CompletedProcess[str]:
        module.write_text(f"import math\ndef breaks(text):\n    return {body}\n")
        monkeypatch.delitem(sys.modules, "mine", raising=False)
        return here(*arguments)

    def trained(columns: str, view: str) -> list[tuple[Any, ...]]:
        sql = f"SELECT {columns} FROM {view} WHERE algorithm = 'rloo' ORDER BY ALL"
        return reader.run_query(Storage(tmp_path / "results"), sql)[1]

    done = sweep(f"math.nan if text == {tenth!r} else len(text)")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "the reward '100*mine:breaks' gave nan, not a finite number, on the text 'Once upon a time" in last
    assert "Traceback" not in done.stderr
    assert trained("status, reason, generations", "trials") == [("failed", "diverged", 8)]
    before = trained("generation, text", "generations")
    assert len(before) == 8
    assert sweep("len(text)").returncode == 1  # one that diverged is left alone
    arguments.append("--retry-failed")
    done = sweep("len(text)")
    assert done.returncode == 0, done.stderr
    assert trained("status, generations", "trials") == [("finished", 12)]
    assert trained("generation, text", "generations")[:8] == before
    assert all(raw == 100 * len(text) for text, raw in trained("text, raw_reward", "generations"))
    assert_verified(tmp_path / "results")


@pytest.mark.chaos
@pytest.mark.usefixtures("on_cluster")
def test_a_collapsed_trial_is_stopped_and_goes_on_without_the_flag(
    tmp_path: Path, tiny_gpt_neo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # REINFORCE has no baseline: with a reward above 0 it fixates on a text within 300 or 400.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "fixation.py").write_text("def words(text):\n    return len(text.split())\n")
    storage = tmp_path / "results"
    arguments = flags(tiny_gpt_neo_folder, storage, "--algorithm", "reinforce", "--beta", "0")
    arguments += ["--reward", "fixation:words", "--max-generations", "600"]
    arguments += ["--checkpoint-every", "100", "--original-texts", "40"]

    def sweep(*more: str) -> str:
        done = here(*arguments, *more)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def standing() -> list[tuple[Any, ...]]:
        sql = "SELECT status, reason, generations FROM trials WHERE algorithm = 'reinforce'"
        return reader.run_query(Storage(storage), sql)[1]

    assert "stopped (collapse)" in sweep("--stop-on-collapse")
    sql = "SELECT text, reward FROM generations WHERE algorithm = 'reinforce' ORDER BY generation"
    watch, end = EarlyStopping(("collapse",)), 0
    for end, (text, reward) in enumerate(reader.run_query(Storage(storage), sql)[1], 1):  # noqa: B007
        assert not watch.reason
        watch.add([{"text": text, "reward_of": "text", "reward": reward}])
    assert watch.reason == "collapse" and end < 600  # at the first text that gives the reason
    assert standing() == [("stopped", "collapse", end)]
    kept = sorted(path.name for path in storage.glob("checkpoints/tiny/reinforce*/*"))
    assert kept == [f"generation-{place:08}" for place in range(100, end + 1, 100)]
    before = texts(storage)
    assert "stopped by its own texts, left as it is" in sweep("--stop-on-collapse")
    assert texts(storage) == before
    sweep()
    assert standing() == [("finished", "", 600)]
    after = texts(storage)
    assert all(row in after for row in before)
    assert_verified(storage)


@pytest.mark.usefixtures("on_cluster")
def test_ctrl_c_stops_cleanly(tmp_path: Path, tiny_gpt_neo_folder: Path) -> None:
    """SIGTERM: `test_a_stop_keeps_every_finished_group_though_a_step_takes_minutes`."""
    storage = tmp_path / "results"
    grid = ("--beta", "0", "1", "2", "--original-texts", "40", "--checkpoint-every", "200", "--max-generations")
    driver = subprocess.Popen(
        command(*flags(tiny_gpt_neo_folder, storage, *grid, str(LONG * 10))),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_parts(storage, driver)
    driver.send_signal(signal.SIGINT)
    out, err = driver.communicate(timeout=60)
    assert driver.returncode == 130, err
    assert "The same command goes on from here" in out
    sql = "SELECT status, reason FROM trials WHERE algorithm = 'rloo'"
    states = reader.run_query(Storage(storage), sql)[1]
    assert set(states) == {("stopped", "SIGINT")}
    assert_verified(storage)
    assert here("status", "--storage", str(storage)).stdout.count("stopped") == 3


@pytest.mark.chaos
def test_a_signal_to_the_whole_process_group_stops_cleanly(tmp_path: Path, tiny_gpt_neo_folder: Path) -> None:
    # As `timeout` sends it: a Ray that took it too would be gone before the trials have published what they have.
    storage = tmp_path / "results"
    grid = ("--beta", "0", "--original-texts", "40", "--checkpoint-every", "200", "--max-generations", str(LONG * 10))
    driver = subprocess.Popen(
        command(*flags(tiny_gpt_neo_folder, storage, *grid)),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    wait_for_parts(storage, driver)
    core = core_of(driver)
    os.killpg(driver.pid, signal.SIGTERM)
    out, err = driver.communicate(timeout=60)
    assert driver.returncode == 143, out + err
    assert "The same command goes on from here" in out
    assert "Traceback" not in err
    sql = "SELECT status, reason FROM trials WHERE algorithm = 'rloo'"
    assert set(reader.run_query(Storage(storage), sql)[1]) == {("stopped", "SIGTERM")}
    assert_verified(storage)
    assert psutil.wait_procs(core, timeout=20)[1] == []


def core_of(driver: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes of a driver's own Ray without which there is none."""
    core = [child for child in psutil.Process(driver.pid).children() if child.name() in ("gcs_server", "raylet")]
    assert len(core) == 2
    return core


@pytest.mark.chaos
def test_an_address_where_nothing_listens_is_told_at_once(tmp_path: Path, tiny_gpt_neo_folder: Path) -> None:
    started = time.monotonic()
    done = cli(*flags(tiny_gpt_neo_folder, tmp_path, "--beta", "0", "--address", "127.0.0.1:1"))
    assert done.returncode == 1 and time.monotonic() - started < 60
    assert len(done.stderr.splitlines()) == 1 and "no Ray at '127.0.0.1:1'" in done.stderr


@pytest.mark.chaos
def test_a_killed_driver_leaves_a_stalled_sweep_that_goes_on(tmp_path: Path, tiny_gpt_neo_folder: Path) -> None:
    storage = tmp_path / "results"
    grid = ("--beta", "0", "--original-texts", "40", "--checkpoint-every", "200", "--max-generations", str(LONG))
    driver = subprocess.Popen(
        command(*flags(tiny_gpt_neo_folder, storage, *grid)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    wait_for_parts(storage, driver)
    core = core_of(driver)
    driver.kill()
    driver.wait()
    assert psutil.wait_procs(core, timeout=20)[1] == []
    told = here("status", "--storage", str(storage)).stdout  # the original may have ended before the first part
    assert "stalled" in told
    assert "running" not in told
    done = cli(*flags(tiny_gpt_neo_folder, storage, *grid))
    assert done.returncode == 0, done.stderr
    assert "to be continued" in done.stdout
    assert_verified(storage)
