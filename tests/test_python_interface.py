"""Sweeps and results from Python: what is accepted, what is raised, what is left as it was."""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars
import pyarrow as pa
import pytest
from made_up import MadeUp, write_results

import rl_alliteration
from rl_alliteration import Search, Sweep, UserError, interface, open_results
from rl_alliteration.results.storage import Storage
from rl_alliteration.rl import rewards
from rl_alliteration.rl.source_version import source_version


def rhymes(text: str) -> float:
    return float(text.count("ight"))


def broken(text: str) -> float:
    if text == "Once upon a time" or "tall tales" in text or "cats" in text:  # what a reward is tried on
        return 0.0
    raise ValueError("out of rhymes")


# --- importing -------------------------------------------------------------------------------------------


def test_names_are_those_of_the_interface_and_come_when_they_are_used() -> None:
    for name in rl_alliteration.__all__:
        assert getattr(rl_alliteration, name) is getattr(interface, name)
    assert set(rl_alliteration.__all__) <= set(dir(rl_alliteration))
    with pytest.raises(AttributeError, match="no attribute 'swep'"):
        _ = rl_alliteration.swep


@pytest.mark.parametrize(
    "line, left_out",
    [
        ("import rl_alliteration", {"torch", "ray", "duckdb", "tyro"}),
        ("from rl_alliteration import Sweep, Search, run, open_results", {"torch", "ray", "transformers", "plotly"}),
    ],
)
def test_importing_is_light(line: str, left_out: set[str]) -> None:
    script = (
        f"{line}\nimport sys\nsys.exit(str({left_out!r} & set(sys.modules)) if {left_out!r} & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


# --- requests --------------------------------------------------------------------------------------------


def checked(**fields: Any) -> Any:
    return interface._checked(Sweep(**{"storage": "s", "experiment": "e", "beta": (0,), **fields}))


def test_values_become_those_of_the_command_line(tmp_path: Path) -> None:
    found = checked(storage=tmp_path, beta=[0, 10], seed=range(2), reward=rhymes)
    assert (found.storage, found.beta, found.seed) == (str(tmp_path), (0.0, 10.0), (0, 1))
    assert found.reward == f"{__name__}:rhymes"
    search = interface._checked(Search(storage="s", beta=(1, 10), reward=rhymes))
    assert (search.beta, search.reward) == ((1.0, 10.0), f"{__name__}:rhymes")


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"beta": 3}, "beta: 3 is not accepted; it should be a valid tuple"),
        ({"algorithm": "rloo"}, "algorithm: 'rloo' is not accepted; it should be a valid tuple"),
        ({"seed": (0, 1.5)}, "seed: 1.5 is not accepted; it should be a valid integer"),
        ({"max_generations": "many"}, "max_generations: 'many' is not accepted; it should be a valid integer"),
        ({"reward": lambda text: 1.0}, "reward: .*<lambda>.* has no name under which it is found again"),
        ({"reward": functools.partial(rhymes)}, "reward: .*partial.* has no name"),
        ({"reward": 3}, "reward: '3' has no name"),
    ],
)
def test_a_value_that_is_not_accepted_is_told_in_one_line(fields: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}") as told:
        checked(**fields)
    assert "\n" not in str(told.value)


def test_what_a_sweep_is_checked_for_is_raised_and_nothing_is_made(tmp_path: Path) -> None:
    storage = tmp_path / "results"
    for fields, message in (({"beta": (-1,)}, "--beta: -1.0"), ({"dry_run": True, "beta": (0,)}, "dry_run: a run has")):
        with pytest.raises(UserError, match=message):
            rl_alliteration.run(Sweep(storage=str(storage), experiment="e", **fields))
    assert not storage.exists()


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN, lambda number, frame: None])
def test_a_sweep_that_a_signal_stopped_is_never_taken_for_whole(handler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # A shell starts what runs in the background with SIGINT ignored.
    stopped = SimpleNamespace(outcome=SimpleNamespace(stopped_by=signal.SIGINT), check=lambda: None)
    monkeypatch.setattr(interface, "prepare_sweep", lambda sweep, console: None)
    monkeypatch.setattr(interface, "execute_sweep", lambda prepared, console: stopped)
    before = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            rl_alliteration.run(Sweep(storage="unused", experiment="e", beta=(0.0,)))
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_registered_function_goes_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewards, "REWARDS", dict(rewards.REWARDS))
    named = rl_alliteration.reward("rhymes_of_a_test", version=3)(rhymes)
    assert checked(reward=named).reward == "rhymes_of_a_test"
    assert rewards.get_reward("rhymes_of_a_test").version == 3


def test_a_function_that_has_been_defined_anew_is_not_taken_for_the_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    old = rhymes
    monkeypatch.setattr(sys.modules[__name__], "rhymes", broken)
    with pytest.raises(UserError, match=f"'{__name__}:rhymes' is another function by now"):
        checked(reward=old)


# --- versions of a notebook's functions ------------------------------------------------------------------

NOTEBOOK = """
import math, re
from functools import cache
LETTERS = {"s", "z"}
WORD = re.compile("[a-z]+")
def weight(letter):
    return 1.0
@cache
def score(text, most=9):
    return min(most, math.fsum(weight(word[0]) for word in WORD.findall(text) if word[0] in LETTERS))
"""


def version(tmp_path: Path, source: str) -> int:
    """The version of `score` in a script."""
    script = tmp_path / f"{abs(hash(source))}.py"
    script.write_text(source)
    names = {"__name__": "__main__"}
    exec(compile(source, script, "exec"), names)
    return source_version(names["score"])


def test_a_version_follows_the_source_and_what_it_uses_of_its_notebook(tmp_path: Path) -> None:
    first = version(tmp_path, NOTEBOOK)
    assert version(tmp_path, f"unrelated = text = findall = object()\n{NOTEBOOK}") == first
    edits = [('{"s", "z"}', '{"s"}'), ("return 1.0", "return 2.0"), ("most=9", "most=8"), ("[a-z]", "[A-Z]")]
    assert len({first, *(version(tmp_path, NOTEBOOK.replace(old, new)) for old, new in edits)}) == 5


def test_what_has_no_version_is_told_and_may_be_given_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="uses 'LETTERS', a memoryview whose changes cannot be detected"):
        version(tmp_path, NOTEBOOK.replace('{"s", "z"}', "memoryview(b'sz')"))
    names = {"__name__": "__main__"}
    exec("def score(text):\n    return 1.0\n", names)  # as typed into `python`
    monkeypatch.setattr(sys.modules["__main__"], "score", names["score"], raising=False)
    with pytest.raises(UserError, match=r"the source of 'score' is not known; .*write score\.version = 1"):
        rewards.get_reward("__main__:score")
    monkeypatch.setattr(sys.modules["__main__"].score, "version", 7, raising=False)
    assert rewards.get_reward("__main__:score").version == 7


def test_functions_that_call_one_another_have_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def even(text: str) -> float:
        return odd(text[1:]) if text else 1.0

    def odd(text: str) -> float:
        return even(text[1:]) if text else 0.0

    for function in (even, odd):
        monkeypatch.setattr(function, "__module__", "__main__")
    assert source_version(even) == source_version(even) != source_version(odd)


# --- results ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    made = [MadeUp(beta=0, falls_at=150, generations=300), MadeUp(beta=20, generations=300)]
    write_results(Storage(folder), made, "first")
    write_results(Storage(folder), [MadeUp(beta=5, generations=100)], "second")
    return folder


def test_tables_are_arrow_and_become_data_frames(storage: Path) -> None:
    results = open_results(storage, "first")
    table = results.generations()
    assert isinstance(table, pa.Table) and table.num_rows == 900
    assert table.schema.field("token_ids").type == pa.list_(pa.int32())
    frame = polars.from_arrow(table)
    assert isinstance(frame, polars.DataFrame)
    assert frame["experiment"].unique().to_list() == ["first"]
    trials = results.trials().to_pandas()
    assert sorted(trials["beta"].dropna()) == [0.0, 20.0] and trials["beta"].isna().sum() == 1  # the original
    assert results.steps().num_rows == 0
    assert open_results(storage).generations().num_rows == 900 + 400
    order = table.select(["trial_id", "generation"]).to_pylist()
    assert order == sorted(order, key=lambda row: (row["trial_id"], row["generation"]))


def test_windows_say_what_became_of_the_texts(storage: Path) -> None:
    windows = open_results(storage, "first").windows().to_pandas()
    fallen = windows[windows["trial_id"].str.startswith("rloo-beta0-")].sort_values("first_generation")
    assert fallen["first_generation"].tolist() == [0, 100, 200]
    assert fallen["variety"].iloc[0] > fallen["variety"].iloc[-1]
    assert len(open_results(storage, "first").windows(50)) == 2 * len(windows)


def test_a_query_sees_the_whole_storage_and_only_reads(storage: Path) -> None:
    results = open_results(storage, "first")
    counted = results.query("SELECT experiment, count(*) AS texts FROM generations GROUP BY ALL ORDER BY experiment")
    assert counted.to_pylist() == [{"experiment": "first", "texts": 900}, {"experiment": "second", "texts": 400}]
    for sql in ("SELECT nope FROM generations", "DROP VIEW generations"):
        with pytest.raises(UserError, match=r"^query: "):
            results.query(sql)


def test_texts_around_a_generation(storage: Path) -> None:
    results = open_results(storage, "first")
    trial = results.trials()["trial_id"].to_pylist()[-1]
    assert results.texts(trial, around=150, number=3)["generation"].to_pylist() == [149, 150, 151]
    assert results.texts(trial, number=2)["generation"].to_pylist() == [298, 299]
    with pytest.raises(UserError, match=rf"^trial: 'x' is not in .*; there is: .*{trial}"):
        results.texts("x")
    for around in (-1, 300):
        with pytest.raises(
            UserError, match=rf"^around: {around} is not accepted; {trial} has the generations 0 to 299$"
        ):
            results.texts(trial, around=around)


def test_figures_and_the_model_to_keep(storage: Path) -> None:
    results = open_results(storage, "first")
    assert "frontier" in results.figures
    figure = results.figure("frontier")
    assert len(figure.data) > 1 and figure.layout.title.text
    with pytest.raises(UserError, match=r"^figure: 'nope' is unknown; choose one of .*frontier"):
        results.figure("nope")
    assert results.recommended().trial.experiment == "first"
    with pytest.raises(UserError, match="--keep-variety"):
        results.recommended(keep_variety=2)


def test_a_handle_shows_its_trials(storage: Path) -> None:
    results = open_results(storage, "first")
    lines = repr(results).splitlines()
    assert lines[0] == f"Results of first in {storage}" and len(lines) == 2 + 3
    assert re.fullmatch(r"rloo-beta0-seed0-\w{8} +finished +300/300( +-?\d+\.\d\d){3}", lines[2])
    page = results._repr_html_()
    assert page.count("<tr>") == 4
    results.storage = "<script>"
    assert "<script>" not in results._repr_html_()


def test_what_is_not_there_is_told(tmp_path: Path, storage: Path) -> None:
    for location, experiment, message in (
        (tmp_path / "none", None, "no folder"),
        (tmp_path, None, "holds no results"),
        (storage, "third", "'third' is not in .*; there is: first, second"),
    ):
        with pytest.raises(UserError, match=message):
            open_results(location, experiment)


# --- runs ------------------------------------------------------------------------------------------------


@pytest.mark.ray
def test_failures_raise_in_a_thread_and_leave_the_process_as_it_was(tmp_path: Path, tiny_gpt_neo_folder: Path) -> None:
    storage: Any = tmp_path  # a field of text takes a path too
    sweep = Sweep(
        storage=storage, experiment="tiny", model=str(tiny_gpt_neo_folder), beta=(0,), reward=broken, max_length=12,
        group_size=(4,), max_generations=4, original_texts=40,
    )  # fmt: skip
    raised: list[BaseException] = []

    def call() -> None:
        try:
            rl_alliteration.run(sweep)
        except BaseException as error:
            raised.append(error)

    def state() -> object:
        loggers = (logging.root, *map(logging.getLogger, ("ray", "ray.tune", "ray._private", "transformers")))
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        return handlers, os.getcwd(), [(logger.level, list(logger.handlers)) for logger in loggers]

    before = state()
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    (failure,) = raised
    assert isinstance(failure, rl_alliteration.TrialsFailed), failure
    assert len(failure.errors) == 2 and "2 of 2 trials failed" in str(failure)
    assert all("ValueError: out of rhymes" in error for error in failure.errors.values())
    assert state() == before
    assert {json.loads(text)["reward"] for text in open_results(tmp_path).trials()["config"].to_pylist()} == {
        f"{__name__}:broken"
    }
