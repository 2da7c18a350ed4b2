"""What a sweep's own Ray is given before it starts, and what is told of Ray's errors; no Ray is started."""

from __future__ import annotations

import os
import stat
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import OutOfMemoryError, RaySystemError

from rl_alliteration.errors import Failure, UserError
from rl_alliteration.rl.rewards import REWARDS, reward
from rl_alliteration.tune import failures, own_ray
from rl_alliteration.tune.losses import Losses
from rl_alliteration.tune.plan import Sweep
from rl_alliteration.tune.sending import to_send
from rl_alliteration.tune.trainable import Driver, NamedReward

KILLED = (
    "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 10.0.0.7, ID: ec31) was "
    "4.73GB used / 23.54GB limit (0.200918)\nSelected to kill: (Actor(842775): job ID=01)\nConsider setting "
    "`RAY_idle_worker_killing_memory_threshold_bytes` to a lower value."
)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("name, place", [("short", "short"), ("long" * 30, "/tmp")])
def test_rays_folder_is_private_and_short_enough_for_its_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, place: str
) -> None:
    short = Path("/tmp") / f"r{os.getpid()}"
    given = short if name == "short" else tmp_path / name
    given.mkdir(mode=0o777)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(given))
    folder = own_ray._private_folder()
    try:
        assert mode(folder) == 0o700
        assert folder.parent == (given if place == "short" else Path(place))
        assert len(f"{folder}{own_ray._SOCKET}") <= 107
    finally:
        folder.rmdir()
        given.rmdir()


def test_a_ray_tmpdir_that_does_not_serve_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for value, said in (("x" * 200, "too long"), (str(tmp_path / "file")[-30:], "cannot be written")):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("RAY_TMPDIR", value if value.startswith("x") else "file/below")
        with pytest.raises(UserError, match=f"^RAY_TMPDIR: .*{said}"):
            own_ray._private_folder()


def test_folders_of_processes_that_were_killed_are_removed_and_no_others(tmp_path: Path) -> None:
    dead, alive, failed, link = (tmp_path / f"ray-{name}" for name in ("dead0000", "alive000", "failed00", "link0000"))
    for folder in (dead, alive, failed, tmp_path / "elsewhere"):
        (folder / "r").mkdir(parents=True)
    link.symlink_to(tmp_path / "elsewhere")
    for folder in (dead, alive, tmp_path / "elsewhere"):
        (folder / "rl_alliteration.lock").touch()
    with own_ray._held(alive):
        own_ray._remove_left_behind(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "elsewhere", "ray-alive000", "ray-failed00", "ray-link0000"
        ]  # fmt: skip
    assert (tmp_path / "elsewhere" / "r").is_dir()


def test_a_token_is_made_for_this_process_alone_and_a_users_own_is_made_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    own_ray._provide_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert list(tmp_path.iterdir()) == []
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("0" * 64)
    token.chmod(0o644)
    own_ray._provide_token()
    assert "RAY_AUTH_TOKEN" not in os.environ
    assert (mode(token), token.read_text()) == (0o600, "0" * 64)


def test_its_agent_does_not_wait_for_the_port_of_another_rays(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    started: list[Any] = []
    ordinary = type("Node", (), {"__init__": lambda self, ray_params, head: started.append(ray_params)})
    monkeypatch.setattr(ray._private.node, "Node", ordinary)
    with own_ray._of_few_processes():
        ray._private.node.Node(ray_params=SimpleNamespace(dashboard_agent_listen_port=52365), head=True)  # type: ignore[arg-type]
    assert started[0].dashboard_agent_listen_port == 0
    assert ray._private.node.Node is ordinary


def test_what_ray_says_of_a_process_that_it_killed_becomes_a_line() -> None:
    told = (
        "memory ran out on 10.0.0.7: 4.73 GiB of 23.54; run fewer trials at once or a smaller --model or --group-size"
    )
    assert failures.memory_line(KILLED) == told
    assert failures.error_line(f"Failure # 4 (occurred at x)\n{KILLED}\n") == told
    assert failures.memory_line("").startswith("memory ran out; run fewer")


CREATION = (
    "The actor died because of an error raised in its creation task, \x1b[36mray::Trainable.__init__()\x1b[39m\n"
    '  File "/x/trainable.py", line 1, in setup\n    self._begin(setup)\n  File "/x/trainable.py", line 9, in _begin\n'
    "    raise Failure(\n    ^^^^^^\n"
)


@pytest.mark.parametrize(
    "text, told",
    [
        (CREATION + "rl_alliteration.errors.Failure: the folder is not the driver's", "the folder is not the driver's"),
        (
            CREATION + "torch.OutOfMemoryError: CUDA out of memory.\nSee the docs\nat length",
            "OutOfMemoryError: CUDA out of memory. See the docs at length",
        ),
        (
            "The actor died unexpectedly before finishing this task.\n\tip: 10.0.0.7\nThe actor is dead because its "
            "worker process has died. Worker exit type: X. Consider this and that.",
            "its worker process has died on 10.0.0.7, more often than --max-failures allows: "
            "killed, as memory ran out, or crashed",
        ),
        ("", "unknown error"),
    ],
)
def test_a_trials_error_is_its_message_and_not_the_last_line_of_it(text: str, told: str) -> None:
    before = "Failure # 1 (occurred at then)\nAn older one: of before\n"
    assert failures.error_line(f"{before}Failure # 2 (occurred at now)\n{text}\n" if text else "") == told


class Follower(SimpleNamespace):
    """Stands in for a sweep's: trials a, b, c and d run, or those of `running`."""

    def __init__(self, *running: str) -> None:
        super().__init__(running=set(running), ended=0, failed={}, proposals=None)

    def running_on(self, text: str) -> str | None:
        return next(iter(self.running)) if len(self.running) == 1 else None

    def fail(self, name: str, told: str) -> None:
        self.failed[name] = told


def losses_of(follower: Any, most: int) -> Losses:
    return Losses(follower, most)


def wrapped(error: Exception) -> RuntimeError:
    """As Tune raises it."""
    try:
        raise RuntimeError(f"Caught unexpected exception: {error}") from error
    except RuntimeError as outer:
        return outer


def test_where_memory_ran_out_fewer_trials_run_side_by_side_until_one_alone_has_failed_too_often() -> None:
    follower = Follower("a", "b", "c", "d")
    losses = losses_of(follower, 1)
    assert "going on with 3 at once" in losses.add(wrapped(OutOfMemoryError(KILLED)))
    follower.running = {"a", "b"}
    losses.measure(8)
    assert "going on with 1 at once" in losses.add(wrapped(OutOfMemoryError(KILLED)))
    follower.running = {"b"}
    losses.add(wrapped(OutOfMemoryError(KILLED)))
    assert follower.failed == {}
    losses.add(wrapped(OutOfMemoryError(KILLED)))
    assert follower.failed == {"b": failures.memory_line(KILLED)}
    assert losses.at_once == 1


def test_rays_other_errors_end_a_sweep_only_where_nothing_comes_of_going_on() -> None:
    losses = losses_of(Follower("a", "b"), 2)
    for generations in (8, 16, 16, 24, 24, 24):
        assert "going on with what is unfinished" in losses.add(wrapped(RaySystemError("lost")))
        losses.measure(generations)
    assert losses.at_once is None
    with pytest.raises(Failure, match=r"RaySystemError: .*lost.*3 times without any progress"):
        losses.add(wrapped(RaySystemError("lost")))


def test_an_error_of_ours_is_told_as_it_is_and_not_tried_again() -> None:
    losses = losses_of(Follower("a"), 3)
    with pytest.raises(Failure, match=r"^no space left$"):
        losses.add(wrapped(Failure("no space left")))
    with pytest.raises(Failure, match="Ray Tune ended: Caught unexpected exception: a bug"):
        losses.add(wrapped(TypeError("a bug")))


def test_a_reward_with_a_lock_is_imported_by_name_here_and_refused_for_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "locked_reward.py").write_text(
        "import threading\nGUARD = threading.Lock()\ndef words(text):\n    with GUARD:\n        return 1.0\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    asked = Sweep(storage="s", reward="locked_reward:words")
    sent = to_send(asked, "")
    assert sent == NamedReward("locked_reward:words", "")
    assert Driver(modules=(str(tmp_path),)).imported(sent)("x y") == 1.0
    with pytest.raises(UserError, match=r"^--reward: 'locked_reward:words' cannot be sent .*'GUARD'.*lock"):
        to_send(Sweep(storage="s", reward="locked_reward:words", address="127.0.0.1:1"), "")


def test_a_registered_reward_that_cannot_be_sent_is_refused_by_what_it_uses() -> None:
    lock = threading.Lock()

    @reward("locked")
    def locked(text: str) -> float:
        with lock:
            return 1.0

    try:
        with pytest.raises(UserError, match=r"^--reward: 'locked' cannot be sent to the trials: .*lock"):
            to_send(Sweep(storage="s", reward="locked"), "")
    finally:
        del REWARDS["locked"]
