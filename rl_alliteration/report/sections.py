"""The sections of the page with their figures: a figure that is listed here is in the page and among the PNG files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from threadpoolctl import threadpool_limits

from rl_alliteration.analysis.rules import COLLAPSE_RULE
from rl_alliteration.report.base import Chooser, Figure, FigureFunction, Shown, of_each_reward
from rl_alliteration.report.figures import frontier, letters, metrics, search, study, yardsticks


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page; it is left out when there is nothing to draw in it."""

    key: str
    """In the page's address."""
    link: str
    """At the top of the page."""
    title: str
    words: str
    """Under the title."""
    figures: tuple[FigureFunction, ...] = ()
    """One beneath the other in the page; PNG files."""
    chooser: Callable[[Shown], Chooser] | None = None
    """Above them in the page: figures of which those of one choice are shown at a time."""
    files: tuple[FigureFunction, ...] = ()
    """Those of the chooser that are PNG files too."""


SECTIONS = (
    Section(
        "study",
        "Curves",
        "Curves",
        "A setting has one colour in all figures, from dark for the smallest beta to light for the largest; algorithms "
        "differ by dashes and markers. Select a name in a legend to hide it, twice to see it alone.",
        figures=(of_each_reward(study.raw_reward, study.kl_penalty, study.algorithms, study.extended),),
    ),
    Section("tradeoff", "Trade-off", "The trade-off", "", figures=(frontier.frontier_figure,)),
    Section(
        "yardsticks",
        "What a nat buys",
        "What a nat buys",
        "Trials beside what needs no training: the unmodified model, the best of n of its texts, and the optimum of "
        "the objective.",
        figures=(
            yardsticks.reward_against_kl,
            yardsticks.envelope_over_beta,
            of_each_reward(yardsticks.objective),
        ),
    ),
    Section("search", "Search", "The search", "", figures=(search.search_figures,)),
    Section(
        "metrics",
        "Diversity",
        "Diversity and sense",
        COLLAPSE_RULE,
        chooser=metrics.chooser,
        files=(of_each_reward(metrics.variety_over_time, metrics.variety_at_the_end, metrics.raw_reward_at_the_end),),
    ),
    Section(
        "letters",
        "Letters",
        "Letters",
        "Which initial letters the alliterating pairs have. A letter has one colour in all figures.",
        figures=(letters.by_kl,),
        chooser=letters.chooser,
        files=(of_each_reward(letters.by_beta),),
    ),
)
"""In the order of the page."""


class DrawnSection(NamedTuple):
    """A section with its figures."""

    about: Section
    figures: list[Figure]
    chooser: Chooser | None


def drawn_sections(shown: Shown) -> list[DrawnSection]:
    """The page's sections, those left out in which there is nothing to draw."""
    found = [
        DrawnSection(
            section,
            _drawn(section.figures, shown),
            section.chooser(shown) if section.chooser is not None and shown.analysis.trained else None,
        )
        for section in SECTIONS
    ]
    return [section for section in found if section.figures or section.chooser is not None]


def main_figures(shown: Shown) -> list[Figure]:
    """The figures worth a file each."""
    return [figure for section in SECTIONS for figure in _drawn(section.figures + section.files, shown)]


def _drawn(functions: tuple[FigureFunction, ...], shown: Shown) -> list[Figure]:
    with threadpool_limits(1):  # the arrays are small: threads would only wait for one another
        return [figure for function in functions for figure in function(shown)]
