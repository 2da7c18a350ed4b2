"""Helpers: the command line, in this process and as a process, and what a real sweep leaves."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rl_alliteration.cli.main import main
from rl_alliteration.results import reader, schema
from rl_alliteration.results.storage import Storage
from rl_alliteration.results.verify import verify_trial


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "rl_alliteration.cli", *arguments]


def flags(model: Path, storage: Path, *more: str) -> list[str]:
    return [
        *("sweep", "--experiment", "tiny", "--model", str(model), "--storage", str(storage)),
        *("--max-length", "16", "--group-size", "4", "--learning-rate", "0.01", *more),
    ]


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=300, check=False)


def here(*arguments: str) -> subprocess.CompletedProcess[str]:
    """As `cli`, in this process: it has imported what a new one spends seconds on."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
        main(arguments)
    return subprocess.CompletedProcess(arguments, int(end.value.code or 0), out.getvalue(), err.getvalue())


def texts(storage: Path, *, record: bool = True) -> list[tuple[Any, ...]]:
    """Every text with its numbers, but not who wrote it; without the token record where trials differ in the interval
    of their checkpoints."""
    left_out = {one.name for one in schema.describe("generations") if not one.compared and not record} | {"run_id"}
    columns = ", ".join(name for name in schema.arrow("generations").names if name not in left_out)
    sql = f"SELECT trial_id, {columns} FROM generations ORDER BY trial_id, generation"
    return reader.run_query(Storage(storage), sql)[1]


def assert_verified(storage: Path) -> None:
    results = Storage(storage)
    for experiment, trial_id in reader.trial_ids(results):
        assert verify_trial(results, experiment, trial_id).problem is None


def wait_for_parts(storage: Path, driver: subprocess.Popen[str], count: int = 2) -> None:
    """Until a sweep has published `count` parts."""
    until = time.monotonic() + 120
    while len(list(storage.glob("generations/**/part-*.parquet"))) < count:
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < until
        time.sleep(0.2)
