"""Errors that end Tune while trials are unfinished: how often they may."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ray.exceptions import OutOfMemoryError, RayError

from rl_alliteration.errors import Failure, UserError
from rl_alliteration.tune.callbacks import Follower
from rl_alliteration.tune.failures import in_one_line, memory_line


class Losses:
    """What ended Tune though trials were unfinished, and how often it may.

    Tune tries again what its own kinds of error ended. It does not know that of Ray's memory monitor, and ends itself;
    so it does with what Ray raises when it loses an object or a connection.
    """

    def __init__(self, follower: Follower, max_failures: int) -> None:
        self._follower = follower
        self._max_failures = max_failures
        self._of_trials: Counter[str] = Counter()
        self._idle = 0
        self._progress = (0, 0)
        self.at_once: int | None = None
        """How many trials may run side by side: fewer each time that memory runs out."""

    def add(self, error: Exception) -> str:
        """Count an error that ended Tune; what to tell of it.

        Raises:
            Failure: it is none of Ray's, or came too often.
        """
        causes = list(_causes(error))
        ours = next((cause for cause in causes if isinstance(cause, UserError | Failure)), None)
        if ours is not None:
            raise ours
        cause = next((cause for cause in causes if isinstance(cause, RayError | OSError)), None)
        if cause is None:
            raise Failure(f"Ray Tune ended: {in_one_line(str(error))}; run the same command again") from error
        if not isinstance(cause, OutOfMemoryError):
            told = f"Ray lost what it needs ({type(cause).__name__}: {in_one_line(str(cause))})"
            self._count_idle(told, error)
            return f"{told}; going on with what is unfinished"
        told = memory_line(str(cause))
        running = len(self._follower.running)
        self.at_once = max(1, running * 3 // 4)
        name = self._follower.running_on(str(cause))
        if name is None:
            self._count_idle(told, error)
        else:
            self._of_trials[name] += 1
            if self._of_trials[name] > self._max_failures:
                self._follower.fail(name, told)
                return told
        return f"{told}; going on with {self.at_once} at once"

    def measure(self, generations: int) -> None:
        """After an error: the texts of the trials that are unfinished."""
        progress = (self._follower.ended, generations)
        if progress != self._progress:
            self._progress, self._idle = progress, 0

    def _count_idle(self, told: str, error: Exception) -> None:
        self._idle += 1
        if self._idle > self._max_failures:
            raise Failure(f"{told}, {self._idle} times without any progress; run the same command again") from error


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that led to it."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        yield cause
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__
