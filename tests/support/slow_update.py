"""An update's loss in the plainest way: one token after another, through transformers' own code and autograd."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from typing import Any

import torch

from rl_alliteration.config import TrialConfig
from rl_alliteration.rl.trainer import Row
from rl_alliteration.rl.update import UpdateRule

Read = tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]


def slow_loss(
    policy: Any,
    original: Any,
    texts: list[Row],
    reward: Callable[[str], float],
    decode: Callable[[list[int]], str],
    config: TrialConfig,
    rule: UpdateRule,
) -> torch.Tensor:
    """What a step of RLOO descends on these rows.

    `reward`: one whose number of a beginning of a text stands, so that a token's part is the difference it makes.
    """
    beta, full = config.beta, 1 / (config.max_length - 1)
    found = [_read(policy, original, text) for text in texts]
    begins = [text["num_prompt_tokens"] - 1 for text in texts]
    gains = [_gains(reward, decode, text) for text in texts]
    if rule.credit == "text":
        credit = _by_text(found, begins, texts, beta, rule)
    else:
        credit = _to_go(found, begins, gains, beta, full, rule)
    loss = torch.zeros((), dtype=torch.float64)
    for text, (log_p, log_q, divergence), begin, weights in zip(texts, found, begins, credit, strict=True):
        own = 1 / (text["num_tokens"] - 1)
        price = beta * (own if rule.credit == "text" else full) ** 2
        for place, weight in enumerate(weights):
            loss = loss - weight * log_p[place]
            if place >= begin and rule.kl != "sampled":
                log_ratio = log_p[place] - log_q[place]
                of_place = {
                    "exact": divergence[place],
                    "k2": log_ratio**2 / 2,
                    "k3": (-log_ratio).exp() - 1 + log_ratio,
                }[rule.kl]
                loss = loss + price * of_place
    return loss


def _read(policy: Any, original: Any, text: Row) -> Read:
    """Of each token but the first: log p, log q, and the divergence of the distributions it was drawn from."""
    ids = torch.tensor([text["token_ids"]])
    all_p = policy(input_ids=ids).logits[0].log_softmax(-1)
    with torch.no_grad():
        all_q = original(input_ids=ids).logits[0].log_softmax(-1)
    places = range(text["num_tokens"] - 1)
    tokens = text["token_ids"][1:]
    log_p, log_q = ([rows[place, tokens[place]] for place in places] for rows in (all_p, all_q))
    return log_p, log_q, [(all_p[place].exp() * (all_p[place] - all_q[place])).sum() for place in places]


def _gains(reward: Callable[[str], float], decode: Callable[[list[int]], str], text: Row) -> list[float]:
    """The reward of each token but the first."""
    ids = text["token_ids"]
    numbers = [reward(decode(ids[:end])) for end in range(1, len(ids))] + [text["raw_reward"]]
    return [after - before for before, after in itertools.pairwise(numbers)]


def _by_text(
    found: list[Read], begins: list[int], texts: list[Row], beta: float, rule: UpdateRule
) -> list[list[float]]:
    rewards = []
    for text, (_, _, divergence), begin in zip(texts, found, begins, strict=True):
        own = 1 / (text["num_tokens"] - 1)
        spent = sum(k.item() for k in divergence[begin:])
        cost = {"sampled": -text["kl_penalty"], "exact": own * spent}.get(rule.kl, 0)
        rewards.append(text["raw_reward"] - beta * cost)
    credit = []
    for place, text in enumerate(texts):
        advantage = rewards[place] - statistics.mean(rewards[:place] + rewards[place + 1 :])
        credit.append((text["num_tokens"] - 1) * [advantage / (text["num_tokens"] - 1)])
    return credit


def _to_go(
    found: list[Read], begins: list[int], gains: list[list[float]], beta: float, full: float, rule: UpdateRule
) -> list[list[float]]:
    returns = []
    for (log_p, log_q, divergence), begin, of_text in zip(found, begins, gains, strict=True):
        count = len(log_p)
        ratios = [(p - q).item() for p, q in zip(log_p, log_q, strict=True)]
        early = beta * (1 / count - full) * (1 + sum(ratios)) if rule.kl in ("sampled", "exact") else 0.0
        row = {}
        for place in range(begin, count):
            spent = {
                "sampled": sum(ratios[place:]),
                "exact": sum(k.item() for k in divergence[place + 1 :]),
            }.get(rule.kl, 0.0)
            row[place] = sum(of_text[place:]) - beta * full * spent - early
        returns.append(row)
    credit = []
    for text, row in enumerate(returns):
        weights = [0.0] * len(gains[text])
        for place, value in row.items():
            others = [one[place] for other, one in enumerate(returns) if other != text and place in one]
            weights[place] = full * (value - (statistics.mean(others) if others else 0.0))
        credit.append(weights)
    return credit
