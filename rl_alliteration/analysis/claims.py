"""The study's findings, each with a rule that the data meet or do not. The thresholds were fixed before the run."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rl_alliteration.analysis import more_seeds
from rl_alliteration.analysis.alliteration import top_letters_share
from rl_alliteration.analysis.rules import KEEP_VARIETY, collapse_of, collapsed, keeps_variety
from rl_alliteration.analysis.seeds import ONE_SEED, Estimate, difference, estimate, of_draws, resampled, several
from rl_alliteration.analysis.types import Analysis, Original, Trial
from rl_alliteration.analysis.words import Reals
from rl_alliteration.terminal import one_line

ORIGINAL_BELOW = 10.0
"""Raw reward that the unmodified model stays under."""
FIXATED_VARIETY = 0.1
"""Final variety under which a trial has fixated on one text."""
STUCK_BELOW = 2.0
"""Times the original's mean reward under which a trial is stuck low."""
GREATEST_SHARE = 0.8
"""Share of the greatest possible reward (words − 1) that trials without a KL penalty reach."""
KL_CORRELATION = -0.7
"""Spearman correlation of beta and |KL penalty| that is not exceeded."""
VARIETY_STEP = 0.2
"""Least distance in final variety between betas that collapse and those that do not."""
LETTERS = 3
"""How many initial letters carry most of the alliteration …"""
LETTERS_SHARE = 0.5
"""… and more than what share of it."""

NO_DATA = "no data"
TITLES = ("finding", "rule", "figure", "holds", "more seeds")


@dataclasses.dataclass(frozen=True)
class Claim:
    """A finding of the study, and whether it holds here."""

    finding: str
    rule: str
    figure: str = NO_DATA
    holds: bool | None = None
    """None: there are no data to say, or one seed, which has no interval where the rule asks for one."""
    more: float | None = None
    """How many more seeds, of each setting, would put its figure clear of what the rule holds it against
    (`more_seeds`); None for rules that ask for each seed or for one, and where seeds have no say."""

    @property
    def cells(self) -> tuple[str, ...]:
        """Of a table with `TITLES`."""
        return self.finding, self.rule, self.figure, self.verdict, more_seeds.words(self.more)

    @property
    def has_data(self) -> bool:
        """Whether there are any."""
        return self.figure != NO_DATA

    @property
    def verdict(self) -> str:
        """In a word or two."""
        if self.holds is None:
            return ONE_SEED if self.has_data else NO_DATA
        return "holds" if self.holds else "does not hold"


def _by_interval(finding: str, rule: str, figure: str, found: Estimate, holds: bool, more: float) -> Claim:
    """What a rule says that asks for an interval: nothing without one."""
    if math.isnan(found.value):
        return Claim(finding, rule)
    return Claim(finding, rule, figure, holds if found.has_interval else None, more)


def check_claims(analysis: Analysis) -> list[Claim]:
    """Each finding of the study, checked on the trials with the rewards `alliteration` and `a_words`.

    Trials of one beta are its seeds. Findings that compare betas look at the length that all their trials have;
    what goes on for longer is the extended run.
    """
    compared = comparable(analysis)
    letters = [t for t in compared if t.reward_function == "a_words" and t.beta == 0]
    swept = [t for t in compared if t.reward_function == "alliteration" and t.algorithm == "rloo"]
    sweep = BetaSweep(swept)
    return [
        *_original(swept),
        *_reinforce([t for t in letters if t.algorithm == "reinforce"]),
        *_rloo(letters),
        *_without_penalty(sweep),
        *_rewards_by_beta(sweep),
        *_kl_by_beta(sweep),
        *_grammar(sweep),
        *_step(sweep),
        *_extended(sweep),
        *_letters(sweep),
    ]


def markdown(claims: Sequence[Claim]) -> str:
    """A table of claims in Markdown."""
    rows = [TITLES, ("---",) * len(TITLES), *(claim.cells for claim in claims)]
    cells = [[one_line(cell).replace("|", "\\|") for cell in row] for row in rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


class BetaSweep:
    """The trials of a sweep over beta, at the length that all of them have."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self.length = min((trial.max_generations for trial in trials), default=0)
        self.by_beta: dict[float, list[Trial]] = {}
        for trial in sorted(trials, key=lambda trial: (trial.beta, trial.seed)):
            self.by_beta.setdefault(trial.beta, []).append(trial)

    @property
    def betas(self) -> list[float]:
        """From the smallest."""
        return list(self.by_beta)

    def final(self, metric: str, beta: float) -> list[float]:
        """The final mean of each seed."""
        return [trial.final(metric, before=self.length) for trial in self.by_beta[beta]]

    def estimate(self, metric: str, beta: float) -> Estimate:
        """The interquartile mean of these."""
        return estimate([self.final(metric, beta)])

    def seeds(self, *betas: float) -> int:
        """Of that of these betas, by default all, which has most."""
        return max(len(self.by_beta[beta]) for beta in betas or self.betas)

    def collapses(self, beta: float) -> bool:
        """Whether most of its seeds have collapsed by the length of the sweep."""
        trials = self.by_beta[beta]
        return 2 * sum(collapse_of(trial, self.length) is not None for trial in trials) > len(trials)

    @property
    def collapsing(self) -> list[float]:
        """The betas that collapse."""
        return [beta for beta in self.betas if self.collapses(beta)]

    @property
    def others(self) -> list[float]:
        """The betas that do not."""
        return [beta for beta in self.betas if not self.collapses(beta)]


def beta_to_extend(analysis: Analysis) -> float | None:
    """The smallest beta that has not collapsed by the length that all trials have; None if all have."""
    trials = [t for t in comparable(analysis) if t.reward_function == "alliteration"]
    return min(BetaSweep([t for t in trials if t.algorithm == "rloo"]).others, default=None)


def comparable(analysis: Analysis) -> list[Trial]:
    """The trials that findings are about: with a fixed beta, and an original to compare them with."""
    return [trial for trial in analysis.trained if trial.original is not None and trial.target_kl is None]


def _original(trials: Sequence[Trial]) -> list[Claim]:
    rule = f"mean raw reward of the unmodified model, its interval below {ORIGINAL_BELOW:g}"
    found: Original | None = next((trial.original for trial in trials), None)
    finding = "The unmodified model alliterates little"
    if found is None:
        return [Claim(finding, rule)]
    possible = found.metrics["num_words"] - 1
    figure = f"{found.raw_reward} of {possible:.0f} possible"
    return [Claim(finding, rule, figure, found.raw_reward.high < ORIGINAL_BELOW)]


def _reinforce(trials: Sequence[Trial]) -> list[Claim]:
    rules = (
        f"final variety under {FIXATED_VARIETY:g} in more than half of the seeds",
        f"at least one seed stuck low: final a_words reward under {STUCK_BELOW:g} times the original's",
    )
    findings = ("REINFORCE fixates (reward a_words)", "REINFORCE: not every seed on a good text")
    if not trials:
        return [Claim(*texts) for texts in zip(findings, rules, strict=True)]
    variety = [trial.final("variety") for trial in trials]
    fixated = sum(value < FIXATED_VARIETY for value in variety)
    stuck = _stuck(trials)
    rewards = _listed([trial.final("raw_reward") for trial in trials])
    return [
        Claim(findings[0], rules[0], f"{fixated} of {len(trials)} seeds fixated; variety {estimate([variety])}",
              2 * fixated > len(trials), more_seeds.for_share(fixated, len(trials))),
        Claim(findings[1], rules[1], f"{stuck} of {len(trials)} seeds stuck low; final rewards {rewards}", stuck > 0),
    ]  # fmt: skip


def _rloo(letters: Sequence[Trial]) -> list[Claim]:
    rloo, reinforce = ([t for t in letters if t.algorithm == name] for name in ("rloo", "reinforce"))
    rules = (
        "interquartile mean of the final a_words reward minus REINFORCE's, its interval above 0",
        f"each seed's final a_words reward at least {STUCK_BELOW:g} times the original's",
    )
    findings = ("RLOO ends above REINFORCE (reward a_words)", "RLOO: no seed is stuck low")
    if not rloo or not reinforce:
        return [Claim(*texts) for texts in zip(findings, rules, strict=True)]
    final = {name: [t.final("raw_reward") for t in trials]
             for name, trials in (("rloo", rloo), ("reinforce", reinforce))}  # fmt: skip
    more = difference(final["rloo"], final["reinforce"])
    stuck = _stuck(rloo)
    listed = _listed(final["rloo"])
    return [
        _by_interval(findings[0], rules[0], f"{more} more", more, more.low > 0,
                     more_seeds.for_threshold(more, 0, max(len(rloo), len(reinforce)))),
        Claim(findings[1], rules[1], f"{stuck} of {len(rloo)} seeds stuck low; final rewards {listed}", stuck == 0),
    ]  # fmt: skip


def _without_penalty(sweep: BetaSweep) -> list[Claim]:
    finding = "Without a KL penalty the model collapses"
    rule = (
        f"at beta 0 each seed collapses, and the interquartile mean of final raw reward / (words − 1) is at least "
        f"{GREATEST_SHARE:g}"
    )
    if 0.0 not in sweep.by_beta:
        return [Claim(finding, rule)]
    trials = sweep.by_beta[0.0]
    rewards, words = sweep.final("raw_reward", 0.0), sweep.final("num_words", 0.0)
    share = estimate([[reward / (count - 1) for reward, count in zip(rewards, words, strict=True)]])
    fallen = sum(collapse_of(trial, sweep.length) is not None for trial in trials)
    figure = f"{fallen} of {len(trials)} seeds collapse; share {share}"
    more = more_seeds.for_threshold(share, GREATEST_SHARE, len(trials)) if fallen == len(trials) else None
    return [Claim(finding, rule, figure, fallen == len(trials) and share.value >= GREATEST_SHARE, more)]


def _rewards_by_beta(sweep: BetaSweep) -> list[Claim]:
    findings = ("A larger beta shrinks the raw reward", "The largest beta has the lowest raw reward")
    rules = (
        "median of the final raw rewards of betas that collapse above that of those that do not",
        "interquartile mean of the final raw reward, lowest of all at the largest beta",
    )
    if not sweep.collapsing or not sweep.others:
        return [Claim(*texts) for texts in zip(findings, rules, strict=True)]
    fallen, standing = (
        statistics.median(value for beta in betas for value in sweep.final("raw_reward", beta))
        for betas in (sweep.collapsing, sweep.others)
    )
    means = {beta: sweep.estimate("raw_reward", beta) for beta in sweep.betas}
    lowest = min(means, key=lambda beta: means[beta].value)
    largest = max(means)
    beside = min((beta for beta in means if beta != largest), key=lambda beta: means[beta].value)
    apart = difference(sweep.final("raw_reward", beside), sweep.final("raw_reward", largest))
    more = more_seeds.for_threshold(apart, 0, sweep.seeds(beside, largest))
    figure = f"beta {largest:g}: {means[largest]}; lowest at beta {lowest:g}: {means[lowest]}"
    return [
        Claim(findings[0], rules[0], f"{fallen:.1f} against {standing:.1f}", fallen > standing),
        Claim(findings[1], rules[1], figure, lowest == largest, more),
    ]


def _kl_by_beta(sweep: BetaSweep) -> list[Claim]:
    finding = "A larger beta holds the KL penalty down"
    rule = f"Spearman correlation of beta and |KL penalty|, over means of seeds, at most {KL_CORRELATION:g}"
    if len(sweep.betas) < 3:
        return [Claim(finding, rule)]
    values = [np.abs(sweep.final("kl_penalty", beta)) for beta in sweep.betas]
    correlation = float(spearman(np.array([[value.mean() for value in values]]))[0])
    drawn = spearman(np.stack([resampled(value, k).mean(axis=1) for k, value in enumerate(values)], axis=1))
    found = of_draws(correlation, drawn) if several(values) else Estimate(correlation)
    more = more_seeds.for_threshold(found, KL_CORRELATION, sweep.seeds())
    return [Claim(finding, rule, str(found), correlation <= KL_CORRELATION, more)]


def _grammar(sweep: BetaSweep) -> list[Claim]:
    findings = ("The largest beta keeps the original's grammar", "Beta 0 does not keep the original's grammar")
    rules = (
        "interval of its final repetition overlaps the original's",
        "interval of its final repetition above the original's",
    )
    if 0.0 not in sweep.by_beta or len(sweep.betas) < 2:
        return [Claim(*texts) for texts in zip(findings, rules, strict=True)]
    largest = max(sweep.betas)
    original = sweep.by_beta[largest][0].original
    assert original is not None
    base, kept, lost = original.repetition, sweep.estimate("repetition", largest), sweep.estimate("repetition", 0.0)
    overlap = kept.low <= base.high and base.low <= kept.high
    nearest = min(max(kept.value, base.low), base.high)
    inside = nearest == kept.value and kept.has_interval  # then it stays there, however narrow
    return [
        _by_interval(findings[0], rules[0], f"beta {largest:g}: {kept}; original: {base}", kept, overlap,
                     0 if inside else more_seeds.for_threshold(kept, nearest, sweep.seeds(largest))),
        _by_interval(findings[1], rules[1], f"{lost}; original: {base}", lost, lost.low > base.high,
                     more_seeds.for_threshold(lost, base.high, sweep.seeds(0.0))),
    ]  # fmt: skip


def _step(sweep: BetaSweep) -> list[Claim]:
    finding = "There is a step in variety between betas that collapse and those that do not"
    rule = (
        f"each beta that collapses has a final variety (interquartile mean) at least {VARIETY_STEP:g} below each that "
        "does not, and all of them are smaller"
    )
    if not sweep.collapsing or not sweep.others:
        return [Claim(finding, rule)]
    upper = max(sweep.collapsing, key=lambda beta: sweep.estimate("variety", beta).value)
    lower = min(sweep.others, key=lambda beta: sweep.estimate("variety", beta).value)
    below, above = sweep.estimate("variety", upper), sweep.estimate("variety", lower)
    ordered = max(sweep.collapsing) < min(sweep.others)
    where = f"between beta {max(sweep.collapsing):g} and {min(sweep.others):g}" if ordered else "betas not in order"
    figure = f"{where}: at most {below} (beta {upper:g}), at least {above} (beta {lower:g})"
    apart = difference(sweep.final("variety", lower), sweep.final("variety", upper))
    more = more_seeds.for_threshold(apart, VARIETY_STEP, sweep.seeds(lower, upper)) if ordered else None
    return [Claim(finding, rule, figure, ordered and above.value - below.value >= VARIETY_STEP, more)]


def _extended(sweep: BetaSweep) -> list[Claim]:
    findings = (
        "The smallest beta that has not collapsed does so when it is extended",
        "Before it collapses, the smallest beta that had not alliterates clearly more at most of its variety",
    )
    rules = (
        "it collapses in more than half of the seeds",
        "in more than half of the seeds: a window before the collapse whose alliteration's interval is above the "
        f"original's, at {KEEP_VARIETY:.0%} or more of its variety",
    )
    beta = min(sweep.others, default=None)
    extended = [t for t in sweep.by_beta.get(beta, []) if t.max_generations > sweep.length] if beta is not None else []
    if not extended:
        return [Claim(*texts) for texts in zip(findings, rules, strict=True)]
    fallen = [trial.collapse for trial in extended if trial.collapse is not None]
    best = [value for value in map(_best_before_collapse, extended) if value is not None]
    at = f", at {_listed(fallen, 0)}" if fallen else ""
    most = f"; most per 100 words: {_listed(best)}" if best else ""
    return [
        Claim(findings[0], rules[0], f"beta {beta:g}: {len(fallen)} of {len(extended)} seeds{at}",
              2 * len(fallen) > len(extended), more_seeds.for_share(len(fallen), len(extended))),
        Claim(findings[1], rules[1], f"beta {beta:g}: {len(best)} of {len(extended)} seeds{most}",
              2 * len(best) > len(extended), more_seeds.for_share(len(best), len(extended))),
    ]  # fmt: skip


def _best_before_collapse(trial: Trial) -> float | None:
    """The most alliteration of a window before the collapse that clearly beats the original and keeps its variety."""
    original = trial.original
    assert original is not None
    before = trial.full & ~collapsed(trial)
    clear = trial.intervals["alliteration"][0] > original.alliteration.high
    found = trial.metrics["alliteration"][before & clear & keeps_variety(trial)]
    return float(found.max()) if len(found) else None


def _letters(sweep: BetaSweep) -> list[Claim]:
    finding = "Few initial letters carry most of the alliteration"
    rule = (
        f"share of the {LETTERS} most common in each trial's final texts, its interval (interquartile mean, seeds "
        f"within betas) above {LETTERS_SHARE:g}"
    )
    if not sweep.betas:
        return [Claim(finding, rule)]
    shares = {beta: [_letter_share(trial, sweep.length) for trial in sweep.by_beta[beta]] for beta in sweep.betas}
    every = estimate(list(shares.values()))
    standing = estimate([shares[beta] for beta in sweep.others])
    figure = f"{every}; without the betas that collapse {standing}"
    more = more_seeds.for_threshold(every, LETTERS_SHARE, sweep.seeds())
    return [_by_interval(finding, rule, figure, every, every.low > LETTERS_SHARE, more)]


def _letter_share(trial: Trial, length: int) -> float:
    return top_letters_share(trial.final_letters(before=length), LETTERS)


def spearman(rows: Reals) -> Reals:
    """Spearman correlation of each row, (R, N), with 0 … N − 1; equal values share their mean rank. (R,).

    nan for a row of one value only.
    """
    smaller = (rows[:, None, :] < rows[:, :, None]).sum(axis=2)
    equal = (rows[:, None, :] == rows[:, :, None]).sum(axis=2)
    ranks: NDArray[np.float64] = smaller + (equal - 1) / 2
    ranks = ranks - ranks.mean(axis=1, keepdims=True)
    places = np.arange(rows.shape[1]) - (rows.shape[1] - 1) / 2
    norms = np.sqrt((ranks**2).sum(axis=1) * (places**2).sum())
    found: Reals = np.divide(ranks @ places, norms, out=np.full(len(rows), np.nan), where=norms > 0)
    return found


def _stuck(trials: Sequence[Trial]) -> int:
    """How many are stuck low."""
    limits = [STUCK_BELOW * trial.original.raw_reward.value for trial in trials if trial.original is not None]
    finals = [trial.final("raw_reward") for trial in trials]
    return sum(final < limit for final, limit in zip(finals, limits, strict=True))


def _listed(values: Sequence[float], digits: int = 1) -> str:
    return ", ".join(f"{value:,.{digits}f}" for value in sorted(values))
