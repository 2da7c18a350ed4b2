"""When a sweep or a search is over, however it ended: a command is run, a web hook is called.

Neither changes how it ended, nor takes long: what fails is told in one line.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from rl_alliteration.errors import UserError
from rl_alliteration.results import schema
from rl_alliteration.results.reader import connect
from rl_alliteration.results.storage import Storage
from rl_alliteration.terminal import complain, one_line
from rl_alliteration.tune.plan import Sweep
from rl_alliteration.tune.web_hook import post, web_hook

if TYPE_CHECKING:
    from rl_alliteration.tune.driver import Outcome

FINISHED, FAILED, STOPPED, BUDGET = "finished", "failed", "stopped", "budget"
"""States: all trials are as they should be; something is not; a signal came; a budget is spent."""

_SECONDS = 60.0
_SECONDS_AFTER_A_SIGNAL = 8.0  # a job's grace period is 30 s, of which trials may have taken 20
_PREFIX = "RL_ALLITERATION_"


@contextlib.contextmanager
def told(sweep: Sweep, storage: Storage) -> Iterator[Callable[[Outcome], None]]:
    """Tell how a run ends; it calls what it is given with its outcome."""
    outcomes: list[Outcome] = []
    try:
        yield outcomes.append
    except BaseException as error:
        tell(sweep, storage, exit_code(error), str(error))
        raise
    outcome = outcomes[-1]
    message = next((f"{name}: {error}" for name, error in outcome.errors.items()), outcome.spent)
    code = 128 + outcome.stopped_by if outcome.stopped_by is not None else int(bool(outcome.errors))
    tell(sweep, storage, code, message, spent=bool(outcome.spent))


def exit_code(error: BaseException) -> int:
    """The exit code of a command that ends with it."""
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    if isinstance(error, SystemExit) and error.code == signal.SIGTERM:
        return 128 + signal.SIGTERM
    return 2 if isinstance(error, UserError) else 1


def tell(sweep: Sweep, storage: Storage, code: int, message: str = "", *, spent: bool = False) -> None:
    """Run the command and call the hook that were asked for.

    Args:
        sweep: resolved.
        storage: of its results.
        code: the exit code.
        message: what went wrong, in a line.
        spent: whether a budget ended it.
    """
    url = web_hook(sweep.notify_url)
    if sweep.notify is None and url is None:
        return
    until = time.monotonic() + (_SECONDS_AFTER_A_SIGNAL if code > 128 else _SECONDS)
    state = STOPPED if code > 128 else FAILED if code else BUDGET if spent else FINISHED
    facts = {
        "experiment": str(sweep.experiment),
        "storage": str(storage),
        "state": state,
        "exit_code": code,
        "message": one_line(message),
    }
    counts: dict[str, int] = {}
    counting = _started(lambda: counts.update(_counts(storage, str(sweep.experiment))))
    counting.join((until - time.monotonic()) / 4)
    facts |= dict(counts)
    problems: list[str] = []
    posting = None if url is None else _started(lambda: problems.extend(post(url, facts)))
    if sweep.notify is not None:
        variables = {_PREFIX + name.upper(): str(value) for name, value in facts.items()}
        _run(sweep.notify, variables, until)
    if posting is not None:
        posting.join(max(until - time.monotonic(), 0))
        if posting.is_alive():
            problems = ["it does not answer in time"]
        for problem in problems:
            complain(f"note: --notify-url: nobody was told there: {problem}")


def _started(work: Callable[[], Any]) -> threading.Thread:
    """In a thread that no process waits for."""
    thread = threading.Thread(target=work, name="notice", daemon=True)
    thread.start()
    return thread


def _counts(storage: Storage, experiment: str) -> dict[str, int]:
    """How many trials the experiment has, by state; nothing where the storage does not say."""
    with contextlib.suppress(Exception):
        sql = "SELECT status, count(*) FROM trials WHERE experiment = ? GROUP BY ALL"
        found = dict(connect(storage, wait=False).execute(sql, [experiment]).fetchall())
        ended = {f"trials_{state}": found.get(state, 0) for state in (schema.FINISHED, schema.STOPPED, schema.FAILED)}
        return {"trials": sum(found.values()), **ended}
    return {}


def _run(command: str, variables: dict[str, str], until: float) -> None:
    """By the shell; what it says goes where our output goes."""
    try:
        process = subprocess.Popen(
            command, shell=True, env={**os.environ, **variables}, stdin=subprocess.DEVNULL, start_new_session=True
        )
    except (OSError, ValueError) as error:
        complain(f"note: --notify: the command could not be run ({error})")
        return
    try:
        code = process.wait(max(until - time.monotonic(), 0))
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as error:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        why = "was interrupted" if isinstance(error, KeyboardInterrupt) else "took too long, and was ended"
        complain(f"note: --notify: the command {why}")
        return
    if code:
        complain(f"note: --notify: the command ended with {code}")
