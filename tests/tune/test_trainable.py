"""A trial's actor without Ray: what it keeps from one trial to the next."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rl_alliteration.config import PlannedTrial, TrialConfig
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.lm.weights import read_weights
from rl_alliteration.results.lease import Lease
from rl_alliteration.results.storage import open_storage
from rl_alliteration.rl.advantages import ALGORITHMS
from rl_alliteration.rl.rewards import get_reward
from rl_alliteration.tune.trainable import Driver, TrialSetup, TrialTrainable


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a trial changes of its process."""
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    yield
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode(mode)


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("told", [True, False])
def test_a_second_trial_in_an_actor_reads_no_weights(
    told: bool,
    storyteller: LoadedModel,
    tmp_path: Path,
    make_config: Callable[..., TrialConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[Path] = []

    def counted(folder: Path, config: Any) -> Any:
        read.append(folder)
        return read_weights(folder, config)

    monkeypatch.setattr("rl_alliteration.lm.loading.read_weights", counted)
    storage = open_storage(str(tmp_path), create=True)
    lease = Lease(storage, "e", "run-1")
    lease.acquire(print)

    def setup(seed: int) -> dict[str, Any]:
        config = dataclasses.replace(make_config(storyteller), seed=seed)
        trial = PlannedTrial(config, "storyteller", 8, 4)
        told_by_driver = TrialSetup(
            trial=trial, storage=str(storage), experiment="e", run_id="run-1", epoch=lease.epoch, tokenizer=None,
            revision=None, gpu=False, keep_checkpoints=1, publish_every=300.0, record_tokens="all",
        )  # fmt: skip
        return {"setup": told_by_driver.to_tune()}

    actor = TrialTrainable.__new__(TrialTrainable)
    driver = Driver(known=storyteller.known if told else None)
    actor.setup(setup(0), reward=get_reward("alliteration"), algorithms=dict(ALGORITHMS), driver=driver)
    try:
        first, trainer = actor._loaded, actor._run.trainer
        assert len(read) == 1
        assert all(row["token_log_p"] for row in actor._run.step().texts)
        assert actor.reset_config(setup(1))
        second = actor._run.trainer
        assert len(read) == 1
        assert actor._loaded is first
        assert second is not trainer and second.reference is trainer.reference
        assert all(map(torch.equal, second.policy.model.parameters(), storyteller.model.parameters()))
    finally:
        actor.cleanup()
        lease.release()
