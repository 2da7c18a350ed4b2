"""Variety where texts have several prompts."""

from __future__ import annotations

from collections.abc import Sequence

from rl_alliteration.analysis.diversity import variety


def variety_within_and_across(texts: Sequence[str], prompts: Sequence[str]) -> tuple[float, float]:
    """`variety` over pairs of texts of one prompt, and over pairs of two; nan where there is no such pair.

    >>> variety_within_and_across(["a b", "a b", "c d", "c d"], ["A", "A", "C", "C"])
    (0.0, 1.0)
    """
    by_prompt: dict[str, list[str]] = {}
    for text, prompt in zip(texts, prompts, strict=True):
        by_prompt.setdefault(prompt, []).append(text)
    groups = [_overlap(group) for group in by_prompt.values()]
    pairs_within, overlap_within = sum(pairs for pairs, _ in groups), sum(overlap for _, overlap in groups)
    pairs, overlap = _overlap(texts)
    return (
        _one_minus_mean(overlap_within, pairs_within),
        _one_minus_mean(overlap - overlap_within, pairs - pairs_within),
    )


def _overlap(texts: Sequence[str]) -> tuple[float, float]:
    """How many pairs of texts there are, and the sum of their overlaps."""
    pairs = len(texts) * (len(texts) - 1) / 2
    return pairs, pairs * (1 - variety(texts)) if pairs else 0.0


def _one_minus_mean(overlap: float, pairs: float) -> float:
    return 1 - overlap / pairs if pairs else float("nan")
