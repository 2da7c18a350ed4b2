"""The shipped models side by side: nats a word on held-out stories, and the time of an RLOO step of each.

    python benchmarks/storytellers.py --heldout heldout.txt

The stories are in the format of `tune_jobs/pretrain_storyteller.py`; no shipped model has seen them. The steps are
those of `speed.py`, each model in a process of its own, in turn.
"""

from __future__ import annotations

import dataclasses
import datetime
import statistics

import tyro
from speed import GROUP, RESULTS, Worker, hardware, take_turns

from rl_alliteration.config import SHIPPED_MODELS
from rl_alliteration.lm.loading import load_model
from rl_alliteration.pretraining.data import read_stories
from rl_alliteration.pretraining.evaluation import WORDS, nats_per_word

KINDS = {"ours": "float32", "ours-bfloat16": "bfloat16"}


@dataclasses.dataclass(frozen=True)
class Storytellers:
    """Loss and speed of every shipped model."""

    heldout: str
    """Stories that none of them was trained on."""
    repetitions: int = 15
    warm_up: int = 2


def main() -> None:
    """Measure, print the table, and keep it under benchmarks/results/."""
    settings = tyro.cli(Storytellers)
    stories = read_stories(settings.heldout, "--heldout")
    seconds = {kind: _steps(kind, settings) for kind in KINDS}
    timed = " | ".join(f"ms a text, {dtype} | against the first" for dtype in KINDS.values())
    lines = [
        "# The shipped models\n",
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC · {hardware('cpu')}",
        "`python benchmarks/storytellers.py --heldout heldout.txt`",
        f"Nats a word over the first {WORDS} words of {len(stories):,} stories that no model has seen; milliseconds a "
        f"text of an RLOO step ({GROUP} texts), one thread, medians of {settings.repetitions} steps in turn.\n",
        f"| | parameters | nats a word | {timed} |",
        "|---|" + "---:|" * (2 + 2 * len(KINDS)),
    ]
    for name in SHIPPED_MODELS:
        loaded = load_model(name)
        model = loaded.reference().model
        loss = nats_per_word(model, loaded.pretrained_tokenizer, stories, loaded.context or 256)
        times = " | ".join(
            f"{1000 * of[name] / GROUP:.1f} | {of[name] / of[SHIPPED_MODELS[0]]:.2f}×" for of in seconds.values()
        )
        lines.append(f"| {name} | {sum(p.numel() for p in model.parameters()):,} | {loss:.3f} | {times} |")
    table = "\n".join(lines) + "\n"
    print(table)
    (RESULTS / "storytellers.md").write_text(table)


def _steps(kind: str, settings: Storytellers) -> dict[str, float]:
    """Median seconds of a step of each model."""
    workers = [Worker(kind, name, 1, "cpu") for name in SHIPPED_MODELS]
    seconds = take_turns(workers, settings.warm_up, settings.repetitions)
    for worker in workers:
        worker.end()
    return {name: statistics.median(taken) for name, taken in zip(SHIPPED_MODELS, seconds, strict=True)}


if __name__ == "__main__":
    main()
