"""The examples run: the notebook from top to bottom, the method in one file against transformers and the trainer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
import rloo_in_one_file
import torch
from nbclient import NotebookClient

from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.lm.weights import as_transformers
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


@pytest.mark.ray
def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    notebook = nbformat.read(EXAMPLES / "first_sweep.ipynb", as_version=4)  # type: ignore[no-untyped-call]  # nbformat's
    assert all(not cell.get("outputs") for cell in notebook.cells), "committed without outputs"
    for found in notebook.cells:  # as small as it gets
        found.source = found.source.replace("max_generations=200", "max_generations=110, original_texts=110")
        found.source = found.source.replace("=24,", "=12,")
    cell: Callable[[str], Any] = nbformat.v4.new_code_cell
    notebook.cells = [cell(WATCH), *notebook.cells, cell("assert state() == before")]
    client = NotebookClient(notebook, timeout=550, kernel_name="python3", resources={"metadata": {"path": tmp_path}})
    client.execute()

    def printed(source: str) -> str:
        found = [c for c in notebook.cells if c.cell_type == "code" and source in c.source][-1]
        return "".join(output.get("text", "") for output in found.outputs)

    assert "3 trials, 330 texts" in printed("sweep = Sweep(") and "/3 trials · " in printed("sweep = Sweep(")
    assert printed("run(sweep)").count("finished, left as it is") == 3
