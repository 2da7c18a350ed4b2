"""What a trial said: one step's whole group, or a window of texts, side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from rl_alliteration.analysis.types import WINDOW
from rl_alliteration.app.choices import Choices
from rl_alliteration.app.index import Known
from rl_alliteration.app.page import Live, Page
from rl_alliteration.app.rows import COLUMNS, ORDERS, Rollout, ordered, rollouts
from rl_alliteration.app.shading import MEANINGS, RUNS, SHADES, Record, legend, pieces, records

STEP, ONE_WINDOW = "step", "window"


def page(live: Live, choices: Choices) -> Page:
    """The texts that an address asks for."""
    snapshot = live.index.snapshot
    named = choices.trials(snapshot)
    trials = [(f"{one.note.name}: {one.trial.name}" if one.note.name else one.trial.name, "/".join(one.pair))
              for one in snapshot.trials.values() if one.trial.generations]  # fmt: skip
    values: dict[str, Any] = {"trials": trials, "orders": ORDERS, "choices": choices, "one": None}
    if not named and not trials:
        return Page("rollouts.html", "Rollouts", values)
    one = named[0] if named else next(one for one in snapshot.trials.values() if one.trial.generations)
    size = one.trial.group_size
    scope = choices.one_of("scope", (STEP, ONE_WINDOW), STEP if size > 1 else ONE_WINDOW)
    last = max(one.trial.generations - 1, 0)
    asked = choices.whole("generation", last)
    width = size if scope == STEP else WINDOW
    low = min(asked, last) // width * width
    order = choices.one_of("order", ORDERS, "sampled")
    shuffle = choices.whole("shuffle", 0, most=2**31)
    found = rollouts(live.index, one, low, low + width)
    shown = ordered(found, order, shuffle)
    shade = choices.one_of("shade", SHADES, RUNS)
    kept = records(live.index, one, low, low + width) if shade != RUNS and found else {}
    interval = one.planned.checkpoint_every
    live.index.want([one.pair])
    values |= {
        "one": one,
        "key": "/".join(one.pair),
        "scope": scope,
        "scopes": {STEP: f"one step's group ({size})", ONE_WINDOW: f"a window ({WINDOW})"},
        "order": order,
        "shuffle": shuffle,
        "low": low,
        "high": low + len(found) - 1,
        "last": last,
        "end": last // width * width,
        "width": width,
        "beyond": asked > last,
        "shown": shown,
        "shade": shade,
        "shades": SHADES,
        "shaded": {row.generation: pieces(row, kept[row.generation], shade) for row in found if row.generation in kept},
        "meaning": MEANINGS.get(shade, ""),
        "legend": [] if shade == RUNS else legend(shade),
        "recorded": low // interval * interval // width * width,
        "mean": _means(found),
        "not_stored": one.generations - one.trial.generations,
    }
    return Page("rollouts.html", f"Rollouts of {one.trial.name}", values, lambda: as_table(one, shown, kept))


def _means(found: list[Rollout]) -> dict[str, float]:
    count = max(len(found), 1)
    return {
        "reward": sum(one.raw_reward for one in found) / count,
        "kl": sum(one.kl for one in found) / count,
    }


def as_table(one: Known, shown: list[Rollout], kept: Mapping[int, Record]) -> pa.Table:
    """What is shown, with the columns' own names and signs; token by token where that is shown."""
    columns: dict[str, Any] = {name: [getattr(row, name) for row in shown] for name in COLUMNS}
    for name in [field.name for field in dataclasses.fields(Record)] if kept else []:
        columns[f"token_{name}"] = [getattr(kept.get(row.generation), name, []) for row in shown]
    of = {"experiment": [one.trial.experiment] * len(shown), "trial_id": [one.trial.trial_id] * len(shown)}
    return pa.table(of | columns)
