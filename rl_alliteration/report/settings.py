"""The table of settings: what the seeds of each end with, beside the unmodified model and best-of-n of its texts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from rl_alliteration.analysis.more_seeds import for_threshold, words
from rl_alliteration.analysis.seeds import ONE_SEED
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
    return ONE_SEED if row.worth.seeds == 1 else str(row.worth.seeds)


def _more_seeds(row: SettingRow) -> str:
    """That would tell J from J0."""
    of_seeds, nothing = row.worth.objective, row.worth.nothing
    if not of_seeds.has_interval:
        return "–"
    more = for_threshold(of_seeds, nothing.value, row.worth.seeds, (nothing.high - nothing.low) / 2)
    return words(more) if more else "told apart"


def _worth(row: SettingRow) -> str:
    """Also of the seeds that have more than the original's texts can tell."""
    worth, texts = row.worth, f"over {len(row.original.rewards):,}"
    if not worth.beyond:
        return worth.worth.told("z.1f")
    if worth.beyond == worth.seeds:
        return texts
    return f"{texts} in {worth.beyond} of {worth.seeds} seeds; else {worth.worth.told('z.1f')}"


def _wasted(row: SettingRow) -> str:
    told = row.worth.wasted.told("z.1f")
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
    return f"{bound}; estimate {found.optimum.objective.told('z.1f')}, {sample}"


COLUMNS: tuple[tuple[str, Callable[[SettingRow], str]], ...] = (
    ("seeds", _seeds),
    ("J", lambda row: row.worth.objective.told("z.1f")),
    ("J0, doing nothing", lambda row: row.worth.nothing.told("z.2f")),
    ("more seeds", _more_seeds),
    ("J*, the optimum", _optimum),
    ("KL, nats a text", lambda row: row.worth.kl.told("z.1f")),
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
