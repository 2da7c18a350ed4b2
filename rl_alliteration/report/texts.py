"""Which texts a page carries: all of them, or the first, the last and some around every generation of each trial."""

from __future__ import annotations

from typing import Any

import duckdb
import numpy as np

from rl_alliteration.analysis.types import Trial
from rl_alliteration.rows import REWARDED

BUDGET = 12_000
"""Texts of a page, over all trials: about 5 MB."""
ENDS = 20
"""First and last texts of each trial that a page has in any case."""
TOGETHER = 5
"""Texts in a row, so that neighbours can be compared."""


def chosen_generations(generations: int, count: int) -> list[int]:
    """About `count` generations of a trial of `generations`: its ends, and short runs evenly between them."""
    if generations <= count:
        return list(range(generations))
    ends = min(ENDS, count // 4)
    runs = max(1, (count - 2 * ends) // TOGETHER)
    starts = np.linspace(ends, max(ends, generations - ends - TOGETHER), runs).astype(int)
    middle = {int(start) + k for start in starts for k in range(TOGETHER)}
    return sorted(g for g in {*range(ends), *middle, *range(generations - ends, generations)} if 0 <= g < generations)


def sample_texts(connection: duckdb.DuckDBPyConnection, trials: list[Trial], budget: int = BUDGET) -> dict[str, Any]:
    """The page's texts: whether they are all, how many there are in all, and by trial [generation, reward, KL, text].

    Trials share the budget evenly; what short ones leave over goes to the others.
    """
    share, left = {}, budget
    for place, trial in enumerate(sorted(trials, key=lambda trial: trial.generations)):
        share[trial.experiment, trial.trial_id] = min(trial.generations, left // (len(trials) - place))
        left -= share[trial.experiment, trial.trial_id]
    texts = []
    for trial in trials:
        picks = chosen_generations(trial.generations, share[trial.experiment, trial.trial_id])
        rows = connection.execute(
            f"SELECT generation, raw_reward, kl_penalty, {REWARDED} FROM generations "
            "WHERE experiment = ? AND trial_id = ? AND generation IN (SELECT unnest(?)) ORDER BY generation",
            [trial.experiment, trial.trial_id, picks],
        ).fetchall()
        texts.append([[g, round(reward, 2), round(0.0 - kl_penalty, 3), text] for g, reward, kl_penalty, text in rows])
    total = sum(trial.generations for trial in trials)
    shown = sum(map(len, texts))
    return {"total": total, "shown": shown, "trials": texts}
