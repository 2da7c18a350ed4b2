"""Sweeps as jobs of a Ray cluster, on Ray's own `JobSubmissionClient`: submit, follow, stop."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import shlex
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import rl_alliteration
from rl_alliteration.errors import Failure, UserError
from rl_alliteration.tune.axes import FLAGS
from rl_alliteration.tune.plan import Sweep
from rl_alliteration.tune.prompts import prompts_of
from rl_alliteration.tune.web_hook import NOTIFY_URL

DASHBOARD = "http://127.0.0.1:8265"
"""Where a head's dashboard is, and the end of an SSH tunnel to it."""

_YOUNG_SECONDS = 60.0  # a head takes jobs only a while after its dashboard answers
STOP_WAIT_SECONDS = 30
JOB_ENVIRONMENT = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_SECONDS)}
"""Ray's own grace period is 3 s: too short for trials to publish what they have."""

_JUNK = ["*.parquet", ".ruff_cache", ".mypy_cache", ".pytest_cache"]  # beside what .gitignore and .rayignore name
TOKEN_HELP = "`ray get-auth-token` on its head prints it; then set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN here"


def connect(address: str | None) -> Any:
    """A `JobSubmissionClient`.

    Args:
        address: of the dashboard; default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS, this machine's.

    Raises:
        UserError: the address is none, or the cluster requires a token.
        Failure: nothing answers there.
    """
    from_environment = os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
    address = address or from_environment or DASHBOARD
    if _split(address).scheme not in ("http", "https"):
        raise UserError(f"--address: {address!r} is not accepted; give the dashboard's, such as {DASHBOARD}")
    use_own_token(address)
    from ray.job_submission import JobSubmissionClient

    with _told(address), _without("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):  # Ray prefers them to what is asked for
        return JobSubmissionClient(address)


def use_own_token(address: str) -> None:
    """Authenticate with this user's token if nothing is said about that; only on this machine or through a tunnel.

    Ray reads the variable when it is imported.
    """
    host = _split(address if "://" in address else f"//{address}").hostname
    if host not in ("auto", "127.0.0.1", "localhost", "::1"):
        return
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH") or token_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _split(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError as error:
        raise UserError(f"--address: {address!r} is not accepted ({error}); give {DASHBOARD}, say") from error


def token_file() -> Path | None:
    """The file in which Ray keeps this user's token; None if there is none."""
    with contextlib.suppress(RuntimeError, OSError):  # a user without a home folder, or one that cannot be read
        path = Path.home() / ".ray" / "auth_token"
        return path if path.is_file() else None
    return None


def ray_address(sweep: Sweep) -> str:
    """The Ray that a sweep runs on; `local` is one of its own."""
    return sweep.address or os.environ.get("RAY_ADDRESS") or "local"


def sweep_arguments(sweep: Sweep) -> list[str]:
    """The command line of a sweep: each flag that is not at its default, with its value in the same word.

    Raises:
        UserError: one of them is a secret.
    """
    words = ["sweep"]
    if sweep.notify_url is not None:
        raise UserError(
            f"--notify-url: Ray writes a job's flags to its logs; set {NOTIFY_URL} in the environment that the "
            "cluster's head starts with"
        )
    for field in dataclasses.fields(Sweep):
        value = getattr(sweep, field.name)
        if field.name == "prompts" and value is not None:  # its file is here, not there
            words += [f"--prompt={prompt}" for prompt in prompts_of(sweep)]
            continue
        flag = "--" + FLAGS.get(field.name, field.name).replace("_", "-")
        if value == field.default or field.name == "address":  # a job has its cluster's
            continue
        if isinstance(value, bool):
            words.append(flag)
        elif field.name == "prompt":
            words += [f"{flag}={prompt}" for prompt in value]
        elif isinstance(value, tuple):
            words += [flag, *map(str, value)]
        else:
            words.append(f"{flag}={value}")
    return words


def new_run_id() -> str:
    """Unique for each invocation, and in the order of time."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid.uuid4().hex[:6]}"


def entry_point(sweep: Sweep) -> str:
    """What the job runs. Ray gives it to a shell, so every word is quoted."""
    return shlex.join(["python", "-m", "rl_alliteration.cli", *sweep_arguments(sweep)])


def check_for_job(sweep: Sweep) -> None:
    """What a sweep must have to run as a job.

    Raises:
        UserError: its results would be in the job's own folder, which is deleted with it.
    """
    if "://" not in sweep.storage and not Path(sweep.storage).is_absolute():
        raise UserError(
            f"--storage: {sweep.storage!r} would be within the job's own folder, which Ray deletes; "
            "give an absolute path that all nodes share, or s3://bucket/prefix"
        )


def runs_as_job() -> bool:
    """Whether this process is the driver of a Ray job."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def runtime_environment(working_dir: str | None, pip: Sequence[str]) -> dict[str, Any]:
    """Ray's `runtime_env` of a job.

    Args:
        working_dir: folder to send along; default: the clone that this package runs from, if it does.
        pip: requirements to install; wheels of this machine are sent along.

    Raises:
        UserError: there is no such folder or wheel.
    """
    environment: dict[str, Any] = {"env_vars": dict(JOB_ENVIRONMENT)}
    clone = Path(rl_alliteration.__file__).parents[1]
    if working_dir is None and not pip and (clone / "pyproject.toml").is_file():
        working_dir = str(clone)
    if working_dir is not None:
        if not Path(working_dir).is_dir():
            raise UserError(f"--working-dir: no folder {working_dir!r}")
        environment["working_dir"] = str(Path(working_dir).resolve())
        environment["excludes"] = _JUNK
    wheels = [word for word in pip if word.endswith(".whl")]
    for wheel in wheels:
        if not Path(wheel).is_file():
            raise UserError(f"--pip: no file {wheel!r}")
    requirements = [word for word in pip if word not in wheels]
    if wheels:
        environment["py_modules"] = [str(Path(wheel).resolve()) for wheel in wheels]
    if requirements:
        environment["pip"] = requirements
    return environment


def submit(client: Any, sweep: Sweep, environment: dict[str, Any], job_id: str) -> None:
    """Start a sweep as a job.

    Args:
        client: of `connect`.
        sweep: with its experiment.
        environment: of `runtime_environment`.
        job_id: a new one.
    """
    metadata = {"experiment": str(sweep.experiment), "preset": sweep.preset or ""}
    until = time.monotonic() + _YOUNG_SECONDS
    with _told(client.get_address()):
        while True:
            try:
                client.submit_job(
                    entrypoint=entry_point(sweep), submission_id=job_id, runtime_env=environment, metadata=metadata
                )
                return
            except RuntimeError as error:
                if "already" in str(error) and time.monotonic() > until - _YOUNG_SECONDS + 1:
                    return  # the try before this one was heard after all
                if "status code 500" not in str(error) or time.monotonic() > until:
                    raise
            time.sleep(1.0)


def find_job(client: Any, name: str) -> str:
    """The id of a job, or of the newest job of an experiment.

    Raises:
        UserError: there is none; names those that there are.
    """
    with _told(client.get_address()):
        jobs = [job for job in client.list_jobs() if job.submission_id]
    jobs.sort(key=lambda job: job.start_time or 0)
    for job in reversed(jobs):
        if name in (job.submission_id, (job.metadata or {}).get("experiment")):
            return str(job.submission_id)
    known = ", ".join(str(job.submission_id) for job in jobs[-5:]) or "none"
    raise UserError(f"no job or experiment {name!r} on the cluster; its newest jobs: {known}")


def log_of(client: Any, job_id: str) -> str:
    """A job's log so far."""
    with _told(client.get_address()):
        return str(client.get_job_logs(job_id))


def follow(client: Any, job_id: str, write: Callable[[str], None]) -> int:
    """Write a job's log as it grows, until the job ends.

    Returns:
        The exit code of its driver; 130 for a job that was stopped.

    Raises:
        Failure: the job could not be started, or the cluster is gone.
    """
    written = 0
    while True:
        with _told(client.get_address()):
            written = asyncio.run(_tail(client, job_id, write, written))
            job = client.get_job_info(job_id)
        if job.status.is_terminal():
            break
        time.sleep(1.0)
    if job.status == "STOPPED":
        return 130
    if job.driver_exit_code is None and job.status != "SUCCEEDED":
        raise Failure(f"job {job_id}: {' '.join((job.message or 'it could not be started').split())[-400:]}")
    code = int(job.driver_exit_code or 0)
    return 128 - code if code < 0 else code


def stop(client: Any, job_id: str) -> str:
    """Ask a job to stop, and wait until it has; its trials publish what they have.

    Returns:
        Its state afterwards, such as STOPPED or SUCCEEDED.

    Raises:
        Failure: it goes on all the same.
    """
    with _told(client.get_address()):
        client.stop_job(job_id)
        until = time.monotonic() + 2 * STOP_WAIT_SECONDS
        while time.monotonic() < until:
            status = client.get_job_status(job_id)
            if status.is_terminal():
                return str(status.value)
            time.sleep(0.5)
    raise Failure(f"job {job_id} still runs {2 * STOP_WAIT_SECONDS} s after it was asked to stop")


async def _tail(client: Any, job_id: str, write: Callable[[str], None], written: int) -> int:
    """Write what comes after the first `written` characters of the log; returns how many there are then."""
    seen = 0
    with contextlib.suppress(RuntimeError, OSError):  # the connection broke: the next begins with the log
        async for chunk in client.tail_job_logs(job_id):
            new = chunk[max(written - seen, 0) :]
            seen += len(chunk)
            if new:
                write(new)
                written = seen
    return written


@contextlib.contextmanager
def _told(address: str) -> Iterator[None]:
    """One line for what can go wrong between here and a cluster."""
    from ray.exceptions import AuthenticationError
    from requests.exceptions import RequestException

    logging.disable(logging.WARNING)  # Ray tells of each file it leaves out and each connection it closes
    try:
        yield
    except AuthenticationError as error:
        wrong = "does not accept the token it got" if "Invalid" in str(error) else "requires a token"
        raise UserError(f"the cluster at {address} {wrong}: {TOKEN_HELP}") from error
    except (ConnectionError, RequestException) as error:
        raise Failure(
            f"no Ray dashboard answers at {address}; is the tunnel open (ray dashboard cluster.yaml), --address right?"
        ) from error
    except (RuntimeError, ValueError) as error:  # what Ray's client raises for whatever else the cluster said
        raise Failure(f"the cluster at {address} refused: {' '.join(str(error).split())[-300:]}") from error
    finally:
        logging.disable(logging.NOTSET)


@contextlib.contextmanager
def _without(*names: str) -> Iterator[None]:
    """Without these environment variables for a while."""
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
