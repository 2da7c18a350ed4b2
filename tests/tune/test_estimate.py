"""What a dry run says of what is there, and of the time that the rest takes; it writes nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import run
from hypothesis import given
from hypothesis import strategies as st
from trials import planned, run_trial

from rl_alliteration.config import PlannedTrial, TrialConfig
from rl_alliteration.lm.loading import LoadedModel, load_model
from rl_alliteration.results import reader
from rl_alliteration.results.storage import Storage
from rl_alliteration.tune.estimate import as_found, makespan, speed, time_told
from rl_alliteration.tune.plan import Sweep, plan, resolve


def state_of(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_dry_run_says_what_is_there_and_how_long_the_rest_takes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_gpt_neo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    folder = tmp_path / "results"
    flags = [
        *("--storage", str(folder), "--experiment", "tiny", "--model", str(tiny_gpt_neo_folder), "--max-length", "16"),
        *("--group-size", "4", "--learning-rate", "0.01", "--beta", "1", "2", "--max-generations", "8"),
        *("--original-texts", "20", "--checkpoint-every", "8"),
    ]
    code, out, _ = run(capsys, "sweep", *flags, "--dry-run")
    assert code == 0 and not folder.exists()
    assert out.count("to be started") == 3 and "36 texts, 36 of them to be sampled" in out
    assert "How long it takes is not known: the storage has no run of this model" in out
    sweep = resolve(
        Sweep(
            storage=str(folder), experiment="tiny", model=str(tiny_gpt_neo_folder), max_length=16, group_size=(4,),
            learning_rate=(0.01,), beta=(1.0, 2.0), max_generations=8, original_texts=20, checkpoint_every=8,
        )
    )  # fmt: skip
    loaded = load_model(str(tiny_gpt_neo_folder))
    original, first, _ = plan(sweep, loaded)
    folder.mkdir()
    run_trial(Storage(folder), original, loaded)
    run_trial(Storage(folder), first, loaded)
    before = state_of(folder)
    code, out, _ = run(capsys, "sweep", *flags, "--dry-run")
    assert code == 0 and state_of(folder) == before
    assert out.count("finished, left as it is, has") == 2 and out.count("to be started") == 1
    assert (
        "36 texts, 8 of them to be sampled" in out and "on this machine" in out and "of the newest run like it" in out
    )
    _, out, _ = run(capsys, "sweep", *flags, "--max-generations", "16", "--beta", "1", "--dry-run")
    assert out.count("to be extended, has 8 of 16 texts") == 1 and "36 texts, 8 of them to be sampled" in out
    _, out, _ = run(capsys, "sweep", *flags, "--beta", "1", "--dry-run")
    assert "Nothing is left to run." in out
    _, out, _ = run(capsys, "sweep", *flags, "--address", "127.0.0.1:1", "--dry-run")
    assert "divided by how many trials the cluster runs at once" in out
    _, out, _ = run(capsys, "sweep", *flags, "--cpus-per-trial", "2", "--dry-run")  # other trials, of another speed
    assert "2 threads a trial to go by" in out
    assert state_of(folder) == before


def test_the_speed_is_that_of_the_newest_run_like_it(
    tmp_path: Path, tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig]
) -> None:
    storage = Storage(tmp_path)
    trials = [planned(make_config(tiny_gpt_neo, beta=beta), 8) for beta in (1, 2)]
    sweep = Sweep(storage=str(tmp_path), experiment="tiny")

    def found(trial: PlannedTrial) -> list:  # type: ignore[type-arg]
        return as_found(storage, [trial], sweep)

    assert speed(storage, found(trials[0])) is None
    for trial, run_id in zip(trials, ("20260101", "20260102"), strict=True):
        run_trial(storage, trial, tiny_gpt_neo, run_id=run_id)
    longer = planned(make_config(tiny_gpt_neo, beta=3), 80)
    ((sampling, whole),) = reader.run_query(
        storage,
        "SELECT median(sample_seconds / group_size), median((sample_seconds + train_seconds) / group_size) "
        "FROM steps WHERE run_id = '20260102'",
    )[1]
    seconds = speed(storage, found(longer))
    assert seconds is not None and (seconds.sampling, seconds.whole) == (sampling, whole)
    assert f"at the {whole:.2g} s a text" in time_told(storage, found(longer), sweep)
    for other in (make_config(tiny_gpt_neo, threads=3), make_config(tiny_gpt_neo, max_length=20)):
        assert speed(storage, found(planned(other, 8))) is None


@given(st.lists(st.floats(0, 100), max_size=7), st.integers(1, 4))
def test_the_last_trial_ends_when_a_simulation_says(seconds: list[float], at_once: int) -> None:
    ends: list[float] = []
    for one in seconds:
        running = sorted(ends)[-at_once:]
        ends.append((running[0] if len(running) == at_once else 0.0) + one)
    assert makespan(seconds, at_once) == pytest.approx(max(ends, default=0.0))
    assert list(itertools.accumulate(seconds))[-1:] == [] or makespan(seconds, 1) == pytest.approx(sum(seconds))
