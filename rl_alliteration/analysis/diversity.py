"""Variety of a set of texts and repetition within one, each with its source."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from rl_alliteration.analysis.words import Counts, Ints, Reals, Words

NEAR_COPY = 0.7
"""Overlap from which on two texts are near-copies."""
WORDS = 50
"""Words of each text that self-BLEU, compression and distinct words look at: they favour short texts otherwise."""
GRAMS_PER_TEXT = 10
"""N-grams per text that distinct-n is of."""
BYTES_PER_TEXT = 100
"""Bytes per text that the compression ratio is of."""


def variety(texts: Sequence[str]) -> float:
    """1 − mean pairwise Jaccard overlap of the texts' sets of word bigrams; 0 … 1, nan for fewer than two texts.

    >>> variety(["a b c", "a b c"]), variety(["a b c", "d e f"])
    (0.0, 1.0)
    """
    return mean_variety(overlaps(Words.of(texts)))


def repetition(text: str) -> float:
    """Share of a text's word trigrams that occurred earlier in it; 0 for texts of fewer than three words.

    >>> repetition("the the the the")
    0.5
    """
    return float(repetitions(Words.of([text]))[0])


def overlaps(words: Words) -> Reals:
    """(N, N) Jaccard overlap of each two texts' sets of word bigrams."""
    pairs = words.counts(2)
    sizes = np.bincount(pairs.text, minlength=len(words))
    common = np.bincount(pairs.gram, minlength=1) > 1  # most pairs are of one text alone
    column = np.cumsum(common) - 1
    presence = np.zeros((len(words), int(common.sum()) + -int(common.sum()) % 64), dtype=bool)
    kept = common[pairs.gram]
    presence[pairs.text[kept], column[pairs.gram[kept]]] = True
    bits = np.packbits(presence, axis=1).view(np.uint64)
    shared = np.bitwise_count(bits[:, None] & bits[None, :]).sum(axis=2, dtype=np.int64)
    np.fill_diagonal(shared, sizes)
    union = sizes[:, None] + sizes[None, :] - shared
    # Two texts without a bigram (a word or less each) are the same to this measure.
    found: Reals = np.divide(shared, union, out=np.ones(shared.shape), where=union > 0)
    return found


def mean_variety(overlap: Reals) -> float:
    """1 − the mean of the overlaps of different texts; nan for fewer than two."""
    count = len(overlap)
    if count < 2:
        return float("nan")
    return float(1.0 - (overlap.sum() - np.trace(overlap)) / (count * (count - 1)))


def near_copies(overlap: Reals) -> float:
    """Share of texts that another text overlaps by 0.7 or more; nan for fewer than two."""
    if len(overlap) < 2:
        return float("nan")
    others = overlap - np.diag(np.full(len(overlap), np.inf))
    return float((others.max(axis=1) >= NEAR_COPY).mean())


def vendi(overlap: Reals) -> float:
    """Effective number of different texts, 1 … N: exp of the entropy of the eigenvalues of overlap / N (2210.02410)."""
    if not len(overlap):
        return float("nan")
    eigenvalues = np.linalg.eigvalsh(overlap / len(overlap))
    positive = eigenvalues[eigenvalues > 1e-12]
    return float(np.exp(-(positive * np.log(positive)).sum()))


def distinct(words: Words, n: int, drawn: int | None = None) -> float:
    """Distinct n-grams per n-gram, over all texts together (1510.03055), 0 … 1.

    Args:
        words: the texts.
        n: words per n-gram.
        drawn: how many n-grams the number is of: the expectation over draws without replacement, so that sets of
            more or longer texts are not at a disadvantage. None: all; nan if there are fewer.
    """
    counts = words.counts(n)
    each = np.bincount(counts.gram, counts.count, minlength=counts.grams).astype(np.int64)
    total = int(each.sum())
    drawn = total if drawn is None else drawn
    if total < drawn or drawn == 0:
        return float("nan")
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, total + 1)))])
    # An n-gram of k occurrences is missed with chance C(total − k, drawn) / C(total, drawn).
    rest = total - each
    possible = rest >= drawn
    missed = np.zeros(len(each))
    missed[possible] = np.exp(
        log_factorial[rest[possible]]
        - log_factorial[rest[possible] - drawn]
        - log_factorial[total]
        + log_factorial[total - drawn]
    )
    return float((1.0 - missed).sum() / drawn)


def self_bleu(words: Words) -> float:
    """Mean BLEU-4 of each text against all others (1802.01886), 0 … 1; nan for fewer than two texts.

    sacrebleu's sentence BLEU with `tokenize="none"`: exponential smoothing, effective order, closest length.
    """
    count = len(words)
    if count < 2:
        return float("nan")
    log_precision, order, matched = np.zeros(count), np.zeros(count), np.zeros(count)
    halvings = np.zeros(count)
    for n in range(1, 5):
        counts = words.counts(n)
        total = np.bincount(counts.text, counts.count, minlength=count)
        hits = np.bincount(counts.text, np.minimum(counts.count, _most_elsewhere(counts)), minlength=count)
        there = total > 0
        halvings += there & (hits == 0)
        # Where nothing matches: half a match, a quarter the next time, and so on.
        smoothed = np.where(hits > 0, hits, 0.5**halvings)
        log_precision[there] += np.log(smoothed[there] / total[there])
        order += there
        matched += hits
    scores = np.exp(np.divide(log_precision, order, out=np.zeros(count), where=order > 0))
    return float(np.mean(np.where(matched > 0, scores * _brevity(words.lengths), 0.0)))


def compression(texts: Sequence[str]) -> float:
    """Bytes per compressed byte (zlib, 2403.00553) of the first 50 words of each text; higher: more alike.

    Of 100 bytes a text, as the ratio grows with the amount; nan if there are fewer.
    """
    data = "\n".join(" ".join(text.split()[:WORDS]) for text in texts).encode("utf-8", "replace")
    size = BYTES_PER_TEXT * len(texts)
    if not size or len(data) < size:
        return float("nan")
    return size / len(zlib.compress(data[:size], 9))


def repetitions(words: Words) -> Reals:
    """(N,) share of each text's word trigrams that occurred earlier in it; 0 for texts of fewer than three words."""
    counts = words.counts(3)
    total = np.bincount(counts.text, counts.count, minlength=len(words))
    different = np.bincount(counts.text, minlength=len(words))
    return 1.0 - np.divide(different, total, out=np.ones(len(words)), where=total > 0)


def distinct_words(words: Words) -> float:
    """Mean number of different words among the first 50 of a text, per word; nan if all texts are shorter."""
    counts = words.cut(WORDS).counts(1)
    different = np.bincount(counts.text, minlength=len(words))[words.lengths >= WORDS]
    return float(different.mean() / WORDS) if len(different) else float("nan")


def _most_elsewhere(counts: Counts) -> Ints:
    """(K,) the largest count of each entry's n-gram in any other text."""
    if not len(counts.gram):
        return counts.count
    starts = np.flatnonzero(np.diff(counts.gram, prepend=-1))
    group = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(counts.gram)))
    largest = np.maximum.reduceat(counts.count, starts)
    at_largest = counts.count == largest[group]
    alone = np.add.reduceat(at_largest.astype(np.int64), starts) == 1
    second = np.maximum.reduceat(np.where(at_largest, 0, counts.count), starts)
    return np.where(at_largest & alone[group], second[group], largest[group])


def _brevity(lengths: Ints) -> Reals:
    """(N,) BLEU's penalty of texts shorter than the other text closest in length (the shorter of two as close)."""
    away = np.abs(lengths[:, None] - lengths[None, :]) * 2 + (lengths[None, :] > lengths[:, None])
    np.fill_diagonal(away, np.iinfo(np.int64).max)
    closest = lengths[away.argmin(axis=1)]
    short = (lengths < closest) & (lengths > 0)
    return np.where(short, np.exp(1.0 - closest / np.maximum(lengths, 1)), 1.0)
