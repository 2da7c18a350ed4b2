"""Work that a trial's own thread need not wait for, in its order, none of it lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """Does one job after another on a thread of its own.

    A job that raises is kept, with all that came after it: `add` and `finish` raise its error until `retry`, which
    begins with that job again. So what is written stays in order, whatever fails.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="publisher")
        self._jobs: deque[Callable[[], object]] = deque()
        self._last: Future[None] | None = None
        self._error: BaseException | None = None

    def add(self, *jobs: Callable[[], object]) -> None:
        """Have the jobs done after all earlier ones.

        Raises:
            Exception: an earlier job failed; the new ones are kept too.
        """
        for job in jobs:
            self._jobs.append(job)
            self._last = self._executor.submit(self._next)
        self._check()

    def finish(self) -> None:
        """Wait until all is done.

        Raises:
            Exception: a job failed.
        """
        if self._last is not None:
            self._last.result()
        self._check()

    def retry(self) -> None:
        """Begin with the job that failed again, if one did."""
        if self._error is None:
            return
        if self._last is not None:
            self._last.result()  # those behind it have been passed over
        self._error = None
        for _ in range(len(self._jobs)):
            self._last = self._executor.submit(self._next)

    def close(self) -> None:
        """Wait until all is done or one has failed; end the thread."""
        self._executor.shutdown()

    def _next(self) -> None:
        if self._error is not None:
            return
        try:
            self._jobs[0]()
        except BaseException as error:
            self._error = error
        else:
            self._jobs.popleft()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
