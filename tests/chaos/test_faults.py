"""Whatever call of the file system fails, and whenever: no row is wrong, none is lost, and one line tells of it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from again import same_command
from chaos import Driver
from commands import flags
from faults import ALL, FIRST, OTHERS, Faults
from made_up import trial_report
from test_chaos import assert_prefix, assert_same, environment, story  # noqa: F401
from trials import EXPERIMENT

from rl_alliteration.cli import main as cli
from rl_alliteration.config import PlannedTrial, TrialConfig
from rl_alliteration.errors import Failure
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.results import reader
from rl_alliteration.results.heartbeat import Heartbeat
from rl_alliteration.results.lease import Lease, lease_path, read_lease
from rl_alliteration.results.parts import read_part
from rl_alliteration.results.storage import Storage
from rl_alliteration.tune.plan import Sweep, resolve
from rl_alliteration.tune.plan import plan as plan_sweep
from rl_alliteration.tune.restore import store_model
from rl_alliteration.tune.reward_parameters import with_reward_parameters

pytestmark = pytest.mark.chaos

FAULTS = int(os.environ.get("RL_ALLITERATION_FAULTS", "40"))
SEED = int(os.environ.get("RL_ALLITERATION_SEED", "") or random.randrange(10**6))
LENGTH, HALF, EVERY = 360, 180, 60
OTHER = "other"
"""An experiment beside the one that is attacked."""

SWEEP, RESUME, EXTEND = "a sweep from nothing", "a sweep that was half done", "an extension"
NO_RAY, COMPACT, REMOVE, LOOK = "trials without Ray", "compact", "remove", "commands that read"

BLOCK = ((SWEEP, 4), (RESUME, 4), (EXTEND, 4), (NO_RAY, 8), (COMPACT, 7), (REMOVE, 6), (LOOK, 7))
"""The kinds of rounds, with the faults that each takes: 40 together."""


# --- what all is compared with ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def start(
    environment: dict[str, str],  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
    tiny_gpt_neo_folder: Path,
) -> Iterator[Callable[..., Driver]]:
    """`start(storage, length, variables)`: a sweep to that length as a process."""
    folder = tmp_path_factory.mktemp("output")
    drivers: list[Driver] = []

    def start_driver(storage: Path, length: int, variables: dict[str, str] | None = None) -> Driver:
        grid = ("--algorithm", "rloo", "reinforce", "--beta", "10", "--max-generations", str(length))
        others = ("--checkpoint-every", str(EVERY), "--keep-checkpoints", "all", "--original-texts", "40")
        arguments = flags(tiny_gpt_neo_folder, storage, *grid, *others)
        drivers.append(Driver(arguments, folder / f"{len(drivers)}.out", {**environment, **(variables or {})}))
        return drivers[-1]

    yield start_driver
    for driver in drivers:
        driver.end_all()


@pytest.fixture(scope="module")
def reference(
    tmp_path_factory: pytest.TempPathFactory,
    start: Callable[..., Driver],
    tiny_gpt_neo: LoadedModel,
    tiny_gpt_neo_folder: Path,
) -> SimpleNamespace:
    """Storages of one sweep that nothing happened to: `half` of it, and `all` of it; with another experiment beside.

    Also its `model`, a folder, and the same `loaded`.
    """
    folder = tmp_path_factory.mktemp("reference")
    for name, length in (("half", HALF), ("all", LENGTH)):
        if name == "all":  # of the half, the original: nobody needs to sample it again
            shutil.copytree(folder / "half", folder / name)
            for trial_id in learning(folder / name):
                forget(folder / name, EXPERIMENT, trial_id)
        driver = start(folder / name, length)
        assert driver.wait() == 0, driver.err
        (trial_id,) = (name for name in learning(folder / name) if name.startswith("rloo"))
        copy_trial(folder / name, trial_id)
    model = {"model": tiny_gpt_neo_folder, "loaded": tiny_gpt_neo}
    return SimpleNamespace(half=folder / "half", all=folder / "all", **model)


def learning(storage: Path) -> list[str]:
    """Trials but for the original."""
    return [
        trial for name, trial in reader.trial_ids(Storage(storage)) if name == EXPERIMENT and "original" not in trial
    ]


def of_trial(storage: Path, experiment: str, trial_id: str) -> list[Path]:
    """Folders of a trial."""
    places = [f"{name}/experiment={experiment}/trial_id={trial_id}" for name in ("generations", "steps", "trials")]
    places += [f"{name}/{experiment}/{trial_id}" for name in ("manifests", "checkpoints", "tensorboard")]
    return [storage / place for place in places if (storage / place).exists()]


def forget(storage: Path, experiment: str, trial_id: str) -> None:
    for folder in of_trial(storage, experiment, trial_id):
        shutil.rmtree(folder)


def copy_trial(storage: Path, trial_id: str) -> None:
    """Put a trial into the other experiment too."""
    for folder in of_trial(storage, EXPERIMENT, trial_id):
        place = folder.relative_to(storage).as_posix().replace(f"{EXPERIMENT}/", f"{OTHER}/", 1)
        if not (storage / place).exists():
            shutil.copytree(folder, storage / place)
    for name in ("runs", "leases", "heartbeats"):
        for path in (storage / name).rglob("*"):
            place = path.relative_to(storage).as_posix().replace(EXPERIMENT, OTHER, 1)
            if path.is_file() and not (storage / place).exists():
                (storage / place).parent.mkdir(exist_ok=True)
                shutil.copy(path, storage / place)


def cut(storage: Path, draw: random.Random) -> None:
    """Leave of each trial what a kill leaves: its first parts, with the checkpoints and events so far."""
    for trial_id in learning(storage):
        at = draw.randrange(0, LENGTH, EVERY)
        for folder in of_trial(storage, EXPERIMENT, trial_id):
            for path in [path for path in folder.rglob("*") if path.is_file()]:
                number = next((int(d) for d in path.as_posix().replace(".", "-").split("-")[::-1] if d.isdigit()), 0)
                if "checkpoints" in path.parts:
                    gone = int(path.parent.name.split("-")[1]) > at
                elif "trials" in path.parts or path.name.startswith("event-"):
                    gone = number > 1
                else:
                    gone = "tensorboard" not in path.parts and number >= at
                if gone:
                    path.unlink()


def tree(folder: Path, without: str = "\0") -> dict[str, str]:
    """Checksum of each file, by path, but for paths with `without` in them."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and without not in path.relative_to(folder).as_posix()
    }


def of_other(folder: Path) -> dict[str, str]:
    return {path: digest for path, digest in tree(folder).items() if OTHER in path}


def texts_of_other(folder: Path, trial_id: str) -> list[str]:
    storage = Storage(folder)
    return [
        repr(row) for path in reader.parts(storage, "generations", OTHER, trial_id) for row in read_part(storage, path)
    ]


# --- rounds ----------------------------------------------------------------------------------------------


def plan(seed: int, count: int) -> list[tuple[str, int]]:
    """Rounds in blocks of all kinds, each block in an order of its own, until their faults are `count`."""
    draw, rounds, left = random.Random(seed), [], count
    while left > 0:
        for kind, number in draw.sample(BLOCK, len(BLOCK)):
            if left > 0:
                rounds.append((kind, min(number, left)))
                left -= number
    return rounds


@dataclasses.dataclass
class Answer:
    """What a command has said."""

    code: int
    out: str
    err: str

    def check(self) -> None:
        """One line for what went wrong, and never a traceback."""
        said = f"exit code {self.code}\n{self.out}\n{self.err}"
        assert self.code in (0, 1, 2), said
        assert "Traceback" not in self.out + self.err and '", line ' not in self.err, said
        if self.code:
            assert len(self.err.strip().splitlines()) == 1, said


def call(*arguments: str) -> Answer:
    """A command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.call(list(arguments))
    return Answer(code, out.getvalue(), err.getvalue())


def commands(storage: Path, model: Path, folder: Path) -> dict[str, tuple[str, ...]]:
    """What is asked of a storage."""
    place, trial_id = ("--storage", str(storage)), learning(storage)[0]
    one = ("--experiment", EXPERIMENT, "--trial", trial_id, "--generation", "100")
    sql = "SELECT trial_id, count(*), sum(reward) FROM generations GROUP BY ALL ORDER BY ALL"
    plan_again = ("--reward", "rare_alliteration", "--beta", "10", "--max-generations", "8", "--dry-run")
    return {
        "verify": ("verify", *place),
        "status": ("status", *place),
        "report": ("report", *place, "--experiment", EXPERIMENT, "--output", str(folder / "report.html")),
        "export": ("export", *place, *one, "--output", str(folder / "model")),
        "sample": ("sample", *place, *one, "-n", "2"),
        "query": ("query", *place, sql),
        "claims": ("claims", *place),
        "compact": ("compact", *place, "--output", str(folder / "compact")),
        "plan": tuple(flags(model, storage, *plan_again)),
    }


def ask(folder: Path, name: str, command: tuple[str, ...]) -> Answer:
    """The answer of a command, with checksums of what it wrote."""
    for old in ("report.html", "model", "compact"):
        shutil.rmtree(folder / old, ignore_errors=True)
        (folder / old).unlink(missing_ok=True)
    answer = call(*command)
    answer.check()
    answer.out = re.sub(r"replaying .* texts from generation .*\n", "", answer.out)  # longer after a torn checkpoint
    if answer.code == 0:
        if name == "report":
            page = (folder / "report.html").read_text()
            (folder / "report.html").write_text(re.sub(r"Built [-0-9: ]+ UTC", "", page))
        written = {"report": "report.html", "export": "model/model.safetensors"}.get(name)
        answer.out += hashlib.sha256((folder / written).read_bytes()).hexdigest() if written else ""
        if name == "compact":
            texts = [story(folder / "compact", trial_id) for trial_id in learning(folder / "compact")]
            answer.out += hashlib.sha256(repr(texts).encode()).hexdigest()
    return answer


def end_process(storage: Path, experiment: str) -> None:
    """Let a lease that could not be given back be nobody's: the process of a real command has ended."""
    state = read_lease(Storage(storage), experiment)
    if state is not None and not state.released:
        Storage(storage).put(lease_path(experiment), dataclasses.replace(state, released=True).encode())


class Attack:
    """One round: the same command again and again while its calls fail, then once undisturbed."""

    def __init__(
        self, kind: str, budget: int, name: str, folder: Path, reference: SimpleNamespace, start: Callable[..., Driver]
    ) -> None:
        self.draw = random.Random(f"{SEED} {name}")
        self.kind, self.budget, self.name = kind, budget, name
        self.folder = folder / name
        self.folder.mkdir()
        self.storage = self.folder / "results"
        self.reference, self._start = reference, start
        self.spent = 0
        self.told: list[str] = []
        self._attempts = 0

    def faults(self, rate: float, victims: str = ALL) -> Faults:
        """For the next attempt: some of the budget; at a low rate they come late."""
        self._attempts += 1
        number = f"{self.name}-{self._attempts}"
        limit = min(self.draw.randint(1, 4), self.budget - self.spent)
        rate *= 10 ** self.draw.uniform(-0.5, 0.5)
        root = self.folder if self.kind == COMPACT else self.storage
        return Faults(root, self.folder.parent / f"{number}.faults", f"{SEED} {number}", limit, rate, victims)

    def note(self, faults: Faults, answer: Answer) -> None:
        """Tell of an attempt, and check what it said."""
        came = faults.spent()
        self.spent += len(came)
        said = (answer.err.strip().splitlines() or ["done"])[-1]
        if came:
            self.told += [f"    {fault}" for fault in came] + [f"    -> {answer.code}: {said[:300]}"]
        answer.check()
        assert came or answer.code == 0, "nothing failed, and yet it did not end well"

    def run(self) -> None:
        """All of it."""
        {
            SWEEP: self._sweep,
            RESUME: self._sweep,
            EXTEND: self._sweep,
            NO_RAY: self._no_ray,
            COMPACT: self._compact,
            REMOVE: self._remove,
            LOOK: self._look,
        }[self.kind]()

    def _prepare(self, kind: str) -> None:
        shutil.rmtree(self.storage, ignore_errors=True)
        shutil.copytree(self.reference.half if kind == EXTEND else self.reference.all, self.storage)
        if kind == SWEEP:
            for trial_id in learning(self.storage):
                forget(self.storage, EXPERIMENT, trial_id)
            for path in (*self.storage.glob(f"leases/{EXPERIMENT}*"), *self.storage.glob("models/*/*")):
                path.unlink()
        elif kind == RESUME:
            cut(self.storage, self.draw)
        self.other = of_other(self.storage)

    def _state(self) -> dict[str, int]:
        """Number of texts of each trial; each a prefix of the reference's."""
        assert_prefix(self.storage, self.reference.all)
        assert of_other(self.storage) == self.other
        return {trial_id: len(story(self.storage, trial_id)[0]) for trial_id in learning(self.reference.all)}

    def _sweep(self) -> None:
        self._prepare(self.kind)
        while self.spent < self.budget and self._attempts < 4:
            before = self._state()
            faults = self.faults(0.01, self.draw.choice((ALL, FIRST, OTHERS, OTHERS)))
            driver = self._start(self.storage, LENGTH, faults.environment(self.folder.parent / "python"))
            answer = Answer(driver.wait(), driver.out, driver.err)
            driver.end_all()
            self.note(faults, answer)
            self._compare(before, done=answer.code == 0)
            if answer.code == 0:
                self._prepare(self.draw.choice((SWEEP, RESUME, EXTEND)))
        driver = self._start(self.storage, LENGTH)
        assert driver.wait() == 0, driver.err
        self._compare({}, done=True)

    def _compare(self, before: dict[str, int], *, done: bool) -> None:
        now = self._state()
        assert all(now[trial_id] >= count for trial_id, count in before.items()), (before, now)
        if done:
            assert_same(self.storage, self.reference.all)

    def _no_ray(self) -> None:
        """What the driver and a trial's process do with one trial after another."""
        loaded = self.reference.loaded
        self._prepare(self.draw.choice((SWEEP, RESUME, EXTEND)))
        while self.spent < self.budget and self._attempts < 40:
            before = self._state()
            faults = self.faults(0.003)
            answer = Answer(0, "", "")
            with faults.active():
                storage = Storage(self.storage)
                try:
                    self._drive(storage, loaded)
                except Failure as failure:
                    answer = Answer(1, "", str(failure))
            end_process(self.storage, EXPERIMENT)
            self.note(faults, answer)
            self._compare(before, done=answer.code == 0)
            if answer.code == 0:
                self._prepare(self.draw.choice((SWEEP, RESUME, EXTEND)))
        self._drive(Storage(self.storage), loaded)
        self._compare({}, done=True)

    def _drive(self, storage: Storage, loaded: LoadedModel) -> None:
        trials = self.planned()
        lease = Lease(storage, EXPERIMENT, "again")
        lease.acquire(lambda message: None)
        try:
            storage.clear_staging()
            store_model(storage, trials[0], loaded, Sweep(storage=""))
            for trial in trials:
                same_command(storage, trial, loaded)
        finally:
            lease.release()

    def planned(self) -> list[PlannedTrial]:
        events = [
            reader.last_event(Storage(self.reference.all), EXPERIMENT, name) for name in learning(self.reference.all)
        ]
        return [
            PlannedTrial(TrialConfig.from_json(e["config"]), e["model"].rsplit("@", 1)[0], LENGTH, EVERY)
            for e in events
            if e
        ]

    def _compact(self) -> None:
        shutil.copytree(self.reference.all, self.storage)
        before = tree(self.storage)
        number = 0
        while self.spent < self.budget and self._attempts < 40:
            faults = self.faults(0.002)
            target = self.folder / f"compact-{number}"
            with faults.active():
                answer = call("compact", "--storage", str(self.storage), "--output", str(target))
            if answer.code == 2 and "holds results already" in answer.err and not faults.spent():
                number += 1
                continue
            self.note(faults, answer)
            assert tree(self.storage) == before
            if answer.code == 0:
                self._check_compact(target)
                number += 1
        target = self.folder / "compact"
        assert call("compact", "--storage", str(self.storage), "--output", str(target)).code == 0
        self._check_compact(target)

    def _check_compact(self, target: Path) -> None:
        for experiment, trial_id in reader.trial_ids(Storage(self.reference.all)):
            assert story(target, trial_id) == story(self.reference.all, trial_id), (experiment, trial_id)
        answer = call("verify", "--storage", str(target))
        assert answer.code == 0 and "note" not in answer.out, answer.out
        assert len(list(target.glob("generations/*/*/part-*"))) == len(reader.trial_ids(Storage(self.reference.all)))

    def _remove(self) -> None:
        trial_id = next(trial for name, trial in reader.trial_ids(Storage(self.reference.all)) if name == OTHER)
        started = False
        while self.spent < self.budget and self._attempts < 40:
            if not started:
                shutil.rmtree(self.storage, ignore_errors=True)
                shutil.copytree(self.reference.all, self.storage)
                others = tree(self.storage, OTHER)
                whole = self.draw.random() < 0.5
                chosen = ("--experiment", OTHER, *(() if whole else ("--trial", trial_id)), "--yes")
                started = True
            faults = self.faults(0.005)
            with faults.active():
                answer = call("remove", "--storage", str(self.storage), *chosen)
            end_process(self.storage, OTHER)
            assert tree(self.storage, OTHER) == others
            gone = answer.code == 2 and "is not in" in answer.err and not faults.spent()
            if not gone:  # but that it took effect all the same, an attempt before would have been the last
                self.note(faults, answer)
                now, wanted = (texts_of_other(folder, trial_id) for folder in (self.storage, self.reference.all))
                assert now == wanted[: len(now)]
            if gone or answer.code == 0:
                self._check_removed(trial_id, whole)
                started = False
        if started:
            answer = call("remove", "--storage", str(self.storage), *chosen)
            assert answer.code == 0 or (answer.code == 2 and "is not in" in answer.err), answer.err
            self._check_removed(trial_id, whole)
            assert tree(self.storage, OTHER) == others

    def _check_removed(self, trial_id: str, whole: bool) -> None:
        left = [path for path in of_other(self.storage) if whole or trial_id in path]
        assert left == [], left

    def _look(self) -> None:
        shutil.copytree(self.reference.all, self.storage)
        before = tree(self.storage)
        asked = commands(self.storage, self.reference.model, self.folder)
        del asked["plan"], asked["compact"]  # which write
        wanted = {name: ask(self.folder, name, command) for name, command in asked.items()}
        while self.spent < self.budget and self._attempts < 60:
            name = self.draw.choice(list(asked))
            faults = self.faults(0.005)
            with faults.active():
                answer = ask(self.folder, name, asked[name])
            if faults.spent():
                self.told.append(f"    {name}")
                self.note(faults, answer)
                assert answer == wanted[name] or (answer.code and answer.err != wanted[name].err), (name, answer)
            assert tree(self.storage) == before


def test_a_plan_has_every_kind_within_forty_faults() -> None:
    rounds = plan(SEED, 120)
    assert plan(SEED, 120) == rounds
    assert sum(number for _, number in rounds) == 120
    assert [{kind for kind, _ in rounds[i : i + 7]} for i in (0, 7, 14)] == [{kind for kind, _ in BLOCK}] * 3


@pytest.mark.timeout(300 + 40 * FAULTS)
def test_faults_lose_nothing_and_change_nothing(
    reference: SimpleNamespace, start: Callable[..., Driver], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def say(line: str) -> None:
        with capsys.disabled():
            print(line, flush=True)

    say(f"\nchaos: {FAULTS} faults, seed {SEED}")
    spent, number = 0, 0
    try:
        waiting = plan(SEED, FAULTS)
        while spent < FAULTS:
            kind, budget = waiting.pop(0) if waiting else (NO_RAY, FAULTS - spent)
            number += 1
            attack = Attack(kind, budget, f"round-{number}", tmp_path, reference, start)
            try:
                attack.run()
            finally:
                spent += attack.spent
                say("\n".join([f"  round {number}, {kind}: {attack.spent} faults, {spent} of {FAULTS}", *attack.told]))
            shutil.rmtree(attack.folder)
        verdict = f"{spent} of {FAULTS} faults survived"
    except BaseException:
        verdict = f"FAILED at fault {spent} of {FAULTS}, in round {number}"
        raise
    finally:
        say(f"chaos: {verdict}, seed {SEED}")


# --- bytes that flip -------------------------------------------------------------------------------------

RESTORED = {
    "texts": "generations/experiment=tiny/*/part-*.parquet",
    "updates": "steps/experiment=tiny/*/part-*.parquet",
    "events": "trials/experiment=tiny/*/part-*.parquet",
    "checksums of parts": "manifests/tiny/*/part-*.json",
    "checksums of events": "manifests/tiny/*/event-*.json",
    "states of checkpoints": "checkpoints/tiny/*/*/state.json",
    "weights of checkpoints": "checkpoints/tiny/*/*/weights.safetensors",
    "a model's card": "models/*/card.json",
    "a model's tokenizer": "models/*/tokenizer.json",
}
"""Kinds of files that the sweep's own command puts right, by their paths."""

TOLD = {"initials": "models/*/initials-*.json", "runs": "runs/tiny/*.json", "lease": "leases/tiny.json"}
"""Kinds that the command which reads them tells of."""

PASSING = {"heartbeat": "heartbeats/tiny.json", "curves": "tensorboard/tiny/*/events*", "Tune": "tune/tiny/**/*.*"}
"""Kinds on which no row depends, nor anything that is said of the rows."""


@pytest.fixture(scope="module")
def finished(reference: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole sweep, with a file of each kind: a table of initials, and a heartbeat that tells of a trial."""
    storage = tmp_path_factory.mktemp("finished") / "results"
    shutil.copytree(reference.all, storage)
    asked: dict[str, Any] = {
        "storage": str(storage),
        "experiment": EXPERIMENT,
        "reward": "rare_alliteration",
        "max_length": 16,
        "beta": (10.0,),
    }
    sweep = resolve(Sweep(**asked, model=str(reference.model), group_size=(4,), max_generations=8))
    with_reward_parameters(plan_sweep(sweep, reference.loaded), reference.loaded, sweep, lambda line: None)
    beat = Heartbeat(Storage(storage), EXPERIMENT, "run")
    report = {"generations": 60, "published": 60, "host": "here", "device": "cpu", "raw_reward": 0.5}
    numbers = ("kl_penalty", "entropy", "variety", "sample_seconds", "train_seconds")
    for trial_id in learning(storage):
        beat.add(trial_id, LENGTH)
        beat.report(trial_id, trial_report(**report, **dict.fromkeys(numbers, 0.25)))
    beat.beat(at_once=True)
    return storage


def files(storage: Path, pattern: str) -> list[Path]:
    return [path for path in sorted(storage.glob(pattern)) if path.is_file() and path.stat().st_size]


def flip(path: Path, draw: random.Random) -> str:
    """Change one bit of a file; says where."""
    data = bytearray(path.read_bytes())
    place = draw.randrange(len(data))
    data[place] ^= 1 << draw.randrange(8)
    path.write_bytes(data)
    return f"byte {place} of {len(data)} of {path}"


def same_json(now: bytes, before: bytes) -> bool:
    """Whether white space alone differs."""
    with contextlib.suppress(ValueError):
        return bool(json.loads(now) == json.loads(before))
    return False


@pytest.mark.parametrize("kind", [*RESTORED, *TOLD, *PASSING])
def test_a_flipped_byte_is_noticed_or_changes_nothing(
    reference: SimpleNamespace, finished: Path, tmp_path: Path, kind: str
) -> None:
    """Noticed by `verify`, or told by the command that reads it. Never a traceback, never another answer in silence."""
    draw = random.Random(f"{SEED} {kind}")
    storage = tmp_path / "results"
    shutil.copytree(finished, storage)
    paths = files(storage, {**RESTORED, **TOLD, **PASSING}[kind])
    asked = commands(storage, reference.model, tmp_path)
    wanted = {name: ask(tmp_path, name, command) for name, command in asked.items()}
    assert {name for name, answer in wanted.items() if answer.code} <= {"claims"}  # which do not hold
    others = [name for name in asked if name not in ("verify", "plan")]
    for _ in range(max(2, FAULTS // 5)):
        path = draw.choice(paths)
        before = path.read_bytes()
        where = flip(path, draw)
        chosen = {"verify", *draw.sample(others, 2)} | {"initials": {"plan"}, "lease": {"status"}}.get(kind, set())
        answers = {name: ask(tmp_path, name, asked[name]) for name in chosen}
        noticed = answers["verify"].code == 1
        told = {
            name
            for name, answer in answers.items()
            if answer.code != wanted[name].code or re.search("damaged|is torn", answer.out + answer.err)
        }
        silent = {name for name, answer in answers.items() if name not in told and answer.out != wanted[name].out}
        assert noticed or not silent, (where, {name: answers[name] for name in silent})
        if kind in RESTORED:
            # An older checkpoint costs nothing but a longer replay: `verify` tells of it in a note.
            assert noticed or "verify" in told or same_json(path.read_bytes(), before), where
        elif kind in PASSING:
            assert not noticed, where
        path.write_bytes(before)


def test_the_sweep_s_own_command_restores_what_is_flipped(
    reference: SimpleNamespace, finished: Path, start: Callable[..., Driver], tmp_path: Path
) -> None:
    """A flipped byte in one file of each kind at once."""
    draw = random.Random(SEED)
    for number in range(max(1, FAULTS // 40)):
        storage = tmp_path / f"results-{number}"
        shutil.copytree(finished, storage)
        kinds = {**RESTORED, **PASSING, "runs": TOLD["runs"]}
        where = [flip(draw.choice(files(storage, pattern)), draw) for pattern in kinds.values()]
        driver = start(storage, LENGTH)
        code = driver.wait()
        Answer(code, driver.out, driver.err).check()
        assert code == 0, (where, driver.out, driver.err)
        for trial_id in learning(storage):
            assert story(storage, trial_id) == story(reference.all, trial_id), where
        answer = call("verify", "--storage", str(storage))
        notes = [line for line in answer.out.splitlines() if line.startswith("note")]
        assert answer.code == 0, (where, driver.out, answer)
        assert all("stand-in" in note or "a newer one is there" in note for note in notes), (where, notes)
