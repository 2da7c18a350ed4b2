"""Budgets of hours: when they are spent, and what is said of it."""

from __future__ import annotations

import pytest
from commands import run
from hypothesis import given
from hypothesis import strategies as st

from rl_alliteration.tune.budget import Budget
from rl_alliteration.tune.signals import StopRequest


def test_hours_are_of_the_clock_and_device_hours_of_what_trials_hold() -> None:
    now = [0.0]
    hours, devices = Budget(2, None, lambda: now[0]), Budget(None, 3.5, lambda: now[0])
    for moment, held, spent in ((0, 0, ""), (3600, 0, ""), (5400, 4, ""), (7199, 4, "3.5 device"), (7200, 0, "both")):
        now[0] = moment
        by_clock, by_devices = hours.use(held), devices.use(held)
        assert by_clock == ("the budget of 2 hours is spent" if spent == "both" else "")
        assert by_devices == ("the budget of 3.5 device hours is spent" if spent else "")


@given(st.lists(st.tuples(st.floats(0, 1000), st.integers(0, 8)), max_size=20))
def test_device_hours_add_up(looks: list[tuple[float, int]]) -> None:
    now = [5.0]
    used = sum(seconds * held for seconds, held in looks) / 3600
    for allowed, spent in ((used * 1.001 + 1e-6, False), (used * 0.999 - 1e-6, True)):
        budget = Budget(None, allowed, lambda: now[0])
        said = ""
        for seconds, held in looks:
            now[0] += seconds
            said = budget.use(held)
        assert bool(said) is spent or not looks


def test_a_spent_budget_stops_once_and_a_signal_comes_before_it() -> None:
    announced: list[bool] = []
    stop = StopRequest(lambda: announced.append(True))
    assert not stop.asked and stop.reason == ""
    stop.end("the budget of 2 hours is spent")
    stop.end("the budget of 3 device hours is spent")
    assert (stop.asked, stop.signal, stop.reason, announced) == (True, None, "the budget of 2 hours is spent", [True])
    stop._take(2, None)  # the first signal does not end at once
    assert (stop.signal, stop.reason) == (2, "SIGINT")
    with pytest.raises(KeyboardInterrupt):
        stop._take(2, None)
    stop.end("late")
    assert stop.reason == "SIGINT"


@pytest.mark.parametrize("command", ["sweep", "search"])
@pytest.mark.parametrize("flag", ["--max-hours", "--max-device-hours"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
def test_a_budget_is_some_hours(capsys: pytest.CaptureFixture[str], command: str, flag: str, value: str) -> None:
    where = ("--storage", "none", "--experiment", "e", "--beta", "1", "2")
    code, _, err = run(capsys, command, *where, f"{flag}={value}")
    assert (code, err.count("\n")) == (2, 1)
    assert f"{flag}: {value} is not accepted; give hours, more than 0" in err
