"""Measure results: every metric, for each trial and window of generations."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Sequence
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from rl_alliteration.analysis import diversity
from rl_alliteration.analysis.alliteration import LETTERS, alliterating_pairs, letter_entropy, top_letters_share
from rl_alliteration.analysis.collapse import collapse_generation
from rl_alliteration.analysis.seeds import Estimate, estimate, mean, resampled
from rl_alliteration.analysis.words import Words
from rl_alliteration.errors import Failure, UserError

WINDOW = 100
"""Generations per window, unless told otherwise."""
CURVE = 10
"""Generations per point of a trial's curves."""
SENSE_NATS = 0.25
"""How far the mean `original_lm_cross_entropy` of texts that keep their sense may be from the original's."""
SENSE_QUANTILE = 0.95
"""Quantile of the original's repetition that the mean repetition of texts that keep their sense stays below."""

Reals = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number that each window has."""

    title: str
    meaning: str
    digits: int = 2


METRICS: dict[str, Metric] = {
    "raw_reward": Metric("Raw reward", "mean reward of a text, before the KL penalty", 1),
    "alliteration": Metric(
        "Alliteration per 100 words", "adjacent words with the same initial letter, per 100 words", 1
    ),
    "longest_run": Metric("Longest run", "words of the longest alliterating run of a text, mean", 1),
    "letter_entropy": Metric("Entropy of letters", "of the shares of the initial letters that alliterate, nats"),
    "top_letters": Metric("Three commonest letters", "share of the alliteration that the three carry"),
    "variety": Metric("Variety", "1 − mean overlap (Jaccard) of the texts' sets of word pairs"),
    "near_copies": Metric("Near-copies", "share of texts that another one overlaps by 0.7 or more"),
    "distinct_1": Metric("Distinct-1", "different words per word, of 10 words a text drawn at random"),
    "distinct_2": Metric("Distinct-2", "different word pairs per pair, of 10 pairs a text drawn at random"),
    "distinct_3": Metric("Distinct-3", "different word triples per triple, of 10 triples a text drawn at random"),
    "self_bleu": Metric("Self-BLEU", "mean BLEU of each text against the others, first 50 words; high: alike"),
    "compression": Metric("Compression ratio", "bytes per compressed byte, of 100 bytes a text; high: alike"),
    "vendi": Metric("Vendi score", "effective number of different texts in a window", 1),
    "repetition": Metric("Repetition", "share of a text's word triples that occurred in it before, mean"),
    "distinct_words": Metric("Distinct words in a text", "different words among the first 50 of a text, per word"),
    "original_lm_cross_entropy": Metric("Cross-entropy, original model", "nats per token; low: likely texts"),
    "kl_penalty": Metric("KL penalty per token", "cross-entropy under the policy minus under the original, nats", 3),
    "kl_per_text": Metric("KL penalty per text", "the sum over a text's tokens, nats", 1),
    "num_words": Metric("Words per text", "mean", 1),
}
"""What a window is measured by, in the order in which to show it."""


@dataclasses.dataclass(frozen=True)
class Original:
    """The unmodified model: what every comparison is with. Means over its windows; intervals over its texts."""

    raw_reward: Estimate
    alliteration: Estimate
    repetition: Estimate
    cross_entropy: float
    repetition_limit: float
    """95th percentile of its texts' repetition."""
    metrics: dict[str, float]
    """Each of `METRICS`."""
    by_letter: Reals
    """(27,) alliterating pairs by `LETTERS`."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """A trial, its windows and what they say. K windows; the last one may not be full."""

    experiment: str
    trial_id: str
    algorithm: str
    beta: float
    """Fixed, or where a controlled coefficient began."""
    target_kl: float | None
    """What a controller steered the KL divergence to, nats a token; None if beta was fixed."""
    seed: int
    status: str
    reason: str
    """Of the status, where there is one: what stopped the trial."""
    began: str
    """When it was planned for the first time: ISO 8601, UTC."""
    generations: int
    max_generations: int
    reward_function: str
    group_size: int
    learning_rate: float
    model: str
    first: NDArray[np.int64]
    """(K,) first generation of each window."""
    texts: NDArray[np.int64]
    """(K,) texts in it."""
    metrics: dict[str, Reals]
    """Each of `METRICS`, (K,); nan where there is too little text to say."""
    intervals: dict[str, tuple[Reals, Reals]]
    """Low and high of the mean over texts of `raw_reward` and `alliteration`, (K,) each."""
    spread: Reals
    """(K,) standard deviation of the texts' raw rewards."""
    by_letter: Reals
    """(K, 27) alliterating pairs by `LETTERS`."""
    curve: dict[str, Reals]
    """Means of ten texts of `raw_reward` and `kl_penalty`, by `generation`."""
    window: int
    original: Original | None = None
    collapse: int | None = None
    """The generation at which it collapsed (`collapse.RULE`); None if it did not, or has no original."""
    apart: str = ""
    """What else sets it apart from the other trials of its reward, algorithm and coefficient: `, rate 0.0005`."""

    @property
    def coefficient(self) -> str:
        """Beta, or what took its place, in words; with what else there is that no seed explains."""
        return (f"beta {self.beta:g}" if self.target_kl is None else f"KL target {self.target_kl:g}") + self.apart

    @property
    def is_original(self) -> bool:
        """Whether it is the trial without updates."""
        return self.algorithm == "original"

    @property
    def full(self) -> NDArray[np.bool_]:
        """(K,) which windows are full."""
        return self.texts == self.window

    def until(self, length: int) -> Trial:
        """The trial as it was after `length` generations: only the windows that end by then."""
        kept = self.first + self.window <= length
        points = self.curve["generation"] < length
        cut = dataclasses.replace(
            self,
            generations=min(self.generations, length),
            first=self.first[kept],
            texts=self.texts[kept],
            metrics={name: values[kept] for name, values in self.metrics.items()},
            intervals={name: (low[kept], high[kept]) for name, (low, high) in self.intervals.items()},
            spread=self.spread[kept],
            by_letter=self.by_letter[kept],
            curve={name: values[points] for name, values in self.curve.items()},
        )
        return _compared(cut, self.original)

    def final(self, metric: str, texts: int = 300, before: int | None = None) -> float:
        """Mean of a metric over the full windows of the last `texts` generations (before generation `before`)."""
        chosen = self.full if before is None else self.full & (self.first + self.window <= before)
        values = self.metrics[metric][chosen][-max(1, texts // self.window) :]
        return float(values.mean()) if len(values) else float("nan")


@dataclasses.dataclass(frozen=True)
class Analysis:
    """All trials of some results, measured."""

    trials: list[Trial]
    window: int

    @property
    def trained(self) -> list[Trial]:
        """All but the originals, those without a text left out."""
        return [trial for trial in self.trials if not trial.is_original and len(trial.first)]


def measure(
    connection: duckdb.DuckDBPyConnection,
    experiment: str | None = None,
    window: int = WINDOW,
    trial_id: str | None = None,
) -> Analysis:
    """Measure all trials, or one experiment's, by reward, algorithm, beta, rate, group and seed; the originals last.

    Args:
        connection: with the views of `results.reader.connect`.
        experiment: only this one.
        window: generations per window.
        trial_id: only this one, with the originals.

    Raises:
        UserError: a window of fewer than 10 generations was asked for.
    """
    check_window(window)
    facts = _facts(connection, experiment, trial_id)
    trials = []
    originals: dict[Any, Original] = {}
    for fact in reversed(facts):  # the originals first
        comparable = tuple(fact.pop(name) for name in _SAMPLING)
        comparable = (*comparable, fact["model"], fact["reward_function"])
        exact = (*comparable, *(fact.pop(name) for name in _ROUNDING))
        columns = _columns(connection, fact["experiment"], fact["trial_id"])
        with threadpool_limits(1):  # the matrices are small: threads would only wait for one another
            trial, original = _measured(fact, columns, window)
        if trial.is_original:
            if original is not None:
                for alike in (exact, comparable):
                    originals[fact["experiment"], alike] = originals[alike] = original
        else:
            nearest = ((fact["experiment"], exact), exact, (fact["experiment"], comparable), comparable)
            found = next((originals[key] for key in nearest if key in originals), None)
            trial = _compared(trial, found)
        trials.append(trial)
    return Analysis(trials[::-1], window)


def measure_original(
    connection: duckdb.DuckDBPyConnection, experiment: str, trial_id: str, window: int = WINDOW
) -> Original:
    """What comparisons with one trial without updates are with.

    Raises:
        Failure: it has no full window.
    """
    fact = next(fact for fact in _facts(connection, experiment, trial_id) if fact["trial_id"] == trial_id)
    for name in (*_SAMPLING, *_ROUNDING):
        del fact[name]
    with threadpool_limits(1):
        _, original = _measured(fact, _columns(connection, experiment, trial_id), window)
    if original is None:
        raise Failure(f"{trial_id} has less than {window} texts: run the same command again")
    return original


_SAMPLING = ("prompt", "max_length", "temperature", "top_k")
_ROUNDING = ("dtype", "threads")


def _facts(connection: duckdb.DuckDBPyConnection, experiment: str | None, trial_id: str | None) -> list[dict[str, Any]]:
    """What `trials` says of each, in the order of `measure`."""
    answer = connection.execute(
        """
        SELECT experiment, trial_id, algorithm, beta, seed, status, reason, max_generations, reward_function,
               group_size, learning_rate, model, prompt, max_length, temperature, top_k, config, began
        FROM trials
        JOIN (SELECT experiment, trial_id, min(written_at) AS began FROM trial_events GROUP BY ALL)
        USING (experiment, trial_id)
        WHERE ($experiment IS NULL OR experiment = $experiment)
          AND ($trial_id IS NULL OR trial_id = $trial_id OR algorithm = 'original')
        ORDER BY algorithm = 'original', reward_function DESC, algorithm DESC, beta, learning_rate, group_size,
                 seed, experiment, trial_id
        """,
        {"experiment": experiment, "trial_id": trial_id},
    )
    names = [column[0] for column in answer.description]
    facts = [dict(zip(names, row, strict=True)) for row in answer.fetchall()]
    configs = [json.loads(fact.pop("config")) for fact in facts]
    for fact, config in zip(facts, configs, strict=True):
        fact |= {name: config.get(name) for name in ("target_kl", *_ROUNDING)}
    _tell_apart(facts, configs)
    return facts


def _tell_apart(facts: list[dict[str, Any]], configs: list[dict[str, Any]]) -> None:
    """Give each trial `apart`: in words, what differs among the trials that would pass for seeds of one setting."""
    settings: dict[tuple[Any, ...], list[int]] = {}
    for index, fact in enumerate(facts):
        coefficient = fact["beta"] if fact["target_kl"] is None else None
        setting = (fact["reward_function"], fact["algorithm"], coefficient, fact["target_kl"])
        settings.setdefault(setting, []).append(index)
    for group in settings.values():
        told = [_telling(facts[index], configs[index]) for index in group]
        differ = [len(set(words)) > 1 for words in zip(*told, strict=True)]
        for index, words in zip(group, told, strict=True):
            facts[index]["apart"] = "".join(f", {word}" for word, shown in zip(words, differ, strict=True) if shown)


def _telling(fact: dict[str, Any], config: dict[str, Any]) -> list[str]:
    """What else than reward, algorithm, coefficient and seed makes a trial's texts what they are, in words."""
    name, _, fingerprint = fact["model"].rpartition("@")
    prompts = [fact["prompt"], *config.get("more_prompts", ())]
    digest = hashlib.sha256("\n".join(prompts).encode()).hexdigest()[:4]
    return [
        f"rate {fact['learning_rate']:g}",
        f"group {fact['group_size']}",
        f"{name}@{fingerprint[:4]}",
        f"{len(prompts)} prompts ({digest})" if len(prompts) > 1 else f'"{prompts[0]}"',
        f"length {fact['max_length']}",
        f"temperature {fact['temperature']:g}",
        f"top-k {fact['top_k']}",
        config.get("dtype", ""),
        f"{config.get('threads')} threads",
        "" if fact["target_kl"] is None else f"from beta {fact['beta']:g}",
    ]


def check_window(window: int) -> None:
    """Whether it is long enough.

    Raises:
        UserError: it is not.
    """
    if window < CURVE:
        raise UserError(f"--window: {window} is not accepted; give {CURVE} generations or more")


_COLUMNS = ("generation", "text", "raw_reward", "kl_penalty", "original_lm_cross_entropy", "num_tokens")


def _columns(connection: duckdb.DuckDBPyConnection, experiment: str, trial_id: str) -> dict[str, Any]:
    table = connection.sql(
        f"SELECT {', '.join(_COLUMNS)} FROM generations WHERE experiment = ? AND trial_id = ? ORDER BY generation",
        params=[experiment, trial_id],
    ).to_arrow_table()
    texts = table.column("text").to_pylist()
    return {name: texts if name == "text" else table.column(name).to_numpy() for name in _COLUMNS}


def _measured(fact: dict[str, Any], columns: dict[str, Any], window: int) -> tuple[Trial, Original | None]:
    """The trial, and what it is as an original if it is one."""
    generation = columns["generation"]
    edges = np.append(np.flatnonzero(np.diff(generation // window, prepend=-1)), len(generation))
    slices = [slice(*edge) for edge in itertools.pairwise(edges)]
    measured = [_window({name: values[part] for name, values in columns.items()}) for part in slices]
    metrics = {name: np.array([numbers[name] for numbers, _ in measured]) for name in METRICS}
    by_letter = np.array([letters for _, letters in measured], dtype=float).reshape(len(measured), len(LETTERS))
    rewards = [columns["raw_reward"][part] for part in slices]
    rates = [numbers["alliteration_of_texts"] for numbers, _ in measured]
    trial = Trial(
        **fact,
        generations=int(generation[-1]) + 1 if len(generation) else 0,
        first=np.array([generation[part.start] // window * window for part in slices], dtype=np.int64),
        texts=np.diff(edges),
        metrics=metrics,
        intervals={"raw_reward": _intervals(rewards), "alliteration": _intervals(rates)},
        spread=np.array([values.std() for values in rewards]),
        by_letter=by_letter,
        curve=_curve(columns),
        window=window,
    )
    if not trial.is_original or not trial.full.any():
        return trial, None
    repetition = np.concatenate([numbers["repetition_of_texts"] for numbers, _ in measured])
    original = Original(
        raw_reward=estimate([columns["raw_reward"]], mean),
        alliteration=estimate([np.concatenate(rates)], mean),
        repetition=estimate([repetition], mean),
        cross_entropy=float(columns["original_lm_cross_entropy"].mean()),
        repetition_limit=float(np.quantile(repetition, SENSE_QUANTILE)),
        metrics={name: float(values[trial.full].mean()) for name, values in metrics.items()},
        by_letter=by_letter.sum(axis=0),
    )
    return trial, original


def _compared(trial: Trial, original: Original | None) -> Trial:
    if original is None:
        return trial
    full = trial.full
    collapse = collapse_generation(trial.metrics["variety"][full], trial.first[full], original.metrics["variety"])
    return dataclasses.replace(trial, original=original, collapse=collapse)


def keeps_sense(trial: Trial, nats: float = SENSE_NATS) -> NDArray[np.bool_]:
    """(K,) which windows keep the original's sense (design): as likely to it as its own texts, within `nats`, and
    on average no more repetitive than all but the most repetitive 5% of them. None without an original.
    """
    if trial.original is None:
        return np.zeros(len(trial.first), dtype=bool)
    away = np.abs(trial.metrics["original_lm_cross_entropy"] - trial.original.cross_entropy)
    return np.asarray((away <= nats) & (trial.metrics["repetition"] <= trial.original.repetition_limit))


def _window(columns: dict[str, Any]) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """The metrics of one window's texts, with two numbers a text beside them; pairs by letter."""
    texts = columns["text"]
    words = Words.of(texts)
    pairs, longest, by_letter = alliterating_pairs(words)
    overlap = diversity.overlaps(words)
    repetition = diversity.repetitions(words)
    drawn = diversity.GRAMS_PER_TEXT * len(texts)
    rates = 100.0 * pairs / np.maximum(words.lengths, 1)
    kl = columns["kl_penalty"]
    return {
        "raw_reward": columns["raw_reward"].mean(),
        "alliteration": rates.mean(),
        "longest_run": longest.mean(),
        "letter_entropy": letter_entropy(by_letter),
        "top_letters": top_letters_share(by_letter),
        "variety": diversity.mean_variety(overlap),
        "near_copies": diversity.near_copies(overlap),
        **{f"distinct_{n}": diversity.distinct(words, n, drawn) for n in (1, 2, 3)},
        "self_bleu": diversity.self_bleu(words.cut(diversity.WORDS)),
        "compression": diversity.compression(texts),
        "vendi": diversity.vendi(overlap),
        "repetition": repetition.mean(),
        "distinct_words": diversity.distinct_words(words),
        "original_lm_cross_entropy": columns["original_lm_cross_entropy"].mean(),
        "kl_penalty": kl.mean(),
        "kl_per_text": (kl * (columns["num_tokens"] - 1)).mean(),
        "num_words": words.lengths.mean(),
        "alliteration_of_texts": rates,
        "repetition_of_texts": repetition,
    }, by_letter


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
