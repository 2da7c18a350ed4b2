"""A small storage, as the code of its day writes it.

`PYTHONPATH=tests:tests/support python tests/support/stored.py FOLDER` makes one.

Those of earlier schema versions are kept under tests/results/storages, and read by the tests for ever.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from conftest import VOCABULARY, save_folder, trial_config
from trials import planned, run_trial

from rl_alliteration.config import PlannedTrial
from rl_alliteration.lm.loading import LoadedModel, load_model
from rl_alliteration.results.storage import Storage

LENGTH, EVERY = 16, 8


def write_storage(folder: Path) -> None:
    """`folder/model`, and `folder/results` of three trials: RLOO, REINFORCE with a baseline, the original."""
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    torch.manual_seed(0)
    config = GPTNeoConfig(
        vocab_size=VOCABULARY, hidden_size=8, num_layers=1, num_heads=2, attention_types=[[["global"], 1]],
        max_position_embeddings=32, initializer_range=0.2, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    save_folder(folder / "model", GPTNeoForCausalLM(config).eval())
    loaded = load(folder)
    storage = Storage(folder / "results")
    for trial in trials(loaded):
        run_trial(storage, trial, loaded, keep=1)
    shutil.rmtree(folder / "results" / "tensorboard")
    shutil.rmtree(folder / "results" / "staging", ignore_errors=True)


def load(folder: Path) -> LoadedModel:
    """The model of `write_storage`, under the same name wherever it is."""
    loaded = load_model(str(folder / "model"))
    loaded.name = "tiny"
    return loaded


def trials(loaded: LoadedModel, length: int = LENGTH) -> list[PlannedTrial]:
    """The trials of such a storage, `length` texts each."""
    settings: dict[str, Any] = {"max_length": 16, "learning_rate": 0.01}
    rloo = trial_config(loaded, **settings, architecture=loaded.architecture_fingerprint)
    baseline = trial_config(
        loaded, **settings, architecture=loaded.architecture_fingerprint, algorithm="reinforce_baseline", group_size=1
    )
    return [
        *(planned(config, length, EVERY) for config in (rloo, baseline)),
        planned(rloo.original(), 20, 10),
    ]


if __name__ == "__main__":
    write_storage(Path(sys.argv[1]))
