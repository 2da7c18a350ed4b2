"""Summaries of trials for a terminal, and texts in which what alliterates stands out."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import JustifyMethod
from rich.text import Text

from rl_alliteration.advice import search_command
from rl_alliteration.analysis.alliteration import alliterating_runs
from rl_alliteration.analysis.stopping import status_words
from rl_alliteration.analysis.summary import LAST, TrialSummary, summarise
from rl_alliteration.analysis.verdict import Verdict, verdicts
from rl_alliteration.errors import Failure
from rl_alliteration.names import short_ids
from rl_alliteration.results.storage import Storage
from rl_alliteration.terminal import Grid, Screen, printable


def show_trials(console: Screen, storage: Storage, experiment: str | None) -> None:
    """How trials stand and what they end with: the table, and a line for whatever deserves one."""
    notes: list[Failure] = []
    summaries = summarise(storage, experiment, skip=notes.append)
    _print_summaries(console, summaries)
    _print_verdicts(console, storage, summaries)
    for note in notes:
        console.say(f"note: {note}")


def _print_summaries(console: Screen, summaries: Sequence[TrialSummary]) -> None:
    """A row or a card for each trial."""
    table = Grid(title=f"Over the last {LAST} texts of each trial", box=None, pad_edge=False, title_justify="left")
    several = len({summary.experiment for summary in summaries}) > 1
    for column in (
        *(["experiment"] if several else []),
        *("trial", "id", "status", "texts", "reward", "KL", "variety", "repetition", "last text"),
    ):
        left = column in ("experiment", "trial", "id", "status", "last text")
        bare = column in ("trial", "status", "last text")
        justify: JustifyMethod = "left" if left else "right"
        table.add_column(column, justify=justify, no_wrap=column != "last text", bare=bare)
    ids = short_ids({summary.trial_id for summary in summaries})
    for summary in summaries:
        cells = [
            summary.name,
            ids[summary.trial_id],
            status_words(summary.status, summary.reason),
            f"{summary.generations}/{summary.max_generations}",
            f"{summary.raw_reward:.2f}",
            f"{-summary.kl_penalty:z.2f}",
            _variety(summary),
            f"{summary.repetition:.2f}",
        ]
        last = Text(summary.error) if summary.error else highlighted(summary.last_text, limit=140)
        table.add_row(*([summary.experiment] if several else []), *cells, last)
    console.show(table)


def _print_verdicts(console: Screen, storage: Storage, summaries: Sequence[TrialSummary]) -> None:
    """A line each where trials have lost their variety or their sense at their end, where they end below the
    unmodified model by their own objective, and where none ends above it."""
    judged = verdicts(storage, summaries)
    for verdict in judged:
        about = f"{verdict.experiment}, {verdict.reward_function}: " if len(judged) > 1 else ""
        for line in _told(verdict, str(storage)):
            console.say(f"{about}{line}")


def _told(verdict: Verdict, storage: str) -> list[str]:
    """What is lost, and how the objective compares, with what to try next."""
    nothing = f"the unmodified model's {verdict.nothing.objective:.2f}"
    count = len(verdict.trials)
    largest = max(trial.beta for trial in verdict.trials)
    lines = [
        f"{what} lost in the last {LAST} texts of {len(lost)} of {count} trials: {_listed(lost)}"
        for what, lost in (("Variety", verdict.lost_variety), ("Sense", verdict.lost_sense))
        if lost
    ]
    if verdict.below:
        worst = verdict.below[0]
        lines.append(
            f"Below doing nothing: {len(verdict.below)} of {count} trials have an objective under {nothing}, beyond "
            f"noise, the lowest {worst.name} with {worst.objective:.2f}. Try the same command with "
            f"{_gentler(verdict.below)}--learning-rate {min(trial.learning_rate for trial in verdict.below) / 2:g}"
        )
    if not verdict.above:
        betas = (largest, 4 * largest) if largest > 0 else None
        lines.append(
            f"Nothing beats the original: of {count} trials none has an objective above {nothing} beyond noise. Try: "
            + search_command(storage, verdict.experiment, betas, verdict.reward_function)
        )
    return lines


def _listed(trials: Sequence[TrialSummary]) -> str:
    """Their names, of many the first."""
    more = len(trials) - _NAMES
    return "; ".join([trial.name for trial in trials[:_NAMES]] + ([f"and {more} more"] if more > 0 else []))


_NAMES = 4


def _gentler(below: Sequence[TrialSummary]) -> str:
    """What holds trials nearer to the original, as flags; empty for those that have nothing to hold them."""
    targets = [trial.target_kl for trial in below if trial.target_kl is not None]
    beta = max((trial.beta for trial in below if trial.target_kl is None), default=0.0)
    if beta > 0:
        return f"--beta {2 * beta:g} or "
    return f"--target-kl {min(targets) / 2:g} or " if targets else ""


def _variety(summary: TrialSummary) -> str:
    """In several prompts' texts, also of the pairs that share a prompt and of those that do not."""
    if math.isnan(summary.variety_across):
        return f"{summary.variety:.2f}"
    return f"{summary.variety:.2f} (within a prompt {summary.variety_within:.2f}, across {summary.variety_across:.2f})"


def highlighted(text: str, limit: int | None = None) -> Text:
    """A generated text for a terminal: alliterating runs stand out, markup is not interpreted."""
    text = printable(text)
    if limit is not None:
        text = " ".join(text.split())
        text = text if len(text) <= limit else text[: limit - 1] + "…"
    shown = Text(text)
    for start, end in alliterating_runs(text):
        shown.stylize("bold yellow", start, end)
    return shown
