"""Every command of the documentation: run at a tiny size, or at least parsed.

A page's fenced blocks run in their order, in a folder of their own that holds the results of the tutorial's sweeps.
Sweeps run without Ray, with few and short trials; a block after `<!-- not run: why -->` is only parsed.
"""

from __future__ import annotations

import dataclasses
import itertools
import linecache
import os
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trials as tiny
import tyro

import rl_alliteration.tune.driver as driver
from rl_alliteration.analysis.table import VIEWS
from rl_alliteration.cli import main as cli
from rl_alliteration.config import ORIGINAL, PlannedTrial
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.pretraining.settings import Pretraining
from rl_alliteration.results import reader
from rl_alliteration.results.storage import Storage
from rl_alliteration.rl import advantages, rewards

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = 20
"""Of each trial."""
BLOCK = re.compile(
    r"^(?P<indent> *)(?:<!-- not run: (?P<reason>[^\n]+) -->\n *)?```(?P<language>\w+)\n(?P<source>.*?)^ *```$",
    re.DOTALL | re.MULTILINE,
)


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    source: str
    runs: bool


def blocks(page: Path) -> list[Block]:
    found = []
    for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
        lines = match["source"].splitlines()
        source = "\n".join(line.removeprefix(match["indent"]) for line in lines) + "\n"
        found.append(Block(match["language"], source, match["reason"] is None))
    return found


def lines(block: Block) -> Iterator[list[str]]:
    """The commands of a bash block, as words; what `>` redirects to is left out."""
    for line in block.source.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words[: words.index(">")] if ">" in words else words


# --- a sweep without Ray ---------------------------------------------------------------------------------


def run_sweep(
    sweep: Any, planned: Sequence[PlannedTrial], loaded: LoadedModel, storage: Storage, console: Any
) -> driver.Outcome:
    """The first trial that is trained, and an original if there is none yet; `TEXTS` short texts each."""
    compared = any(name.startswith(ORIGINAL) for _, name in known(storage))
    for trial in planned[1:2] if compared else planned[:2]:
        config = dataclasses.replace(trial.config, max_length=24)
        short = dataclasses.replace(trial, config=config, max_generations=TEXTS, checkpoint_every=10)
        if short.trial_id not in {name for _, name in known(storage)}:
            tiny.run_trial(storage, short, loaded, experiment=sweep.experiment)
    return driver.Outcome({}, None)


def known(storage: Storage) -> list[tuple[str, str]]:
    return reader.all_trials(storage)


def run_search(search: Any, loaded: LoadedModel, storage: Storage, console: Any) -> driver.Outcome:
    return driver.Outcome({}, None)


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "run_sweep", run_sweep)
    monkeypatch.setattr(driver, "run_search", run_search)
    monkeypatch.setattr(rewards, "REWARDS", dict(rewards.REWARDS))
    monkeypatch.setattr(advantages, "ALGORITHMS", dict(advantages.ALGORITHMS))
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results that pages take for granted: those of the tutorial."""
    folder = tmp_path_factory.mktemp("prepared")
    patch = pytest.MonkeyPatch()
    patch.setattr(driver, "run_sweep", run_sweep)
    patch.chdir(folder)
    for betas in ("0", "10", "60"):
        assert cli.call(["sweep", "--experiment", "first", "--storage", "results", "--beta", betas]) == 0
    patch.undo()
    return folder


# --- commands --------------------------------------------------------------------------------------------


def test_every_page_with_commands_is_looked_at() -> None:
    found = [block for page in PAGES for block in blocks(page)]
    assert sum(block.language == "bash" for block in found) > 40
    fences = sum(page.read_text(encoding="utf-8").count("```bash") for page in PAGES)
    assert fences == sum(block.language == "bash" for block in found)


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_the_commands_of_a_page_work(
    page: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [block for block in blocks(page) if block.language in ("bash", "python", "sql")]
    if not found:
        return
    shutil.copytree(prepared, tmp_path / "here", copy_function=os.link)
    monkeypatch.chdir(tmp_path / "here")
    for block in found:
        if block.language == "bash":
            for words in lines(block):
                run_command(words, runs=block.runs, monkeypatch=monkeypatch)
        elif block.language == "sql":
            assert reader.run_query(Storage("results"), block.source, VIEWS)[0]
        elif block.runs:
            run_python(block.source)
        else:
            compile(block.source, str(page), "exec")


def run_python(source: str) -> None:
    """Run a block as a script; one that says of which file it is, is that file too."""
    name = re.match(r'"""(\w+\.py)"""', source)
    script = Path(name[1] if name else "block.py")
    script.write_text(source, encoding="utf-8")
    linecache.checkcache()  # the version of a reward is that of its source
    assert not exit_code(lambda: runpy.run_path(str(script), run_name="__main__"))


def exit_code(script: Callable[[], Any]) -> Any:
    try:
        script()
    except SystemExit as end:
        return end.code
    return None


def run_command(words: list[str], *, runs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command where the tests can, else see that what it names exists.

    Raises:
        AssertionError: it fails, or names a flag, a file or a target that there is not.
    """
    if words[0] == "rl-alliteration":
        ours(words[1:], runs=runs)
    elif words[:2] == ["python", "-m"] and words[2].startswith("tune_jobs."):
        job(words[2], words[3:], runs=runs, monkeypatch=monkeypatch)
    elif words[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert all(re.search(rf"^{re.escape(word)}:", makefile, re.MULTILINE) for word in words[1:] if "=" not in word)
    elif words[0] == "python" and words[1].endswith(".py"):
        script = (ROOT / words[1]).read_text(encoding="utf-8")
        assert all(f'"{word}"' in script or word[2:].replace("-", "_") in script for word in words if word[:2] == "--")
    elif words[:2] == ["ray", "job"]:
        after = words[words.index("--") + 1 :]
        assert (ROOT / words[words.index("--runtime-env") + 1]).is_file()
        run_command(after, runs=False, monkeypatch=monkeypatch)
    else:  # of other programs
        assert not runs, f"mark this block as not run, or run it: {shlex.join(words)}"


def ours(words: list[str], *, runs: bool) -> None:
    words = here(words)
    if not runs:
        cli.parse(list(words))
        return
    code = cli.call(tiny_size(words))
    assert code == 0 or (code == 1 and words[0] == "claims"), shlex.join(words)


def job(module: str, words: list[str], *, runs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job's module, as `python -m` runs it."""
    assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
    if not runs:
        if module == "tune_jobs.pretrain_storyteller":
            tyro.cli(Pretraining, args=words)
        else:
            cli.parse(["search" if module.endswith("search") else "sweep", *here(words)])
        return
    monkeypatch.setattr(sys, "argv", [module, *here(words)])
    assert not exit_code(lambda: runpy.run_module(module, run_name="__main__")), (module, words)


def here(words: list[str]) -> list[str]:
    """The command with a trial of this machine's results in place of the page's."""
    if "--trial" not in words:
        return words
    place = words.index("--trial") + 1
    wanted = words[words.index("--experiment") + 1], words[place].rpartition("-")[0]
    found = [name for of, name in known(Storage("results")) if (of, name.rpartition("-")[0]) == wanted]
    return [*words[:place], *found[:1], *words[place + 1 :]] if found else words


def tiny_size(words: list[str]) -> list[str]:
    """The command for trials of `TEXTS` texts."""
    pairs = itertools.pairwise(["", *words])
    words = [str(TEXTS // 2) if before == "--generation" else word for before, word in pairs]
    if words[0] == "report" or "--recommended" in words:
        words += ["--window", "10", *(("--keep-sense", "100", "--keep-variety", "0") if words[0] == "export" else ())]
    if words[0] == "remove":
        words += ["--yes"]
    return words
