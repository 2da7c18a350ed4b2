"""Write the page, once or as long as a sweep runs."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path

from rl_alliteration.analysis.measure import check_window, measure
from rl_alliteration.analysis.rules import KEEP_VARIETY, SENSE_NATS, check_limits
from rl_alliteration.analysis.types import WINDOW
from rl_alliteration.errors import UserError
from rl_alliteration.results import reader, schema
from rl_alliteration.results.storage import open_storage

WATCH_SECONDS = 15.0


@dataclasses.dataclass(frozen=True)
class Report:
    """Write one self-contained HTML page: figures, the trade-off, which model to keep, and the texts."""

    storage: str
    """Folder or URI of the results. Default: $RL_ALLITERATION_STORAGE."""
    experiment: str | None = None
    """Only this one. Default: all."""
    output: str = "report.html"
    """The page; written anew if it is there."""
    figures: str | None = None
    """Folder to write the figures to as PNG files as well."""
    watch: bool = False
    """Write the page again as texts come in, until no trial is running; it loads itself again in the browser."""
    window: int = WINDOW
    """Generations that each number is of."""
    keep_variety: float = KEEP_VARIETY
    """Share of the original's variety that the recommended model keeps, 0 to 1."""
    keep_sense: float = SENSE_NATS
    """Nats that the cross-entropy of its texts under the original model is off at most."""


def report(command: Report, say: Callable[[str], None], sleep: Callable[[float], None] = time.sleep) -> None:
    """Write the page that `command` asks for.

    Raises:
        UserError: there are no results, or the page cannot be written.
    """
    check_limits(command.keep_variety, command.keep_sense)
    check_window(command.window)
    seen: set[str] = set()
    while True:
        running, files = _state(command)
        live = command.watch and running > 0
        if files != seen or not live:
            _write(command, live, say)
            say(f"{command.output} is written" + (f"; {running} trials to go on" if live else ""))
            seen = files
        if not live:
            return
        sleep(WATCH_SECONDS)


def _state(command: Report) -> tuple[int, set[str]]:
    """How many trials still run, and which files there are."""
    storage = open_storage(command.storage)
    reader.trial_ids(storage, command.experiment)
    ours, values = ("", []) if command.experiment is None else (" WHERE experiment = ?", [command.experiment])
    rows = reader.connect(storage).execute(f"SELECT status FROM trials{ours}", values).fetchall()
    files = {path for dataset in ("generations", "trials") for path in storage.list(dataset)}
    return sum(status in (schema.PLANNED, schema.RUNNING) for (status,) in rows), files


def _write(command: Report, live: bool, say: Callable[[str], None]) -> None:
    from rl_alliteration.report.base import Shown
    from rl_alliteration.report.drawing import save_png  # every command imports `Report`; few need these
    from rl_alliteration.report.page import build_page
    from rl_alliteration.report.sections import main_figures

    _check_output(Path(command.output))  # before the work, which may take a minute
    storage = open_storage(command.storage)
    connection = reader.connect(storage)
    analysis = measure(connection, command.experiment, command.window, skip=lambda damaged: say(f"note: {damaged}"))
    found = reader.searched(storage, lambda damaged: say(f"note: {damaged}; whether it was a search's is not known"))
    searches = {name for name in found if command.experiment in (None, name)}
    shown = Shown(analysis, command.keep_variety, command.keep_sense, searches)
    page = build_page(
        shown,
        connection,
        title=f"Experiment {command.experiment}" if command.experiment else "All experiments",
        storage=command.storage,
        watch_seconds=round(WATCH_SECONDS) if live else 0,
    )
    target = Path(command.output)
    staged = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        if target.exists() and not target.is_file():  # a pipe, or a device such as /dev/stdout: nothing to replace
            target.write_text(page, encoding="utf-8")
        else:
            staged.write_text(page, encoding="utf-8")
            os.replace(staged, target)
    except OSError as error:
        with contextlib.suppress(OSError):
            staged.unlink()
        raise UserError(f"--output: {command.output!r} cannot be written ({error.strerror})") from error
    if command.figures is not None:
        save_png(main_figures(shown), Path(command.figures))


def _check_output(target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output: {str(target)!r} cannot be written ({error.strerror})") from error
    if target.is_dir():
        raise UserError(f"--output: {str(target)!r} is a folder; give the name of a file")
