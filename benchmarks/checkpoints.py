"""What publishing (parts, checksums, checkpoint, TensorBoard) costs of a trial's time, at the default interval.

    python benchmarks/checkpoints.py

One RLOO trial of the shipped model, one thread, three intervals of 600 texts.
"""

from __future__ import annotations

import statistics
import tempfile
import time

import torch

from rl_alliteration.lm.loading import load_model
from rl_alliteration.results.storage import Storage
from rl_alliteration.rl.advantages import get_algorithm
from rl_alliteration.rl.rewards import get_reward
from rl_alliteration.rl.trainer import Trainer
from rl_alliteration.trial.run import TrialRun
from rl_alliteration.tune.plan import Sweep, plan, resolve

INTERVALS = 3


def main() -> None:
    """Print a line an interval, and the median share."""
    torch.set_num_threads(1)
    loaded = load_model("storyteller")
    with tempfile.TemporaryDirectory() as folder:
        sweep = resolve(Sweep(storage=folder, experiment="bench", beta=(40.0,), max_generations=600 * INTERVALS))
        trial = plan(sweep, loaded)[-1]
        trainer = Trainer(trial.config, loaded, get_reward("alliteration"), get_algorithm("rloo"))
        run = TrialRun(trainer, trial, Storage(folder), "bench", "bench", keep_checkpoints=2)
        publishing = 0.0
        publish = run.publish

        def timed(*, end: bool) -> None:
            nonlocal publishing
            started = time.perf_counter()
            publish(end=end)
            publishing += time.perf_counter() - started

        run.publish = timed  # type: ignore[method-assign]
        shares = []
        for _ in range(INTERVALS):
            started, publishing = time.perf_counter(), 0.0
            while True:
                run.step()
                if trainer.generation % 600 == 0:
                    break
            total = time.perf_counter() - started
            shares.append(publishing / total)
            print(f"600 texts in {total:.1f} s, of which publishing {publishing:.2f} s: {100 * shares[-1]:.2f}%")
        run.close()
    print(f"median share: {100 * statistics.median(shares):.2f}%")


if __name__ == "__main__":
    main()
