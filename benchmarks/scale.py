"""What a large sweep costs: its driver, and its results once they are there.

    python benchmarks/scale.py results --storage FOLDER [--trials 1000]     write texts as a sweep leaves them, measure
    python benchmarks/scale.py trials --storage FOLDER --trials 100 300 1000   run sweeps of trials that only sleep

`results` writes 3,600 texts a trial through the real writer (whole stories of the shipped model, spliced so that
nearly all differ, and collapsed ones at beta 0), then times each command and question in a process of its own.
`trials` runs real sweeps whose trainer is replaced by one that sleeps: everything else, from the command line to
Parquet, checkpoints, TensorBoard, heartbeat and metrics, is what it always is.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rl_alliteration.config import PlannedTrial, TrialConfig
from rl_alliteration.results import schema
from rl_alliteration.results.events import EventLog
from rl_alliteration.results.storage import Storage
from rl_alliteration.results.writer import TrialWriter
from rl_alliteration.rl.advantages import get_algorithm
from rl_alliteration.rl.rewards import get_reward
from rl_alliteration.rows import Text, Update
from rl_alliteration.tune.plan import Sweep, plan, resolve

if TYPE_CHECKING:
    from rl_alliteration.lm.loading import LoadedModel

TEXTS = 3600
EXPERIMENT = "scale"
STORIES = 512
BETAS = (0.0, 0.01, 0.1, 1.0, 10.0, 20.0, 40.0, 60.0, 80.0, 100.0)

QUESTIONS = {
    "mean raw reward and KL by algorithm and beta": (
        "SELECT algorithm, beta, avg(raw_reward), avg(kl_penalty) FROM generations GROUP BY ALL"
    ),
    "one trial's curve in windows of 100": (
        "SELECT generation // 100 * 100 AS g, avg(raw_reward), avg(kl_penalty) FROM generations "
        "WHERE trial_id = '{trial}' GROUP BY ALL ORDER BY 1"
    ),
    "the ten best texts": (
        "SELECT raw_reward, beta, generation, text FROM generations ORDER BY raw_reward DESC, generation LIMIT 10"
    ),
    "last-100 mean of each trial joined with trials": (
        "SELECT t.trial_id, t.status, avg(g.raw_reward) FROM generations g JOIN trials t USING (experiment, trial_id) "
        "WHERE g.generation >= t.generations - 100 GROUP BY ALL"
    ),
    "distinct texts of each trial's last 200": (
        "SELECT g.trial_id, count(DISTINCT g.text) FROM generations g JOIN trials t USING (experiment, trial_id) "
        "WHERE g.generation >= t.generations - 200 GROUP BY ALL"
    ),
}


# --- results ---------------------------------------------------------------------------------------------


def stories(loaded: LoadedModel) -> list[list[int]]:
    """Token ids of texts of the shipped model."""
    from rl_alliteration.lm.sampling import sample, uniforms

    prompt = loaded.encode("Once upon a time")
    found: list[list[int]] = []
    for first in range(0, STORIES, 64):
        rollout = sample(loaded.reference(), prompt, uniforms(0, first, 64, 100), end_tokens=loaded.end_tokens)
        found += [ids[:n] for ids, n in zip(rollout.token_ids.tolist(), rollout.lengths, strict=True)]
    return found


def trials_of(count: int, loaded: LoadedModel, storage: str) -> list[PlannedTrial]:
    """`count` trials over both algorithms and ten betas."""
    seeds = tuple(range(-(-count // (2 * len(BETAS)))))
    sweep = resolve(
        Sweep(storage=storage, experiment=EXPERIMENT, algorithm=("rloo", "reinforce"), beta=BETAS, seed=seeds)
    )
    return plan(sweep, loaded)[1 : count + 1]


def write_trial(storage: Storage, trial: PlannedTrial, texts: Sequence[list[int]], loaded: LoadedModel) -> None:
    """A trial's parts, checksums and events, with numbers that `verify` accepts."""
    config = trial.config
    reward, algorithm = get_reward(config.reward), get_algorithm(config.algorithm)
    random = np.random.default_rng([config.seed, int(config.beta * 100), config.group_size])
    writer = TrialWriter(storage, EXPERIMENT, trial.trial_id, "scale")
    log = EventLog(storage, EXPERIMENT, "scale", {})
    for status in (schema.PLANNED, schema.RUNNING):
        log.append(trial, status)
    tall = loaded.tokenizer.encode(" tall tree").ids
    for first in range(0, TEXTS, config.group_size):
        rows: list[dict[str, Any]] = []
        for place in range(config.group_size):
            head, tail = (texts[i] for i in random.integers(len(texts), size=2))
            cut = int(random.integers(8, 90))
            ids = head[:cut] if len(head) <= cut else head[:cut] + tail[cut:]
            if config.beta == 0 and random.random() < first / TEXTS:  # it collapses on the way
                ids = (head[:5] + tall * 50)[: len(head)]
            rows.append(_row(trial, first, place, ids, reward, loaded, random))
        rewards = np.array([row["reward"] for row in rows])
        for row, advantage in zip(rows, algorithm.advantages(rewards), strict=True):
            row["advantage"] = float(advantage)
        writer.add(rows, _update(trial, rows, random))
        if (first + config.group_size) % trial.checkpoint_every == 0:
            writer.write_part()
    log.append(trial, schema.FINISHED, generations=TEXTS)


def _row(
    trial: PlannedTrial, first: int, place: int, ids: list[int], reward: Any, loaded: LoadedModel, random: Any
) -> dict[str, Any]:
    config = trial.config
    ended = ids[-1] in loaded.end_tokens and len(ids) > 4
    text = loaded.tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=True)
    entropy, original = (float(x) for x in random.normal((1.6, 1.8), 0.2))
    return Text.of(
        config, generation=first + place, prompt=config.prompt, text=text, token_ids=ids, num_prompt_tokens=4,
        ended=ended, raw_reward=float(reward(text)), lm_cross_entropy=entropy, original_lm_cross_entropy=original,
        advantage=0.0, beta=config.beta, model=f"{trial.model}@{config.model_fingerprint}",
    ).row()  # fmt: skip


def _update(trial: PlannedTrial, rows: list[dict[str, Any]], random: Any) -> dict[str, Any]:
    config = trial.config
    measured = ("grad_norm", "entropy", "kl_k3", "sampler_gap", "sample_seconds", "train_seconds")
    return Update(
        step=rows[0]["step"], generation=rows[0]["generation"],
        loss=sum(row["advantage"] * row["lm_cross_entropy"] for row in rows),
        **dict(zip(measured, map(float, random.random(6)), strict=True)),
        tokens=sum(row["num_tokens"] for row in rows), algorithm=config.algorithm, beta=config.beta,
        seed=config.seed, group_size=config.group_size, learning_rate=config.learning_rate,
    ).row()  # fmt: skip


def _write_share(storage: str, texts: Sequence[list[int]], share: list[tuple[str, str, int, int]]) -> None:
    from rl_alliteration.lm.loading import load_model

    loaded = load_model("storyteller")
    for config, model, generations, every in share:
        trial = PlannedTrial(TrialConfig.from_json(config), model, generations, every)
        write_trial(Storage(storage), trial, texts, loaded)


def write_results(storage: str, count: int) -> None:
    """The results of `count` trials, written by two processes."""
    from rl_alliteration.lm.loading import load_model
    from rl_alliteration.tune.restore import store_model

    loaded = load_model("storyteller")
    trials = trials_of(count, loaded, storage)
    store_model(Storage(storage), trials[0], loaded, Sweep(storage=storage))
    shared = [(t.config.to_json(), t.model, t.max_generations, t.checkpoint_every) for t in trials]
    texts = stories(loaded)
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_share, args=(storage, texts, shared[i::2])) for i in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        if writer.exitcode:
            raise SystemExit("a writer failed")


def measured(arguments: Sequence[str], repeats: int = 1) -> tuple[float, float]:
    """Median seconds and most GiB of a command in a process of its own.

    A child's peak counts what its parent had when it was started: this process must stay small.
    """
    seconds, most = [], 0.0
    for _ in range(repeats):
        started = time.perf_counter()
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds.append(time.perf_counter() - started)
        most = max(most, usage.ru_maxrss / 2**20)
        if status:
            raise SystemExit(f"{' '.join(arguments)} failed")
    return sorted(seconds)[len(seconds) // 2], most


def measure_results(storage: str, with_verify: bool) -> list[dict[str, Any]]:
    """A line a command."""
    from rl_alliteration.results import reader

    ours = [sys.executable, "-m", "rl_alliteration.cli"]
    trial = reader.trial_ids(Storage(storage))[0][1]
    commands = {
        name: [*ours, "query", "--storage", storage, sql.format(trial=trial)] for name, sql in QUESTIONS.items()
    }
    commands["status"] = [*ours, "status", "--storage", storage]
    if with_verify:
        commands["verify"] = [*ours, "verify", "--storage", storage]
    lines = []
    for name, arguments in commands.items():
        seconds, gib = measured(arguments, 1 if name == "verify" else 3)
        lines.append({"what": name, "seconds": round(seconds, 2), "GiB": round(gib, 2)})
        print(f"{name:50} {seconds:8.2f} s {gib:6.2f} GiB", flush=True)
    return lines


# --- trials ----------------------------------------------------------------------------------------------

STUB = """
import resource, sys, time
import rl_alliteration.rl.trainer as trainer
from rl_alliteration.rl.trainer import Step, Trainer

class Sleeper(Trainer):
    # A group of real texts, made once, and the time a step takes; no model is run.
    def step(self):
        time.sleep({seconds})
        if not hasattr(Sleeper, "made"):
            Sleeper.made = Trainer.step(self)
            self.generation -= self.config.group_size
        rows = [dict(row, generation=self.generation + i, step=self.step_index, beta=self.config.beta,
                     seed=self.config.seed) for i, row in enumerate(Sleeper.made.texts)]
        update = dict(Sleeper.made.update, generation=self.generation, step=self.step_index,
                      beta=self.config.beta, seed=self.config.seed)
        self.generation += self.config.group_size
        return Step(rows, update)

    def state(self):
        state = Trainer.state(self)
        return type(state)({{name: state.weights[name][:1] for name in list(state.weights)[:1]}}, state.counters)

    def load_state(self, weights, generation, counters):
        self.generation = generation

trainer.Trainer = Sleeper
"""
# Trials must load the stub too: Python runs `sitecustomize` in each of their processes.
DRIVER = """
import resource, sys, time, json
from rl_alliteration.cli import main as cli
started = time.perf_counter()
try:
    cli.main(sys.argv[2:])
finally:
    used = resource.getrusage(resource.RUSAGE_SELF)
    json.dump({"seconds": time.perf_counter() - started, "cpu": used.ru_utime + used.ru_stime,
               "GiB": used.ru_maxrss / 2**20}, open(sys.argv[1], "w"))
"""
SLOTS = 4
STEP_SECONDS = 0.05
STUB_TEXTS = 400


def measure_trials(count: int, folder: Path) -> dict[str, Any]:
    """A sweep of `count` trials that only sleep, four at a time on a Ray of its own."""
    folder.mkdir(parents=True)
    # The stub is loaded where torch and the trainer are: at the import of `rl_alliteration.trial.run`.
    (folder / "sitecustomize.py").write_text(SITE.format(stub=repr(STUB.format(seconds=STEP_SECONDS))))
    (folder / "driver.py").write_text(DRIVER)
    (folder / "start.py").write_text(
        f"import ray, runpy, sys\nray.init(address='local', num_cpus={SLOTS}, include_dashboard=False, "
        f"logging_level='ERROR', log_to_driver=False)\nrunpy.run_path({str(folder / 'driver.py')!r}, "
        "run_name='__main__')\n"
    )
    seeds = [str(seed) for seed in range(count - 1)]
    arguments = [
        "sweep", "--experiment", "stub", "--storage", str(folder / "results"), "--algorithm", "rloo", "--beta", "1",
        "--seed", *seeds, "--max-generations", str(STUB_TEXTS), "--checkpoint-every", "200",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{Path(__file__).parents[1]}"}
    log = (folder / "log").open("w")
    done = subprocess.run(
        [sys.executable, str(folder / "start.py"), str(folder / "used.json"), *arguments],
        env=environment, stdout=log, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"the sweep failed, see {folder / 'log'}")
    used = json.loads((folder / "used.json").read_text())
    asleep = (count - 1) * (STUB_TEXTS / 10) * STEP_SECONDS / SLOTS
    return {
        "trials": count,
        "seconds": round(used["seconds"], 1),
        "seconds asleep": round(asleep, 1),
        "overhead seconds a trial": round((used["seconds"] - asleep) / count, 3),
        "driver CPU seconds a trial": round(used["cpu"] / count, 3),
        "driver GiB": round(used["GiB"], 3),
    }


SITE = """
import importlib.abc, importlib.machinery, sys

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "rl_alliteration.trial.run":
            return None
        sys.meta_path.remove(self)
        exec({stub}, {{}})
        return None

sys.meta_path.insert(0, Finder())
"""


def main() -> None:
    """Measure, print, and keep the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["results", "trials"])
    parser.add_argument("--storage", required=True, help="a folder; for `trials` a new one")
    parser.add_argument("--trials", type=int, nargs="+", default=[1000])
    parser.add_argument("--no-verify", action="store_true")
    parser.add_argument("--output", type=Path, help="a JSON file to keep the figures in")
    chosen = parser.parse_args()
    found: Any = None
    if chosen.what == "results":
        if not list(Path(chosen.storage).glob("generations/*/*")):
            started = time.perf_counter()
            writing = multiprocessing.get_context("spawn").Process(
                target=write_results, args=(chosen.storage, chosen.trials[0])
            )
            writing.start()
            writing.join()
            print(f"written in {time.perf_counter() - started:.0f} s", flush=True)
        found = measure_results(chosen.storage, not chosen.no_verify)
    else:
        found = []
        for count in chosen.trials:
            found.append(measure_trials(count, Path(chosen.storage) / str(count)))
            print(json.dumps(found[-1]), flush=True)
    if chosen.output:
        chosen.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
