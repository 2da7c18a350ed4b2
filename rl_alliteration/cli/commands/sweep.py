"""`rl-alliteration sweep`: run a sweep, or list its trials."""

from __future__ import annotations

import dataclasses
import shlex
from typing import ClassVar

from rich.text import Text

from rl_alliteration import terminal
from rl_alliteration.cli.commands import Command
from rl_alliteration.cli.summaries import show_trials
from rl_alliteration.config import ORIGINAL
from rl_alliteration.flags import ALL_GROUPS
from rl_alliteration.names import update_words
from rl_alliteration.terminal import Grid, Screen
from rl_alliteration.tune import plan
from rl_alliteration.tune.execution import Ended, Prepared, execute_sweep, memory_of, prepare_sweep


@dataclasses.dataclass(frozen=True)
class SweepCommand(plan.Sweep, Command):
    __doc__ = plan.Sweep.__doc__

    place: ClassVar[int] = 10

    def run(self) -> int:
        if not self.dry_run:
            terminal.go_on_without_output()
        console = Screen()
        prepared = prepare_sweep(self, console)
        if self.dry_run:
            _print_plan(console, prepared)
            return 0
        return show_end(console, execute_sweep(prepared, console))


def show_end(console: Screen, ended: Ended) -> int:
    """Show what a run has left; its exit code.

    Raises:
        Failure: a trial failed.
    """
    show_trials(console, ended.storage, ended.experiment)
    where = shlex.quote(str(ended.storage))
    console.print()
    console.say(f"Texts and numbers (Parquet): {ended.storage}/generations")
    sql = f"SELECT beta, avg(raw_reward) FROM generations WHERE algorithm <> '{ORIGINAL}' GROUP BY ALL ORDER BY beta"
    console.say(f'Query them:  rl-alliteration query --storage {where} "{sql}"')
    chosen = f"--storage {where} --experiment {ended.experiment}"
    console.say(f"See them:    rl-alliteration report {chosen} --output report.html")
    console.say(f"Curves:      tensorboard --logdir {where}/tensorboard --samples_per_plugin scalars=100000,text=1000")
    if ended.outcome.stopped_by is not None:
        console.say("Stopped. The same command goes on from here.")
        return 128 + int(ended.outcome.stopped_by)
    if ended.outcome.spent:
        console.say(f"Stopped, {ended.outcome.spent}. The same command goes on from here.")
    ended.check()
    return 0


def _print_plan(console: Screen, prepared: Prepared) -> None:
    from rl_alliteration.tune.estimate import as_found, time_told  # with torch, and so no sooner
    from rl_alliteration.tune.reward_parameters import id_is_known

    sweep, storage = prepared.sweep, prepared.storage
    found = as_found(storage, prepared.trials, sweep)
    table = Grid(box=None, pad_edge=False)
    for column in ("trial", "texts", "group", "learning rate", "reward", "update", "state"):
        left, bare = column in ("trial", "reward", "update", "state"), column in ("trial", "state")
        table.add_column(column, justify="left" if left else "right", no_wrap=column != "state", bare=bare)
    for f in found:
        trial, config = f.trial, f.trial.config
        name = trial.trial_id if id_is_known(trial) else f"{trial.trial_id.rpartition('-')[0]}-…"
        table.add_row(
            Text(name), f"{trial.max_generations:,}", str(config.group_size),
            f"{config.learning_rate:g}", Text(config.reward),
            "–" if config.algorithm == ORIGINAL else update_words(config), Text(f.words),
        )  # fmt: skip
    console.show(table)
    parameters = sum(p.numel() for p in prepared.loaded.model.parameters())
    texts = sum(f.trial.max_generations for f in found)
    missing = sum(max(f.trial.max_generations - f.generations, 0) for f in found if f.to_run)
    # Of each trial the two newest checkpoints and that of its end; the original needs none.
    each_text = _BYTES_PER_TEXT + (_BYTES_PER_RECORD if sweep.record_tokens == ALL_GROUPS else 0)
    bytes_needed = texts * each_text + (len(found) - 1) * 3 * 4 * parameters
    memory = memory_of(prepared.trials, prepared.loaded)
    each = "" if memory is None else f"; about {memory / 2**30:.1f} GiB of memory for each trial that runs"
    size = f"about {bytes_needed / 1e6:,.0f} MB on disk"
    console.say(f"{len(found)} trials, {texts:,} texts, {missing:,} of them to be sampled, {size}{each}")
    if storage is None and "://" in sweep.storage:
        console.say("The storage is not within reach: what it has already is not known")
    console.say(time_told(storage, found, sweep))


# Measured, of 100-token texts: Parquet, checksums and TensorBoard; the token record of each.
_BYTES_PER_TEXT, _BYTES_PER_RECORD = 1_300, 600
