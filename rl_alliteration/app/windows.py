"""Windows of trials as they grow: what DuckDB sums by part, what must be measured of texts, and the two as a `Trial`.

Parts are immutable: what is known of one, by path and size, is known for good; a window is measured again only when
the parts that it lies in are others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from rl_alliteration.analysis.alliteration import LETTERS
from rl_alliteration.analysis.measure import measured
from rl_alliteration.analysis.metrics import COLUMNS, METRICS, Window
from rl_alliteration.analysis.types import WINDOW, Original, Trial
from rl_alliteration.analysis.words import Reals
from rl_alliteration.flags import COMPLETION
from rl_alliteration.foreign import Damaged
from rl_alliteration.results.schema import part_number
from rl_alliteration.results.storage import storage_at

SUMS = {
    "raw_reward": "raw_reward",
    "objective": "reward",
    "original_lm_cross_entropy": "original_lm_cross_entropy",
    "kl_penalty": "kl_penalty",
    "kl_per_text": "-kl_penalty * (num_tokens - 1)",
    "num_words": "num_words",
}
"""Metrics that are means of columns: known before any text is read."""
OF_TEXTS = tuple(name for name in METRICS if name not in SUMS)
"""The others."""

_SUMMED = (*SUMS.values(), "num_tokens", "raw_reward * raw_reward", "reward * reward")
NUMBERS_SQL = f"""
    SELECT experiment, trial_id, filename, generation // {WINDOW} AS place, count(*) AS texts,
           min(generation) AS first, max(generation) AS last, {", ".join(f"sum({one})" for one in _SUMMED)}
    FROM parts GROUP BY ALL
"""
SECONDS_SQL = f"""
    SELECT experiment, trial_id, filename, generation // {WINDOW} AS place,
           sum(sample_seconds + train_seconds) AS seconds
    FROM parts GROUP BY ALL
"""


@dataclasses.dataclass
class Numbers:
    """Sums over the texts of one part that lie in one window."""

    texts: int
    last: int
    sums: Reals
    """In the order of `_SUMMED`."""


class TrialWindows:
    """What is known of a trial's windows."""

    def __init__(self) -> None:
        self.parts: dict[str, int] = {}
        """Bytes by path, in the order of their numbers."""
        self.numbers: dict[str, dict[int, Numbers]] = {}
        """By part, and place of the window."""
        self.seconds: dict[str, dict[int, float]] = {}
        """Of the device, by part of `steps`, and place of the window."""
        self.revision = 0
        """Another one whenever anything of it has changed."""
        self._of_texts: dict[int, tuple[Hashable, Reals]] = {}
        """By place of the window: the parts that it was measured from; `OF_TEXTS`, then `LETTERS`."""
        self._missing: tuple[int, list[int]] = (-1, [])

    @property
    def generations(self) -> int:
        """Texts that are stored."""
        return max((one.last + 1 for part in self.numbers.values() for one in part.values()), default=0)

    def places(self) -> list[int]:
        """Windows that have a text, in their order."""
        return sorted({place for part in self.numbers.values() for place in part})

    def of(self, place: int) -> tuple[tuple[str, int], ...]:
        """The parts that a window lies in."""
        return tuple((path, self.parts[path]) for path in self.parts if place in self.numbers.get(path, {}))

    def missing(self) -> list[int]:
        """Windows whose texts are to be measured, or measured again, the last first."""
        if self._missing[0] != self.revision:
            found = [place for place in reversed(self.places()) if self._known(place) is None]
            self._missing = (self.revision, found)
        return self._missing[1]

    def stand(self, sizes: Mapping[str, int]) -> list[str]:
        """There are these parts now, in the order of their numbers; those of them that are new, or others."""
        if sizes == self.parts:
            return []
        fresh = [path for path, size in sizes.items() if self.parts.get(path) != size]
        self.numbers = {path: found for path, found in self.numbers.items() if path in sizes and path not in fresh}
        self.parts = dict(sizes)
        there = set(self.places())
        self._of_texts = {place: found for place, found in self._of_texts.items() if place in there}
        self.revision += 1
        return fresh

    def add(self, path: str, place: int, numbers: Numbers) -> None:
        """What was summed of a part."""
        self.numbers.setdefault(path, {})[place] = numbers
        self.revision += 1

    def add_seconds(self, path: str, place: int, seconds: float) -> None:
        """What was summed of a part of `steps`."""
        self.seconds.setdefault(path, {})[place] = seconds
        self.revision += 1

    def keep(self, place: int, parts: Hashable, values: Reals) -> None:
        """What was measured of the texts of a window that lay in these parts."""
        self._of_texts[place] = (parts, values)
        self.revision += 1

    def leave(self, place: int, parts: Hashable) -> None:
        """The texts of a window cannot be read as long as it lies in these parts."""
        self.keep(place, parts, np.full(len(OF_TEXTS) + len(LETTERS), np.nan))

    def _known(self, place: int) -> Reals | None:
        found = self._of_texts.get(place)
        return found[1] if found is not None and found[0] == self.of(place) else None

    def as_trial(self, fact: Mapping[str, Any]) -> Trial:
        """The trial; what was not measured yet is nan. It has no intervals and no curve.

        Args:
            fact: other fields of `Trial`.
        """
        places = self.places()
        texts = np.zeros(len(places), dtype=np.int64)
        sums = np.zeros((len(places), len(_SUMMED)))
        row = {place: index for index, place in enumerate(places)}
        for part in self.numbers.values():
            for place, one in part.items():
                texts[row[place]] += one.texts
                sums[row[place]] += one.sums
        means = sums / np.maximum(texts, 1)[:, None]
        known = np.full((len(places), len(OF_TEXTS) + len(LETTERS)), np.nan)
        for index, place in enumerate(places):
            values = self._known(place)
            if values is not None:
                known[index] = values
        named = {name: means[:, k] for k, name in enumerate(SUMS)}
        named |= {name: known[:, k] for k, name in enumerate(OF_TEXTS)}
        return Trial(
            **fact,
            generations=self.generations,
            first=np.array(places, dtype=np.int64) * WINDOW,
            texts=texts,
            metrics={name: named[name] for name in METRICS},
            intervals={},
            spread=np.sqrt(np.maximum(means[:, -2] - means[:, 0] ** 2, 0.0)),
            by_letter=np.nan_to_num(known[:, len(OF_TEXTS) :]),
            curve={name: np.zeros(0) for name in ("generation", "raw_reward", "kl_penalty")},
            window=WINDOW,
        )

    def tokens(self) -> Reals:
        """(K,) tokens until the end of each window."""
        return np.cumsum(self._each(lambda one: one.sums[len(SUMS)]))

    def objective_variance(self) -> Reals:
        """(K,) variance of the objective over each window's texts."""
        texts = self._each(lambda one: one.texts)
        mean, square = (self._each(lambda one, k=k: one.sums[k]) / np.maximum(texts, 1) for k in (1, len(_SUMMED) - 1))
        return np.maximum(square - mean**2, 0.0)

    def elapsed(self) -> Reals:
        """(K,) seconds of the device until the end of each window; nan where no update was stored."""
        if not self.seconds:
            return np.full(len(self.places()), np.nan)
        spent: dict[int, float] = {}
        for part in self.seconds.values():
            for place, seconds in part.items():
                spent[place] = spent.get(place, 0.0) + seconds
        return np.cumsum([spent.get(place, 0.0) for place in self.places()])

    def _each(self, value: Any) -> Reals:
        found: dict[int, float] = {}
        for part in self.numbers.values():
            for place, one in part.items():
                found[place] = found.get(place, 0.0) + value(one)
        return np.array([found[place] for place in sorted(found)], dtype=np.float64)


# --- in a process of its own --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Work:
    """Windows of one trial to measure, or the whole of an original."""

    location: str
    pair: tuple[str, str]
    parts: tuple[str, ...]
    """Those that they lie in, in order."""
    places: tuple[int, ...]
    fact: Mapping[str, Any] | None = None
    """Of an original: fields of `Trial`."""


def do(work: Work) -> dict[int, NDArray[np.float64]] | Original | None:
    """`OF_TEXTS` and `LETTERS` of each window, by place; or what an original is, None without a full window.

    Raises:
        Failure: a part cannot be read.
    """
    columns = _columns(work)
    if work.fact is not None:
        return measured(dict(work.fact), columns, WINDOW)[1]
    found = {}
    place = columns["generation"] // WINDOW
    with threadpool_limits(1):  # the matrices are small
        for wanted in work.places:
            rows = np.flatnonzero(place == wanted)
            if not len(rows):
                continue
            own = slice(rows[0], rows[-1] + 1)
            window = Window({name: values[own] for name, values in columns.items()})
            numbers = [METRICS[name].value(window) for name in OF_TEXTS]
            found[wanted] = np.array([*numbers, *window.by_letter], dtype=np.float64)
    return found


def _columns(work: Work) -> dict[str, Any]:
    storage = storage_at(work.location)
    names = ["generation", *COLUMNS]
    tables = []
    for path in sorted(work.parts, key=part_number):
        with storage.open(path) as file, pq.ParquetFile(file) as part:
            there = part.schema_arrow.names
            if not set(names) <= set(there):
                raise Damaged(f"{path} is damaged: it has no column {min(set(names) - set(there))!r}")
            of_reward = [name for name in ("reward_of", "completion") if name in there]
            table = part.read(columns=[*names, *of_reward], use_threads=False)
            if len(of_reward) == 2:  # since version 2 of the schema
                chosen = pc.if_else(pc.equal(table["reward_of"], COMPLETION), table["completion"], table["text"])
                table = table.set_column(table.column_names.index("text"), "text", chosen)
            tables.append(table.select(names))
    table = pa.concat_tables(tables).sort_by("generation")
    if any(column.null_count for column in table.columns):
        raise Damaged(f"the texts of {'/'.join(work.pair)} are damaged: a value is missing, see `verify`")
    texts: Sequence[str] = table.column("text").to_pylist()
    return {name: texts if name == "text" else table.column(name).to_numpy() for name in names}
