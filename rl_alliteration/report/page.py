"""One self-contained HTML page: figures, the frontier, a table a trial, and the texts. Nothing is loaded."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import math
import re
import shlex
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import duckdb
import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from rl_alliteration.analysis import collapse
from rl_alliteration.analysis.alliteration import LETTERS
from rl_alliteration.analysis.claims import check_claims
from rl_alliteration.analysis.frontier import KEEP_VARIETY, NEW_TEXTS, Point, Recommendation, frontier, recommend
from rl_alliteration.analysis.windows import METRICS, SENSE_NATS, WINDOW, Analysis, Trial
from rl_alliteration.report.drawing import to_plotly
from rl_alliteration.report.figures import (
    END_TEXTS,
    Figure,
    frontier_figure,
    letters_by_beta,
    letters_by_kl,
    letters_over_time,
    metric_figures,
    rewards_of,
    search_figures,
    study_figures,
)
from rl_alliteration.report.texts import sample_texts

_COLUMNS = (
    ("algorithm", True), ("beta", False), ("seed", False), ("status", True), ("generations", False),
    ("reward, start", False), ("reward, end", False), ("alliteration", False), ("variety", False),
    ("KL", False), ("repetition", False), ("letters", True), ("collapses at", False),
)  # fmt: skip
_SEARCHED = (("learning rate", False), ("group", False))
"""Columns of trials that a search chose."""


def main_figures(
    analysis: Analysis,
    keep_variety: float = KEEP_VARIETY,
    nats: float = SENSE_NATS,
    searches: Collection[str] = (),
) -> list[Figure]:
    """The figures worth a file each: the study's, variety, letters, the frontier, searches."""
    points = frontier(analysis, nats)
    found = study_figures(analysis)
    for reward in rewards_of(analysis):
        for metric in ("variety", "raw_reward"):
            over_time, at_the_end = metric_figures(analysis, reward, metric)
            found += [over_time, at_the_end] if metric == "variety" else [at_the_end]
        found.append(letters_by_beta(analysis, reward))
    if points:
        found.append(frontier_figure(points, recommend(points, keep_variety), keep_variety))
    if len(rewards_of(analysis)) > 1:
        found.append(letters_by_kl(analysis))
    return found + _searched(analysis, points, keep_variety, searches)


def _searched(
    analysis: Analysis, points: Sequence[Point], keep_variety: float, searches: Collection[str]
) -> list[Figure]:
    """The figures of each experiment that a search has run in."""
    found = []
    for name in sorted(searches):
        trials = [trial for trial in analysis.trained if trial.experiment == name]
        figures = search_figures([p for p in points if p.trial.experiment == name], trials, keep_variety)
        if len(searches) > 1:
            figures = [dataclasses.replace(f, key=f"{f.key}_{name}", title=f"{f.title} ({name})") for f in figures]
        found += figures if trials else []
    return found


def build_page(
    analysis: Analysis,
    connection: duckdb.DuckDBPyConnection,
    *,
    title: str,
    keep_variety: float = KEEP_VARIETY,
    nats: float = SENSE_NATS,
    storage: str = "STORAGE",
    searches: Collection[str] = (),
    watch_seconds: int = 0,
) -> str:
    """The page as HTML.

    Args:
        analysis: of the results.
        connection: theirs, for the texts.
        title: of the page.
        keep_variety: share of the original's variety that the recommendation keeps.
        nats: how far its cross-entropy under the original model may be off.
        storage: where the results are, for the command that exports the recommendation.
        searches: experiments that a search has run in.
        watch_seconds: how often the page loads itself again; 0: never.
    """
    points = frontier(analysis, nats)
    recommendation = recommend(points, keep_variety)
    rewards = rewards_of(analysis)
    study = study_figures(analysis)
    cost = frontier_figure(points, recommendation, keep_variety) if points else None
    trials = [*analysis.trained, *(trial for trial in analysis.trials if trial.is_original and len(trial.first))]
    texts = sample_texts(connection, trials)
    letters = _letter_figures(analysis, rewards)
    searched = _searched(analysis, points, keep_variety, searches)
    by_kl = letters_by_kl(analysis) if len(rewards) > 1 else None
    drawn = [*study, *([cost] if cost else []), *searched, *([by_kl] if by_kl else [])]
    plots: dict[str, Any] = {figure.key: to_plotly(figure) for figure in drawn}
    for reward in rewards:
        for metric in METRICS:
            for figure in metric_figures(analysis, reward, metric):
                plots[f"metric:{figure.key}"] = _captioned(figure)
    plots |= {f"letters:{key}": _captioned(figure) for key, (_, figure) in letters.items()}
    plots["watch"] = watch_seconds
    names = [_name(trial, trials) for trial in trials]
    scripts = {"plotly_js": get_plotlyjs(), "page_js": _file("page.js")}
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(_file("page.html")).render(
        title=title,
        subtitle=_subtitle(analysis, trials),
        script_hashes=Markup(" ".join(_hash(code) for code in scripts.values())),
        style=Markup(_file("style.css")),
        watch=watch_seconds > 0,
        watch_line=f"A sweep is running: this page loads itself again every {watch_seconds} s.",
        facts=_facts(analysis, trials),
        recommendation=_recommendation(recommendation, keep_variety),
        command=_export_command(recommendation, storage, keep_variety, nats) if recommendation else "",
        claims=_claims(analysis),
        study=study,
        frontier=cost,
        searched=searched,
        letters_by_kl=by_kl,
        collapse_rule=collapse.RULE,
        metrics=METRICS,
        rewards=rewards,
        letter_options=[(key, name) for key, (name, _) in letters.items()],
        window=analysis.window,
        end_texts=END_TEXTS,
        trial_columns=[
            {"title": name, "left": left} for name, left in (_COLUMNS[:2] + _SEARCHED * bool(searched) + _COLUMNS[2:])
        ],
        trial_rows=[
            {"index": i, "name": names[i], "trial_id": trial.trial_id, "cells": _cells(trial, bool(searched))}
            for i, trial in enumerate(trials)
        ],
        texts_line=(
            f"All {texts['total']:,} texts are in this page."
            if texts["shown"] == texts["total"]
            else f"A sample of {texts['shown']:,} of the {texts['total']:,} texts: of each trial the first, the last, "
            "and some around every generation. All are in the Parquet files."
        ),
        footer=f"Built {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by rl-alliteration report. Windows of "
        f"{analysis.window} texts; intervals: 95% by the bootstrap, over seeds within each setting.",
        numbers=_numbers,
        loop_id=lambda key: key.replace(":", "-"),
        figures_json=_json(plots),
        texts_json=_json(
            {**texts, "names": [trial.trial_id for trial in trials], "labels": names}
        ),
        **{name: Markup(code.replace("</script", "<\\/script")) for name, code in scripts.items()},
    )  # fmt: skip


def _file(name: str) -> str:
    return files("rl_alliteration.report").joinpath(name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.replace("</script", "<\\/script").encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _json(value: Any) -> Markup:
    """JSON that cannot end the element it is in: the characters of markup are written as escapes."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text))


def _captioned(figure: Figure) -> dict[str, Any]:
    return {**to_plotly(figure), "title": figure.title, "caption": figure.caption}


def _letter_figures(analysis: Analysis, rewards: Sequence[str]) -> dict[str, tuple[str, Figure]]:
    """By key: the name to choose it by, and the figure."""
    several = len(rewards) > 1
    found = {
        f"end-{reward}": (
            "at the end, by beta" + (f" (reward {reward})" if several else ""),
            letters_by_beta(analysis, reward),
        )
        for reward in rewards
    }
    for index, trial in enumerate(analysis.trained):
        found[f"trial-{index}"] = (f"over time: {_name(trial, analysis.trained)}", letters_over_time(trial))
    return found


def _name(trial: Trial, among: Sequence[Trial]) -> str:
    """A trial for people: what sets it apart."""
    several_experiments = len({other.experiment for other in among}) > 1
    several_rewards = len({other.reward_function for other in among}) > 1
    words = [trial.algorithm] if trial.is_original else [f"{trial.algorithm} {trial.coefficient} seed {trial.seed}"]
    words += [trial.reward_function] * several_rewards + [trial.experiment] * several_experiments
    return ", ".join(words)


def _subtitle(analysis: Analysis, trials: Sequence[Trial]) -> str:
    models = sorted({trial.model.rpartition("@")[0] for trial in trials})
    rewards = ", ".join(rewards_of(analysis)) or "none yet"
    return f"Model {', '.join(models) or 'unknown'}; reward {rewards}; {len(analysis.trained)} trials."


def _facts(analysis: Analysis, trials: Sequence[Trial]) -> list[dict[str, str]]:
    trained = analysis.trained
    fallen = [trial for trial in trained if trial.collapse is not None]
    texts = sum(int(trial.texts.sum()) for trial in trials)
    facts = [
        {"label": "Texts", "value": f"{texts:,}", "note": f"of {len(trained)} trials and the original model"},
        {"label": "Collapsed", "value": f"{len(fallen)} of {len(trained)}",
         "note": "trials whose variety fell below two thirds of the original's"},
    ]  # fmt: skip
    running = [trial for trial in trained if trial.status not in ("finished", "failed", "stopped")]
    if running:
        facts.append({"label": "Not finished", "value": str(len(running)), "note": "trials still have texts to come"})
    for original in {id(t.original): t for t in trained if t.original}.values():
        assert original.original is not None
        reward = original.original.raw_reward
        facts.append(
            {"label": f"Original, {original.reward_function}", "value": f"{reward.value:.1f}",
             "note": f"mean raw reward [{reward.low:.2f}, {reward.high:.2f}]; variety "
             f"{original.original.metrics['variety']:.2f}"}
        )  # fmt: skip
    return facts


def _recommendation(found: Recommendation | None, keep_variety: float) -> str:
    if found is None:
        return (
            f"No window of any trial keeps {keep_variety:.0%} of the original's variety and its sense (or there is no "
            "original to compare with)."
        )
    point, original = found.point, found.trial.original
    assert original is not None
    variety = point.variety / original.metrics["variety"]
    return (
        f"{found.trial.trial_id} after {found.generation:,} texts: {point.alliteration:.1f} alliterating pairs per 100 "
        f"words against the original's {original.metrics['alliteration']:.1f}, at {variety:.0%} of its variety and "
        f"with its sense. It is the most among all windows that keep at least {keep_variety:.0%}. Raw reward to "
        f"expect: {found.expected:.1f}, the mean of {NEW_TEXTS} new texts between {found.low:.1f} and {found.high:.1f}."
    )


def _claims(analysis: Analysis) -> list[dict[str, str]]:
    """The study's findings, where there are data to check each of them."""
    claims = check_claims(analysis)
    if any(claim.holds is None for claim in claims):
        return []
    return [
        {"finding": claim.finding, "rule": claim.rule, "figure": claim.figure, "verdict": claim.verdict,
         "css": "good" if claim.holds else "bad"}
        for claim in claims
    ]  # fmt: skip


def _export_command(found: Recommendation, storage: str, keep_variety: float, nats: float) -> str:
    words = ["rl-alliteration", "export", "--storage", storage, "--experiment", found.trial.experiment, "--recommended"]
    if found.trial.window != WINDOW:
        words += ["--window", str(found.trial.window)]
    if keep_variety != KEEP_VARIETY:
        words += ["--keep-variety", f"{keep_variety:g}"]
    if nats != SENSE_NATS:
        words += ["--keep-sense", f"{nats:g}"]
    return shlex.join([*words, "--trial", found.trial.trial_id, "--output", "model"])


def _chosen(trial: Trial) -> list[dict[str, Any]]:
    """What a search chooses beside algorithm and beta."""
    if trial.is_original:
        return [{"text": "–", "sort": ""}] * 2
    return [
        {"text": f"{trial.learning_rate:g}", "sort": trial.learning_rate},
        {"text": str(trial.group_size), "sort": trial.group_size},
    ]


def _cells(trial: Trial, searched: bool) -> list[dict[str, Any]]:
    """The cells of a trial's row: what is shown, and what is sorted by."""

    def number(value: float, digits: int) -> dict[str, Any]:
        known = math.isfinite(value)
        return {"text": f"{value:.{digits}f}" if known else "–", "sort": value if known else ""}

    def word(value: str) -> dict[str, Any]:
        return {"text": value, "sort": value}

    of = f"/{trial.max_generations:,}" if trial.generations < trial.max_generations else ""
    letters = _top_letters(trial)
    plain = trial.is_original
    collapse_at = trial.collapse
    start = trial.metrics["raw_reward"][:1]
    return [
        word(trial.algorithm),
        {"text": "–", "sort": ""} if plain else {"text": trial.coefficient.removeprefix("beta "), "sort": trial.beta},
        *(_chosen(trial) if searched else ()),
        {"text": "–", "sort": ""} if plain else {"text": str(trial.seed), "sort": trial.seed},
        word(f"{trial.status} ({trial.reason})" if trial.status == "stopped" and trial.reason else trial.status),
        {"text": f"{trial.generations:,}" + of, "sort": trial.generations},
        number(float(start[0]) if len(start) else math.nan, 1),
        number(trial.final("raw_reward", END_TEXTS), 1),
        number(trial.final("alliteration", END_TEXTS), 1),
        number(trial.final("variety", END_TEXTS), 2),
        number(trial.final("kl_penalty", END_TEXTS), 2),
        number(trial.final("repetition", END_TEXTS), 2),
        word(letters),
        {"text": "–", "sort": ""} if collapse_at is None else {"text": f"{collapse_at:,}", "sort": collapse_at},
    ]  # fmt: skip


def _top_letters(trial: Trial) -> str:
    """The three commonest initial letters of its last texts."""
    counts = trial.by_letter[-max(1, END_TEXTS // trial.window) :].sum(axis=0)
    order = sorted(range(len(LETTERS)), key=lambda i: -counts[i])[:3]
    return " ".join(LETTERS[i] for i in order if counts[i])


def _numbers(figure: Figure) -> list[tuple[str, list[str]]]:
    """A figure's thick lines in numbers, for those who cannot see it: first, middle and last."""
    rows: list[tuple[str, list[str]]] = []
    if figure.key == "frontier":  # its points are in the table of trials and the figures over time
        return rows
    for series in figure.series:
        if series.kind == "line" and not series.faint and len(series.y):
            picks = (0, len(series.y) // 2, len(series.y) - 1)
            rows.append((series.name, [f"{series.y[k]:.{figure.digits}f}" for k in picks]))
    return rows
