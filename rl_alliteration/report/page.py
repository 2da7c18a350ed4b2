"""One self-contained HTML page: figures, the frontier, a table a trial, and the texts. Nothing is loaded."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import duckdb
import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from rl_alliteration.advice import search_command
from rl_alliteration.analysis.claims import check_claims
from rl_alliteration.analysis.frontier import NEW_TEXTS
from rl_alliteration.analysis.more_seeds import words
from rl_alliteration.analysis.rules import KEEP_VARIETY, SENSE_NATS, lost_at_the_end
from rl_alliteration.analysis.types import FINAL_TEXTS, WINDOW, Analysis, Trial
from rl_alliteration.report import settings
from rl_alliteration.report import trials as table
from rl_alliteration.report.base import Figure, Shown
from rl_alliteration.report.drawing import CONFIG, page_json, to_plotly
from rl_alliteration.report.sections import DrawnSection, drawn_sections
from rl_alliteration.report.texts import sample_texts
from rl_alliteration.results import schema


def build_page(
    shown: Shown,
    connection: duckdb.DuckDBPyConnection,
    *,
    title: str,
    storage: str = "STORAGE",
    watch_seconds: int = 0,
) -> str:
    """The page as HTML.

    Args:
        shown: what it is of.
        connection: to the same results, for the texts.
        title: of the page.
        storage: where the results are, for the command that exports the recommendation.
        watch_seconds: how often the page loads itself again; 0: never.
    """
    analysis = shown.analysis
    trials = [*analysis.trained, *(trial for trial in analysis.trials if trial.is_original and len(trial.first))]
    texts = sample_texts(connection, trials)
    sections = drawn_sections(shown)
    next_words, next_command = _next(shown, storage)
    columns = table.columns(any(trial.experiment in shown.searches for trial in analysis.trained))
    scripts = {"plotly_js": get_plotlyjs(), "look_js": _file("look.js"), "page_js": _file("page.js")}
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(_file("page.html")).render(
        title=title,
        subtitle=_subtitle(shown, trials),
        script_hashes=Markup(" ".join(_hash(code) for code in scripts.values())),
        style=Markup(_file("style.css")),
        watch=watch_seconds > 0,
        watch_line=f"A sweep is running: this page loads itself again every {watch_seconds} s.",
        facts=_facts(analysis, trials),
        recommendation=_recommendation(shown),
        command=_export_command(shown, storage),
        next_words=next_words,
        next_command=next_command,
        claims=_claims(analysis),
        sections=sections,
        window=analysis.window,
        end_texts=FINAL_TEXTS,
        columns=columns,
        setting_columns=[name for name, _ in settings.COLUMNS],
        settings=[(row.name, [cell(row) for _, cell in settings.COLUMNS]) for row in settings.rows(shown)],
        trials=[(trial.name, [column.cell(trial) for column in columns]) for trial in trials],
        texts_line=(
            f"All {texts['total']:,} texts are in this page."
            if texts["shown"] == texts["total"]
            else f"A sample of {texts['shown']:,} of the {texts['total']:,} texts: of each trial the first, the last, "
            "and some around every generation. All are in the Parquet files."
        ),
        footer=f"Built {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by rl-alliteration report. Windows of "
        f"{analysis.window} texts; intervals: 95% by the bootstrap, over seeds within each setting.",
        numbers=_numbers,
        figures_json=page_json(_plots(sections) | {"watch": watch_seconds, "config": CONFIG}),
        texts_json=page_json({**texts, "window": analysis.window, "names": [trial.name for trial in trials]}),
        **{name: Markup(code.replace("</script", "<\\/script")) for name, code in scripts.items()},
    )


def _plots(sections: Sequence[DrawnSection]) -> dict[str, Any]:
    """What the page's script draws: figures by key, those of a chooser by its key and the choice."""
    plots: dict[str, Any] = {figure.key: to_plotly(figure) for section in sections for figure in section.figures}
    for chooser in (section.chooser for section in sections if section.chooser is not None):
        for choice, figures in chooser.figures.items():
            plots[f"{chooser.key}:{choice}"] = [
                {**to_plotly(figure), "title": figure.title, "caption": figure.caption} for figure in figures
            ]
    return plots


def _file(name: str) -> str:
    return files("rl_alliteration.report").joinpath(name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.replace("</script", "<\\/script").encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _subtitle(shown: Shown, trials: Sequence[Trial]) -> str:
    models = sorted({trial.model.rpartition("@")[0] for trial in trials})
    rewards = ", ".join(shown.rewards) or "none yet"
    return f"Model {', '.join(models) or 'unknown'}; reward {rewards}; {len(shown.analysis.trained)} trials."


def _facts(analysis: Analysis, trials: Sequence[Trial]) -> list[dict[str, str]]:
    trained = analysis.trained
    texts = sum(int(trial.texts.sum()) for trial in trials)
    facts = [
        {"label": "Texts", "value": f"{texts:,}", "note": f"of {len(trained)} trials and the original model"},
        *_destroyed(trained),
    ]  # fmt: skip
    running = [trial for trial in trained if trial.status not in (schema.FINISHED, schema.FAILED, schema.STOPPED)]
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


def _destroyed(trained: Sequence[Trial]) -> list[dict[str, str]]:
    """How many trials have collapsed, and how many have lost their sense, of those that can be compared."""
    ends = [(trial, lost) for trial in trained if (lost := lost_at_the_end(trial)) is not None]
    left_out = len(trained) - len(ends)
    more = f"; not counted: {left_out} without a full window, or without an original" if left_out else ""
    counts = (
        ("Collapsed", sum(trial.collapse is not None or lost.variety for trial, lost in ends),
         "trials whose variety fell below two thirds of the original's, in two windows in a row or in the last"),
        ("Without sense", sum(lost.sense for _, lost in ends),
         f"trials whose last full window is more than {SENSE_NATS:g} nats a token from the original's texts, or more "
         "repetitive than they are"),
    )  # fmt: skip
    return [
        {"label": label, "value": f"{count} of {len(ends)}" if ends else "–", "note": note + more}
        for label, count, note in counts
    ]


def _recommendation(shown: Shown) -> str:
    found, keep_variety = shown.recommendation, shown.keep_variety
    if found is None:
        return (
            f"No window of any trial keeps {keep_variety:.0%} of the original's variety and its sense (or there is no "
            "original to compare with)."
        )
    point, original = found.point, found.trial.original
    assert original is not None
    variety = point.variety / original.metrics["variety"]
    return (
        f"{found.trial.name} after {found.generation:,} texts: {point.alliteration:.1f} alliterating pairs per 100 "
        f"words against the original's {original.metrics['alliteration']:.1f}, at {variety:.0%} of its variety and "
        f"with its sense. It is the most among all windows that keep at least {keep_variety:.0%}. Raw reward to "
        f"expect: {found.expected:.1f}, the mean of {NEW_TEXTS} new texts between {found.low:.1f} and "
        f"{found.high:.1f}. {found.comparison}."
    )


def _claims(analysis: Analysis) -> list[dict[str, str]]:
    """The study's findings, where there are data for each of them; of one seed, some are undecided."""
    claims = check_claims(analysis)
    if not all(claim.has_data for claim in claims):
        return []
    css = {True: "good", False: "bad", None: "soft"}
    return [
        {"finding": claim.finding, "rule": claim.rule, "figure": claim.figure, "verdict": claim.verdict,
         "more": words(claim.more), "css": css[claim.holds]}
        for claim in claims
    ]  # fmt: skip


def _export_command(shown: Shown, storage: str) -> str:
    """What exports the recommended model; empty without one."""
    found = shown.recommendation
    if found is None:
        return ""
    words = ["rl-alliteration", "export", "--storage", storage, "--experiment", found.trial.experiment, "--recommended"]
    if found.trial.window != WINDOW:
        words += ["--window", str(found.trial.window)]
    if shown.keep_variety != KEEP_VARIETY:
        words += ["--keep-variety", f"{shown.keep_variety:g}"]
    if shown.nats != SENSE_NATS:
        words += ["--keep-sense", f"{shown.nats:g}"]
    return shlex.join([*words, "--trial", found.trial.trial_id, "--output", "model"])


def _next(shown: Shown, storage: str) -> tuple[str, str]:
    """What to try next, in words and as a command; both empty without a trial of a fixed beta above 0."""
    found = shown.recommendation
    alike = [trial for trial in shown.analysis.trained if trial.target_kl is None and trial.beta > 0]
    if found is not None:
        alike = [trial for trial in alike if trial.reward_function == found.trial.reward_function]
    betas = sorted({trial.beta for trial in alike})
    if not betas:
        return "", ""
    if found is None or found.trial.beta == 0 or found.trial.target_kl is not None:
        words = "No window of a fixed beta can be recommended. Next, search above the largest:"
        low, high = betas[-1], 4 * betas[-1]
    else:
        beta = found.trial.beta
        below, above = [b for b in betas if b < beta], [b for b in betas if b > beta]
        low, high = below[-1] if below else beta / 2, above[0] if above else 2 * beta
        words = f"Next, search between the betas beside its {beta:g}:"
    trial = found.trial if found is not None else alike[-1]
    model = trial.model.rpartition("@")[0]
    return words, search_command(storage, trial.experiment, (low, high), trial.reward_function, model)


def _numbers(figure: Figure) -> list[tuple[str, list[str]]]:
    """A figure's thick lines in numbers, for those who cannot see it: first, middle and last."""
    rows: list[tuple[str, list[str]]] = []
    for series in figure.series if figure.ordered else ():
        if series.kind == "line" and not series.faint and len(series.y):
            picks = (0, len(series.y) // 2, len(series.y) - 1)
            rows.append((series.name, [f"{series.y[k]:.{figure.digits}f}" for k in picks]))
    return rows
