"""A language model so small that all its texts can be listed: a table of logits by prefix, float64, autograd."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from rl_alliteration.rl.advantages import get_algorithm
from rl_alliteration.rl.credit import Scored
from rl_alliteration.rl.losses import loss_of
from rl_alliteration.rl.objective import Group, token_weights
from rl_alliteration.rl.update import UpdateRule

LENGTH = 4  # most tokens of a text


class Toy:
    """Policy and reference over `vocabulary` tokens, of which 0 ends a text if `ends`; each prefix has its own row.

    `log_p`, `log_q` and `divergence` of every text are (texts, LENGTH − 1), as a group's columns are.
    """

    def __init__(self, vocabulary: int, prompt: tuple[int, ...], *, ends: bool, beta: float = 2.0) -> None:
        self.beta, self.prompt = beta, prompt
        random = torch.Generator().manual_seed(vocabulary + len(prompt))
        prefixes = [p for n in range(1, LENGTH) for p in itertools.product(range(vocabulary), repeat=n)]
        row = {prefix: place for place, prefix in enumerate(prefixes)}
        self.policy, self.reference = (
            torch.randn(len(prefixes), vocabulary, generator=random, dtype=torch.float64) for _ in range(2)
        )
        self.gain = torch.randn(len(prefixes), vocabulary, generator=random, dtype=torch.float64)  # reward of a token
        self.texts = [prompt + rest for rest in _rests(vocabulary, LENGTH - len(prompt), ends)]
        self.mask = np.array([[n < len(text) for n in range(1, LENGTH)] for text in self.texts])
        self.sampled = self.mask & (np.arange(1, LENGTH) >= len(prompt))
        places = [[min(n, len(text) - 1) for n in range(1, LENGTH)] for text in self.texts]
        found = list(zip(self.texts, places, strict=True))
        self.rows = torch.tensor([[row[text[:n]] for n in of_text] for text, of_text in found])
        self.tokens = torch.tensor([[text[n] for n in of_text] for text, of_text in found])
        self.rewards = self.of_tokens(self.gain) * torch.from_numpy(self.sampled)
        self.log_q = self.log_probabilities(self.reference)
        self.own_share = 1 / torch.from_numpy(self.mask.sum(-1)).double()
        self.share = 1 / (LENGTH - 1)

    def of_tokens(self, table: torch.Tensor) -> torch.Tensor:
        return table[self.rows, self.tokens]

    def log_probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        return self.of_tokens(logits.log_softmax(-1)) * torch.from_numpy(self.mask)

    def divergence(self, logits: torch.Tensor) -> torch.Tensor:
        log_p, log_q = logits.log_softmax(-1), self.reference.log_softmax(-1)
        return (log_p.exp() * (log_p - log_q)).sum(-1)[self.rows] * torch.from_numpy(self.sampled)

    def probability(self, logits: torch.Tensor) -> torch.Tensor:
        """Of each text, given the prompt."""
        return (self.log_probabilities(logits) * torch.from_numpy(self.sampled)).sum(-1).exp()

    def jacobian(self, function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Of what a function makes of the policy, by its logits: (texts, LENGTH − 1, logits)."""
        found: torch.Tensor = torch.autograd.functional.jacobian(function, self.policy)
        return found.flatten(2)

    def gradient(self, objective: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """The exact gradient of an objective of the policy."""
        logits = self.policy.clone().requires_grad_()
        (found,) = torch.autograd.grad(objective(logits), logits)
        return found.flatten()

    def group(self, places: Sequence[int], *, exact: bool) -> tuple[Group, Scored]:
        """These texts as a sampled group."""
        chosen = list(places)
        log_p, log_q = self.log_probabilities(self.policy)[chosen], self.log_q[chosen]
        mask, sampled = self.mask[chosen], self.sampled[chosen]
        divergence = self.divergence(self.policy)[chosen] if exact else None
        raw = self.rewards[chosen].sum(-1)
        rewards = raw - self.beta * ((log_p - log_q).sum(-1) * self.own_share[chosen])
        scored = Scored(
            raw.numpy(), self.rewards[chosen].numpy(), (log_p - log_q).numpy(),
            None if divergence is None else divergence.numpy(), mask, sampled, LENGTH, self.beta,
        )  # fmt: skip
        group = Group(
            log_p=log_p, log_q=log_q, mask=torch.from_numpy(mask), sampled=torch.from_numpy(sampled),
            advantages=torch.zeros(len(chosen)), rewards=rewards, raw_rewards=raw,
            beta=self.beta, divergence=divergence,
        )  # fmt: skip
        return group, scored

    def moments(self, rule: UpdateRule, algorithm: str, group_size: int) -> tuple[torch.Tensor, float]:
        """Mean of an update's ascent direction a text, over all groups, (logits,), and its total variance."""
        found = get_algorithm(algorithm)
        of_log_p, of_divergence = self.jacobian(self.log_probabilities), self.jacobian(self.divergence)
        probability = self.probability(self.policy)
        mean, square = torch.zeros(self.policy.numel(), dtype=torch.float64), 0.0
        for places in itertools.combinations_with_replacement(range(len(self.texts)), group_size):
            orders = math.factorial(group_size) / math.prod(map(math.factorial, Counter(places).values()))
            chance = orders * float(probability[list(places)].prod())
            group, scored = self.group(places, exact=rule.kl == "exact")
            advantages = torch.from_numpy(found.advantages(group.rewards.numpy()))
            group = dataclasses.replace(group, advantages=advantages)

            def scores(scored: Scored = scored) -> Scored:
                return scored

            _, weights, by_divergence = token_weights(loss_of(rule, found, scores), group)
            direction = -torch.einsum("bt,btn->n", weights, of_log_p[list(places)])
            if by_divergence is not None:
                direction -= torch.einsum("bt,btn->n", by_divergence, of_divergence[list(places)])
            direction /= group_size
            mean += chance * direction
            square += chance * float(direction.square().sum())
        return mean, square - float(mean.square().sum())


def _rests(vocabulary: int, most: int, ends: bool) -> Iterator[tuple[int, ...]]:
    """What may follow the prompt: `most` tokens, or up to the first 0."""
    for tokens in itertools.product(range(vocabulary), repeat=most):
        if not ends:
            yield tokens
        elif 0 not in tokens or not any(tokens[tokens.index(0) :]):  # one of those that differ beyond the end alone
            yield tokens[: tokens.index(0) + 1] if 0 in tokens else tokens
