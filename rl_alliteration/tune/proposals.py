"""What a search does next: what Optuna proposes, from what is in the results.

No Ray, no torch. The history of a search is its results: nothing else is kept, and nothing is ever unpickled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from rl_alliteration.analysis.stopping import HALVING, SEED_FAILED
from rl_alliteration.config import PlannedTrial, TrialConfig
from rl_alliteration.tune.history import Past, Plan
from rl_alliteration.tune.search import FIRST_RUNG, LEAST, Space

if TYPE_CHECKING:
    import optuna

REDUCTION = 2
"""One in so many goes on at each rung."""
STARTUP = 8
"""Trials drawn at random before Optuna's TPE sampler models the others."""
_TRIES = 100


class _Setting:
    """A choice of Optuna's, and the trials that judge it, one a seed."""

    def __init__(self, asked: optuna.Trial, trials: Sequence[PlannedTrial]) -> None:
        self.asked = asked
        self.names = [trial.trial_id for trial in trials]
        self.open = set(self.names)
        """Those that have not ended: they run, or are to come."""
        self.best: dict[str, Sequence[float]] = {}
        """Of `Objective`, of those that have begun."""
        self.reported = 0
        """Windows that Optuna knows of."""
        self.stop = ""
        """Why its trials are to stop; empty while they are not."""
        self.score: float | None = None
        """The mean over its seeds, when all have ended."""

    @property
    def windows(self) -> int:
        """How many every seed has: one that has ended keeps its best for those that it does not have."""
        if self.open:
            return min(len(self.best.get(name, ())) for name in self.open)
        return max(map(len, self.best.values()), default=0)

    def mean(self, window: int) -> float:
        """Of the best up to this window, over the seeds."""
        return fmean(best[min(window, len(best) - 1)] for best in self.best.values() if best)


class Proposals:
    """Asks Optuna for settings and tells it what became of them.

    A setting is judged by the mean over its seeds, the same for all settings: what a seed does to each drops out of
    their comparison (common random numbers). A window counts when every seed has it, so halving stops whole settings.

    One objective, since the bounds on variety and sense are within it (`Objective`). Stopping is Optuna's
    asynchronous successive halving over windows (arXiv 1810.05934).
    """

    def __init__(
        self,
        space: Space,
        planned: Plan,
        *,
        seeds: Sequence[int],
        trials: int,
        max_generations: int,
        max_texts: int | None,
        past: Iterable[Past] = (),
    ) -> None:
        """`seeds`: of each setting; the first is also that of the proposals.

        `past`: Optuna learns of the settings that ended; trials that have not are proposed first, then those that
        settings lack.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._optuna = optuna
        self._space = space
        self._planned = planned
        self._seeds = tuple(seeds)
        self._left = trials
        self._length = max_generations
        self._max_texts = max_texts
        self._study = optuna.create_study(
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=seeds[0] % 2**32, n_startup_trials=STARTUP, constant_liar=True),
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=FIRST_RUNG, reduction_factor=REDUCTION),
        )
        self._settings: dict[str, _Setting] = {}
        """By each of their trials."""
        self._going: set[str] = set()
        """Trials that run, or wait to be proposed."""
        self._stored: dict[str, int] = {}
        """Texts that trials of earlier runs had."""
        self._texts: dict[str, int] = {}
        """Of each trial: what it has if it ended, what it may have if not."""
        self._waiting: list[PlannedTrial] = []
        self._lacking: list[list[PlannedTrial]] = []
        """Of each setting of an earlier run that lacks seeds, the trials of these."""
        self._tired = False
        """Whether Optuna proposed nothing new in many tries."""
        settings: dict[TrialConfig, list[Past]] = {}
        for one in past:
            settings.setdefault(dataclasses.replace(one.trial.config, seed=0), []).append(one)
        for own in settings.values():
            self._recall(own)

    @property
    def texts(self) -> int:
        """That all trials have, or may have."""
        return sum(self._texts.values())

    @property
    def over(self) -> bool:
        """Whether there is no next trial, whatever becomes of those that run."""
        if self._waiting:
            return False
        another = self._left >= len(self._seeds) and not self._tired
        lacking = [trials for trials in self._lacking if len(trials) <= self._left]
        if self._going and (another or lacking):
            return False  # what they leave may come to it
        return not (another and self._enough) and not any(map(self._fit, lacking))

    @property
    def why_short(self) -> str:
        """Why a search that is over has fewer trials than asked for; empty if it has not."""
        lines = []
        if self._lacking:
            lines.append(
                f"{len(self._lacking)} settings have not all {len(self._seeds)} seeds, and are not judged; "
                "for these raise --trials or --max-texts"
            )
        if self._tired:
            lines.append(
                f"no other trial was found in this space in {_TRIES} tries; widen a range, or give another --seed"
            )
        elif self._left >= len(self._seeds) and not self._enough:
            what = "trial" if len(self._seeds) == 1 else "setting"
            lines.append(
                f"{self.texts:,} of {self._max_texts:,} texts are there, and a new {what} needs "
                f"{len(self._seeds) * self._least:,}; for more trials raise --max-texts"
            )
        return "; ".join(lines)

    def propose(self) -> PlannedTrial | None:
        """The next trial; None if there is none now: `over` tells whether there may be one later."""
        if not self._waiting:
            self._complete()
        if not self._waiting:
            self._ask()
        return self._waiting.pop(0) if self._waiting else None

    def lags(self, trial_id: str, best: Sequence[float]) -> str:
        """Tell of a running trial's windows; why it should be stopped, empty if it should not.

        `HALVING`: other settings do better. `SEED_FAILED`: another seed of its setting has failed.
        """
        setting = self._settings.get(trial_id)
        if setting is None or trial_id not in setting.open:
            return ""
        if len(best) > len(setting.best.get(trial_id, ())):
            setting.best[trial_id] = best
        if not setting.stop and self._report(setting):
            self._stop(setting, HALVING)
        return setting.stop

    def end(self, trial_id: str, best: Sequence[float], generations: int, *, failed: bool, halved: bool) -> None:
        """Tell that a trial has ended."""
        setting = self._settings.get(trial_id)
        if setting is None or trial_id not in setting.open:
            return
        self._close(setting, trial_id, generations)
        if best:
            setting.best[trial_id] = best
        if failed or not best:
            self._stop(setting, SEED_FAILED)
        elif not setting.stop and (halved or (setting.open and self._report(setting))):
            self._stop(setting, HALVING)
        if not setting.open:
            self._tell(setting)

    @property
    def _least(self) -> int:
        return min(LEAST, self._length)

    @property
    def _enough(self) -> bool:
        """Whether a new setting may begin; what running ones leave may still come to it."""
        return self._room() >= self._least

    def _room(self) -> int:
        """Texts that each trial of the next setting may have."""
        if self._max_texts is None:
            return self._length
        return min(self._length, (self._max_texts - self.texts) // len(self._seeds))

    def _fit(self, trials: Sequence[PlannedTrial]) -> bool:
        """Whether these may be run as well."""
        texts = self.texts + sum(trial.max_generations for trial in trials)
        return len(trials) <= self._left and (self._max_texts is None or texts <= self._max_texts)

    def _complete(self) -> None:
        """Plan the seeds that a setting lacks, of the first for which there is room."""
        for trials in self._lacking:
            if self._fit(trials):
                self._lacking.remove(trials)
                self._plan(trials)
                return

    def _ask(self) -> None:
        """Plan the trials of a new setting, if there may be one."""
        for _ in range(_TRIES):
            if self._left < len(self._seeds) or self._tired or not self._enough:
                return
            length = self._room()
            asked = self._study.ask()
            choice = self._space.suggested(asked)
            length -= length % choice.group_size
            trials = [self._planned(choice, length, seed) for seed in self._seeds]
            known = self._settings.get(trials[0].trial_id)
            if known is None:
                self._settings |= dict.fromkeys([trial.trial_id for trial in trials], _Setting(asked, trials))
                self._plan(trials)
                return
            state = None if known.score is not None else self._optuna.trial.TrialState.FAIL
            self._study.tell(asked, known.score, state=state)
        self._tired = True

    def _plan(self, trials: Sequence[PlannedTrial]) -> None:
        """Propose these next: trials that nobody has begun."""
        self._left -= len(trials)
        for trial in trials:
            self._wait(trial)

    def _wait(self, trial: PlannedTrial) -> None:
        self._texts[trial.trial_id] = trial.max_generations
        self._going.add(trial.trial_id)
        self._waiting.append(trial)

    def _report(self, setting: _Setting) -> bool:
        """Tell Optuna of the windows that every seed has; whether others do better."""
        lagging = False
        for window in range(setting.reported, setting.windows):
            setting.asked.report(setting.mean(window), window + 1)
            lagging = setting.asked.should_prune() or lagging
            setting.reported = window + 1
        return lagging

    def _stop(self, setting: _Setting, reason: str) -> None:
        """Its trials that run are to stop; those that have not begun are not begun."""
        setting.stop = reason
        for trial in [trial for trial in self._waiting if trial.trial_id in setting.open]:
            self._waiting.remove(trial)
            self._left += trial.trial_id not in self._stored
            self._close(setting, trial.trial_id, self._stored.get(trial.trial_id, 0))
        for trials in [trials for trials in self._lacking if trials[0].trial_id in setting.open]:
            self._lacking.remove(trials)
            setting.open.difference_update(trial.trial_id for trial in trials)

    def _close(self, setting: _Setting, name: str, generations: int) -> None:
        setting.open.discard(name)
        self._going.discard(name)
        self._texts[name] = generations

    def _tell(self, setting: _Setting) -> None:
        """Tell Optuna what became of a setting whose trials have all ended."""
        states = self._optuna.trial.TrialState
        scores = [best[-1] for best in setting.best.values() if best]
        if setting.stop == SEED_FAILED or len(scores) < (1 if setting.stop else len(setting.names)):
            self._study.tell(setting.asked, state=states.FAIL)
            return
        setting.score = fmean(scores)
        if setting.stop == HALVING:
            self._study.tell(setting.asked, state=states.PRUNED)
        else:
            self._study.tell(setting.asked, setting.score)

    def _recall(self, own: Sequence[Past]) -> None:
        """As if their setting had been proposed just now.

        Args:
            own: its trials of earlier runs, one or more.
        """
        choice, by_seed = own[0].choice, {one.trial.config.seed: one for one in own}
        self._study.enqueue_trial(self._space.parameters(choice))
        asked = self._study.ask()
        self._space.suggested(asked)
        length = max(one.trial.max_generations for one in own)
        trials = [
            by_seed[seed].trial if seed in by_seed else self._planned(choice, length, seed) for seed in self._seeds
        ]
        setting = _Setting(asked, trials)
        self._settings |= dict.fromkeys(setting.names, setting)
        self._left -= len(own)
        setting.best = {one.trial.trial_id: one.best for one in own}
        self._stored |= {one.trial.trial_id: one.generations for one in own}
        closed = any(one.failed or one.halved for one in own)
        if closed:  # those whose own end it was keep their best; the others have what they have
            setting.open = {one.trial.trial_id for one in own if not one.ended or one.failed or one.halved}
        else:
            setting.open -= {one.trial.trial_id for one in own if one.ended}
        self._report(setting)  # so that others are compared with it
        for one in own:
            if closed or one.ended:
                self._close(setting, one.trial.trial_id, one.generations)
            else:
                self._wait(one.trial)
        if closed:
            setting.stop = SEED_FAILED if any(one.failed for one in own) else HALVING
        lacking = [trial for seed, trial in zip(self._seeds, trials, strict=True) if seed not in by_seed]
        if not setting.open:
            self._tell(setting)
        elif lacking:
            self._lacking.append(lacking)
