"""Whatever is killed, and whenever: the rows are those of a sweep that nothing happened to."""

from __future__ import annotations

import logging
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pandas
import polars
import pytest
from chaos import Chaos, Driver, plan, processes, wait_until
from commands import flags
from curves import curves
from trials import EXPERIMENT, rows

from rl_alliteration.config import ORIGINAL, PlannedTrial, TrialConfig
from rl_alliteration.results import reader, schema
from rl_alliteration.results.events import EventLog
from rl_alliteration.results.lease import EXPIRE_SECONDS, Lease, read_lease
from rl_alliteration.results.storage import Storage
from rl_alliteration.results.verify import verify_trial
from rl_alliteration.rl.advantages import ALGORITHMS
from rl_alliteration.rl.rewards import get_reward
from rl_alliteration.tune.trainable import TrialSetup, TrialTrainable

pytestmark = pytest.mark.chaos

KILLS = int(os.environ.get("RL_ALLITERATION_KILLS", "8"))
SEED = int(os.environ.get("RL_ALLITERATION_SEED", "") or random.randrange(10**6))
LENGTH, EVERY = 1200, 60


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """Ray's files in a folder of their own: nothing is left behind, and no other Ray is met."""
    folder = tempfile.mkdtemp(prefix="chaos-", dir="/tmp")  # short: Ray's sockets lie below it
    yield {"RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONUNBUFFERED": "1"}
    shutil.rmtree(folder, ignore_errors=True)


Start = Callable[..., Driver]


@pytest.fixture(scope="module")
def start(
    environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory, tiny_gpt_neo_folder: Path
) -> Iterator[Start]:
    """`start(storage, *flags)`: the sweep of this file as a process; ended with all of its Ray after the tests."""
    folder = tmp_path_factory.mktemp("output")
    drivers: list[Driver] = []

    def start_driver(storage: Path, *more: str) -> Driver:
        grid = ("--algorithm", "rloo", "reinforce", "--beta", "10", "--max-generations", str(LENGTH))
        others = ("--checkpoint-every", str(EVERY), "--max-failures", "1000", "--original-texts", "40")
        arguments = flags(tiny_gpt_neo_folder, storage, *grid, *others, *more)
        drivers.append(Driver(arguments, folder / f"{len(drivers)}.out", environment))
        return drivers[-1]

    yield start_driver
    for driver in drivers:
        driver.end_all()


# --- the sweep that all others are compared with ---------------------------------------------------------


class Readers:
    """Four readers that poll a storage: what they find wrong, and how often they looked."""

    def __init__(self, storage: Path) -> None:
        self.storage = storage
        self.polls = 0
        self.wrong: list[str] = []
        self._seen: dict[tuple[str, str], int] = {}
        pattern = f"{storage}/generations/*/*/part-*.parquet"
        columns = ["trial_id", "generation"]

        def by_duckdb() -> list[tuple[Any, ...]]:
            found = duckdb.sql(f"SELECT trial_id, generation FROM read_parquet('{pattern}', hive_partitioning = true)")
            assert found is not None
            return found.fetchall()

        self._readers: dict[str, Callable[[], list[tuple[Any, ...]]]] = {
            "reader.connect": lambda: (
                reader.connect(Storage(storage)).sql("SELECT trial_id, generation FROM generations").fetchall()
            ),
            "duckdb": by_duckdb,
            "pandas": lambda: list(
                pandas.read_parquet(f"{storage}/generations")[columns].itertuples(index=False, name=None)
            ),
            "polars": lambda: polars.read_parquet(pattern, hive_partitioning=True)[columns].rows(),
        }

    def poll(self) -> None:
        """Each reader once: no error, and of each trial a prefix that does not shrink."""
        if not any(self.storage.glob("generations/*/*/part-*.parquet")):
            return
        self.polls += 1
        for name, read in self._readers.items():
            found: dict[str, list[int]] = {}
            try:
                for trial_id, generation in read():
                    found.setdefault(trial_id, []).append(generation)
            except Exception as error:
                self.wrong.append(f"{name}: {error!r}")
            for trial_id, generations in found.items():
                if sorted(generations) != list(range(len(generations))):
                    self.wrong.append(f"{name}: {trial_id} has {sorted(generations)}")
                if len(generations) < self._seen.get((name, trial_id), 0):
                    self.wrong.append(f"{name}: {trial_id} has shrunk to {len(generations)}")
                self._seen[name, trial_id] = len(generations)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, start: Start) -> SimpleNamespace:
    """A sweep that nothing happened to, but for readers and for a second driver that is refused."""
    storage = tmp_path_factory.mktemp("undisturbed") / "results"
    driver = start(storage)
    wait_until(lambda: read_lease(Storage(storage), EXPERIMENT), "a lease")
    second = start(storage)
    readers, refused, since = Readers(storage), None, None
    while not driver.ended:
        readers.poll()
        if since is None and "waiting up to" in second.out:
            since = time.monotonic()
        if refused is None and second.ended:
            refused = time.monotonic() - (since or time.monotonic())
        time.sleep(0.1)
    assert driver.wait() == 0, driver.err
    return SimpleNamespace(storage=storage, readers=readers, driver=driver, second=second, refused=refused)


def story(storage: Path, trial_id: str) -> tuple[list[str], list[str]]:
    """Every text and every update of a trial, bit for bit: `repr` tells -0.0 from 0.0, and NaN equals itself."""
    trial: Any = SimpleNamespace(trial_id=trial_id)
    texts, updates = (rows(Storage(storage), trial, name) for name in ("generations", "steps"))
    return [repr(row) for row in texts], [repr(row) for row in updates]


def assert_prefix(storage: Path, reference: Path) -> None:
    """What a reader sees at any moment: of each trial the first rows."""
    for _, trial_id in reader.trial_ids(Storage(reference)):
        for found, wanted in zip(story(storage, trial_id), story(reference, trial_id), strict=True):
            assert found == wanted[: len(found)], trial_id


def assert_same(storage: Path, reference: Path) -> None:
    """Every row and every point is that of the reference, and `verify` has nothing to say."""
    results = Storage(storage)
    assert reader.trial_ids(results) == reader.trial_ids(Storage(reference))
    for experiment, trial_id in reader.trial_ids(results):
        assert story(storage, trial_id) == story(reference, trial_id), trial_id
        verdict = verify_trial(results, experiment, trial_id)
        assert (verdict.problem, verdict.notes) == (None, ()), trial_id
        trial = SimpleNamespace(trial_id=trial_id)
        assert curves(results, trial) == curves(Storage(reference), trial), trial_id


def test_readers_see_a_prefix_of_each_trial_at_any_moment(undisturbed: SimpleNamespace) -> None:
    assert undisturbed.readers.wrong == []
    assert undisturbed.readers.polls > 10
    assert_same(undisturbed.storage, undisturbed.storage)
    texts = [len(story(undisturbed.storage, trial)[0]) for _, trial in reader.trial_ids(Storage(undisturbed.storage))]
    assert sorted(texts) == [40, LENGTH, LENGTH]


def test_a_second_driver_is_refused_while_the_first_renews(undisturbed: SimpleNamespace) -> None:
    assert undisturbed.refused is not None, undisturbed.second.out
    assert undisturbed.refused < 11
    assert undisturbed.second.process.returncode == 1
    line = undisturbed.second.err.strip()
    assert f"is driven by process {undisturbed.driver.pid} on " in line
    assert len(line.splitlines()) == 1


# --- a node, a driver that slept -------------------------------------------------------------------------


def test_a_node_that_is_lost_is_replaced_and_the_sweep_goes_on(
    undisturbed: SimpleNamespace,
    start: Start,
    tmp_path: Path,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ray.cluster_utils import Cluster

    for name, value in {**environment, "RAY_AUTH_MODE": "disabled"}.items():
        monkeypatch.setenv(name, value)
    quick = {"health_check_period_ms": 500, "health_check_failure_threshold": 4, "health_check_timeout_ms": 2000}
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": quick}
    )
    try:
        node = cluster.add_node(num_cpus=2)
        driver = start(tmp_path, "--address", cluster.address)
        wait_until(lambda: driver.ended or len(list(tmp_path.glob("generations/*/*/part-*"))) > 4, "parts")
        cluster.remove_node(node, allow_graceful=False)
        assert not driver.ended
        assert_prefix(tmp_path, undisturbed.storage)
        cluster.add_node(num_cpus=2)
        assert driver.wait() == 0, driver.err
    finally:
        cluster.shutdown()
    assert_same(tmp_path, undisturbed.storage)


def test_a_driver_that_slept_finds_itself_superseded(
    undisturbed: SimpleNamespace, start: Start, tmp_path: Path
) -> None:
    first = start(tmp_path)
    wait_until(lambda: first.ended or len(list(tmp_path.glob("generations/*/*/part-*"))) > 4, "parts")
    os.kill(first.pid, signal.SIGSTOP)
    second = start(tmp_path)
    wait_until(lambda: second.ended or second.trials(tmp_path), "trials of the second driver")
    assert "waiting up to 20 s" in second.out
    assert first.actors(), "the first driver's trials live on"
    os.kill(first.pid, signal.SIGCONT)
    assert first.wait() == 1
    assert not second.ended, "the first driver was to end while the second runs"
    assert second.wait() == 0, second.err
    lease = read_lease(Storage(tmp_path), EXPERIMENT)
    assert lease is not None and (lease.epoch, lease.released) == (2, True)
    assert_same(tmp_path, undisturbed.storage)
    writers = "SELECT trial_id, count(DISTINCT run_id) FROM generations GROUP BY ALL"
    assert {count for _, count in reader.run_query(Storage(tmp_path), writers)[1]} == {1, 2}
    assert "another driver has taken over" in first.err
    assert len(first.err.strip().splitlines()) == 1, first.err


@pytest.mark.parametrize("trouble", ["asleep", "all asleep", "no leases"])
def test_a_driver_that_nobody_followed_goes_on(
    undisturbed: SimpleNamespace, start: Start, tmp_path: Path, trouble: str
) -> None:
    """It sleeps past its lease, alone or with all of its Ray, as with a laptop's lid; or its lease is out of reach."""
    driver = start(tmp_path)
    wait_until(lambda: driver.ended or len(list(tmp_path.glob("generations/*/*/part-*"))) > 4, "parts")
    asleep = {"asleep": [driver.pid], "all asleep": processes(driver.pid), "no leases": []}[trouble]
    leases = tmp_path / "leases"
    for pid in asleep:
        os.kill(pid, signal.SIGSTOP)
    if not asleep:
        leases.rename(tmp_path / "away")
        leases.touch()
    time.sleep(EXPIRE_SECONDS + 3)
    for pid in asleep:
        os.kill(pid, signal.SIGCONT)
    if not asleep:
        leases.unlink()
        (tmp_path / "away").rename(leases)
    assert driver.wait() == 0, driver.err
    lease = read_lease(Storage(tmp_path), EXPERIMENT)
    assert lease is not None and (lease.epoch, lease.released) == (1, True)
    assert ("trying again" in driver.out) is not bool(asleep)
    assert_same(tmp_path, undisturbed.storage)


# --- a trial that Tune pauses ----------------------------------------------------------------------------


def test_a_trial_that_tune_pauses_has_the_same_rows(
    undisturbed: SimpleNamespace, tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process serves two trials in turn: each is paused in the middle of a part, and again later."""
    import ray
    from ray import tune
    from ray.tune.schedulers import FIFOScheduler, TrialScheduler

    class PauseTwice(FIFOScheduler):
        def __init__(self) -> None:
            self.results: dict[str, int] = {}

        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            self.results[trial.trial_id] = count = self.results.get(trial.trial_id, 0) + 1
            return TrialScheduler.PAUSE if count in (1, 3) else TrialScheduler.CONTINUE

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    storage, scheduler = Storage(tmp_path / "results"), PauseTwice()
    trials = shortened(undisturbed.storage, 240)
    lease = Lease(storage, EXPERIMENT, "run")
    lease.acquire(print)
    shutil.copytree(undisturbed.storage / "models", storage.root / "models")  # what `verify` reads texts with
    trainable = tune.with_parameters(TrialTrainable, reward=get_reward("alliteration"), algorithms=dict(ALGORITHMS))
    ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    try:
        results = tune.Tuner(
            tune.with_resources(trainable, {"cpu": 1}),
            param_space={"setup": tune.grid_search([setup(trial, storage, lease.epoch) for trial in trials])},
            tune_config=tune.TuneConfig(reuse_actors=True, scheduler=scheduler),
            run_config=tune.RunConfig(
                name="paused",
                storage_path=str(tmp_path / "tune"),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=True),
                verbose=0,
            ),
        ).fit()
    finally:
        ray.shutdown()
        lease.release()
    assert not results.errors
    assert [count > 3 for count in scheduler.results.values()] == [True, True]
    for trial in trials:
        assert len(rows(storage, trial)) == 240
        assert len(list(storage.root.glob(f"generations/*/trial_id={trial.trial_id}/*"))) > 240 / EVERY
        EventLog(storage, EXPERIMENT, "run", {}).append(trial, schema.FINISHED, generations=240)
        assert verify_trial(storage, EXPERIMENT, trial.trial_id).problem is None
    assert_prefix(storage.root, undisturbed.storage)


def shortened(storage: Path, length: int) -> list[PlannedTrial]:
    """The trials of a sweep but for the original, ending sooner."""
    events = [reader.last_event(Storage(storage), *pair) for pair in reader.trial_ids(Storage(storage))]
    configs = [TrialConfig.from_json(event["config"]) for event in events if event]
    models = [event["model"].rsplit("@", 1)[0] for event in events if event]
    return [
        PlannedTrial(config, model, length, EVERY)
        for config, model in zip(configs, models, strict=True)
        if config.algorithm != ORIGINAL
    ]


def setup(trial: PlannedTrial, storage: Storage, epoch: int) -> dict[str, Any]:
    """What a sweep gives to its trials."""
    return TrialSetup(
        trial=trial,
        storage=str(storage),
        experiment=EXPERIMENT,
        run_id="run",
        epoch=epoch,
        tokenizer=None,
        revision=None,
        gpu=False,
        keep_checkpoints=2,
        publish_every=300.0,
    ).to_tune()


# --- kills -----------------------------------------------------------------------------------------------


def test_a_plan_has_every_kind_within_eight_kills() -> None:
    kills = plan(SEED, 24)
    assert plan(SEED, 24) == kills
    assert [len({(k.victim, k.moment) for k in kills[i : i + 8]}) for i in (0, 8, 16)] == [8, 8, 8]


@pytest.mark.timeout(300 + 60 * KILLS)
def test_kills_lose_nothing_and_double_nothing(
    undisturbed: SimpleNamespace, start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def say(line: str) -> None:
        with capsys.disabled():
            print(line, flush=True)

    say(f"\nchaos: {KILLS} kills, seed {SEED}")
    chaos = Chaos(start, say, plan(SEED, KILLS))
    verdict = f"FAILED at kill {{spent}} of {KILLS}"
    try:
        for storage, ended in chaos.rounds(tmp_path):
            (assert_same if ended else assert_prefix)(storage, undisturbed.storage)
        verdict = f"{{spent}} of {KILLS} kills survived"
    finally:
        say(f"chaos: {verdict.format(spent=chaos.spent)}, seed {SEED}")
