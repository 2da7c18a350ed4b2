"""Work off a trial's own thread: in order, one at a time, and none lost when a job fails."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator

import pytest

from rl_alliteration.trial.background import Background


@pytest.fixture
def background() -> Iterator[Background]:
    background = Background()
    yield background
    background.close()


def test_jobs_are_done_in_their_order_on_one_other_thread(background: Background) -> None:
    done, threads = [], set()

    def job(number: int) -> None:
        threads.add(threading.get_ident())
        done.append(number)

    for number in range(50):
        background.add(functools.partial(job, number))
    background.finish()
    assert done == list(range(50))
    assert len(threads) == 1 and threading.get_ident() not in threads


def test_add_does_not_wait(background: Background) -> None:
    go = threading.Event()
    background.add(go.wait)
    go.set()
    background.finish()


def test_what_failed_and_what_came_after_it_is_kept_until_it_is_tried_again(background: Background) -> None:
    done = []
    refusing = [True, True]

    def refused() -> None:
        if refusing:
            refusing.pop()
            raise OSError("no space left")
        done.append("refused")

    def all_of_them() -> None:
        background.add(refused, lambda: done.append("after"))
        background.finish()

    background.add(lambda: done.append("before"))
    with pytest.raises(OSError, match="no space"):
        all_of_them()
    with pytest.raises(OSError, match="no space"):  # kept, not done
        background.add(lambda: done.append("later"))
    assert done == ["before"]
    background.retry()
    with pytest.raises(OSError, match="no space"):
        background.finish()
    assert done == ["before"]
    background.retry()
    background.finish()
    assert done == ["before", "refused", "after", "later"]


def test_to_try_again_what_did_not_fail_does_nothing(background: Background) -> None:
    done = []
    background.add(lambda: done.append(1))
    background.retry()
    background.finish()
    background.retry()
    background.finish()
    assert done == [1]
