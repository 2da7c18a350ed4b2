"""Jobs without a cluster: the command line that is sent, what is sent along, and what is refused."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from commands import run
from flaky import FlakyClient
from hypothesis import given
from hypothesis import strategies as st

from rl_alliteration.cli import main as cli
from rl_alliteration.errors import Failure, UserError
from rl_alliteration.tune import submission
from rl_alliteration.tune.plan import Sweep

words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@given(
    prompt=st.lists(words, max_size=3),
    storage=words,
    rate=st.floats(1e-9, 1.0),
    betas=st.lists(st.floats(0, 1e6), max_size=3),
)
def test_a_sweep_is_the_same_on_the_other_side_of_the_command_line(
    prompt: str, storage: str, rate: float, betas: list[float]
) -> None:
    sweep = Sweep(
        storage=storage, prompt=tuple(prompt), learning_rate=(rate,), beta=tuple(betas), seed=(1, 2), as_published=True,
        publish_every=rate, top_k=0,
    )  # fmt: skip
    assert vars(cli.parse(submission.sweep_arguments(sweep))) == vars(sweep)


def test_a_file_of_prompts_is_read_on_this_side(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("One day\n\n--x\n")
    sweep = Sweep(storage="/s", prompts=str(tmp_path / "prompts.txt"))
    assert submission.sweep_arguments(sweep) == ["sweep", "--storage=/s", "--prompt=One day", "--prompt=--x"]


HOSTILE = ["a b", "it's", '"', "a; touch pwned", "$(touch pwned)", "`x`", "two\nlines", "--x", "*"]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_shell_takes_nothing_out_of_the_entry_point(tmp_path: Path, text: str) -> None:
    entry = submission.entry_point(Sweep(storage="/s", experiment="e", prompt=(text,), beta=(0.0,)))
    script = entry.replace("python -m rl_alliteration.cli", "printf '%s\\0'", 1)
    seen = subprocess.run(["sh", "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True).stdout
    assert seen.split("\0")[:-1] == ["sweep", "--storage=/s", "--experiment=e", f"--prompt={text}", "--beta", "0.0"]
    assert not list(tmp_path.iterdir())


def test_submit_takes_the_flags_of_sweep_set_apart_or_not() -> None:
    flags = ["--preset", "no_kl", "--storage", "/s"]
    apart = cli.parse(["submit", "--address", "http://h:8265", "--no-wait", "--", *flags])
    assert apart == cli.parse(["submit", *flags, "--address", "http://h:8265", "--no-wait"])
    assert isinstance(apart, Sweep)
    assert submission.sweep_arguments(apart) == ["sweep", "--storage=/s", "--preset=no_kl"]


def test_a_job_gets_the_clone_without_junk_and_time_to_stop(tmp_path: Path) -> None:
    environment = submission.runtime_environment(None, ())
    assert environment["env_vars"] == {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "30"}
    assert (environment["working_dir"], environment["excludes"][0]) == (str(tmp_path.cwd()), "*.parquet")
    wheel = tmp_path / "rl_alliteration-1-py3-none-any.whl"
    wheel.touch()
    installed = submission.runtime_environment(None, ("obstore>=0.6", str(wheel)))
    assert (installed["pip"], installed["py_modules"]) == (["obstore>=0.6"], [str(wheel)])
    assert "working_dir" not in installed


@pytest.mark.parametrize(
    "flags, named",
    [
        (("--storage", "results"), "--storage: 'results' would be within the job's own folder"),
        (("--storage", "s3://key:secret@b/x"), "must not carry a user name or password"),
        (("--storage", "/s", "--address", "127.0.0.1:8265"), "--address: '127.0.0.1:8265' is not accepted"),
        (("--storage", "/s", "--working-dir", "/nowhere"), "--working-dir: no folder '/nowhere'"),
        (("--storage", "/s", "--pip", "no.whl"), "--pip: no file 'no.whl'"),
        (("--storage", "/s", "--max-generations", "15"), "--max-generations: 15 is no multiple"),
        (("--storage", "/s", "--publish-every", "0"), "--publish-every: 0 is not accepted; give minutes, more than 0"),
        (("--storage", "/s", "--publish-every", "nan"), "--publish-every: nan is not accepted"),
        (("--storage", "/s", "--publish-every", "inf"), "--publish-every: inf is not accepted"),
    ],
)
def test_a_bad_submission_is_refused_before_a_cluster_is_asked(
    capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], named: str
) -> None:
    code, out, err = run(capsys, "submit", "--experiment", "e", "--beta", "0", *flags)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert named in err
    assert "secret" not in err


def test_nobody_at_the_address_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "logs", "x", "--address", "http://127.0.0.1:9")
    assert (code, err.count("\n")) == (1, 1)
    assert "no Ray dashboard answers at http://127.0.0.1:9" in err


def test_a_job_refuses_results_in_its_own_folder(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    code, _, err = run(capsys, "sweep", "--preset", "no_kl", "--storage", "results", "--dry-run")
    assert (code, "give an absolute path" in err) == (2, True)


def test_this_users_token_goes_to_this_machine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for address, mode in (("http://far.example:8265", None), ("127.0.0.1:6379", "token"), ("auto", "token")):
        monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
        submission.use_own_token(address)
        assert os.environ.get("RAY_AUTH_MODE") == mode
    monkeypatch.delenv("RAY_AUTH_MODE")


@pytest.mark.parametrize(
    "status, exit_code, expected", [("SUCCEEDED", 0, 0), ("FAILED", 2, 2), ("FAILED", -9, 137), ("STOPPED", None, 130)]
)
def test_a_broken_connection_loses_and_repeats_nothing_of_the_log(
    status: str, exit_code: int | None, expected: int
) -> None:
    log = ["one\n", "two\n", "three\n", "four\n"]
    written: list[str] = []
    assert submission.follow(FlakyClient(log, status, exit_code), "j", written.append) == expected
    assert "".join(written) == "".join(log)


def test_a_job_that_could_not_start_says_why() -> None:
    with pytest.raises(Failure, match="the runtime environment could not be made"):
        submission.follow(FlakyClient([], "FAILED", None), "j", print)


def test_the_runtime_environment_for_plain_ray_is_ours() -> None:
    import yaml

    assert yaml.safe_load(Path("runtime_env.yaml").read_text())["env_vars"] == submission.JOB_ENVIRONMENT


def test_a_wrong_job_is_named_with_those_there_are() -> None:
    client = type("C", (), {"get_address": lambda self: "x", "list_jobs": lambda self: []})()
    with pytest.raises(UserError, match="no job or experiment 'x' on the cluster; its newest jobs: none"):
        submission.find_job(client, "x")
