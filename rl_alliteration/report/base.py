"""What all figures share: their parts, the colours, what they are of, and trials grouped by setting."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from rl_alliteration.analysis.frontier import FrontierPoint, Recommendation, frontier, recommend
from rl_alliteration.analysis.metrics import METRICS
from rl_alliteration.analysis.rules import KEEP_VARIETY, SENSE_NATS
from rl_alliteration.analysis.seeds import Estimate, interquartile_mean
from rl_alliteration.analysis.types import Analysis, Trial

# --- colours -----------------------------------------------------------------------------------------------------

# For things without an order: Okabe and Ito's (jfly.uni-koeln.de/color), told apart with any colour vision.
BLUE, ORANGE, GREEN, PINK, CYAN, RED, YELLOW, BROWN = CATEGORIES = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#8c6d31",
)  # fmt: skip
# For what has an order: viridis (van der Walt and Smith) without its light end, its dark one lifted until a dark page
# has a contrast of 3 to it; lightness rises throughout.
_ORDERED = ("#6360b8", "#3f6fa8", "#2a7f93", "#21918c", "#22a884", "#44bf70", "#7ad151")
GREY = "#8b8d98"
GOLD = "#e0a100"


def ordered(count: int) -> list[str]:
    """`count` colours from purple to light green."""
    if count <= 1:
        return [BLUE] * count
    stops = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in _ORDERED], dtype=float)
    places = np.linspace(0, len(_ORDERED) - 1, count)
    channels = [
        np.interp(places, np.arange(len(_ORDERED)), stops[:, channel]).round().astype(int) for channel in range(3)
    ]
    return ["#" + "".join(f"{value:02x}" for value in rgb) for rgb in zip(*channels, strict=True)]


class Style(NamedTuple):
    """What an algorithm is known by in every figure."""

    colour: str
    """Where nothing else has colours."""
    dash: str
    """Of its lines, as Plotly calls them."""
    symbol: str
    """Of its points, likewise."""


_STYLES = {
    "rloo": Style(GREEN, "solid", "circle"),
    "reinforce": Style(PINK, "dash", "square"),
    "reinforce_baseline": Style(ORANGE, "dot", "diamond"),
    "grpo": Style(BLUE, "dashdot", "triangle-up"),
    "dr_grpo": Style(CYAN, "longdash", "triangle-down"),
}
_OWN = Style(BROWN, "longdashdot", "cross")


def style_of(algorithm: str) -> Style:
    """What an algorithm is known by; those of one's own share one style."""
    return _STYLES.get(algorithm, _OWN)


# --- parts of figures --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Series:
    """Points that belong together. `x` of a categorical figure are names."""

    name: str
    x: Sequence[float] | Sequence[str]
    y: Sequence[float]
    colour: str
    kind: str = "line"
    """line, points, bar, area, or band: what is between its bounds."""
    group: str = ""
    """What it is hidden and shown with; default: its name."""
    faint: bool = False
    """One of several seeds, in the background."""
    quiet: bool = False
    """Not in the legend: one like it is."""
    dash: str = "solid"
    """Of a line, as Plotly calls it."""
    symbol: str = "circle"
    """Of points, likewise."""
    hollow: bool = False
    small: bool = False
    """Points of which there are many."""
    star: bool = False
    bounds: tuple[Sequence[float], Sequence[float]] | None = None
    """Low and high of each point."""
    targets: Sequence[tuple[str, int]] | None = None
    """Trial's name and first generation of the window of each point: where its texts are."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """One figure; `key` is its name in pages and of files."""

    key: str
    title: str
    caption: str
    x_title: str
    y_title: str
    series: list[Series]
    references: list[tuple[str, float]] = dataclasses.field(default_factory=list)
    """Horizontal lines: what they are, and where."""
    marks: list[tuple[str, Estimate]] = dataclasses.field(default_factory=list)
    """Vertical lines: what they are, where, and their intervals, which may be nan."""
    digits: int = 2
    log_x: bool = False
    view: tuple[tuple[float, float], tuple[float, float]] | None = None
    """What of x and of y is seen to begin with; default: all."""
    ordered: bool = True
    """Whether its lines have a first, a middle and a last point, which the page tells in numbers."""


@dataclasses.dataclass(frozen=True)
class Select:
    """Something to choose in the page."""

    key: str
    """In the page's address."""
    label: str
    options: Sequence[tuple[str, str]]
    """Value and name of each."""
    first: str = ""
    """The value that is chosen to begin with; default: the first."""


@dataclasses.dataclass(frozen=True)
class Chooser:
    """Figures of which those of one choice are shown at a time, side by side."""

    key: str
    selects: Sequence[Select]
    places: Sequence[str]
    """Names of where the figures of a choice go."""
    figures: dict[str, Sequence[Figure]]
    """One for each place, by the values of the selects, an underscore between them."""


# --- what figures are of -----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Shown:
    """What a page, or the figures by themselves, are of: every figure is a function of it."""

    analysis: Analysis
    keep_variety: float = KEEP_VARIETY
    """Share of the original's variety that the recommendation keeps."""
    nats: float = SENSE_NATS
    """How far its cross-entropy under the original model may be off."""
    searches: Collection[str] = ()
    """Experiments that a search has run in."""

    @cached_property
    def points(self) -> list[FrontierPoint]:
        """All windows on the axes of the frontier."""
        return frontier(self.analysis, self.nats)

    @cached_property
    def recommendation(self) -> Recommendation | None:
        """The window to keep, if any keeps variety and sense."""
        return recommend(self.points, self.keep_variety)

    @cached_property
    def colour(self) -> Callable[[Setting], str]:
        """Of a setting, in every figure: by beta, KL targets after that; by algorithm where there is one of these."""
        chosen = self.analysis.trained
        in_order = sorted(chosen, key=lambda trial: (trial.target_kl is not None, -(trial.target_kl or 0), trial.beta))
        names = list(dict.fromkeys(trial.coefficient for trial in in_order))
        if len(names) == 1:
            return lambda setting: style_of(setting[0]).colour
        by_name = dict(zip(names, ordered(len(names)), strict=True))
        return lambda setting: by_name[setting[1]]

    @property
    def rewards(self) -> list[str]:
        """The reward functions of the trained trials, in their order."""
        return list(dict.fromkeys(trial.reward_function for trial in self.analysis.trained))

    def trials(self, reward: str) -> list[Trial]:
        """The trained trials of a reward."""
        return [trial for trial in self.analysis.trained if trial.reward_function == reward]


FigureFunction = Callable[[Shown], Iterable[Figure]]


def of_each_reward(*functions: Callable[[Shown, str], Figure | None]) -> FigureFunction:
    """One after the other for each reward; those that do not apply give None."""

    def figures(shown: Shown) -> list[Figure]:
        found = (function(shown, reward) for reward in shown.rewards for function in functions)
        return [figure for figure in found if figure is not None]

    return figures


# --- trials by setting -------------------------------------------------------------------------------------------

Setting = tuple[str, str]
"""Algorithm, and beta or what took its place (`Trial.coefficient`)."""


def setting_of(trial: Trial) -> Setting:
    """What its other seeds share."""
    return trial.algorithm, trial.coefficient


def settings_of(trials: Iterable[Trial]) -> dict[Setting, list[Trial]]:
    """Trials, seeds together, by setting."""
    found: dict[Setting, list[Trial]] = {}
    for trial in trials:
        found.setdefault(setting_of(trial), []).append(trial)
    return found


def setting_names(trials: Sequence[Trial]) -> Callable[[Setting], str]:
    """What settings are called: `beta 60`, and by their algorithm where there are several."""
    several = len({trial.algorithm for trial in trials}) > 1
    return lambda setting: setting[1] + (f", {setting[0]}" if several else "")


def short(coefficient: str) -> str:
    """For an axis of betas: the number of a beta, a KL target as it is."""
    return coefficient.removeprefix("beta ")


# --- what several figures have -----------------------------------------------------------------------------------

GENERATIONS = "generation (texts sampled)"


def references(trials: Sequence[Trial], metric: str) -> list[tuple[str, float]]:
    """The original model's value, if it has one."""
    original = next((trial.original for trial in trials if trial.original), None)
    known = original is not None and np.isfinite(original.metrics[metric])  # short texts have no triples, say
    if original is None or not known:
        return []
    return [("original model", METRICS[metric].shown(original.metrics[metric]))]


def by_generation(shown: Shown, reward: str, metric: str, key: str, title: str, caption: str) -> Figure:
    """A metric's windows: a thin line a trial, a thick one for the seeds of a setting together."""
    trials, colour = shown.trials(reward), shown.colour
    name = setting_names(trials)
    series = []
    for setting, found in settings_of(trials).items():
        if metric in found[0].curve or len(found) > 1:
            series += [_thin(trial, metric, len(found) > 1, name(setting), colour(setting)) for trial in found]
        series.append(together(found, metric, name(setting), colour(setting)))
    about = METRICS[metric]
    return Figure(
        key, title, caption, GENERATIONS, about.title, series, references(trials, metric), digits=about.digits
    )


def together(trials: Sequence[Trial], metric: str, name: str, colour: str) -> Series:
    """The interquartile mean over the seeds of a setting of each full window, by generation."""
    about = METRICS[metric]
    shown = [(trial.first[trial.full], about.shown(trial.metrics[metric])[trial.full]) for trial in trials]
    length = max((len(first) for first, _ in shown), default=0)
    columns = [[values[k] for _, values in shown if k < len(values)] for k in range(length)]
    longest = max((first for first, _ in shown), key=len)
    return Series(
        name,
        (longest + trials[0].window / 2).tolist(),
        [float(interquartile_mean(np.array(column))) for column in columns],
        colour,
        dash=style_of(trials[0].algorithm).dash,
    )


def curve(trial: Trial, metric: str) -> tuple[list[float], list[float]]:
    """Generations and a metric's means of ten texts."""
    return trial.curve["generation"].tolist(), METRICS[metric].shown(trial.curve[metric]).tolist()


def _thin(trial: Trial, metric: str, several: bool, group: str, colour: str) -> Series:
    """A trial: by its curve if it is the only one of its setting, else by its windows."""
    if metric in trial.curve and not several:
        x, y = curve(trial, metric)
    else:
        x, y = (trial.first + trial.texts / 2).tolist(), METRICS[metric].shown(trial.metrics[metric]).tolist()
    return Series(trial.name, x, y, colour, group=group, faint=True)
