"""The estimate of a trial's memory."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rl_alliteration.config import DESCRIBED_TEXTS_VERSION, TrialConfig
from rl_alliteration.errors import UserError
from rl_alliteration.lm import memory
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.tune.execution import check_memory
from rl_alliteration.tune.plan import Sweep, plan, resolve

Make = Callable[..., TrialConfig]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["storyteller", "tiny_llama"])
def test_what_decoding_keeps_is_what_is_counted(
    name: str, dtype: str, request: pytest.FixtureRequest, make_config: Make
) -> None:
    loaded: LoadedModel = request.getfixturevalue(name)
    policy = loaded.policy(dtype=getattr(torch, dtype))
    policy.forward.start(torch.tensor([3]), 5, 20, record=True)
    kept = policy.forward._activations  # type: ignore[attr-defined]
    parts = [part for layer in kept.layers for part in (layer.heads, *layer.by_token)]
    size = sum(part.numel() * part.element_size() for part in (*parts, kept.logits))
    parameters, vocabulary = sum(parameter.numel() for parameter in loaded.model.parameters()), kept.logits.shape[-1]
    products = kept.logits.element_size()
    found = memory.step_bytes(loaded.model, make_config(loaded, group_size=5, max_length=20, dtype=dtype))
    decoding = size + products * (parameters + 5 * 20 * vocabulary)
    backward = size // 2 + parameters * (4 if dtype == "float32" else 6)
    assert found == memory._PROCESS + 8 * parameters + max(decoding, backward)


def test_what_saves_memory_is_counted(storyteller: LoadedModel, make_config: Make) -> None:
    def size(**changes: Any) -> int:
        config = make_config(storyteller, **{"group_size": 100, "max_length": 100, **changes})
        found = memory.step_bytes(storyteller.model, config)
        assert found is not None
        return found

    parameters = sum(parameter.numel() for parameter in storyteller.model.parameters())
    assert size(micro_batch=1) < size(micro_batch=10) < size() < size(kl="exact") < size(kl="exact", max_length=200)
    assert size() - size(reference_dtype="bfloat16") == 2 * parameters
    assert size(optimizer="adamw") - size() == 2 * (size(momentum=0.9) - size()) == 8 * parameters
    assert size(algorithm="original", learning_rate=0.0) < size()


_MEASURED = """
import json, sys
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from rl_alliteration.config import TrialConfig
from rl_alliteration.lm.loading import LoadedModel, load_model
from rl_alliteration.lm.memory import step_bytes
from rl_alliteration.rl.advantages import get_algorithm
from rl_alliteration.rl.rewards import get_reward
from rl_alliteration.rl.trainer import Trainer
torch.set_num_threads(1)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=32000, hidden_size=384, intermediate_size=1024, num_hidden_layers=6, num_attention_heads=6,
    num_key_value_heads=2, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0)).eval()
loaded = LoadedModel("random", model, load_model("storyteller").pretrained_tokenizer, frozenset())
config = TrialConfig(**json.loads(sys.argv[1]))
loaded.gives_away = config.reference_dtype == "bfloat16"
trainer = Trainer(config, loaded, get_reward("alliteration"), get_algorithm("rloo"))
for _ in range(2):
    trainer.step()
with open("/proc/self/status") as status:  # not ru_maxrss, which a process has from the one that began it
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
print(step_bytes(model, config), peak)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc has the peak")
@pytest.mark.parametrize("changes", [{}, {"micro_batch": 2, "reference_dtype": "bfloat16"}])
def test_the_estimate_is_near_what_a_trial_takes(
    changes: dict[str, Any], storyteller: LoadedModel, make_config: Make
) -> None:
    config = make_config(storyteller, group_size=16, max_length=40, texts_version=DESCRIBED_TEXTS_VERSION, **changes)
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, config.to_json()], capture_output=True, text=True, check=True
    )
    estimate, measured = map(int, done.stdout.split())
    assert estimate == pytest.approx(measured, rel=0.25)


def test_a_model_without_a_description_has_none(tiny_opt: LoadedModel, make_config: Make) -> None:
    assert memory.step_bytes(tiny_opt.model, make_config(tiny_opt)) is None


def test_a_containers_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    total = memory.machine_bytes()
    assert total is not None and total > 2**28
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: "1048576\n")
    assert memory.machine_bytes() == 2**20
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: "max\n")
    assert (memory.machine_bytes() or 0) >= total


@pytest.mark.parametrize(
    "gpus, available, refused", [("auto", True, False), ("1", False, False), ("auto", False, True), ("0", True, True)]
)
def test_the_memory_of_a_machine_says_nothing_of_its_gpus(
    gpus: str, available: bool, refused: bool, storyteller: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(memory, "machine_bytes", lambda: 2**20)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    sweep = resolve(Sweep(storage="unused", experiment="e", beta=(0.0,), gpus_per_trial=gpus))
    with pytest.raises(UserError, match="--group-size") if refused else contextlib.nullcontext():
        check_memory(sweep, plan(sweep, storyteller), storyteller)
