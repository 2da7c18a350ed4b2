"""The table of settings: what the seeds of each end with, beside the unmodified model and best-of-n of its texts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from rl_alliteration.analysis.seeds import Estimate
from rl_alliteration.analysis.types import Original, Trial
from rl_alliteration.analysis.worth import SettingWorth, by_original, possible, setting_worth
from rl_alliteration.report.base import Shown, settings_of


@dataclasses.dataclass(frozen=True)
class SettingRow:
    """A setting, and what its cells are made of."""

    name: str
    original: Original
    trials: list[Trial]
    worth: SettingWorth


def _seeds(row: SettingRow) -> str:
    return "one seed" if row.worth.seeds == 1 else str(row.worth.seeds)


def _estimate(found: Estimate, digits: int) -> str:
    """`5.2 [5.0, 5.4]`, without an interval where there is none."""
    if not math.isfinite(found.value):
        return "–"
    interval = f" [{found.low:z.{digits}f}, {found.high:z.{digits}f}]" if math.isfinite(found.low) else ""
    return f"{found.value:z.{digits}f}{interval}"


def _worth(row: SettingRow) -> str:
    """Also of the seeds that have more than the original's texts can tell."""
    worth, texts = row.worth, f"over {len(row.original.rewards):,}"
    if not worth.beyond:
        return _estimate(worth.worth, 1)
    if worth.beyond == worth.seeds:
        return texts
    return f"{texts} in {worth.beyond} of {worth.seeds} seeds; else {_estimate(worth.worth, 1)}"


def _wasted(row: SettingRow) -> str:
    told = _estimate(row.worth.wasted, 1)
    beyond = row.worth.beyond
    return f"{told} ({row.worth.seeds - beyond} of {row.worth.seeds} seeds)" if beyond and told != "–" else told


def _optimum(row: SettingRow) -> str:
    """An estimate only where enough texts carry it; the bound beside it in words."""
    trial = row.trials[0]
    found = None if trial.target_kl is not None else possible(row.original, trial.beta)
    if found is None:
        return "–"
    bound = "at least J0" if math.isnan(found.at_least) else f"at least {found.at_least:.1f}"
    if found.optimum is None:
        return bound
    sample = f"effective sample {found.optimum.effective_sample:,.0f}"
    return f"{bound}; estimate {_estimate(found.optimum.objective, 1)}, {sample}"


COLUMNS: tuple[tuple[str, Callable[[SettingRow], str]], ...] = (
    ("seeds", _seeds),
    ("J", lambda row: _estimate(row.worth.objective, 1)),
    ("J0, doing nothing", lambda row: _estimate(row.worth.nothing, 2)),
    ("J*, the optimum", _optimum),
    ("KL, nats a text", lambda row: _estimate(row.worth.kl, 1)),
    ("nats wasted", _wasted),
    ("worth best-of", _worth),
)
"""Titles, and what is in their cells."""


def rows(shown: Shown) -> list[SettingRow]:
    """A row a setting that has an original and a full window, by reward."""
    found = []
    several = len(shown.rewards) > 1
    for reward in shown.rewards:
        for original, trials in by_original(shown.trials(reward)):
            for (algorithm, coefficient), own in settings_of(trial for trial in trials if trial.full.any()).items():
                name = f"{algorithm} {coefficient}" + (f", {reward}" if several else "")
                found.append(SettingRow(name, original, own, setting_worth(own)))
    return found
