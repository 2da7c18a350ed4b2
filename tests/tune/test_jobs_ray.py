"""Jobs on a real head with token authentication: `ray job submit`, `rl-alliteration submit`, `stop`, `logs`."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import assert_verified, texts, wait_for_parts
from heads import ROOT, Head, ray_head

from rl_alliteration.results import reader
from rl_alliteration.results.storage import Storage

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head() as head:
        yield head


def ours(head: Head, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "rl_alliteration.cli", *arguments, "--address", head.dashboard],
        env=head.environment | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def flags(model: Path, storage: Path, *more: str) -> list[str]:
    return [
        *("--experiment", "tiny", "--model", str(model), "--storage", str(storage), "--max-length", "10"),
        *("--group-size", "4", "--beta", "1", "--max-generations", "16", "--original-texts", "40", *more),
    ]


def test_the_same_sweep_by_rays_own_command_and_by_ours(head: Head, tmp_path: Path, tiny_gpt_neo_folder: Path) -> None:
    submitted = ours(head, "submit", "--", *flags(tiny_gpt_neo_folder, tmp_path / "ours; $(false)"))
    wait_for_parts(tmp_path / "ours; $(false)", submitted, 1)  # a young head refuses plain submissions
    plain = subprocess.run(
        [
            *(sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", head.dashboard),
            *("--runtime-env", "runtime_env.yaml", "--working-dir", "."),
            *("--", "python", "-m", "tune_jobs.sweep", *flags(tiny_gpt_neo_folder, tmp_path / "plain")),
        ],
        env=head.environment | {"RAY_AUTH_MODE": "token"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert plain.returncode == 0, plain.stdout + plain.stderr
    assert "succeeded" in plain.stdout
    code, out, err = ended(submitted)
    assert (code, err.count("\n")) == (0, 1), out + err
    assert "Over the last 100 texts" in out
    assert head.token not in out + err
    assert texts(tmp_path / "ours; $(false)") == texts(tmp_path / "plain")
    assert_verified(tmp_path / "plain")
    code, log, _ = ended(ours(head, "logs", "tiny"))
    assert (code, "Over the last 100 texts" in log) == (0, True)


@pytest.mark.chaos
def test_a_failing_trial_fails_the_job_and_the_last_line_of_its_log_says_why(
    head: Head, tmp_path: Path, tiny_gpt_neo_folder: Path
) -> None:
    code, out, err = ended(ours(head, "submit", *flags(tiny_gpt_neo_folder, tmp_path, "--learning-rate", "1e38")))
    assert code == 1, out + err
    assert "1 of 2 trials failed" in out.splitlines()[-1] and "diverged at generation 4" in out.splitlines()[-1]
    job = err.split("Job ")[1].split(";")[0]
    shown = subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", "job", "status", "--address", head.dashboard, job],
        env=head.environment | {"RAY_AUTH_MODE": "token"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert f"'{job}' failed" in re.sub(r"\x1b\[\d+m", "", shown.stdout)


@pytest.mark.chaos
def test_stop_leaves_a_clean_experiment_that_goes_on(head: Head, tmp_path: Path, tiny_gpt_neo_folder: Path) -> None:
    def long(generations: str) -> list[str]:
        return flags(tiny_gpt_neo_folder, tmp_path, "--max-generations", generations, "--checkpoint-every", "200")

    running = ours(head, "submit", *long("80000"))
    wait_for_parts(tmp_path, running, 3)
    code, out, err = ended(ours(head, "stop", "tiny"))
    assert code == 0, err
    assert "is stopped; the same sweep, submitted again, goes on from here" in out
    assert ended(running)[0] == 130
    states = dict(reader.run_query(Storage(tmp_path), "SELECT algorithm, status FROM trials")[1])
    assert states["rloo"] == "stopped"
    assert_verified(tmp_path)
    there = reader.run_query(Storage(tmp_path), "SELECT count(*) FROM generations WHERE algorithm = 'rloo'")[1][0][0]
    code, out, _ = ended(ours(head, "submit", *long(str(there + 40))))
    assert (code, f"to be continued, has {there:,} of {there + 40:,} texts" in out) == (0, True)
    assert_verified(tmp_path)


@pytest.mark.chaos
def test_a_missing_or_wrong_token_is_one_line_that_says_what_to_set(head: Head, tmp_path: Path) -> None:
    none = ended(ours(head, "logs", "x", HOME=str(tmp_path)))
    wrong = ended(ours(head, "logs", "x", RAY_AUTH_TOKEN="f" * 64))
    for (code, out, err), said in ((none, "requires a token"), (wrong, "does not accept the token")):
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert said in err and "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN" in err
