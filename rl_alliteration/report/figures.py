"""What each figure shows, free of any drawing library: the study's figures, and those it did not have."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from rl_alliteration.analysis.alliteration import LETTERS
from rl_alliteration.analysis.frontier import Point, Recommendation, keeps
from rl_alliteration.analysis.letters import entropy_by_kl
from rl_alliteration.analysis.seeds import estimate, interquartile_mean
from rl_alliteration.analysis.windows import METRICS, Analysis, Trial

# From red (small beta) to violet (large), as in the study; dark enough for paper, light enough for a dark page.
_SPECTRUM = ("#e5484d", "#ee8a2f", "#c2a20c", "#46a758", "#12a5b5", "#3b82e8", "#8e4ec6")
_ALGORITHMS = {"reinforce": "#8e4ec6", "rloo": "#30a46c"}
GREY = "#8b8d98"
GOLD = "#e0a100"
END_TEXTS = 300
"""Texts of each trial that "at the end" is of."""


@dataclasses.dataclass(frozen=True)
class Series:
    """Points that belong together. `x` of a categorical figure are names."""

    name: str
    x: Sequence[float] | Sequence[str]
    y: Sequence[float]
    colour: str
    kind: str = "line"
    """line, points, bar or area."""
    group: str = ""
    """What it is hidden and shown with; default: its name."""
    faint: bool = False
    """One of several seeds, in the background."""
    quiet: bool = False
    """Not in the legend: one like it is."""
    dashed: bool = False
    hollow: bool = False
    star: bool = False
    bounds: tuple[Sequence[float], Sequence[float]] | None = None
    """Low and high of each point."""
    targets: Sequence[tuple[str, int]] | None = None
    """Trial id and generation of each point: where its texts are."""


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
    stacked: bool = False
    digits: int = 2
    log_x: bool = False


Setting = tuple[str, str]
"""Algorithm, and beta or what took its place (`Trial.coefficient`)."""


def rewards_of(analysis: Analysis) -> list[str]:
    """The reward functions of the trained trials, in their order."""
    return list(dict.fromkeys(trial.reward_function for trial in analysis.trained))


def settings_of(trials: Iterable[Trial]) -> dict[Setting, list[Trial]]:
    """Trials, seeds together, by setting."""
    found: dict[Setting, list[Trial]] = {}
    for trial in trials:
        found.setdefault((trial.algorithm, trial.coefficient), []).append(trial)
    return found


def colours(trials: Sequence[Trial]) -> Callable[[Setting], str]:
    """Colours of settings: by beta from red to violet, KL targets after that; by algorithm where there is one only."""
    ordered = sorted(trials, key=lambda trial: (trial.target_kl is not None, -(trial.target_kl or 0), trial.beta))
    names = list(dict.fromkeys(trial.coefficient for trial in ordered))
    if len(names) == 1:
        return lambda setting: _ALGORITHMS.get(setting[0], _SPECTRUM[5])
    by_name = dict(zip(names, _spectrum(len(names)), strict=True))
    return lambda setting: by_name[setting[1]]


def _short(coefficient: str) -> str:
    """For an axis of betas: the number of a beta, a KL target as it is."""
    return coefficient.removeprefix("beta ")


def study_figures(analysis: Analysis) -> list[Figure]:
    """The study's figures, of each reward: raw reward, KL penalty, REINFORCE against RLOO, the extended run."""
    found: list[Figure] = []
    for reward in rewards_of(analysis):
        trials = [trial for trial in analysis.trained if trial.reward_function == reward]
        few = f"{analysis.window} texts"
        found.append(
            _by_generation(
                trials, "raw_reward", f"raw_reward_{reward}", f"Raw reward by generation, reward {reward}",
                f"Mean raw reward of {few}. Thick: the interquartile mean over seeds; thin: each trial. "
                "Without a KL penalty the reward looks great; read the texts.",
            )
        )  # fmt: skip
        found.append(
            _by_generation(
                trials, "kl_penalty", f"kl_penalty_{reward}", f"KL penalty by generation, reward {reward}",
                f"Before multiplying by beta, nats per token, mean of {few}. 0: the policy is the original model.",
            )
        )  # fmt: skip
        algorithms = list(dict.fromkeys(trial.algorithm for trial in trials))
        if len(algorithms) > 1:
            found.append(_algorithms(trials, algorithms, reward))
        extended = _extended(trials)
        if extended:
            found.append(_extended_figure(trials, extended, reward))
    return found


def metric_figures(analysis: Analysis, reward: str, metric: str) -> tuple[Figure, Figure]:
    """A metric over time, and at the end by beta with intervals over seeds."""
    trials = [trial for trial in analysis.trained if trial.reward_function == reward]
    about = METRICS[metric]
    over_time = _by_generation(
        trials, metric, f"{metric}_{reward}", f"{about.title} by generation", f"{about.title}: {about.meaning}."
    )
    series = []
    for algorithm in dict.fromkeys(trial.algorithm for trial in trials):
        chosen = {s: t for s, t in settings_of(trials).items() if s[0] == algorithm}
        names = [_short(coefficient) for _, coefficient in chosen]
        estimates = [estimate([[trial.final(metric, END_TEXTS) for trial in found]]) for found in chosen.values()]
        series.append(
            Series(
                f"{algorithm}: interquartile mean", names, [e.value for e in estimates],
                _ALGORITHMS.get(algorithm, _SPECTRUM[5]), "points",
                bounds=([e.low for e in estimates], [e.high for e in estimates]),
            )
        )  # fmt: skip
        every = [(setting, trial) for setting, found in chosen.items() for trial in found]
        series.append(
            Series(
                f"{algorithm}: each seed", [_short(setting[1]) for setting, _ in every],
                [trial.final(metric, END_TEXTS) for _, trial in every], GREY, "points", faint=True,
                targets=[(trial.trial_id, trial.generations) for _, trial in every],
            )
        )  # fmt: skip
    at_the_end = Figure(
        f"{metric}_{reward}_end", f"{about.title} at the end, by beta",
        f"Of each trial's last {END_TEXTS} texts: the interquartile mean over seeds with its 95% bootstrap interval, "
        "and each seed.",
        "beta", about.title, series, _references(trials, metric), digits=about.digits,
    )  # fmt: skip
    return over_time, at_the_end


def frontier_figure(points: Sequence[Point], recommendation: Recommendation | None, keep_variety: float) -> Figure:
    """Alliteration against variety: each window a point, filled where the texts keep their sense."""
    series = []
    rewards = dict.fromkeys(point.trial.reward_function for point in points)
    for reward in rewards:
        chosen = [point for point in points if point.trial.reward_function == reward]
        colour = colours([point.trial for point in chosen])
        several = len({point.trial.algorithm for point in chosen}) > 1
        for (algorithm, coefficient), found in _grouped(chosen).items():
            for sense in (True, False):
                shown = [point for point in found if point.sense == sense]
                name = coefficient + (f", {algorithm}" if several else "")
                name += f", {reward}" if len(rewards) > 1 else ""
                if shown:
                    series.append(
                        Series(
                            name if sense else f"{name}: sense lost",
                            [p.alliteration for p in shown], [p.variety for p in shown],
                            colour((algorithm, coefficient)), "points", group=name, hollow=not sense,
                            targets=[(p.trial.trial_id, p.first) for p in shown],
                        )
                    )  # fmt: skip
    best = sorted((p for p in points if p.best and p.sense), key=lambda p: p.alliteration)
    series.append(Series("frontier (sense kept)", [p.alliteration for p in best], [p.variety for p in best], GREY))
    if recommendation is not None:
        point = recommendation.point
        series.append(
            Series(
                "recommended", [point.alliteration], [point.variety], GOLD, "points", star=True,
                targets=[(point.trial.trial_id, point.first)],
            )
        )  # fmt: skip
    originals = {id(p.trial.original): p.trial.original for p in points if p.trial.original}
    variety = float(np.mean([o.metrics["variety"] for o in originals.values()])) if originals else float("nan")
    return Figure(
        "frontier", "What alliteration costs: the frontier",
        "Each point is a window of a trial: further right it alliterates more, further up its texts differ more. "
        "Filled: they keep their sense (as likely to the original model as its own texts, and no more repetitive); "
        "hollow: they do not. On the line are the windows that no other beats. Choose a point to read its texts.",
        "alliterating pairs per 100 words", "variety", series,
        [(f"{keep_variety:.0%} of the original's variety", keep_variety * variety)] if originals else [],
    )  # fmt: skip


def search_figures(points: Sequence[Point], trials: Sequence[Trial], keep_variety: float) -> list[Figure]:
    """What a search found, trial by trial in the order in which they began, and by what it chose."""
    ordered = sorted(trials, key=lambda trial: (trial.began, trial.trial_id))
    best: dict[str, Point] = {}
    for point in points:
        name = point.trial.trial_id
        if keeps(point, keep_variety) and (name not in best or point.alliteration > best[name].alliteration):
            best[name] = point
    scores = [best[trial.trial_id].alliteration if trial.trial_id in best else 0.0 for trial in ordered]
    numbers = [float(number) for number in range(1, len(ordered) + 1)]
    running = np.maximum.accumulate(scores).tolist() if scores else []
    fates = [trial.reason if trial.status == "stopped" else trial.status for trial in ordered]
    targets = [(t.trial_id, best[t.trial_id].first if t.trial_id in best else 0) for t in ordered]
    fate_colours = {"finished": _SPECTRUM[3], "halving": GREY, "collapse": _SPECTRUM[0], "spent": _SPECTRUM[1]}
    fate_names = {"halving": "stopped: others did better", "collapse": "stopped: collapsed",
                  "spent": "stopped: variety or sense lost"}  # fmt: skip

    def by_fate(x: Sequence[float]) -> list[Series]:
        found = []
        for fate in dict.fromkeys(fates):
            chosen = [index for index, other in enumerate(fates) if other == fate]
            name = fate_names.get(fate, fate)
            found.append(
                Series(
                    name, [x[i] for i in chosen], [scores[i] for i in chosen],
                    fate_colours.get(fate, _SPECTRUM[5]), "points", targets=[targets[i] for i in chosen],
                )
            )  # fmt: skip
        return found

    y_title = "alliterating pairs per 100 words"
    what = (
        "Alliteration of a trial's best window among those that keep variety and sense. Choose a point to read its "
        "texts."
    )
    history = Figure(
        "search_history", "The search, trial by trial", f"{what} The line: the best so far.",
        "trial", y_title, [*by_fate(numbers), Series("best so far", numbers, running, GOLD)],
        _references(ordered, "alliteration"),
    )  # fmt: skip
    chosen_by = [
        Figure(
            f"search_{key}", f"The search, by {title}", what, title, y_title, by_fate([value(t) for t in ordered]),
            _references(ordered, "alliteration"), log_x=True,
        )
        for key, title, value in (
            ("beta", "beta", lambda trial: trial.beta),
            ("learning_rate", "learning rate", lambda trial: trial.learning_rate),
        )
        if len({value(trial) for trial in ordered}) > 1
    ]  # fmt: skip
    return [history, *chosen_by]


def letters_by_kl(analysis: Analysis) -> Figure:
    """How evenly initial letters alliterate under each reward, at equal distance from the original model."""
    series = []
    for reward, colour in zip(rewards_of(analysis), _spectrum(len(rewards_of(analysis))), strict=True):
        estimates = entropy_by_kl([trial for trial in analysis.trained if trial.reward_function == reward])
        series.append(
            Series(
                reward, list(estimates), [e.value for e in estimates.values()], colour, "points",
                bounds=([e.low for e in estimates.values()], [e.high for e in estimates.values()]),
            )
        )  # fmt: skip
    return Figure(
        "letters_by_kl", "How evenly letters alliterate, at equal KL divergence",
        "Entropy of the initial letters of the alliterating pairs, over windows that are equally far from the original "
        "model: the interquartile mean over trials with its 95% bootstrap interval.",
        "KL divergence, nats per token", "entropy of letters, nats", series, _references(analysis.trained,
        "letter_entropy"),
    )  # fmt: skip


def letters_by_beta(analysis: Analysis, reward: str) -> Figure:
    """Which initial letters alliterate at the end, by setting; the original for comparison."""
    trials = [trial for trial in analysis.trained if trial.reward_function == reward]
    several = len({trial.algorithm for trial in trials}) > 1
    names, counts = [], []
    original = next((trial.original for trial in trials if trial.original), None)
    if original is not None:
        names.append("original")
        counts.append(original.by_letter)
    for (algorithm, coefficient), found in settings_of(trials).items():
        names.append(_short(coefficient) + (f" {algorithm}" if several else ""))
        windows = max(1, END_TEXTS // analysis.window)
        counts.append(np.sum([trial.by_letter[-windows:].sum(axis=0) for trial in found], axis=0))
    return _letters(
        f"letters_{reward}", "Which letters alliterate, by beta",
        f"Share of the alliterating pairs by initial letter, over each trial's last {END_TEXTS} texts.",
        "beta", names, np.array(counts), "bar",
    )  # fmt: skip


def letters_over_time(trial: Trial) -> Figure:
    """Which initial letters alliterate in each window of a trial."""
    return _letters(
        f"letters_{trial.trial_id}", "Which letters alliterate, over time",
        f"Share of the alliterating pairs by initial letter, in each window of {trial.trial_id}.",
        "generation", (trial.first + trial.window / 2).tolist(), trial.by_letter, "area",
    )  # fmt: skip


def _letters(
    key: str, title: str, caption: str, x_title: str, x: Sequence[float] | Sequence[str],
    counts: NDArray[np.float64], kind: str,
) -> Figure:  # fmt: skip
    """The eight commonest letters, the others together."""
    counts = counts.reshape(len(x), len(LETTERS))
    shares = np.divide(counts, counts.sum(axis=1, keepdims=True), out=np.zeros(counts.shape),
                       where=counts.sum(axis=1, keepdims=True) > 0)  # fmt: skip
    order = np.argsort(-shares.sum(axis=0), kind="stable")
    top = [i for i in order[:8] if shares[:, i].any()]
    series = [
        Series(LETTERS[i], x, shares[:, i].tolist(), colour, kind)
        for i, colour in zip(top, _spectrum(len(top)), strict=True)
    ]
    rest = np.delete(shares, top, axis=1).sum(axis=1)
    series.append(Series("all others", x, rest.tolist(), GREY, kind))
    return Figure(key, title, caption, x_title, "share of alliteration", series, stacked=True)


def _by_generation(trials: Sequence[Trial], metric: str, key: str, title: str, caption: str) -> Figure:
    """A metric's windows: a thin line a trial, a thick one for the seeds of a setting together."""
    colour = colours(trials)
    several = len({trial.algorithm for trial in trials}) > 1
    series = []
    for (algorithm, coefficient), found in settings_of(trials).items():
        name = coefficient + (f", {algorithm}" if several else "")
        for trial in found:
            if metric in trial.curve:
                x, y = trial.curve["generation"].tolist(), trial.curve[metric].tolist()
                x, y = (x, y) if len(found) == 1 else _windows(trial, metric)
            else:
                x, y = _windows(trial, metric)
            if metric in trial.curve or len(found) > 1:
                seed = f"{name}, seed {trial.seed}"
                series.append(Series(seed, x, y, colour((algorithm, coefficient)), group=name, faint=True))
        shown = [(trial.first[trial.full], trial.metrics[metric][trial.full]) for trial in found]
        length = max((len(first) for first, _ in shown), default=0)
        columns = [[values[k] for _, values in shown if k < len(values)] for k in range(length)]
        longest = max((first for first, _ in shown), key=len)
        series.append(
            Series(
                name,
                (longest + found[0].window / 2).tolist(),
                [float(interquartile_mean(np.array(column))) for column in columns],
                colour((algorithm, coefficient)), dashed=several and algorithm == "reinforce",
            )
        )  # fmt: skip
    about = METRICS[metric]
    return Figure(
        key, title, caption, "generation (texts sampled)", about.title, series, _references(trials, metric),
        digits=about.digits,
    )  # fmt: skip


def _windows(trial: Trial, metric: str) -> tuple[list[float], list[float]]:
    return (trial.first + trial.texts / 2).tolist(), trial.metrics[metric].tolist()


def _algorithms(trials: Sequence[Trial], algorithms: Sequence[str], reward: str) -> Figure:
    """At the smallest beta that all algorithms have, or the smallest at all: each trial a line, as in the study."""
    betas = set.intersection(*({t.beta for t in trials if t.algorithm == name} for name in algorithms))
    beta = min(betas or {trial.beta for trial in trials})
    chosen = [trial for trial in trials if trial.beta == beta and trial.target_kl is None]
    series = []
    seen = set()
    for trial in chosen:
        colour = _ALGORITHMS.get(trial.algorithm, _SPECTRUM[5])
        first = trial.algorithm not in seen
        seen.add(trial.algorithm)
        x, y = trial.curve["generation"].tolist(), trial.curve["raw_reward"].tolist()
        name = trial.algorithm.upper() if trial.algorithm in _ALGORITHMS else trial.algorithm
        series.append(
            Series(name if first else f"{name}, seed {trial.seed}", x, y, colour, group=name, quiet=not first)
        )
    return Figure(
        f"algorithms_{reward}", f"REINFORCE against RLOO, reward {reward}",
        f"Raw reward at beta {beta:g}, means of ten texts; each line is a seed. REINFORCE makes whatever it samples "
        "likelier and fixates; RLOO compares the texts of a group and is never satisfied.",
        "generation (texts sampled)", "Raw reward", series, _references(trials, "raw_reward"), digits=1,
    )  # fmt: skip


def _extended(trials: Sequence[Trial]) -> list[Trial]:
    """Trials that were run further than most others."""
    lengths = sorted(trial.max_generations for trial in trials)
    usual = lengths[len(lengths) // 2]
    return [trial for trial in trials if trial.max_generations > 1.5 * usual]


def _extended_figure(trials: Sequence[Trial], extended: Sequence[Trial], reward: str) -> Figure:
    colour = colours(trials)
    series = []
    for trial in extended:
        setting = (trial.algorithm, trial.coefficient)
        x, y = trial.curve["generation"].tolist(), trial.curve["raw_reward"].tolist()
        name = trial.coefficient
        series.append(Series(f"{name}, seed {trial.seed}", x, y, colour(setting), group=name, faint=True))
    for setting, found in settings_of(extended).items():
        together = _by_generation(found, "raw_reward", "", "", "").series[-1]
        series.append(dataclasses.replace(together, name=setting[1], colour=colour(setting), dashed=False))
        fallen = [trial for trial in found if trial.collapse is not None]
        if fallen:
            at = [int(trial.collapse or 0) for trial in fallen]
            heights = [trial.metrics["raw_reward"][trial.first == x][0] for trial, x in zip(fallen, at, strict=True)]
            series.append(
                Series(
                    "collapses", [float(x) for x in at], [float(h) for h in heights], GOLD, "points", star=True,
                    targets=[(trial.trial_id, x) for trial, x in zip(fallen, at, strict=True)],
                )
            )  # fmt: skip
    return Figure(
        f"extended_{reward}", f"The extended run, reward {reward}",
        "Trials that went on for longer than the others: raw reward, and where each collapses.",
        "generation (texts sampled)", "Raw reward", series, _references(trials, "raw_reward"), digits=1,
    )  # fmt: skip


def _references(trials: Sequence[Trial], metric: str) -> list[tuple[str, float]]:
    original = next((trial.original for trial in trials if trial.original), None)
    known = original is not None and np.isfinite(original.metrics[metric])  # short texts have no triples, say
    return [("original model", original.metrics[metric])] if original is not None and known else []


def _grouped(points: Sequence[Point]) -> dict[Setting, list[Point]]:
    found: dict[Setting, list[Point]] = {}
    for point in points:
        found.setdefault((point.trial.algorithm, point.trial.coefficient), []).append(point)
    return found


def _spectrum(count: int) -> list[str]:
    """`count` colours from red to violet."""
    if count <= 1:
        return [_SPECTRUM[5]] * count
    stops = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in _SPECTRUM], dtype=float)
    places = np.linspace(0, len(_SPECTRUM) - 1, count)
    channels = [
        np.interp(places, np.arange(len(_SPECTRUM)), stops[:, channel]).round().astype(int) for channel in range(3)
    ]
    return ["#" + "".join(f"{value:02x}" for value in rgb) for rgb in zip(*channels, strict=True)]
