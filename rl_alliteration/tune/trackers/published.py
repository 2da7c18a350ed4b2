"""What a trial has published, as curves and texts for a tool."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rl_alliteration.analysis.running import RunningWindows
from rl_alliteration.results import curves
from rl_alliteration.results.parts import part_paths, read_part
from rl_alliteration.results.schema import part_number, part_path
from rl_alliteration.results.storage import Storage
from rl_alliteration.tune.trackers import TEXT_COLUMNS, Points

Row = Mapping[str, Any]


def published(
    storage: Storage, experiment: str, trial_id: str, generations: int
) -> Iterator[tuple[Points, list[dict[str, Any]]]]:
    """Of each part with texts beyond the first `generations`: the points, and the first text of each group."""
    first = RunningWindows.first(generations)
    windows = RunningWindows()
    paths = {part_number(path): path for path in part_paths(storage, "generations", experiment, trial_id)}
    for number, after in itertools.pairwise([*paths, None]):
        if number is None or (after is not None and after <= first):
            continue
        rows = [row for row in read_part(storage, paths[number]) if row["generation"] >= first]
        points = [(at + 1, of_window) for at, of_window in windows.add(rows) if at >= generations]
        new = [row for row in rows if row["generation"] >= generations]
        steps = _updates(storage, experiment, trial_id, number)
        groups = [list(group) for _, group in itertools.groupby(new, key=lambda row: row["step"])]
        for group in groups:
            of_group = _mean(group) | curves.update_points(steps.get(group[0]["step"]))
            points.append((group[-1]["generation"] + 1, of_group))
        if groups:
            texts = [{name: group[0][name] for name in TEXT_COLUMNS} for group in groups]
            yield sorted(points, key=lambda point: point[0]), texts


def _mean(group: Sequence[Row]) -> dict[str, float]:
    points = [curves.text_points(row) for row in group]
    return {tag: sum(point[tag] for point in points) / len(points) for tag in points[0]}


def _updates(storage: Storage, experiment: str, trial_id: str, number: int) -> dict[int, Row]:
    path = part_path("steps", experiment, trial_id, number)
    return {row["step"]: row for row in read_part(storage, path)} if storage.exists(path) else {}
