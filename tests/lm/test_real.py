"""SmolLM2-135M-Instruct, a model that nobody here made: `make real`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import cli
from trainers import make_trainer, update_of

from rl_alliteration.config import TEXTS_VERSION, TrialConfig
from rl_alliteration.lm.decoder import DecoderForward
from rl_alliteration.lm.loading import LoadedModel, load_model
from rl_alliteration.lm.sampling import score

pytestmark = pytest.mark.real
FOLDER = os.environ.get("RL_ALLITERATION_REAL_MODEL", "")
LENGTH, GROUP = 100, 10


@pytest.fixture(scope="module")
def smollm2() -> LoadedModel:
    if not FOLDER:
        pytest.skip("RL_ALLITERATION_REAL_MODEL names no folder: make real")
    return load_model(FOLDER)


def test_it_is_described_and_gives_the_numbers_of_transformers(smollm2: LoadedModel) -> None:
    assert smollm2.undescribed is None
    ids = torch.randint(49152, (2, LENGTH), generator=torch.Generator().manual_seed(0))
    found = []
    for texts_version in (None, TEXTS_VERSION):
        model = smollm2.policy(texts_version=texts_version)
        assert isinstance(model.forward, DecoderForward) == (texts_version is None)
        log_p, entropy = score(model, ids)
        log_p.sum().backward()
        gradients = {name: parameter.grad for name, parameter in model.model.named_parameters()}
        found.append((log_p.detach(), entropy, gradients))
    ours, plain = found
    torch.testing.assert_close(ours[0], plain[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours[1], plain[1], rtol=1e-4, atol=1e-4)
    for name, gradient in plain[2].items():
        other = ours[2][name]
        assert gradient is not None and other is not None
        assert (other - gradient).norm() <= 1e-4 * gradient.norm(), name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sampler_and_trainer_have_the_same_numbers(
    dtype: str, smollm2: LoadedModel, make_config: Callable[..., TrialConfig]
) -> None:
    config = make_config(smollm2, dtype=dtype, group_size=GROUP, max_length=LENGTH, learning_rate=1e-5, beta=10)
    trainer = make_trainer(smollm2, config)
    steps = [trainer.step() for _ in range(2)]
    assert [update_of(step)["sampler_gap"] for step in steps] == [0.0, 0.0]
    assert max(abs(text["kl_penalty"]) for text in steps[0].texts) < (0.05 if dtype == "bfloat16" else 1e-4)


def test_a_sweep_from_the_command_line_to_a_report(smollm2: LoadedModel, tmp_path: Path) -> None:
    where = ("--storage", str(tmp_path / "results"), "--experiment", "real")
    few = ("--group-size", "4", "--max-generations", "8", "--checkpoint-every", "4", "--original-texts", "10")
    done = cli("sweep", *where, "--model", FOLDER, "--beta", "10", "--algorithm", "rloo", "--max-length", "30", *few)
    assert done.returncode == 0, done.stderr
    assert "transformers' own code" not in done.stdout
    longer = ("--group-size", "4", "--max-generations", "12", "--checkpoint-every", "4", "--original-texts", "10")
    done = cli("sweep", *where, "--model", FOLDER, "--beta", "10", "--algorithm", "rloo", "--max-length", "30", *longer)
    assert done.returncode == 0, done.stderr
    done = cli("verify", "--storage", str(tmp_path / "results"))
    assert "22 texts verified" in done.stdout
    done = cli("report", *where, "--output", str(tmp_path / "report.html"))
    assert done.returncode == 0, done.stderr
