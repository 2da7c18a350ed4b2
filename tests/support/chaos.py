"""The chaos harness: sweeps by the real command line, and kills at moments drawn from a seed. Linux only (/proc)."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from commands import command

ACTOR, DRIVER, RAYLET, ALL = "a trial's process", "the driver", "the raylet", "the driver and all of its Ray"
ANY, STAGING, FILE = "at any moment", "in the middle of writing", "as a file appears"

KINDS = (
    (ACTOR, ANY),
    (ACTOR, STAGING),
    (ACTOR, FILE),
    (DRIVER, ANY),
    (DRIVER, STAGING),
    (RAYLET, ANY),
    (ALL, ANY),
    (ALL, FILE),
)
"""Each occurs once in every eight kills."""

FILES = (
    "steps/**/part-*.parquet",
    "generations/**/part-*.parquet",
    "manifests/**/*.json",
    "checkpoints/**/weights.safetensors",
    "checkpoints/**/state.json",
)
"""What a trial writes, in its order: a kill just after one of them leaves the later ones unwritten."""

PATIENCE = 600.0
"""Seconds that anything may take on a machine that is busy with other things."""


@dataclasses.dataclass(frozen=True)
class Kill:
    """One kill as drawn: nothing of it depends on how fast the machine is."""

    victim: str
    moment: str
    early: bool
    """Whether it does not wait for a trial to run: the driver or its Ray may still be starting."""
    delay: float
    """Seconds before it, or before it watches for its file."""
    choice: float
    """Which of the trials' processes, or of the files that are staged one after another, in [0, 1)."""
    file: str
    """What it waits for, if it waits for a file."""

    def __str__(self) -> str:
        return f"{self.victim} {self.moment}" + (f" ({self.file})" if self.moment == FILE else "")


def plan(seed: int, count: int) -> list[Kill]:
    """Kills in blocks of all kinds, each block in an order of its own."""
    draw = random.Random(seed)
    kills: list[Kill] = []
    while len(kills) < count:
        for victim, moment in draw.sample(KINDS, len(KINDS)):
            early = victim != ACTOR and moment == ANY and draw.random() < 0.25
            delay = draw.uniform(0, 12 if early else 3)
            kills.append(Kill(victim, moment, early, delay, draw.random(), draw.choice(FILES)))
    return kills[:count]


# --- processes -------------------------------------------------------------------------------------------


def processes(session: int) -> list[int]:
    """Live processes of a session, orphans among them: a driver leads one, and Ray's processes stay in it."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                state, _, _, its_session = (entry / "stat").read_text().rsplit(")", 1)[1].split()[:4]
                if int(its_session) == session and state not in "ZX":
                    found.append(int(entry.name))
    return sorted(found)


def send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def open_files(pid: int) -> list[str]:
    found = []
    with contextlib.suppress(OSError):
        for descriptor in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found.append(os.readlink(descriptor.path))
    return found


class Driver:
    """A sweep's command as a process that leads a session of its own."""

    def __init__(self, arguments: list[str], output: Path, environment: dict[str, str]) -> None:
        self.output = output
        with output.open("wb") as out, output.with_suffix(".err").open("wb") as err:
            self.process = subprocess.Popen(
                command(*arguments), stdout=out, stderr=err, start_new_session=True, env={**os.environ, **environment}
            )
        self.pid = self.process.pid

    @property
    def out(self) -> str:
        return self.output.read_text(errors="replace")

    @property
    def err(self) -> str:
        return self.output.with_suffix(".err").read_text(errors="replace")

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def wait(self, seconds: float = PATIENCE) -> int:
        return self.process.wait(seconds)

    def actors(self) -> list[int]:
        """Processes that serve trials, those that still load their model among them."""
        return [pid for pid in processes(self.pid) if b"Trainable" in _command_line(pid)]

    def trials(self, storage: Path) -> dict[str, int]:
        """The process of each trial that runs: it holds the trial's curves open."""
        curves = f"{storage.resolve()}/tensorboard/"
        return {Path(file).parent.name: pid for pid in self.actors() for file in open_files(pid) if curves in file}

    def raylet(self) -> list[int]:
        return [pid for pid in processes(self.pid) if _command_line(pid).split(b"\0")[0].endswith(b"/raylet")]

    def end_all(self) -> set[int]:
        """End whatever is left of it, so that a test leaves nothing running; returns what that was."""
        ended: set[int] = set()
        for _ in range(100):
            left = processes(self.pid)
            if self.ended and not left:
                return ended
            for pid in left:
                send(pid, signal.SIGKILL)
            ended.update(left)
            time.sleep(0.1)
        raise AssertionError(f"processes {left} cannot be ended")


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def wait_until(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.05)


# --- a kill ----------------------------------------------------------------------------------------------


def strike(kill: Kill, driver: Driver, storage: Path) -> str | None:
    """Kill as planned.

    Returns:
        What was hit; None if the sweep ended before the moment came.
    """
    if not _until(driver, lambda: kill.early or driver.trials(storage)) or not _sleep(driver, kill.delay):
        return None
    if kill.moment == STAGING:
        return _strike_writing(kill, driver, storage)
    if kill.moment == FILE:
        return _strike_at_file(kill, driver, storage)
    found: list[int] = []

    def some() -> bool:
        found.extend(_victims(kill, driver))
        return bool(found)

    _until(driver, some)
    return _end(found) if found else None


def _strike_writing(kill: Kill, driver: Driver, storage: Path) -> str | None:
    """While a file is being staged: of a trial's process, or, if the driver is to die, of anyone."""
    folder = storage / "staging"
    before = _names(folder)
    passed, skipped = set(), int(kill.choice * len(FILES))
    while not driver.ended:
        new = _names(folder) - before
        passed |= new
        if not new or len(passed) <= skipped:
            continue  # no pause: a file is staged for milliseconds
        if kill.victim == DRIVER:
            return f"{_end(_victims(kill, driver))}, {_torn(folder, new)}"
        stopped = driver.actors()
        for pid in stopped:  # the moment must not pass while the writer is looked for
            send(pid, signal.SIGSTOP)
        writer = next((pid for pid in stopped if any(str(folder.resolve()) in f for f in open_files(pid))), None)
        hit = _end([writer]) if writer else None
        for pid in stopped:
            send(pid, signal.SIGCONT)
        if hit:
            return f"{hit}, {_torn(folder, new)}"
    return None


def _strike_at_file(kill: Kill, driver: Driver, storage: Path) -> str | None:
    """Just after a file has appeared under its name."""
    before = set(storage.glob(kill.file))
    running = driver.trials(storage)
    while not driver.ended:
        new = set(storage.glob(kill.file)) - before
        if not new:
            continue
        path = new.pop()
        if kill.victim != ACTOR:
            return f"{_end(_victims(kill, driver))}, {path.relative_to(storage)}"
        writer = next((pid for trial, pid in running.items() if trial in str(path)), None)
        if writer and _command_line(writer):
            return f"{_end([writer])}, {path.relative_to(storage)}"
        before, running = set(storage.glob(kill.file)), driver.trials(storage)
    return None


def _victims(kill: Kill, driver: Driver) -> list[int]:
    if kill.victim == DRIVER:
        return [driver.pid]
    if kill.victim == RAYLET:
        return driver.raylet()
    if kill.victim == ALL:
        return processes(driver.pid)
    actors = driver.actors()
    return [actors[int(kill.choice * len(actors))]] if actors else []


def _end(pids: list[int]) -> str:
    for pid in pids:
        send(pid, signal.SIGKILL)
    return f"process {pids[0]}" if len(pids) == 1 else f"{len(pids)} processes"


def _names(folder: Path) -> set[str]:
    with contextlib.suppress(FileNotFoundError):
        return set(os.listdir(folder))
    return set()


def _torn(folder: Path, names: set[str]) -> str:
    """What a kill left behind of the files that were being written, told by how they begin."""
    kinds = {b"PAR1": "a part", b'{"fi': "a manifest", b"{\n ": "a lease or a checkpoint's state", b"": "?"}
    left = []
    for name in names:
        with contextlib.suppress(OSError):
            start = (folder / name).read_bytes()[:4]
            left.append(kinds.get(start if start[:3] != b"{\n " else b"{\n ", "a checkpoint's weights"))
    return f"{' and '.join(left)} left torn" if left else "nothing left torn"


def _until(driver: Driver, condition: Callable[[], object]) -> bool:
    """Whether it came true before the driver ended."""
    until = time.monotonic() + PATIENCE
    while not condition():
        if driver.ended:
            return False
        assert time.monotonic() < until, f"nothing happened for {PATIENCE:.0f} s\n{driver.out}\n{driver.err}"
        time.sleep(0.05)
    return True


def _sleep(driver: Driver, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not driver.ended:
        time.sleep(0.02)
    return not driver.ended


# --- a round ---------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Chaos:
    """Rounds of one sweep, each in a fresh storage, until the planned kills are spent."""

    start: Callable[[Path], Driver]
    """Starts the sweep's command on a storage."""
    say: Callable[[str], None]
    kills: list[Kill]
    spent: int = 0

    def rounds(self, folder: Path) -> Iterator[tuple[Path, bool]]:
        """The storage after each kill, and at the end; with whether a sweep has ended there with exit code 0."""
        number = 0
        while self.spent < len(self.kills):
            before, number = self.spent, number + 1
            storage = folder / f"round-{number}"
            yield from self._round(storage)
            assert self.spent > before, "a sweep ended before anything could be killed: make it longer"

    def _round(self, storage: Path) -> Iterator[tuple[Path, bool]]:
        drivers = [self.start(storage)]
        try:
            while hit := self._next(drivers[-1], storage):
                victim = self.kills[self.spent].victim
                self.spent += 1
                self.say(f"  kill {self.spent} of {len(self.kills)}: {self.kills[self.spent - 1]}: {hit}")
                done = False
                if victim != ACTOR:
                    done = self._end_of(drivers[-1], victim) == 0
                    drivers.append(self.start(storage))  # at once: its forerunner's trials may still be alive
                yield storage, done
            code = drivers[-1].wait(3 * PATIENCE)
            assert code == 0, f"exit code {code}\n{drivers[-1].out}\n{drivers[-1].err}"
        finally:
            orphans = sum(len(driver.end_all()) for driver in drivers)
        self.say(f"  {storage.name}: the sweep ended; {orphans} processes of killed drivers were still there")
        yield storage, True

    def _end_of(self, driver: Driver, victim: str) -> int:
        """The exit code: a driver that has lost its raylet ends by itself, with 0 only if all was done before."""
        code = driver.wait()
        if victim == RAYLET:
            self.say(f"    the driver then ended by itself with exit code {code}")
        return code

    def _next(self, driver: Driver, storage: Path) -> str | None:
        if self.spent == len(self.kills):
            return None
        begin = time.monotonic()
        hit = strike(self.kills[self.spent], driver, storage)
        return hit and f"{hit}, after {time.monotonic() - begin:.1f} s"
