"""Pretraining at a tiny size: it learns, resumes after a kill, and its model is swept like any other."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from transformers import GPTNeoForCausalLM
from trials import EXPERIMENT, planned, run_trial

from rl_alliteration.config import TrialConfig
from rl_alliteration.errors import UserError
from rl_alliteration.lm.loading import LoadedModel, load_model
from rl_alliteration.lm.weights import as_transformers
from rl_alliteration.pretraining import command, train
from rl_alliteration.pretraining.checkpoint import CHECKPOINT
from rl_alliteration.pretraining.data import encode, read_stories, rows_of_pass
from rl_alliteration.pretraining.evaluation import nats, nats_per_word
from rl_alliteration.pretraining.model import new_model, schedule
from rl_alliteration.pretraining.settings import Pretraining
from rl_alliteration.pretraining.train import pretrain
from rl_alliteration.results.storage import Storage
from rl_alliteration.results.verify import verify_trial

TINY: dict[str, Any] = {
    "passes": 6,
    "vocabulary": 300,
    "layers": 2,
    "width": 32,
    "heads": 2,
    "context": 48,
    "dropout": 0.1,
    "batch": 16,
    "validation": 20,
    "evaluate_every": 8,
    "device": "cpu",
    "precision": "float32",
}


Trained = tuple[Pretraining, Path]


def write_stories(path: Path, count: int, seed: int) -> str:
    random = np.random.default_rng(seed)
    names, animals, deeds = ("Lily", "Tim", "Sue"), ("cat", "dog", "bird"), ("ran to", "saw", "sat by")

    def sentence() -> str:
        name, animal, deed = (random.choice(words) for words in (names, animals, deeds))
        return f"{name} and the {animal} {deed} the tree."

    stories = ["Once upon a time, " + " ".join(sentence() for _ in range(random.integers(1, 4))) for _ in range(count)]
    path.write_text("\n<|endoftext|>\n".join(stories))
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("stories")
    return write_stories(folder / "stories.txt", 300, 0), write_stories(folder / "heldout.txt", 20, 1)


def test_stories_are_the_same_whatever_editor_wrote_them(tmp_path: Path) -> None:
    text = "One day.\n<|endoftext|>\nA cat sat.\n"
    found = []
    for name, data in (("plain", text), ("mark", "\ufeff" + text), ("lines", "\ufeff" + text.replace("\n", "\r\n"))):
        (tmp_path / name).write_bytes(data.encode())
        found.append(read_stories(str(tmp_path / name), "--stories"))
    assert found == [["One day.", "A cat sat."]] * 3
    (tmp_path / "wide").write_bytes(text.encode("utf-16-le"))
    with pytest.raises(UserError, match=r"--heldout: .*UTF-8"):
        read_stories(str(tmp_path / "wide"), "--heldout")


@pytest.fixture(scope="module")
def trained(files: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    output = tmp_path_factory.mktemp("trained") / "tiny-teller"
    settings = Pretraining(stories=files[0], heldout=files[1], output=str(output), **TINY)
    pretrain(settings)
    return settings, output


def state(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / CHECKPOINT)


def test_it_learns_and_its_card_says_what(trained: Trained) -> None:
    settings, output = trained
    loaded = load_model(str(output))
    card = (output / "README.md").read_text()
    stories = read_stories(settings.stories, "--stories")[-settings.validation :]
    total, count = nats(loaded.reference().model, encode(loaded.pretrained_tokenizer, stories), 48)
    assert total / count < 0.5 * math.log(300)  # of a model that knows nothing
    assert f"lowest validation loss, {total / count:.4f} nats a token" in card
    assert "nats a word on 20 held-out stories" in card
    assert card.count("    Once upon a time") == 3
    assert "# tiny-teller" in card


def test_a_trial_runs_on_it(trained: Trained, make_config: Callable[..., TrialConfig], tmp_path: Path) -> None:
    loaded = load_model(str(trained[1]))
    assert loaded.end_tokens == {0}
    assert loaded.context == 48
    storage = Storage(tmp_path)
    trial = planned(make_config(loaded, max_length=40), 8)
    run_trial(storage, trial, loaded)
    assert verify_trial(storage, EXPERIMENT, trial.trial_id).problem is None


@pytest.mark.parametrize("killed_at", [5, 17])
def test_training_goes_on_after_a_kill_with_the_same_numbers(
    trained: Trained,
    files: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    killed_at: int,
) -> None:
    _, undisturbed = trained
    settings = Pretraining(stories=files[0], output=str(tmp_path / "out"), **TINY)

    def kill(update: int, updates: int) -> float:
        if update == killed_at:
            raise KeyboardInterrupt
        return schedule(update, updates)

    monkeypatch.setattr(train, "schedule", kill)
    with pytest.raises(KeyboardInterrupt):
        pretrain(settings)
    monkeypatch.setattr(train, "schedule", schedule)
    pretrain(settings)
    ours, theirs = state(tmp_path / "out"), state(undisturbed)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for name in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "out" / name).read_bytes() == (undisturbed / name).read_bytes()


def test_training_goes_on_with_the_same_stories_wherever_they_are(
    trained: Trained, files: tuple[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    shutil.copytree(trained[1], output)
    settings = dataclasses.replace(trained[0], output=str(output))
    moved, changed = tmp_path / "moved.txt", tmp_path / "changed.txt"
    moved.write_text(Path(files[0]).read_text())
    changed.write_text(moved.read_text().replace("cat", "yak"))
    pretrain(dataclasses.replace(settings, stories=str(moved)))
    before = (output / "README.md").read_bytes()
    with pytest.raises(UserError, match="was begun with other stories"):
        pretrain(dataclasses.replace(settings, stories=str(changed)))
    assert (output / "README.md").read_bytes() == before


def test_a_damaged_checkpoint_is_told_in_one_line(trained: Trained, tmp_path: Path) -> None:
    settings, output = trained
    shutil.copytree(output, tmp_path / "out")
    os.truncate(tmp_path / "out" / CHECKPOINT, 1000)
    with pytest.raises(UserError, match=r"--output: .* is damaged"):
        pretrain(dataclasses.replace(settings, output=str(tmp_path / "out")))


def test_a_folder_with_a_shipped_models_name_gets_its_own_card(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, output = trained
    shutil.copytree(output, tmp_path / "storyteller")
    monkeypatch.chdir(tmp_path)
    pretrain(dataclasses.replace(settings, output="storyteller"))
    card = (tmp_path / "storyteller" / "README.md").read_text()
    assert card == (output / "README.md").read_text().replace("# tiny-teller", "# storyteller")


def test_rows_begin_with_stories_and_passes_differ() -> None:
    stories = [[number] * 5 + [0] for number in range(1, 8)]
    rows = rows_of_pass(stories, 8, seed=0, number=0)
    assert rows.shape == (4, 8)  # 7 stories of 6 tokens, two a row; the last row takes one again
    for row in rows.tolist():
        assert row[:5] == [row[0]] * 5 and row[5] == 0 and row[6] == row[7] != row[0]
    assert {token for row in rows.tolist() for token in row} == set(range(8))
    other = rows_of_pass(stories, 8, seed=0, number=1, rows=4)
    assert other.shape == (4, 8)
    assert other.tolist() != rows.tolist()


def test_losses_are_sums_over_tokens_and_words(storyteller: LoadedModel) -> None:
    stories = ["Once upon a time there was a cat.", "One day"]
    model, tokenizer = as_transformers(storyteller.model), storyteller.pretrained_tokenizer
    plain = 0.0
    for story in stories:
        ids = torch.tensor([storyteller.encode(story)])
        with torch.no_grad():
            plain += model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
    assert nats_per_word(model, tokenizer, stories, 256) == pytest.approx(plain / (7 + 1), rel=1e-5)


def test_attention_in_one_kernel_is_transformers_own(tmp_path: Path) -> None:
    settings = Pretraining("", "", layers=2, width=32, heads=2, context=16)
    fused = new_model(settings, 300)
    fused.save_pretrained(tmp_path)
    plain = GPTNeoForCausalLM.from_pretrained(tmp_path)
    ids = torch.arange(1, 33).view(2, 16)
    losses = [model(input_ids=ids, labels=ids).loss for model in (fused, plain)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)
    for loss in losses:
        loss.backward()
    for ours, theirs in zip(fused.parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)


@pytest.mark.parametrize(
    "flags, named",
    [
        (["--passes", "0"], "--passes: 0 is not accepted; give 1 or more"),
        (["--vocabulary", "100"], "--vocabulary: 100 is not accepted; give 257 or more"),
        (["--width", "33"], "--width: 33 is no multiple of the 2 heads"),
        (["--dropout", "1"], "--dropout: 1.0 is not accepted"),
        (["--learning-rate", "nan"], "--learning-rate: nan is not accepted"),
        (["--device", "tpu"], "--device: 'tpu' cannot be used"),
        (["--validation", "200"], "--validation: 200 of 300 stories leave too few"),
        (["--stories", "/nowhere"], "--stories: '/nowhere' cannot be read"),
        (["--heldout", "/dev/null"], "--heldout: '/dev/null' has no story in it"),
        (["--batch", "8"], "was begun with 16; give that, or another --output"),
        (["--passes", "x"], "--passes"),
        (["--layers", "3"], "was begun with 2; give that, or another --output"),
        (["--vocabulary", "280"], "was begun with 300; give that, or another --output"),
        (["--output", "/dev/null"], "--output: '/dev/null' is no folder"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    trained: Trained, capsys: pytest.CaptureFixture[str], flags: list[str], named: str
) -> None:
    settings, output = trained
    given = {**TINY, "stories": settings.stories, "output": str(output)}
    before = (output / "README.md").read_bytes()
    arguments = [word for key, value in given.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    with pytest.raises(SystemExit) as end:
        command.main([*arguments, *flags])
    err = capsys.readouterr().err
    assert (end.value.code, err.count("\n")) == (2, 1)
    assert named in err
    assert (output / "README.md").read_bytes() == before
