"""Helpers: what TensorBoard shows of a trial."""

from __future__ import annotations

from typing import Any

from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from trials import EXPERIMENT

from rl_alliteration.results.storage import Storage


def curves(storage: Storage, trial: Any) -> dict[str, list[tuple[int, bytes]]]:
    """What TensorBoard shows: points by tag."""
    events = EventAccumulator(
        str(storage.folder(f"tensorboard/{EXPERIMENT}/{trial.trial_id}")), size_guidance={"tensors": 0}
    )
    events.Reload()
    return {
        tag: [(point.step, point.tensor_proto.SerializeToString()) for point in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
        if not tag.startswith(("_hparams_", "custom_scalars"))  # of each file: the time of the start, the layout
    }
