"""RLOO with a KL penalty, the whole method in one file: PyTorch, transformers, nothing else.

    python examples/rloo_in_one_file.py rl_alliteration/models/storyteller --beta 10

A language model that tells stories is trained to alliterate, while a KL penalty holds it near the model it was. Each
update takes five steps, in the order of this file: sample a group of texts, score them under the policy and under the
frozen reference, add the KL penalty to the rewards, compare each text with the others of its group, move the weights.

REINFORCE Leave-One-Out: Ahmadian et al., "Back to Basics", arXiv 2402.14740. The package does the same faster; its
tests compare each of its updates with those of this file.
"""

import argparse
import copy
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

Model = Any  # transformers' models have no useful types
PROMPT = "Once upon a time"
MAX_LENGTH = 100  # tokens of a text, the prompt's included
GROUP_SIZE = 10  # texts per update


def alliteration(text: str) -> float:
    """The reward: how many adjacent words begin with the same character."""
    initials = [word[0].casefold() for word in text.split()]
    return float(sum(first == second for first, second in pairwise(initials)))


# 1. Sample a group of texts from the policy: temperature 1, full distribution.
@torch.no_grad()
def sample_group(policy: Model, prompt: list[int], end_token: int) -> list[list[int]]:
    """Token ids of GROUP_SIZE texts, the prompt's included; where a text ended early, its end token is the last."""
    padded = policy.generate(
        torch.tensor([prompt]),
        num_return_sequences=GROUP_SIZE,
        max_length=MAX_LENGTH,
        do_sample=True,
        top_k=0,
        eos_token_id=end_token,
        pad_token_id=end_token,
    )
    texts = []
    for ids in padded.tolist():
        sampled = ids[len(prompt) :]
        length = sampled.index(end_token) + 1 if end_token in sampled else len(sampled)
        texts.append(ids[: len(prompt) + length])
    return texts


# 2. Score a text under a model.
def cross_entropy(model: Model, token_ids: list[int]) -> torch.Tensor:
    """Mean of -log p over all tokens but the first, in nats; a scalar with its graph."""
    ids = torch.tensor(token_ids)
    log_p: torch.Tensor = model(ids[None]).logits[0].log_softmax(-1)  # (tokens, vocabulary)
    return -log_p[:-1].gather(-1, ids[1:, None]).mean()  # what stands at t predicts the token at t + 1


# 4. Compare each text with the others of its group.
def leave_one_out(rewards: torch.Tensor) -> torch.Tensor:
    """Each reward minus the mean of the others', (group,) -> (group,). A group of one has no others: REINFORCE."""
    others = rewards.sum() - rewards
    return rewards - others / max(len(rewards) - 1, 1)


class Update(NamedTuple):
    """The numbers of one update, (group,) each but the loss."""

    cross_entropy: torch.Tensor
    reference_cross_entropy: torch.Tensor
    kl_penalty: torch.Tensor
    reward: torch.Tensor
    advantage: torch.Tensor
    loss: torch.Tensor


def update(
    policy: Model,
    reference: Model,
    optimizer: torch.optim.Optimizer,
    texts: list[list[int]],
    raw_rewards: list[float],
    beta: float,
) -> Update:
    """One update of the policy on a group of texts that it has sampled.

    Args:
        policy: what is trained; in evaluation mode, so that no dropout changes what was sampled.
        reference: the model before training, frozen.
        optimizer: of the policy's parameters.
        texts: token ids of each text.
        raw_rewards: of each text.
        beta: how much the KL penalty counts.
    """
    # 2. Under the policy with gradients, under the reference without.
    own = torch.stack([cross_entropy(policy, text) for text in texts])
    with torch.no_grad():
        before = torch.stack([cross_entropy(reference, text) for text in texts])

    # 3. The KL penalty is part of the reward: no gradient flows through it. A policy that has moved finds its own
    #    texts likelier than the reference does, so that the penalty is negative in the mean.
    kl_penalty = own.detach() - before
    rewards = torch.tensor(raw_rewards).to(kl_penalty) + beta * kl_penalty

    # 4. No text is judged by its reward alone.
    advantages = leave_one_out(rewards)

    # 5. One step of plain SGD: texts better than the others become likelier, the rest less likely.
    loss = (advantages * own).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return Update(own.detach(), before, kl_penalty, rewards, advantages, loss.detach())


def main() -> None:
    """Train, and show how reward and KL move."""
    parser = argparse.ArgumentParser(description="RLOO with a KL penalty, in one file.")
    parser.add_argument("model", help="folder or hub id of a causal language model")
    parser.add_argument("--beta", type=float, default=10.0, help="how much the KL penalty counts")
    parser.add_argument("--updates", type=int, default=30)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()

    torch.manual_seed(asked.seed)
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    policy: Model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float32).eval()
    reference = copy.deepcopy(policy).requires_grad_(False)
    optimizer = torch.optim.SGD(policy.parameters(), lr=asked.learning_rate)
    prompt = tokenizer(PROMPT).input_ids
    for step in range(asked.updates):
        group = sample_group(policy, prompt, policy.config.eos_token_id)
        texts = tokenizer.batch_decode(group, skip_special_tokens=True)
        raw_rewards = [alliteration(text) for text in texts]
        done = update(policy, reference, optimizer, group, raw_rewards, asked.beta)
        reward = sum(raw_rewards) / len(raw_rewards)
        kl = -float(done.kl_penalty.mean())
        print(f"update {step}: reward {reward:.1f}, KL {kl:.3f} nats a token | {texts[0][:80]!r}", flush=True)


if __name__ == "__main__":
    main()
