"""A language model so small that all of its texts are listed: three tokens, at most four a text."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.float64]

END = 0
VOCABULARY = 3
LONGEST = 4
WORDS = ("", "ba", "ca")


def all_texts() -> list[tuple[int, ...]]:
    """Every text: up to its end token, or the first four tokens."""
    inner = range(1, VOCABULARY)
    ended = [(*text, END) for length in range(LONGEST) for text in itertools.product(inner, repeat=length)]
    return ended + list(itertools.product(inner, repeat=LONGEST))


TEXTS = all_texts()
PREFIXES = sorted({text[:place] for text in TEXTS for place in range(len(text))})


@dataclasses.dataclass(frozen=True)
class Model:
    """A distribution over `TEXTS`, with a reward for each."""

    logits: Reals
    """(15, 3) by prefix, then token."""
    rewards: Reals
    """(31,)"""

    @property
    def chance(self) -> Reals:
        """(31,) of each text."""
        return chances(self.logits)

    @property
    def tokens(self) -> NDArray[np.int64]:
        """(31,) of each text, its end token too."""
        return np.array([len(text) for text in TEXTS])

    @property
    def words(self) -> list[str]:
        """The texts for people."""
        return [" ".join(WORDS[token] for token in text if token != END) for text in TEXTS]

    def drawn(self, texts: int, seed: int) -> NDArray[np.int64]:
        """Places in `TEXTS` of so many texts that the model samples."""
        return np.random.default_rng(seed).choice(len(TEXTS), size=texts, p=self.chance)


def chances(logits: Reals) -> Reals:
    """(31,) the chance of each text under the conditional logits, (15, 3)."""
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    place = {prefix: row for row, prefix in enumerate(PREFIXES)}
    steps = [[log_p[place[text[:i]], token] for i, token in enumerate(text)] for text in TEXTS]
    return np.exp([sum(step) for step in steps])


def model(seed: int, tied: bool = True) -> Model:
    """Random logits; the reward is the number of repeated neighbours (many ties), or random (none)."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0.0, 0.7, (len(PREFIXES), VOCABULARY))
    pairs = [sum(a == b != END for a, b in itertools.pairwise(text)) for text in TEXTS]
    return Model(logits, np.array(pairs, dtype=float) if tied else generator.normal(1.0, 1.0, len(TEXTS)))


def best_of(toy: Model, n: float) -> Reals:
    """(31,) the exact chance of each text as the best of n, ties at random: F is raised to the power n."""
    _, level = np.unique(toy.rewards, return_inverse=True)
    mass = np.bincount(level, toy.chance)
    below = np.append(0.0, np.cumsum(mass) / mass.sum())
    return np.diff(below**n)[level] * toy.chance / mass[level]


def kl(p: Reals, q: Reals) -> float:
    """KL divergence of p from q, nats."""
    some = p > 0
    return float((p[some] * np.log(p[some] / q[some])).sum())


def covered(hits: int, times: int) -> bool:
    """Whether intervals held the truth 95% ± 2% of the time."""
    return 0.93 <= hits / times <= 0.97
