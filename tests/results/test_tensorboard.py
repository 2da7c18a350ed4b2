"""What TensorBoard is given: curves by group, the words beside them, the layout of its pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.custom_scalar.metadata import CONFIG_SUMMARY_TAG
from tensorboard.plugins.hparams import metadata as hparams

from rl_alliteration.results import curves
from rl_alliteration.results.storage import Storage
from rl_alliteration.results.tensorboard import TensorBoardWriter

ROW = dict.fromkeys(curves.TEXTS, 1.0) | {"kl_penalty": -0.5, "beta": 2.0, "text": "a", "reward_of": "text"}
UPDATE = dict.fromkeys(curves.UPDATES, 3.0)
LISTED = {"algorithm": str, "beta": float, "momentum": float, "credit": str}


def written(folder: Path) -> Any:
    writer = TensorBoardWriter(Storage(folder), "tensorboard/e/t", {"algorithm": "rloo", "beta": 2.0}, LISTED)
    logged = {"beta": 4.0, "learning_rate": 0.1, "unknown_words": 0.5}
    for generation in range(2):
        windows = [(generation, dict.fromkeys(curves.WINDOWS.values(), 0.25))] if generation else []
        writer.add([{**ROW, "generation": generation}], UPDATE, logged, windows)
    writer.flush()
    writer.close()
    found = EventAccumulator(str(folder / "tensorboard/e/t"))
    found.Reload()
    return found


def test_charts_of_the_kl_penalty_say_that_it_is_minus_the_divergence(tmp_path: Path) -> None:
    found = written(tmp_path)
    assert [point.step for point in found.Tensors("kl/kl_penalty")] == [0, 1]
    said = found.SummaryMetadata("kl/kl_penalty").summary_description
    assert said.startswith("minus the KL divergence") and "negative in the mean" in said
    assert found.SummaryMetadata("kl/kl_penalty").plugin_data.plugin_name == "scalars"
    assert found.SummaryMetadata("reward/raw_reward").summary_description == ""


def test_every_curve_is_in_a_group(tmp_path: Path) -> None:
    found = written(tmp_path)
    drawn = {tag for tag in found.Tags()["tensors"] if "__" not in tag and not tag.startswith("_hparams_")}
    assert drawn == {
        "reward/raw_reward", "reward/reward", "reward/unknown_words",
        "kl/kl_penalty", "kl/scaled_kl_penalty", "kl/lm_cross_entropy", "kl/original_lm_cross_entropy", "kl/kl_k3",
        "kl/beta", "diversity/variety", "diversity/repetition", "diversity/entropy",
        "optim/loss", "optim/grad_norm", "optim/sampler_gap", "optim/advantage", "optim/learning_rate", "text",
    }  # fmt: skip
    assert [point.step for point in found.Tensors("diversity/variety")] == [1]
    (scaled, _) = found.Tensors("kl/scaled_kl_penalty")
    assert scaled.tensor_proto.float_val[0] == -1.0


def test_the_important_charts_come_first_and_all_of_them_are_drawn(tmp_path: Path) -> None:
    found = written(tmp_path)
    (stored,) = found.Tensors(CONFIG_SUMMARY_TAG)
    layout = Layout.FromString(stored.tensor_proto.string_val[0])
    patterns = [tag for category in layout.category for chart in category.chart for tag in chart.multiline.tag]
    tags = [pattern.removeprefix("^").removesuffix("$") for pattern in patterns]
    assert tuple(tags[:5]) == curves.FIRST and len(set(tags)) == len(tags)
    assert set(tags) <= set(found.Tags()["tensors"])


def test_the_page_of_hyperparameters_lists_those_of_all_trials_and_the_metrics_in_that_order(tmp_path: Path) -> None:
    content = written(tmp_path).SummaryMetadata(hparams.EXPERIMENT_TAG).plugin_data.content
    page = hparams.parse_experiment_plugin_data(content)
    assert [info.name for info in page.hparam_infos] == list(LISTED)
    assert [info.name.tag for info in page.metric_infos] == list(curves.FIRST)
