"""What TensorBoard is told of the sign of the KL penalty."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from rl_alliteration.results.storage import Storage
from rl_alliteration.results.tensorboard import TEXT_SCALARS, TensorBoardWriter


def test_charts_of_the_kl_penalty_say_that_it_is_minus_the_divergence(tmp_path: Path) -> None:
    writer = TensorBoardWriter(Storage(tmp_path), "tensorboard/e/t", {"beta": 2.0})
    numbers = dict.fromkeys(TEXT_SCALARS, 1.0) | {"kl_penalty": -0.5, "beta": 2.0, "text": "a", "reward_of": "text"}
    for generation in range(2):
        writer.add([{**numbers, "generation": generation}], None, {})
    writer.flush()
    writer.close()
    found = EventAccumulator(str(tmp_path / "tensorboard/e/t"))
    found.Reload()
    assert [point.step for point in found.Tensors("kl_penalty")] == [0, 1]
    said = found.SummaryMetadata("kl_penalty").summary_description
    assert said.startswith("minus the KL divergence") and "negative in the mean" in said
    assert found.SummaryMetadata("kl_penalty").plugin_data.plugin_name == "scalars"
    assert found.SummaryMetadata("raw_reward").summary_description == ""
