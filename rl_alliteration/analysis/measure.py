"""Measure results: every metric, for each trial and window of generations."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Generic, TypeVar

import duckdb
import numpy as np
from threadpoolctl import threadpool_limits

from rl_alliteration.analysis.alliteration import LETTERS
from rl_alliteration.analysis.metrics import COLUMNS, METRICS, Window
from rl_alliteration.analysis.rules import SENSE_QUANTILE, collapse_of
from rl_alliteration.analysis.seeds import estimate, mean, resampled
from rl_alliteration.analysis.types import WINDOW, Analysis, Original, Trial
from rl_alliteration.analysis.words import Reals
from rl_alliteration.config import NOT_OF_ORIGINALS, ORIGINAL, ROUNDING, SAMPLING, SETTINGS, PlannedTrial, TrialConfig
from rl_alliteration.errors import Failure, UserError
from rl_alliteration.flags import UpdateSettings
from rl_alliteration.foreign import Damaged
from rl_alliteration.names import coefficient, differences, trial_names
from rl_alliteration.results.originals import found_elsewhere, original_ids
from rl_alliteration.results.reader import trial_rows, whole
from rl_alliteration.rows import REWARDED
from rl_alliteration.setting import values_of

CURVE = 10
"""Generations per point of a trial's curves."""
T = TypeVar("T")
OriginalKeys = tuple[tuple[Hashable, ...], tuple[Hashable, ...]]


def measure(
    connection: duckdb.DuckDBPyConnection,
    experiment: str | None = None,
    window: int = WINDOW,
    trial_id: str | None = None,
    skip: Callable[[Damaged], None] | None = None,
) -> Analysis:
    """Measure all trials, or one experiment's, by reward, algorithm, beta, rate, group and seed; the originals last.

    Each is compared with the original of its model, prompt and sampling, one of the same rounding if there is one; of
    several with the longest. An experiment's own come before those that it has from another one.

    Args:
        connection: with the views of `results.reader.connect`.
        experiment: only this one.
        window: generations per window.
        trial_id: only this one, with the originals.
        skip: called with the error of an original in another experiment whose newest event is damaged.

    Raises:
        UserError: a window of fewer than 10 generations was asked for.
        Damaged: an event or a text is, and there is no `skip` for it.
    """
    check_window(window)
    trials = []
    originals: list[Candidate[Original]] = []
    for fact in reversed(facts(connection, experiment, trial_id, skip)):  # the originals first
        keys = fact.pop("original_keys")
        del fact["planned"]
        trial, original = measured(fact, _columns(connection, fact["experiment"], fact["trial_id"]), window)
        if trial.is_original:
            if original is not None:
                originals.append(Candidate(keys, fact["experiment"], trial.generations, original))
        else:
            trial = compared(trial, nearest(originals, fact["experiment"], keys))
        trials.append(trial)
    return Analysis(trials[::-1], window)


def measure_some(
    connection: duckdb.DuckDBPyConnection, pairs: Sequence[tuple[str, str]], window: int = WINDOW
) -> list[tuple[Trial, PlannedTrial]]:
    """Some trials, by experiment and id, in that order and by the names that they have among all; without originals.

    Raises:
        UserError: a window of fewer than 10 generations was asked for.
        Damaged: an event or a text is.
    """
    check_window(window)
    by_pair = {(fact["experiment"], fact["trial_id"]): fact for fact in facts(connection)}
    found = []
    for pair in pairs:
        fact = by_pair[pair]
        planned = fact["planned"]
        of_trial = {name: value for name, value in fact.items() if name not in ("planned", "original_keys")}
        found.append((measured(of_trial, _columns(connection, *pair), window)[0], planned))
    return found


def measure_original(
    connection: duckdb.DuckDBPyConnection, experiment: str, trial_id: str, window: int = WINDOW
) -> Original:
    """What comparisons with one trial without updates are with; another experiment may have more of it.

    Raises:
        Failure: it has no full window.
    """
    experiment = found_elsewhere(connection, experiment, [trial_id]).get(trial_id, experiment)
    fact = next(fact for fact in facts(connection, experiment, trial_id) if fact["trial_id"] == trial_id)
    del fact["original_keys"], fact["planned"]
    _, original = measured(fact, _columns(connection, experiment, trial_id), window)
    if original is None:
        raise Failure(f"{trial_id} has less than {window} texts: run the same command again")
    return original


def until(trial: Trial, length: int) -> Trial:
    """The trial as it was after `length` generations: only the windows that end by then."""
    kept = trial.first + trial.window <= length
    points = trial.curve["generation"] < length
    cut = dataclasses.replace(
        trial,
        generations=min(trial.generations, length),
        first=trial.first[kept],
        texts=trial.texts[kept],
        metrics={name: values[kept] for name, values in trial.metrics.items()},
        intervals={name: (low[kept], high[kept]) for name, (low, high) in trial.intervals.items()},
        spread=trial.spread[kept],
        by_letter=trial.by_letter[kept],
        curve={name: values[points] for name, values in trial.curve.items()},
    )
    return compared(cut, trial.original)


def original_keys(config: TrialConfig, model: str) -> OriginalKeys:
    """What a trial has in common with its original: in all that settles its texts, and in all but rounding.

    Args:
        config: of the trial.
        model: its name and fingerprint, as `trials` has them.
    """
    settings = [
        tuple(
            getattr(config, name)
            for name, declared in SETTINGS.items()
            if declared.kind == kind and name not in NOT_OF_ORIGINALS
        )
        for kind in (SAMPLING, ROUNDING)
    ]
    but_rounding = (*settings[0], model.rpartition("@")[2], config.reward)
    return (*but_rounding, *settings[1]), but_rounding


@dataclasses.dataclass(frozen=True)
class Candidate(Generic[T]):
    """An original that trials may be compared with."""

    keys: OriginalKeys
    experiment: str
    texts: int
    value: T


def nearest(candidates: Iterable[Candidate[T]], experiment: str, keys: OriginalKeys) -> T | None:
    """What to compare a trial with: an original of its rounding, then the longest, then its experiment's own."""
    alike = [one for one in candidates if one.keys[1] == keys[1]]
    if not alike:
        return None
    return max(alike, key=lambda one: (one.keys[0] == keys[0], one.texts, one.experiment == experiment)).value


def facts(
    connection: duckdb.DuckDBPyConnection,
    experiment: str | None = None,
    trial_id: str | None = None,
    skip: Callable[[Damaged], None] | None = None,
) -> list[dict[str, Any]]:
    """What `trials` says of each, in the order of `measure`: fields of `Trial`, `planned` and `original_keys`.

    Without an experiment, `connection` needs the views `trials` and `trial_events` alone.
    """
    found = _rows(connection, experiment, trial_id)
    if experiment is not None:
        names = original_ids(fact["planned"] for fact in found)
        for original, other in found_elsewhere(connection, experiment, names, skip).items():
            found += _rows(connection, other, original, originals=False)
    trials = [fact["planned"] for fact in found]
    for fact, trial in zip(found, trials, strict=True):
        config = trial.config
        fact |= {"target_kl": config.target_kl, "original_keys": original_keys(config, fact["model"])}
        fact["update"] = UpdateSettings(**values_of(UpdateSettings, config))
    _tell_apart(found, trials)
    several = len({fact["experiment"] for fact in found}) > 1
    for fact, name in zip(found, trial_names(trials, always=("reward",)), strict=True):
        told = several and fact["experiment"] != experiment
        fact["name"] = f"{name}, {fact['experiment']}" if told else name
    return found


def _rows(
    connection: duckdb.DuckDBPyConnection, experiment: str | None, trial_id: str | None, *, originals: bool = True
) -> list[dict[str, Any]]:
    """`originals`: with them, where one trial is asked for."""
    answer = connection.execute(
        f"""
        SELECT experiment, trial_id, algorithm, if(algorithm = $original, 0, beta) AS beta, seed, status, reason,
               max_generations, reward_function, group_size, learning_rate, model, config, checkpoint_every, began
        FROM trials
        JOIN (SELECT experiment, trial_id, min(written_at) AS began FROM trial_events GROUP BY ALL)
        USING (experiment, trial_id)
        WHERE ($experiment IS NULL OR experiment = $experiment)
          AND ($trial_id IS NULL OR trial_id = $trial_id {"OR algorithm = $original" if originals else ""})
        ORDER BY algorithm = $original, reward_function DESC, algorithm DESC, beta, learning_rate, group_size, seed,
                 experiment, trial_id
        """,
        {"experiment": experiment, "trial_id": trial_id, "original": ORIGINAL},
    )
    return trial_rows(answer)


def _tell_apart(facts: list[dict[str, Any]], trials: Sequence[PlannedTrial]) -> None:
    """Give each trial `apart`: in words, what differs among the trials that would pass for seeds of one setting."""

    def setting(config: TrialConfig) -> tuple[Any, ...]:
        return config.reward, config.algorithm, coefficient(config)

    for fact, words in zip(facts, differences(trials, setting, but=("seed",)), strict=True):
        fact["apart"] = "".join(f", {word}" for word in words)


def check_window(window: int) -> None:
    """Whether it is long enough.

    Raises:
        UserError: it is not.
    """
    if window < CURVE:
        raise UserError(f"--window: {window} is not accepted; give {CURVE} generations or more")


def _columns(connection: duckdb.DuckDBPyConnection, experiment: str, trial_id: str) -> dict[str, Any]:
    names = ("generation", *COLUMNS)
    selected = (f"{REWARDED} AS text" if name == "text" else name for name in names)
    table = connection.sql(
        f"SELECT {', '.join(selected)} FROM generations WHERE experiment = ? AND trial_id = ? ORDER BY generation",
        params=[experiment, trial_id],
    ).to_arrow_table()
    table = whole(table, experiment, trial_id)
    texts = table.column("text").to_pylist()
    return {name: texts if name == "text" else table.column(name).to_numpy() for name in names}


def measured(fact: dict[str, Any], columns: dict[str, Any], size: int) -> tuple[Trial, Original | None]:
    """The trial, and what it is as an original if it is one.

    Args:
        fact: fields of `Trial`, see `facts`.
        columns: `generation` and those of `COLUMNS`, in order; `text` a list, the others arrays.
        size: generations per window.
    """
    with threadpool_limits(1):  # the matrices are small: threads would only wait for one another
        return _measured(fact, columns, size)


def _measured(fact: dict[str, Any], columns: dict[str, Any], size: int) -> tuple[Trial, Original | None]:
    generation = columns["generation"]
    edges = np.append(np.flatnonzero(np.diff(generation // size, prepend=-1)), len(generation))
    slices = [slice(*edge) for edge in itertools.pairwise(edges)]
    windows = [Window({name: values[part] for name, values in columns.items()}) for part in slices]
    trial = Trial(
        **fact,
        generations=int(generation[-1]) + 1 if len(generation) else 0,
        first=np.array([generation[part.start] // size * size for part in slices], dtype=np.int64),
        texts=np.diff(edges),
        metrics={name: np.array([metric.value(window) for window in windows]) for name, metric in METRICS.items()},
        intervals={
            name: _intervals([np.asarray(metric.of(window)) for window in windows])
            for name, metric in METRICS.items()
            if metric.interval
        },
        spread=np.array([window["raw_reward"].std() for window in windows]),
        by_letter=np.array([window.by_letter for window in windows], dtype=float).reshape(len(windows), len(LETTERS)),
        curve=_curve(columns),
        window=size,
    )
    return trial, _as_original(trial, windows) if trial.is_original and trial.full.any() else None


def _as_original(trial: Trial, windows: Sequence[Window]) -> Original:
    def of_texts(name: str) -> Reals:
        return np.concatenate([np.asarray(METRICS[name].of(window)) for window in windows])

    return Original(
        raw_reward=estimate([of_texts("raw_reward")], mean),
        alliteration=estimate([of_texts("alliteration")], mean),
        repetition=estimate([of_texts("repetition")], mean),
        cross_entropy=float(of_texts("original_lm_cross_entropy").mean()),
        repetition_limit=float(np.quantile(of_texts("repetition"), SENSE_QUANTILE)),
        metrics={name: float(values[trial.full].mean()) for name, values in trial.metrics.items()},
        by_letter=trial.by_letter.sum(axis=0),
        rewards=of_texts("raw_reward"),
        tokens=np.concatenate([window["num_tokens"] for window in windows]).astype(np.int64) - 1,
    )


def compared(trial: Trial, original: Original | None) -> Trial:
    """The trial beside an original: with it, and with whether it collapsed."""
    beside = dataclasses.replace(trial, original=original)
    return dataclasses.replace(beside, collapse=collapse_of(beside))


def _intervals(samples: Sequence[Reals]) -> tuple[Reals, Reals]:
    """Low and high of the mean of each sample, by the bootstrap."""
    bounds = [np.quantile(mean(resampled(values)), [0.025, 0.975]) for values in samples]
    lows_highs = np.array(bounds).reshape(len(samples), 2)
    return lows_highs[:, 0], lows_highs[:, 1]


def _curve(columns: dict[str, Any]) -> dict[str, Reals]:
    generation = columns["generation"]
    starts = np.flatnonzero(np.diff(generation // CURVE, prepend=-1))
    if not len(starts):
        return {name: np.zeros(0) for name in ("generation", "raw_reward", "kl_penalty")}
    counts = np.diff(starts, append=len(generation))
    means = {name: np.add.reduceat(columns[name], starts) / counts for name in ("raw_reward", "kl_penalty")}
    return {"generation": generation[starts].astype(float), **means}
