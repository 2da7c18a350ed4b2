"""A search that judges each setting by several seeds: paired, halved whole, and gone on with from anywhere."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import MadeUp, write_results

from rl_alliteration.analysis.rules import Limits
from rl_alliteration.analysis.stopping import HALVING, SEED_FAILED
from rl_alliteration.config import PlannedTrial, TrialConfig
from rl_alliteration.results.reader import connect
from rl_alliteration.results.storage import Storage
from rl_alliteration.tune.history import Past, history
from rl_alliteration.tune.proposals import Proposals
from rl_alliteration.tune.search import FIRST_RUNG, Choice, Search, Space, resolve_search

SPACE = Space(("rloo",), (10.0, 100.0), (1e-4, 1e-2), (10, 20))
SEEDS = (5, 6, 7)
LENGTH = 2400
WINDOWS = LENGTH // 100
SPENT = "spent"


def planned(choice: Choice, length: int, seed: int) -> PlannedTrial:
    config = TrialConfig(
        **dataclasses.asdict(choice), seed=seed, reward="alliteration", reward_version=1, prompt="p", max_length=100,
        temperature=1.0, top_k=0, weights="00", tokenizer="00", dtype="float32", threads=1,
    )  # fmt: skip
    return PlannedTrial(config, "storyteller", length, 600)


def choice_of(config: TrialConfig) -> Choice:
    return Choice(config.algorithm, config.beta, config.learning_rate, config.group_size)


@dataclasses.dataclass
class Made:
    """A trial of a made-up search, as its storage has it."""

    trial: PlannedTrial
    best: list[float] = dataclasses.field(default_factory=list)
    fate: str = ""
    """Empty: it has not ended."""

    @property
    def texts(self) -> int:
        """The last window need not be full."""
        return self.trial.max_generations if self.fate == "finished" else 100 * len(self.best)

    @property
    def past(self) -> Past:
        ended = self.fate not in ("", SEED_FAILED)  # the others of a setting of which one failed go on if that does
        choice = choice_of(self.trial.config)
        return Past(
            self.trial, choice, list(self.best), self.texts, ended, self.fate == "diverged",
            self.fate == HALVING,
        )  # fmt: skip


Height = Callable[[TrialConfig], float]
Fate = Callable[[TrialConfig], tuple[str, int]]
"""How a trial ends by itself, and after how many windows."""


def to_its_end(config: TrialConfig) -> tuple[str, int]:
    return "finished", WINDOWS


def some_end_early(config: TrialConfig) -> tuple[str, int]:
    number = random.Random(config.beta * 1000 + config.seed).random()
    if number < 0.15:
        return "diverged", 1 + int(100 * number)
    return (SPENT, 5 + int(40 * number)) if number < 0.4 else ("finished", WINDOWS)


def noise(config: TrialConfig) -> float:
    return random.Random(f"{config.beta} {config.seed}").gauss(0, 1)


def truth(config: TrialConfig) -> float:
    """Best at beta 30."""
    return 10 - 2 * abs(math.log(config.beta / 30))


class MadeUpSearch:
    """A search whose trials go on turn by turn, as many at once as there are slots; stopped where it is asked to."""

    def __init__(
        self,
        height: Height,
        *,
        seeds: Sequence[int] = SEEDS,
        trials: int = 12,
        max_texts: int | None = None,
        slots: int = 3,
        fate: Fate = to_its_end,
    ) -> None:
        self.height, self.seeds, self.slots, self.fate = height, seeds, slots, fate
        self.limits = {"trials": trials, "max_texts": max_texts}
        self.made: dict[str, Made] = {}
        self.started: list[str] = []

    def run(self, turns: float = math.inf) -> Proposals:
        """From what is there, as a process that knows nothing else."""
        past = [one.past for one in self.made.values()]
        asked = Proposals(SPACE, planned, seeds=self.seeds, max_generations=LENGTH, past=past, **self.limits)  # type: ignore[arg-type]
        running: list[Made] = []
        while True:
            while len(running) < self.slots and (trial := asked.propose()) is not None:
                running.append(self.made.setdefault(trial.trial_id, Made(trial)))
                running[-1].trial = trial
                running[-1].fate = ""
                self.started.append(trial.trial_id)
            if not running:
                assert asked.over
                return asked
            for one in list(running):
                if turns <= 0:
                    return asked
                turns -= 1
                self.turn(asked, one)
                if one.fate:
                    running.remove(one)

    def turn(self, asked: Proposals, one: Made) -> None:
        config = one.trial.config
        one.best.append(self.height(config) * (len(one.best) + 1) / WINDOWS)
        fate, at = self.fate(config)
        if asked.lags(one.trial.trial_id, list(one.best)):
            one.fate = asked.lags(one.trial.trial_id, list(one.best))
        elif len(one.best) >= at:
            one.fate = fate
        elif 100 * (len(one.best) + 1) > one.trial.max_generations:
            one.fate = "finished"
        if one.fate:
            failed = one.fate == "diverged"
            asked.end(one.trial.trial_id, one.best, one.texts, failed=failed, halved=one.fate == HALVING)

    def by_setting(self) -> dict[Choice, list[Made]]:
        found: dict[Choice, list[Made]] = {}
        for one in self.made.values():
            found.setdefault(choice_of(one.trial.config), []).append(one)
        return found

    def chosen(self) -> Choice:
        """The best by the mean over its seeds."""
        whole = {choice: own for choice, own in self.by_setting().items() if len(own) == len(self.seeds)}
        return max(whole, key=lambda choice: fmean(one.best[-1] for one in whole[choice]))


# --- the mean, and what it is for ----------------------------------------------------------------------------


def test_every_setting_has_the_same_seeds_one_after_the_other() -> None:
    search = MadeUpSearch(truth)
    asked = search.run()
    assert len(search.made) == 12 and asked.why_short == ""
    for own in search.by_setting().values():
        assert [one.trial.config.seed for one in own] == list(SEEDS)
    seeds = [one.trial.config.seed for one in search.made.values()]
    assert seeds == [*SEEDS] * 4


def test_a_window_counts_when_every_seed_has_it_and_as_their_mean() -> None:
    asked = Proposals(SPACE, planned, seeds=SEEDS, trials=30, max_generations=LENGTH, max_texts=None)
    first = [asked.propose() for _ in SEEDS]
    names = [trial.trial_id for trial in first if trial is not None]
    (optuna_trial,) = asked._study.trials
    assert asked.lags(names[0], [1.0, 5.0, 6.0]) == asked.lags(names[1], [2.0, 2.0]) == ""
    assert not asked._study.trials[0].intermediate_values
    asked.lags(names[2], [6.0])
    assert asked._study.trials[0].intermediate_values == {1: 3.0}
    asked.end(names[2], [6.0, 8.0], 200, failed=False, halved=False)  # spent: it keeps its best
    assert asked._study.trials[0].intermediate_values == {1: 3.0, 2: 5.0}
    asked.lags(names[1], [2.0, 2.0, 4.0])
    assert asked._study.trials[0].intermediate_values == {1: 3.0, 2: 5.0, 3: 6.0}
    for name in names[:2]:
        assert asked._study.trials[0].state == optuna_trial.state  # told when all have ended
        asked.end(name, [1.0, 10.0], 200, failed=False, halved=False)
    assert asked._study.trials[0].value == pytest.approx((10 + 10 + 8) / 3)


def test_what_a_seed_does_to_every_setting_changes_nothing() -> None:
    """Paired: with seeds of their own, a constant of the seed would be noise."""
    plain, shifted = (
        MadeUpSearch(lambda config, shift=shift: 100 + truth(config) + shift * (config.seed - 6))  # type: ignore[misc]
        for shift in (0, 9)
    )
    plain.run()
    shifted.run()
    assert list(plain.made) == list(shifted.made)
    assert [one.fate for one in plain.made.values()] == [one.fate for one in shifted.made.values()]
    assert HALVING in {one.fate for one in plain.made.values()}


def test_the_mean_over_seeds_picks_the_better_setting_more_often() -> None:
    """As many settings each way, with noise as large as what sets them apart."""
    found: dict[int, list[float]] = {1: [], 4: []}
    for first in range(0, 160, 20):
        for count, values in found.items():
            search = MadeUpSearch(
                lambda config: truth(config) + noise(config), seeds=range(first, first + count), trials=8 * count
            )
            search.run()
            values.append(truth(planned(search.chosen(), LENGTH, first).config))
    better = sum(four > one for one, four in zip(*found.values(), strict=True))
    assert fmean(found[4]) > fmean(found[1]) + 0.2
    assert better > sum(four < one for one, four in zip(*found.values(), strict=True))


# --- whole settings are stopped ------------------------------------------------------------------------------


def test_halving_stops_all_seeds_of_a_setting() -> None:
    search = MadeUpSearch(lambda config: truth(config) + noise(config), trials=24)
    search.run()
    fates = [{one.fate for one in own} for own in search.by_setting().values()]
    assert {"finished"} in fates and {HALVING} in fates and len(fates) == 8
    assert all(len(fate) == 1 for fate in fates)
    lengths = {len(one.best) for one in search.made.values() if one.fate == HALVING}
    assert min(lengths) == FIRST_RUNG and max(lengths) <= FIRST_RUNG + 2  # others had begun before


def test_a_seed_that_diverges_stops_the_others_and_those_to_come_never_begin() -> None:
    asked = Proposals(SPACE, planned, seeds=SEEDS, trials=6, max_generations=LENGTH, max_texts=5 * LENGTH)
    first, second = (trial for trial in (asked.propose(), asked.propose()) if trial is not None)
    assert asked.texts == 3 * LENGTH
    asked.lags(second.trial_id, [1.0])
    asked.end(first.trial_id, [1.0], 100, failed=True, halved=False)
    assert asked.texts == 100 + LENGTH  # what the third was to have is free again
    assert asked.lags(second.trial_id, [1.0, 2.0]) == SEED_FAILED
    third = asked.propose()
    assert third is not None and choice_of(third.config) != choice_of(first.config)
    assert third.config.seed == SEEDS[0]
    asked.end(second.trial_id, [1.0, 2.0], 200, failed=False, halved=False)
    assert [trial.state.name for trial in asked._study.trials] == ["FAIL", "RUNNING"]
    assert [asked.propose() is None for _ in range(3)] == [False, False, True]
    assert asked.over  # one trial is left, and a setting needs three


def test_a_lost_seed_leaves_no_score_even_of_a_setting_that_was_halved() -> None:
    asked = Proposals(SPACE, planned, seeds=SEEDS[:2], trials=2, max_generations=LENGTH, max_texts=None)
    one, other = (trial.trial_id for trial in (asked.propose(), asked.propose()) if trial is not None)
    asked.end(one, [1.0], 100, failed=False, halved=True)
    assert asked.lags(other, [1.0]) == HALVING
    asked.end(other, (), 0, failed=True, halved=False)
    assert asked._study.trials[0].state.name == "FAIL"


def test_the_room_is_divided_among_the_seeds() -> None:
    search = MadeUpSearch(truth, trials=30, max_texts=3 * LENGTH + 6100, slots=6)
    asked = search.run()
    lengths = [{one.trial.max_generations for one in own} for own in search.by_setting().values()]
    assert lengths[0] == {LENGTH} and all(len(of_setting) == 1 for of_setting in lengths)
    second = lengths[1].pop()
    assert second <= 2033 and second % choice_of(list(search.made.values())[3].trial.config).group_size == 0
    assert asked.texts <= 3 * LENGTH + 6100 and "a new setting needs 5,400" in asked.why_short


# --- what is there is gone on with ---------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 200), min_size=1, max_size=3),
    slots=st.integers(1, 5),
    fate=st.sampled_from([to_its_end, some_end_early]),
    max_texts=st.sampled_from([None, 9 * LENGTH, 6 * LENGTH + 5500]),
)
def test_a_search_that_was_interrupted_anywhere_goes_on(
    cuts: list[int], slots: int, fate: Fate, max_texts: int | None
) -> None:
    search = MadeUpSearch(
        lambda config: truth(config) + noise(config), trials=9, max_texts=max_texts, slots=slots, fate=fate
    )
    for cut in cuts:
        search.run(cut)
        ended = {name for name, one in search.made.items() if one.past.ended}
        search.started.clear()
        begun = set(search.made)
    asked = search.run()
    assert not ended & set(search.started)  # what has ended is not run again
    assert len(search.started) == len(set(search.started))
    assert len(search.made) <= 9
    for own in search.by_setting().values():
        fates = {one.fate for one in own}
        stopped = fates & {HALVING, "diverged"}
        assert stopped or ([one.trial.config.seed for one in own] == [*SEEDS] and "" not in fates)
        assert len({one.trial.max_generations for one in own}) == 1
        assert all(one.fate or one.trial.trial_id in begun for one in own)  # only an interruption leaves some open
    if max_texts is not None:
        assert sum(one.texts for one in search.made.values()) <= max_texts
    elif not any(len(own) < 3 for own in search.by_setting().values()):
        assert len(search.made) == 9
    assert ("settings have not all" in asked.why_short) is False


def test_seeds_that_settings_lack_are_run_first_but_not_of_those_that_were_stopped() -> None:
    search = MadeUpSearch(lambda config: truth(config) + noise(config), seeds=SEEDS[:1], trials=8)
    search.run()
    fates = [one.fate for one in search.made.values()]
    whole = {choice_of(one.trial.config) for one in search.made.values() if one.fate == "finished"}
    assert 0 < len(whole) < 8 and set(fates) == {"finished", HALVING}
    search.seeds, search.limits["trials"] = SEEDS, 8 + 2 * len(whole) + 3
    search.started.clear()
    asked = search.run()
    added = [search.made[name].trial.config for name in search.started]
    assert {choice_of(config) for config in added[: 2 * len(whole)]} == whole
    assert [config.seed for config in added] == [*SEEDS[1:]] * len(whole) + [*SEEDS]
    assert asked.why_short == ""


def test_settings_that_lack_seeds_for_want_of_trials_are_said() -> None:
    search = MadeUpSearch(truth, seeds=SEEDS[:1], trials=3, fate=lambda config: (SPENT, 5))
    search.run()
    search.seeds, search.limits["trials"] = SEEDS, 6
    asked = search.run()
    assert [len(own) for own in search.by_setting().values()] == [3, 1, 1]
    assert asked.why_short == (
        "2 settings have not all 3 seeds, and are not judged; for these raise --trials or --max-texts"
    )


def test_the_history_has_the_trials_of_all_seeds(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    trials = [MadeUp(beta=beta, seed=seed) for beta, seed in ((40, 0), (40, 1), (60, 1), (40, 2))]
    ids = write_results(storage, [dataclasses.replace(one, generations=100) for one in trials])
    search = resolve_search(
        Search(storage="s", experiment="made_up", beta=(10, 100), learning_rate=(1e-3, 1e-3), seeds=2)
    )
    limits = Limits(variety=0.0, cross_entropy=0.0, nats=math.inf, repetition=1.0)

    def as_made_up(choice: Choice, length: int, seed: int) -> PlannedTrial:
        trial = planned(choice, length, seed)
        return dataclasses.replace(trial, config=dataclasses.replace(trial.config, prompt="Once upon a time"))

    found = history(storage, search, as_made_up, limits)
    assert [past.trial.trial_id for past in found] == ids[:3]
    space = Space(("rloo",), (10.0, 100.0), (1e-3, 1e-3), (10,))
    asked = Proposals(space, as_made_up, seeds=(0, 1), trials=4, max_generations=100, max_texts=None, past=found)
    lacking = asked.propose()
    assert lacking is not None and (lacking.config.beta, lacking.config.seed) == (60.0, 0)
    assert asked.propose() is None


# --- on a real Ray -------------------------------------------------------------------------------------------


@pytest.mark.ray
@pytest.mark.usefixtures("on_cluster")
def test_a_search_over_seeds_by_the_command_line(tmp_path: Path, tiny_gpt_neo_folder: Path) -> None:
    from commands import assert_verified, here

    flags = [
        *("search", "--experiment", "tiny", "--model", str(tiny_gpt_neo_folder), "--storage", str(tmp_path)),
        *("--beta", "1", "100", "--learning-rate", "1e-3", "1e-3", "--seed", "1", "--max-length", "8"),
        *("--max-generations", "100", "--original-texts", "100", "--keep-variety", "0.5", "--keep-sense", "5"),
    ]
    assert here(*flags, "--trials", "1").returncode == 0
    done = here(*flags, "--seeds", "2", "--trials", "4")
    assert done.returncode == 0, done.stdout + done.stderr
    said = " ".join(done.stdout.split())
    assert "search, 4 trials, 2 seeds a setting; 1 trials are there" in said
    assert "best setting by the mean over 2 seeds: rloo beta" in said
    assert "less, seed by seed." in said and "recommended: rloo-beta" in done.stdout.splitlines()[-1]
    rows = connect(Storage(tmp_path)).execute(
        "SELECT beta, list(seed ORDER BY seed) FROM trials WHERE algorithm = 'rloo' GROUP BY beta"
    )
    assert [seeds for _, seeds in rows.fetchall()] == [[1, 2], [1, 2]]
    assert_verified(tmp_path)
