"""A trial's TensorBoard events, with `generation` as the step: its curves lie beside the study's figures."""

from __future__ import annotations

import contextlib
import html
import platform
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.custom_scalar import metadata as layout_metadata
from tensorboard.plugins.custom_scalar.layout_pb2 import Category, Chart, Layout, MultilineChartContent
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.hparams.api_pb2 import (
    DATA_TYPE_FLOAT64,
    DATA_TYPE_STRING,
    Experiment,
    HParamInfo,
    MetricInfo,
    MetricName,
)
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionStartInfo
from tensorboard.plugins.text.metadata import create_summary_metadata
from tensorboard.summary.writer.record_writer import RecordWriter

from rl_alliteration.errors import Failure
from rl_alliteration.results import curves
from rl_alliteration.results.storage import Storage, Unavailable
from rl_alliteration.rows import rewarded

Row = Mapping[str, Any]
Windows = Sequence[tuple[int, Mapping[str, float]]]
"""Of each window its points, and the generation of its last text."""

_FLUSH_SECONDS = 10.0


class TensorBoardWriter:
    """Writes one trial's events: a file a run, named so that TensorBoard reads the runs in their order.

    Its own writer names files by the clock of the machine, which another machine's may contradict.
    """

    def __init__(
        self,
        storage: Storage,
        folder: str,
        hyperparameters: Mapping[str, Any],
        listed: Mapping[str, type] | None = None,
    ) -> None:
        """Nothing is written before the first point: an actor that Tune starts and does not use leaves no trace.

        Args:
            storage: where to.
            folder: in it.
            hyperparameters: numbers and texts by name.
            listed: names of all hyperparameters that any trial has, with their types, in the order in which to list
                them. Default: this one's.
        """
        self._storage = storage
        self._folder = folder
        self._hyperparameters = hyperparameters
        self._listed = listed or {name: type(value) for name, value in hyperparameters.items()}
        self._records: RecordWriter | None = None
        self._waiting: list[tuple[Sequence[Row], Row | None, Mapping[str, float], Windows]] = []
        """Steps that are not on disk for sure, oldest first."""
        self._written = 0
        """How many of them the file has been given."""

    def _open(self, purge_from: int) -> None:
        """The next file; older points from generation `purge_from` on, which this run goes on from, are not shown."""
        number = 1 + max((_number(path) for path in self._storage.list(self._folder)), default=-1)
        self._path = f"{self._folder}/{_NAME}{number:010d}.{platform.node()}"
        local = self._storage.folder(self._path)
        self._copied = local is None  # TensorBoard appends, object stores do not: it is copied there at each part
        if local is None:
            self._temporary = tempfile.NamedTemporaryFile()  # noqa: SIM115  lives as long as this writer
            local = Path(self._temporary.name)
        local.parent.mkdir(parents=True, exist_ok=True)
        self._local = local
        self._records = RecordWriter(local.open("wb"))
        self._flushed = time.monotonic()
        self._described: set[str] = set()
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(step=purge_from, session_log=SessionLog(status=SessionLog.START)))
        for summary in (_layout(), _experiment(self._listed), _hyperparameter_summary(self._hyperparameters)):
            self._write(Event(summary=summary))

    def add(self, texts: Sequence[Row], update: Row | None, logged: Mapping[str, float], windows: Windows = ()) -> None:
        """One step's points, those of `logged` among them and of the windows that it fills, and the first text of its
        group."""
        self._waiting.append((texts, update, logged, windows))
        with contextlib.suppress(Failure):  # it waits, and goes into the next file
            self._write_waiting(flush=self._records is not None and time.monotonic() - self._flushed > _FLUSH_SECONDS)

    def flush(self) -> None:
        """Put everything added so far on disk.

        Raises:
            Failure: the storage refused; nothing is forgotten, and it can be tried again.
        """
        self._write_waiting(flush=True)

    def publish(self) -> None:
        """Flush; on an object store, copy the file there.

        Raises:
            Failure: as for `flush`.
        """
        self.flush()
        if self._records is not None and self._copied:
            self._storage.put(self._path, self._local.read_bytes())

    def close(self) -> None:
        """Flush and close the file; what cannot be written is not kept."""
        if self._records is not None:
            with contextlib.suppress(OSError):
                self._records.close()

    def _write_waiting(self, *, flush: bool) -> None:
        if self._records is None and not self._waiting:
            return
        try:
            if self._records is None:
                self._open(purge_from=self._waiting[0][0][0]["generation"])
            for step in self._waiting[self._written :]:
                self._write_step(*step)
                self._written += 1
            if flush and self._records is not None:
                self._records.flush()
                self._flushed = time.monotonic()
                self._waiting, self._written = [], 0
        except OSError as error:  # a record may be torn, and readers go no further in a file: the next goes on
            self.close()
            self._records, self._written = None, 0
            raise Unavailable(f"{self._folder}: {error.strerror or error}") from error

    def _write_step(
        self, texts: Sequence[Row], update: Row | None, logged: Mapping[str, float], windows: Windows
    ) -> None:
        for row in texts:
            self._write_points(row["generation"], curves.text_points(row))
        first = texts[0]
        points = {**curves.update_points(update), **curves.logged_points(logged)}
        self._write_points(first["generation"], points, _text_value(rewarded(first)))
        for generation, of_window in windows:
            self._write_points(generation, of_window)

    def _write_points(self, generation: int, points: Mapping[str, float], *more: Any) -> None:
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in points.items()]
        for value in values:  # it keeps what the first point of a run's file says
            if value.tag in curves.WORDS and value.tag not in self._described:
                value.metadata.summary_description = curves.WORDS[value.tag]
                self._described.add(value.tag)
        self._write(Event(step=generation, summary=Summary(value=[*values, *more])))

    def _write(self, event: Any) -> None:
        assert self._records is not None
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())


_NAME = "events.out.tfevents."


def _number(path: str) -> int:
    digits = path.rsplit("/", 1)[-1].removeprefix(_NAME).split(".")[0]
    return int(digits) if digits.isdecimal() else -1


def _hyperparameter_summary(hyperparameters: Mapping[str, Any]) -> Any:
    # The plugin's own helper for this imports TensorFlow.
    start = SessionStartInfo(start_time_secs=time.time())
    for name, value in hyperparameters.items():
        if isinstance(value, str):
            start.hparams[name].string_value = value
        else:
            start.hparams[name].number_value = value
    data = HParamsPluginData(session_start_info=start)
    metadata = hparams_metadata.create_summary_metadata(data)
    return Summary(value=[Summary.Value(tag=hparams_metadata.SESSION_START_INFO_TAG, metadata=metadata)])


def _experiment(listed: Mapping[str, type]) -> Any:
    """The columns of the page of hyperparameters: it takes those of the first run that has any."""
    hyperparameters = [
        HParamInfo(name=name, type=DATA_TYPE_STRING if kind is str else DATA_TYPE_FLOAT64)
        for name, kind in listed.items()
    ]
    metrics = [MetricInfo(name=MetricName(tag=tag), display_name=tag) for tag in curves.FIRST]
    data = HParamsPluginData(experiment=Experiment(hparam_infos=hyperparameters, metric_infos=metrics))
    metadata = hparams_metadata.create_summary_metadata(data)
    return Summary(value=[Summary.Value(tag=hparams_metadata.EXPERIMENT_TAG, metadata=metadata)])


def _layout() -> Any:
    """The page of custom scalars. The plugin's own helper for this imports TensorFlow."""
    categories = [
        Category(
            title=title, chart=[Chart(title=tag, multiline=MultilineChartContent(tag=[f"^{tag}$"])) for tag in tags]
        )
        for title, tags in curves.LAYOUT.items()
    ]
    tensor = TensorProto(dtype=DT_STRING, string_val=[Layout(category=categories).SerializeToString()])
    metadata = layout_metadata.create_summary_metadata()
    return Summary(value=[Summary.Value(tag=layout_metadata.CONFIG_SUMMARY_TAG, metadata=metadata, tensor=tensor)])


def _text_value(text: str) -> Any:
    # TensorBoard renders Markdown: everything that means something there is escaped, line ends are kept.
    escaped = re.sub(r"([\\`*_{}\[\]()#+\-.!|~>])", r"\\\1", html.escape(text, quote=False))
    tensor = TensorProto(dtype=DT_STRING, string_val=["  \n".join(escaped.splitlines()).encode()])
    metadata = create_summary_metadata(display_name="text", description="first text of the group")
    return Summary.Value(tag="text", metadata=metadata, tensor=tensor)
