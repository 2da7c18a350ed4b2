"""What makes a trial a destroyed one: what its last full window has lost, wherever people see it."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from commands import run
from made_up import PROMPT, MadeUp, story, write_results

from rl_alliteration.analysis.measure import measure
from rl_alliteration.analysis.rules import COLLAPSE_SHARE, Limits, Lost, lost_at_the_end
from rl_alliteration.analysis.summary import summarise
from rl_alliteration.analysis.types import Trial
from rl_alliteration.analysis.verdict import verdicts
from rl_alliteration.config import ORIGINAL
from rl_alliteration.results.reader import connect
from rl_alliteration.results.storage import Storage

LIMITS = Limits(variety=0.6, cross_entropy=1.5, nats=0.25, repetition=0.1)


@pytest.mark.parametrize(
    ("numbers", "lost"),
    [
        ((0.9, 1.5, 0.05), Lost(variety=False, sense=False)),
        ((0.6, 1.75, 0.1), Lost(variety=False, sense=False)),  # the bounds themselves keep it
        ((0.59, 1.5, 0.05), Lost(variety=True, sense=False)),
        ((0.9, 1.76, 0.05), Lost(variety=False, sense=True)),
        ((0.9, 1.24, 0.05), Lost(variety=False, sense=True)),  # likelier to the original than its own texts are
        ((0.9, 1.5, 0.11), Lost(variety=False, sense=True)),
        ((0.0, 9.0, 0.9), Lost(variety=True, sense=True)),
        ((math.nan, 1.5, 0.05), None),
        ((0.9, math.nan, 0.05), None),
        ((0.9, 1.5, math.nan), None),
    ],
)
def test_variety_and_sense_are_lost_apart(numbers: tuple[float, float, float], lost: Lost | None) -> None:
    assert Lost.of(LIMITS, *numbers) == lost


def measured(storage: Storage, window: int = 100) -> list[Trial]:
    return measure(connect(storage), window=window).trained


def write(storage: Storage, trials: Sequence[MadeUp], at: int, text: str) -> Storage:
    """What each trial says from generation `at` on is `text`, before it are stories, and so are the original's."""

    def said(trial: MadeUp, generation: int) -> str:
        if trial.algorithm != ORIGINAL and generation >= at:
            return text + "Q" * (generation % 7)
        return story(np.random.default_rng([trial.algorithm == ORIGINAL, int(trial.beta), generation]))

    write_results(storage, trials, text=said)
    return storage


def four_of_300(folder: Path) -> Storage:
    """Rate 3e-3: from the last window on, `QQQQ…`."""
    trials = [MadeUp(beta=beta, learning_rate=3e-3, generations=300, falls_at=200) for beta in (0, 10, 30, 100)]
    return write(Storage(folder), trials, 200, f"{PROMPT} QQQQQQQQQQQQ")


def test_one_window_at_the_end_is_no_collapse_and_yet_destroyed(tmp_path: Path) -> None:
    trials = measured(four_of_300(tmp_path))
    assert [trial.collapse for trial in trials] == [None] * 4  # the rule is of two in a row
    assert [lost_at_the_end(trial) for trial in trials] == [Lost(variety=True, sense=True)] * 4


def cards(page: str) -> dict[str, tuple[str, str]]:
    """Value and note of each card, by its label."""
    found = re.findall(r'<span class="soft">(.*?)</span><b>(.*?)</b><small>(.*?)</small>', page)
    return {unescape(label): (value, unescape(note)) for label, value, note in found}


def test_the_report_and_status_count_them_as_people_see_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    storage = four_of_300(tmp_path / "results")
    page = tmp_path / "report.html"
    assert run(capsys, "report", "--storage", str(storage), "--output", str(page))[0] == 0
    found = cards(page.read_text())
    assert found["Collapsed"][0] == found["Without sense"][0] == "4 of 4"
    assert page.read_text().count(">variety, sense<") == 4
    code, out, _ = run(capsys, "status", "--storage", str(storage))
    said = [line for line in out.splitlines() if " lost in the last " in line]
    names = "; ".join(f"rloo beta {beta} seed 0" for beta in (0, 10, 30, 100))
    assert code == 0
    assert said == [f"{what} lost in the last 100 texts of 4 of 4 trials: {names}" for what in ("Variety", "Sense")]


def test_what_keeps_both_is_not_told_of(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    storage = write(Storage(tmp_path / "results"), [MadeUp(beta=1), MadeUp(beta=2)], 400, "")
    assert [lost_at_the_end(trial) for trial in measured(storage)] == [Lost(variety=False, sense=False)] * 2
    assert " lost in " not in run(capsys, "status", "--storage", str(storage))[1]
    page = tmp_path / "report.html"
    assert run(capsys, "report", "--storage", str(storage), "--output", str(page))[0] == 0
    assert cards(page.read_text())["Without sense"][0] == "0 of 2"


@pytest.mark.parametrize("text", ["", "Q", PROMPT])
def test_texts_of_a_word_or_none_have_no_variety(tmp_path: Path, text: str) -> None:
    storage = Storage(tmp_path)
    write_results(
        storage,
        [MadeUp(beta=1)],
        text=lambda trial, generation: (
            text if trial.algorithm != ORIGINAL else story(np.random.default_rng(generation))
        ),
    )
    (trial,) = measured(storage)
    lost = lost_at_the_end(trial)
    assert lost is not None and lost.variety
    ((told,),) = [verdict.lost_variety for verdict in verdicts(storage, summarise(storage))]
    assert told.trial_id == trial.trial_id


def test_an_original_without_variety_has_none_to_lose(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    write_results(storage, [MadeUp(beta=1)], text=lambda trial, generation: "Q")
    (trial,) = measured(storage)
    assert lost_at_the_end(trial) == Lost(variety=False, sense=False)
    (verdict,) = verdicts(storage, summarise(storage))
    assert not verdict.lost_variety and not verdict.lost_sense


def test_what_cannot_be_compared_is_not_counted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Less than a window, a window longer than the trial, no original."""
    trials = [MadeUp(beta=0, generations=90, falls_at=0), MadeUp(beta=10, falls_at=0), MadeUp(beta=30)]
    storage = Storage(tmp_path / "results")
    write_results(storage, trials)
    assert [lost_at_the_end(trial) is None for trial in measured(storage)] == [True, False, False]
    assert [lost_at_the_end(trial) for trial in measured(storage, window=500)] == [None] * 3
    page = tmp_path / "report.html"
    flags = ("report", "--storage", str(storage), "--output", str(page))
    assert run(capsys, *flags)[0] == 0
    value, note = cards(page.read_text())["Collapsed"]
    assert value == "1 of 2" and note.endswith("; not counted: 1 without a full window, or without an original")
    assert run(capsys, *flags, "--window", "500")[0] == 0
    assert cards(page.read_text())["Collapsed"][0] == cards(page.read_text())["Without sense"][0] == "–"
    assert (
        "Variety lost in the last 100 texts of 1 of 2 trials: rloo beta 10"
        in run(capsys, "status", "--storage", str(storage))[1]
    )
    for path in [*storage.list("generations"), *storage.list("trials")]:
        if "original" in path:
            storage.delete(path)
    assert [lost_at_the_end(trial) for trial in measured(storage)] == [None] * 3
    assert run(capsys, *flags)[0] == 0 and cards(page.read_text())["Collapsed"][0] == "–"
    code, out, _ = run(capsys, "status", "--storage", str(storage))
    assert code == 0 and " lost in " not in out


def test_a_partial_window_at_the_end_is_not_looked_at_in_the_report(tmp_path: Path) -> None:
    storage = write(Storage(tmp_path), [MadeUp(beta=1, generations=290)], 200, f"{PROMPT} Q")
    (trial,) = measured(storage)
    assert lost_at_the_end(trial) == Lost(variety=False, sense=False)
    (verdict,) = verdicts(storage, summarise(storage))  # of the last 100 texts ten are stories
    assert verdict.lost_variety == verdict.trials


def test_status_has_the_limits_of_the_report(tmp_path: Path) -> None:
    """It makes them of the texts alone, without any other metric."""
    storage = Storage(tmp_path)
    write_results(storage, [MadeUp(beta=1)])
    (trial,) = measured(storage)
    (verdict,) = verdicts(storage, summarise(storage))
    assert trial.original is not None and verdict.nothing.limits is not None
    expected = Limits.of(trial.original, COLLAPSE_SHARE)
    assert dataclasses.astuple(verdict.nothing.limits) == pytest.approx(dataclasses.astuple(expected), rel=1e-12)


def test_of_many_the_first_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    trials = [MadeUp(beta=beta, falls_at=0, generations=100) for beta in range(6)]
    storage = write(Storage(tmp_path), trials, 0, f"{PROMPT} QQQ")
    out = run(capsys, "status", "--storage", str(storage))[1]
    assert "Sense lost in the last 100 texts of 6 of 6 trials: rloo beta 0 seed 0; rloo beta 1 seed 0" in out
    assert "rloo beta 3 seed 0; and 2 more\n" in out
