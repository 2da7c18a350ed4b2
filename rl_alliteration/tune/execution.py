"""From a request to its outcome: check it, load the model, plan the trials, run what is missing of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rl_alliteration.config import PlannedTrial, TrialConfig
from rl_alliteration.errors import Failure, UserError
from rl_alliteration.results.storage import Storage, check_location, existing_storage, open_storage
from rl_alliteration.rl.expressions import parse
from rl_alliteration.rl.rewards import REWARDS
from rl_alliteration.terminal import Screen
from rl_alliteration.tune import notices, submission
from rl_alliteration.tune.fork import parent_of
from rl_alliteration.tune.plan import Sweep, plan, plan_all, resolve_all
from rl_alliteration.tune.run_flags import gpus_asked
from rl_alliteration.tune.search import Search, resolve_search, sweep_of
from rl_alliteration.tune.trackers import check_installed

if TYPE_CHECKING:
    from rl_alliteration.lm.loading import LoadedModel
    from rl_alliteration.tune.driver import Outcome


class TrialsFailed(Failure):
    """Some trials of a run failed, or had diverged before; the others are as they should be."""

    def __init__(self, errors: dict[str, str], trials: int) -> None:
        """`errors`: by trial id, at least one; `trials`: how many there were."""
        name, error = next(iter(errors.items()))
        super().__init__(f"{len(errors)} of {trials} trials failed; {name}: {error}")
        self.errors = errors


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A sweep that has passed every check that needs no cluster."""

    sweep: Sweep
    """Resolved; without what its preset has beside it."""
    trials: list[PlannedTrial]
    """All of them, the original first."""
    loaded: LoadedModel
    storage: Storage | None
    """None for a dry run where there is none yet, or within reach."""


def memory_of(trials: Sequence[PlannedTrial], loaded: LoadedModel) -> int | None:
    """About the most bytes that one of the trials takes on a CPU; None if that is not known."""
    from rl_alliteration.lm.memory import step_bytes

    found = [step_bytes(loaded.model, trial.config) for trial in trials]
    return None if None in found else max(size for size in found if size is not None)


def check_memory(sweep: Sweep, trials: Sequence[PlannedTrial], loaded: LoadedModel) -> None:
    """Refuse trials of which not even one fits into this machine, where it is to run them without a GPU.

    Raises:
        UserError: one does not.
    """
    import torch

    from rl_alliteration.lm.memory import machine_bytes

    on_gpu = torch.cuda.is_available() if gpus_asked(sweep) is None else bool(gpus_asked(sweep))
    if submission.ray_address(sweep) != "local" or on_gpu:
        return
    needed, there = memory_of(trials, loaded), machine_bytes()
    if needed is not None and there is not None and needed > there:
        raise UserError(
            f"--group-size: a trial would take about {needed / 2**30:,.0f} GiB of memory, this machine has "
            f"{there / 2**30:,.0f}; give a --micro-batch, or a smaller --group-size, --max-length or --model"
        )


@dataclasses.dataclass(frozen=True)
class Ended:
    """What a run has come to."""

    storage: Storage
    experiment: str
    outcome: Outcome
    trials: int
    """How many there were to be, those of earlier runs among them."""

    def check(self) -> None:
        """Whether every trial is as it should be.

        Raises:
            TrialsFailed: one is not.
        """
        if self.outcome.errors:
            raise TrialsFailed(self.outcome.errors, self.trials)


def prepare_sweep(sweep: Sweep, console: Screen) -> Prepared:
    """Check the sweep, load its model and plan its trials.

    Raises:
        UserError: a field is outside of what it accepts.
    """
    asked = sweep
    check_location(sweep.storage)
    parent = parent_of(sweep)
    sweeps = resolve_all(sweep if parent is None else parent.completed(sweep))
    sweep = sweeps[0]
    if submission.runs_as_job():
        submission.check_for_job(sweep)
    if not sweep.dry_run:
        check_installed(sweep.log_to)
    storage = existing_storage(sweep.storage) if sweep.dry_run else open_storage(sweep.storage, create=True)
    from rl_alliteration.lm.loading import load_model

    try:
        loaded = load_model(sweep.model, tokenizer=sweep.tokenizer, revision=sweep.revision)
    except UserError as error:
        raise (error if parent is None else parent.moved(error)) from error
    from rl_alliteration.tune.reward_parameters import with_reward_parameters

    if parent is not None:
        parent.check(loaded, sweep.model)
        console.say(str(parent))
    planned = plan_all(sweeps, loaded, parent.ancestors if parent is not None else ())
    trials = with_reward_parameters(planned, loaded, sweep, console.say)
    _say_reward_of(asked, console)
    _try_reward(sweep, trials[0].config)
    return Prepared(sweep, trials, loaded, storage)


def _say_reward_of(asked: Sweep | Search, console: Screen) -> None:
    """What --chat has changed, if nobody said it."""
    if asked.chat and asked.reward_of is None:
        console.say("the reward is of the completion alone; of prompt and chat template too with --reward-of text")


def _try_reward(sweep: Sweep, config: TrialConfig) -> None:
    """Try a reward of the user's own, as trials will get it.

    Raises:
        UserError: it does not work, or cannot be sent to trials.
    """
    if any(name not in REWARDS for name in parse(config.reward)):
        from rl_alliteration.tune.sending import try_as_sent

        try_as_sent(sweep, config)


def execute_sweep(prepared: Prepared, console: Screen) -> Ended:
    """Run what is missing of the trials.

    Raises:
        UserError: the cluster cannot give what was asked for.
        Failure: there is no such cluster, or another driver has the experiment.
    """
    sweep, storage, loaded = prepared.sweep, prepared.storage, prepared.loaded
    assert storage is not None and sweep.experiment is not None
    if loaded.undescribed is not None:
        console.say(f"sampling and scoring go through transformers' own code, which is slower: {loaded.undescribed}")
    check_memory(sweep, prepared.trials, loaded)
    submission.use_own_token(submission.ray_address(sweep))
    from rl_alliteration.tune.driver import run_sweep

    with notices.told(sweep, storage) as ended:
        outcome = run_sweep(sweep, prepared.trials, loaded, storage, console)
        ended(outcome)
    return Ended(storage, sweep.experiment, outcome, len(prepared.trials))


def execute_search(search: Search, console: Screen) -> Ended:
    """Check the search, load its model, run what is missing.

    Raises:
        UserError: a field is outside of what it accepts, or the cluster cannot give what was asked for.
        Failure: there is no such cluster, or another driver has the experiment.
    """
    asked, search = search, resolve_search(search)
    check_location(search.storage)
    if submission.runs_as_job():
        submission.check_for_job(sweep_of(search))
    check_installed(search.log_to)
    storage = open_storage(search.storage, create=True)
    from rl_alliteration.lm.loading import load_model

    loaded = load_model(search.model, tokenizer=search.tokenizer, revision=search.revision)
    # Whether prompt and length fit the model, and a trial the machine.
    trials = plan(sweep_of(search), loaded)
    check_memory(sweep_of(search), trials, loaded)
    _say_reward_of(asked, console)
    _try_reward(sweep_of(search), trials[0].config)
    assert search.experiment is not None
    submission.use_own_token(submission.ray_address(sweep_of(search)))
    from rl_alliteration.tune.driver import run_search

    with notices.told(sweep_of(search), storage) as ended:
        outcome = run_search(search, loaded, storage, console)
        ended(outcome)
    return Ended(storage, search.experiment, outcome, int(search.trials or 0))
