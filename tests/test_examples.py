"""The examples run: the notebooks from top to bottom, the method in one file against transformers and the trainer."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
import rloo_in_one_file
import torch
from made_up import MadeUp, write_results
from nbclient import NotebookClient

from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.lm.weights import as_transformers
from rl_alliteration.results.storage import Storage
from rl_alliteration.rl.rewards import alliteration

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_the_method_fits_into_a_file_of_its_own() -> None:
    source = (EXAMPLES / "rloo_in_one_file.py").read_text()
    assert len(source.splitlines()) <= 150
    assert "import rl_alliteration" not in source and "from rl_alliteration" not in source


def test_its_cross_entropy_is_that_of_transformers(storyteller: LoadedModel) -> None:
    ids = storyteller.encode("Once upon a time, a tiny tiger told tales.")
    model = as_transformers(storyteller.model)
    expected = model(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss
    torch.testing.assert_close(rloo_in_one_file.cross_entropy(model, ids), expected)


@pytest.mark.parametrize("text", ["", "one", "the tall tree. The end", 'so "so'])
def test_its_reward_is_that_of_the_package(text: str) -> None:
    assert rloo_in_one_file.alliteration(text) == alliteration(text)


def test_its_texts_end_with_their_end_token(tiny_gpt_neo: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rloo_in_one_file, "MAX_LENGTH", 24)
    model = copy.deepcopy(tiny_gpt_neo.model)
    prompt = tiny_gpt_neo.encode(rloo_in_one_file.PROMPT)
    torch.manual_seed(0)
    unended = rloo_in_one_file.sample_group(model, prompt, end_token=1)
    end = unended[0][len(prompt) + 5]
    torch.manual_seed(0)
    texts = rloo_in_one_file.sample_group(model, prompt, end_token=end)
    assert len(texts) == 10 and {tuple(text[: len(prompt)]) for text in texts} == {tuple(prompt)}
    assert texts[0] == unended[0][: len(prompt) + 6]
    assert all(end not in text[len(prompt) : -1] for text in texts)


def test_it_trains(
    tiny_gpt_neo_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rloo_in_one_file, "MAX_LENGTH", 12)
    monkeypatch.setattr("sys.argv", ["rloo_in_one_file.py", str(tiny_gpt_neo_folder), "--updates", "3"])
    rloo_in_one_file.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["update 0", "update 1", "update 2"]
    assert "KL -0.000" in lines[0] or "KL 0.000" in lines[0]
    assert "KL 0.000" not in lines[2]


WATCH = """
import logging, os, signal, sys
def state():
    return [signal.getsignal(n) for n in (2, 15)], os.getcwd(), logging.root.level, list(logging.root.handlers)
before = state()
"""


NOTEBOOKS = ("first_sweep", "own_reward", "finished_study")


@pytest.mark.ray
@pytest.mark.usefixtures("on_cluster")
def test_the_notebooks_run_from_top_to_bottom(tmp_path: Path) -> None:
    """One after the other, in one kernel that starts once."""
    study = [MadeUp(beta=beta, seed=seed, falls_at=at) for beta, at in ((0, 150), (20, 350)) for seed in range(2)]
    write_results(Storage(tmp_path / "study"), study, "study")
    cell: Callable[[str], Any] = nbformat.v4.new_code_cell
    cells = {name: read(name) for name in NOTEBOOKS}
    together = nbformat.v4.new_notebook(  # type: ignore[no-untyped-call]  # nbformat's
        cells=[cell(WATCH), *itertools.chain(*cells.values()), cell("assert state() == before")]
    )
    client = NotebookClient(together, timeout=550, kernel_name="python3", resources={"metadata": {"path": tmp_path}})
    client.execute()

    def shown(name: str, source: str, kind: str = "text/plain") -> str:
        found = [one for one in cells[name] if one.cell_type == "code" and source in one.source][-1]
        return "".join(one.get("text") or str(one.get("data", {}).get(kind, "")) for one in found.outputs)

    assert "3 trials, 330 texts" in shown("first_sweep", "sweep = Sweep(")
    assert "3/3 trials · 330/330 texts" in shown("first_sweep", "sweep = Sweep(")  # the last state of a line in place
    assert shown("first_sweep", "run(sweep)").count("finished, left as it is") == 3
    assert "4.0" in shown("own_reward", "[long_words")
    cards = shown("own_reward", "results.rollouts(trial", "text/html")
    assert cards.count("<p dir=") == 4 and "raw reward, the greatest first" in cards
    assert "KL divergence per token" in shown("own_reward", "results.compare(", "text/html")
    compared = shown("finished_study", "results.compare(", "text/html")
    assert "2 trials at KL" in compared and "Settings that differ" in compared and "<mark" in compared
    assert shown("finished_study", 'results.figure("frontier")', "application/vnd.plotly.v1+json")


def read(name: str) -> list[Any]:
    """The cells of a notebook, as small as it gets."""
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)  # type: ignore[no-untyped-call]  # nbformat's
    assert all(not one.get("outputs") for one in notebook.cells), "committed without outputs"
    for one in notebook.cells:
        one.source = one.source.replace("max_generations=200", "max_generations=110, original_texts=110")
        one.source = one.source.replace("=24,", "=12,").replace('open_results("results")', 'open_results("study")')
    return list(notebook.cells)
