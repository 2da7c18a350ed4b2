"""The Python interface: run sweeps and searches from a script, a notebook or a thread.

    import rl_alliteration
    results = rl_alliteration.run(rl_alliteration.Sweep(storage="results", experiment="first", beta=(0, 10)))

What a command of the command line prints and exits with, is returned or raised here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rl_alliteration.errors import Failure as Failure  # as itself: a name of this interface
from rl_alliteration.errors import UserError as UserError
from rl_alliteration.handle import Results as Results
from rl_alliteration.handle import open_results as open_results
from rl_alliteration.rl.advantages import algorithm as algorithm
from rl_alliteration.rl.rewards import RewardFunction, expression_of
from rl_alliteration.rl.rewards import reward as reward
from rl_alliteration.terminal import Screen
from rl_alliteration.tune import plan, search
from rl_alliteration.tune.execution import TrialsFailed as TrialsFailed
from rl_alliteration.tune.execution import execute_search, execute_sweep, prepare_sweep

_RUNNING = threading.Lock()
"""Runs of one process follow one another: they share its Ray."""


@dataclasses.dataclass(frozen=True)
class Sweep(plan.Sweep):
    """A sweep: one trial for each algorithm, beta and seed, and the original model before them.

    The fields are the flags of `rl-alliteration sweep`. `reward` may be a function from a text to a number: with the
    name of its module it is MODULE:FUNCTION. One of a notebook or a script has a version by its source, so that an
    edited function begins trials of its own; or the number in its attribute `version`.
    """

    reward: str | RewardFunction | None = None  # type: ignore[assignment]  # a function becomes its name in `run`


@dataclasses.dataclass(frozen=True)
class Search(search.Search):
    """A search for the most alliteration that keeps variety and sense.

    The fields are the flags of `rl-alliteration search`; `reward` as for `Sweep`.
    """

    reward: str | RewardFunction | None = None  # type: ignore[assignment]


def run(request: plan.Sweep | search.Search) -> Results:
    """Run what is missing of a sweep or a search, and open its results. The same again computes nothing.

    Ctrl-C, or the interrupt of a notebook, stops the trials cleanly and raises KeyboardInterrupt: the same call goes
    on from there. In a thread other than the main one signals are the program's own affair.

    Raises:
        UserError: a field is outside of what it accepts. Nothing was run.
        TrialsFailed: trials failed; the rest of the results is there.
        Failure: there is no such cluster, or another driver has the experiment.
    """
    checked = _checked(request)
    console = Screen()
    with _RUNNING, _unchanged():
        if isinstance(checked, search.Search):
            ended = execute_search(checked, console)
        elif checked.dry_run:
            raise UserError("dry_run: a run has results; list the trials with `rl-alliteration sweep --dry-run`")
        else:
            ended = execute_sweep(prepare_sweep(checked, console), console)
    if ended.outcome.stopped_by is not None:
        signal.raise_signal(ended.outcome.stopped_by)  # the caller's handler: as a rule KeyboardInterrupt
        raise KeyboardInterrupt  # none: a shell starts what runs in the background with SIGINT ignored
    ended.check()
    return Results(ended.storage, ended.experiment)


def _checked(request: plan.Sweep | search.Search) -> plan.Sweep | search.Search:
    """The request as the command line would make it: values of the fields' types, a reward by its name.

    Raises:
        UserError: a value is of another type, or a reward has no name.
    """
    kind = search.Search if isinstance(request, search.Search) else plan.Sweep
    values: dict[str, Any] = {field.name: getattr(request, field.name) for field in dataclasses.fields(kind)}
    if values["reward"] is not None and not isinstance(values["reward"], str):
        values["reward"] = expression_of(values["reward"])
    values |= {name: os.fspath(value) for name, value in values.items() if isinstance(value, os.PathLike)}
    adapter: TypeAdapter[plan.Sweep | search.Search] = TypeAdapter(kind)
    try:
        return adapter.validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name, shown = first["loc"][0], repr(first["input"])[:80]
        raise UserError(f"{name}: {shown} is not accepted; {first['msg'].replace('Input', 'it', 1)}") from error


@contextlib.contextmanager
def _unchanged() -> Iterator[None]:
    """What Ray and a sweep change of this process is put back: signal handlers and logging."""
    main = threading.current_thread() is threading.main_thread()  # no other can set handlers
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} if main else {}
    known = [logging.root, *logging.root.manager.loggerDict.values()]
    loggers = [(one, one.level, list(one.handlers), one.propagate) for one in known if isinstance(one, logging.Logger)]
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for logger, level, listed, propagate in loggers:
            logger.setLevel(level)
            logger.handlers[:], logger.propagate = listed, propagate
