"""One trial: how it stands, what it is, and what people say of it."""

from __future__ import annotations

import math
import shlex

import pyarrow as pa

from rl_alliteration.analysis.comparison import differing
from rl_alliteration.analysis.metrics import METRICS
from rl_alliteration.analysis.worth import setting_worth
from rl_alliteration.app.choices import Choices
from rl_alliteration.app.index import Known
from rl_alliteration.app.page import Live, Page
from rl_alliteration.app.table import COLUMNS, Verdicts, as_table, rows
from rl_alliteration.errors import UserError
from rl_alliteration.results.notes import NAME_LENGTH, NOTE_LENGTH


def page(live: Live, choices: Choices) -> Page:
    """The trial that an address names."""
    snapshot = live.index.snapshot
    found = choices.trials(snapshot)
    if len(found) != 1:
        raise UserError("trial: name one trial, such as by a link of the table of trials")
    (one,) = found
    live.index.want([one.pair])
    trial = one.trial
    (row,) = rows([one], Verdicts.of(snapshot))
    facts = [(column.title, column.show(row.values[column.name].value), column.meaning) for column in COLUMNS]
    if trial.original is not None and trial.full.any():
        worth = setting_worth([trial])
        best = "over what the original's texts can tell" if worth.beyond else f"{worth.worth.value:,.1f}"
        facts.append(("Worth best-of", best, "the n whose best-of-n of the original's texts has the same raw reward"))
        if math.isfinite(worth.wasted.value):
            facts.append(("Nats wasted", f"{worth.wasted.value:z.1f}", "a text, beyond those that best-of-n needs"))
    ends = [(about.title, about.shown(trial.final(name)), about.digits, about.words) for name, about in METRICS.items()]
    command = ["rl-alliteration", "export", "--storage", str(live.index.storage), "--experiment", trial.experiment]
    size, there = trial.group_size, trial.generations // trial.group_size * trial.group_size
    fork = choices.whole("fork", there, most=there)
    if fork % size or fork < min(size, there):
        raise UserError(f"fork: {fork} is not accepted; give a multiple of the group size, {size}, above 0")
    values = {
        "one": one,
        "fork": fork,
        "forks": there,
        "fork_command": "" if trial.is_original or not there else _fork(one, fork, str(live.index.storage)),
        "row": row,
        "facts": facts,
        "ends": ends,
        "settings": [(name, words[0]) for name, words, _ in differing([one.planned])],
        "command": shlex.join([*command, "--trial", trial.trial_id, "--output", "model"]),
        "name_length": NAME_LENGTH,
        "note_length": NOTE_LENGTH,
        "key": "/".join(one.pair),
    }

    def table() -> pa.Table:
        return as_table([row], groups=False)

    return Page("trial.html", one.note.name or trial.name, values, table)


def _fork(one: Known, generation: int, storage: str) -> str:
    """What begins another trial from its model, with half its penalty for a start; a browser starts nothing."""
    trial = one.trial
    words = ["rl-alliteration", "sweep", "--storage", storage]
    words += ["--from", f"{trial.experiment}/{trial.trial_id}@{generation}"]
    if trial.target_kl is not None:
        return shlex.join([*words, "--target-kl", f"{trial.target_kl / 2:g}"])
    return shlex.join([*words, "--beta", f"{trial.beta / 2 or 10:g}"])
