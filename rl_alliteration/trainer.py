"""One trial, from top to bottom: sample a group, score it, turn rewards into advantages, take a step.

No Ray and no files: those who run a trial elsewhere take the rows that `step` returns.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rl_alliteration.advantages import Algorithm
from rl_alliteration.config import TrialConfig
from rl_alliteration.errors import Failure
from rl_alliteration.kl_control import next_beta
from rl_alliteration.language_model import LoadedModel
from rl_alliteration.rewards import Reward
from rl_alliteration.sampling import Rollout, log_probabilities, sample, score, uniforms

Row = dict[str, Any]


class Diverged(Failure):
    """A loss, logit or reward is not finite. The rows before `generation` stand."""

    def __init__(self, generation: int, what: str) -> None:
        super().__init__(f"diverged at generation {generation}: {what}")
        self.generation = generation


@dataclasses.dataclass(frozen=True)
class Step:
    """What one group leaves behind: a row a text, and a row for the update (None for the original)."""

    texts: list[Row]
    update: Row | None
    logged: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """What the reward logs beside its number, means over the group; and a controlled KL coefficient."""


@dataclasses.dataclass(frozen=True)
class TrainerState:
    """All that a trainer needs to go on: nothing else is kept between steps."""

    weights: dict[str, torch.Tensor]
    """The policy's parameters, each once, on the CPU; none for the original."""
    counters: dict[str, Any]
    """Step counters, the optimizer's state, and what random numbers are a function of; plain JSON values."""


class Trainer:
    """A trial's state (policy, counters) and its one operation, `step`.

    The state is the policy's weights, `generation`, the recent rewards of an algorithm that compares with them, and a
    controlled KL coefficient: plain SGD has none, and random numbers are a function of their place.
    """

    def __init__(
        self,
        config: TrialConfig,
        loaded: LoadedModel,
        reward: Reward,
        algorithm: Algorithm | None,
        device: torch.device | str = "cpu",
    ) -> None:
        """`algorithm` is None for the original."""
        self.config = config
        self.reward = reward
        self.algorithm = algorithm
        self.tokenizer = loaded.tokenizer
        self.end_tokens = loaded.end_tokens
        self.prompt_ids = {prompt: loaded.encode(prompt) for prompt in config.prompts}
        self.model_column = f"{loaded.name}@{config.model_fingerprint}"
        dtype = getattr(torch, config.dtype)
        self.policy = loaded.policy(device, dtype)
        self.reference = loaded.reference(device, dtype)
        self.optimizer = torch.optim.SGD(self.policy.model.parameters(), lr=config.learning_rate)
        self.generation = 0
        self.recent_rewards: list[float] = []
        self.beta = config.beta
        """The KL coefficient of the next step."""

    @property
    def step_index(self) -> int:
        """Index of the next update."""
        return self.generation // self.config.group_size

    def step(self) -> Step:
        """Sample and score the next group and update the policy.

        Raises:
            Diverged: a loss, logit or reward is not finite; the policy was not updated.
            Failure: the reward function raised; the same holds.
        """
        config = self.config
        started = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)  # sampling takes about as much memory as the gradients did

        # 1. Sample the group (study: "REINFORCE vs RLOO").
        prompt = config.prompt_at(self.generation)
        chances = uniforms(config.seed, self.generation, config.group_size, config.max_length)
        rollout = sample(
            self.policy,
            self.prompt_ids[prompt],
            chances,
            end_tokens=self.end_tokens,
            temperature=config.temperature,
            top_k=config.top_k,
            record=self.algorithm is not None,
        )
        sampled = time.perf_counter()
        if not bool(rollout.log_probabilities.isfinite().all()):
            raise Diverged(self.generation, "a logit is not finite")

        # 2. Score it under the policy, with gradients, and under the frozen weights.
        log_q = log_probabilities(self.reference, rollout.token_ids)
        log_p = log_q
        if self.algorithm:
            graph, entropy = score(self.policy, rollout.token_ids, rollout.activations)
            log_p = graph.detach()
        texts = [self.decode(ids) for ids in _unpadded(rollout)]  # a GPU is at the scores meanwhile
        raw_rewards = np.array([self._raw_reward(text, place) for place, text in enumerate(texts)])
        mask = _token_mask(rollout, log_p.device)
        cross_entropy = _mean_negative(log_p, mask, rollout.lengths)
        original_cross_entropy = _mean_negative(log_q, mask, rollout.lengths)

        # 3. Composite reward (study: "Definition of the KL penalty"); no gradient flows through it.
        kl_penalties = cross_entropy - original_cross_entropy
        rewards = raw_rewards + self.beta * kl_penalties
        if not np.isfinite(rewards).all():
            bad = int(np.flatnonzero(~np.isfinite(rewards))[0])
            raise Diverged(self.generation + bad, f"its reward is {rewards[bad]}")
        advantages = np.zeros_like(rewards)
        if self.algorithm:
            advantages = self.algorithm.advantages(rewards, self.recent_rewards)

        # 4. One step of plain SGD on the sum over the group.
        update: Row | None = None
        if self.algorithm:
            cross_entropy_graph = -(graph * mask).sum(-1) / torch.from_numpy(rollout.lengths - 1).to(graph)
            weights = torch.from_numpy(advantages).to(graph)
            (weights * cross_entropy_graph).sum().backward()
            gradients = [p.grad for p in self.policy.model.parameters() if p.grad is not None]
            grad_norm = float(torch.nn.utils.get_total_norm(gradients))
            loss = float(advantages @ cross_entropy)
            if not np.isfinite([loss, grad_norm]).all():
                raise Diverged(self.generation, f"loss {loss}, gradient norm {grad_norm}")
            self.optimizer.step()
            update = {
                "step": self.step_index,
                "generation": self.generation,
                "loss": loss,
                "grad_norm": grad_norm,
                **_diagnostics(rollout, log_p, log_q, entropy, mask),
                "sample_seconds": sampled - started,
                "train_seconds": time.perf_counter() - sampled,
                "tokens": int(rollout.lengths.sum()),
                "algorithm": config.algorithm,
                "beta": self.beta,
                "seed": config.seed,
                "group_size": config.group_size,
                "learning_rate": config.learning_rate,
            }

        rows = [
            {
                "generation": self.generation + place,
                "step": self.step_index,
                "sample": place,
                "prompt": prompt,
                "text": texts[place],
                "token_ids": ids,
                "num_tokens": len(ids),
                "num_prompt_tokens": rollout.prompt_length,
                "num_words": len(texts[place].split()),
                "ended": bool(rollout.ended[place]),
                "raw_reward": float(raw_rewards[place]),
                "lm_cross_entropy": float(cross_entropy[place]),
                "original_lm_cross_entropy": float(original_cross_entropy[place]),
                "kl_penalty": float(kl_penalties[place]),
                "reward": float(rewards[place]),
                "advantage": float(advantages[place]),
                "algorithm": config.algorithm,
                "beta": self.beta,
                "seed": config.seed,
                "group_size": config.group_size,
                "learning_rate": config.learning_rate,
                "reward_function": config.reward,
                "model": self.model_column,
            }
            for place, ids in enumerate(_unpadded(rollout))
        ]
        self.generation += config.group_size
        if self.algorithm:
            self.recent_rewards = self.algorithm.remember(self.recent_rewards, rewards)
        logged = {name: sum(map(log, texts)) / len(texts) for name, log in self.reward.logs.items()}
        if config.target_kl is not None:
            logged["beta"] = self.beta
            self.beta = next_beta(self.beta, -float(kl_penalties.mean()), config.target_kl)
        return Step(rows, update, logged)

    def state(self) -> TrainerState:
        """The state after the last step."""
        trained = self.policy.model.named_parameters() if self.algorithm else ()  # the original never changes
        weights = {name: parameter.detach().cpu().contiguous().clone() for name, parameter in trained}
        counters = {
            "step": self.step_index,
            "optimizer": {"name": "SGD", "learning_rate": self.config.learning_rate, "state": {}},
            "random": {"generator": "Philox-4x64", "seed": self.config.seed, "generation": self.generation},
        }
        if self.algorithm and self.algorithm.memory:
            counters["recent_rewards"] = self.recent_rewards
        if self.config.target_kl is not None:
            counters["beta"] = self.beta
        return TrainerState(weights, counters)

    def load_state(self, weights: dict[str, torch.Tensor], generation: int, counters: Mapping[str, Any]) -> None:
        """Go back to the state after `generation` texts, which had these weights and counters.

        Raises:
            ValueError: the weights are not this model's.
        """
        parameters = dict(self.policy.model.named_parameters()) if self.algorithm else {}
        if parameters.keys() != weights.keys():
            raise ValueError("the weights are another model's")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(weights[name])
        self.generation = generation
        self.recent_rewards = list(counters.get("recent_rewards", []))
        self.beta = counters.get("beta", self.config.beta)

    def decode(self, token_ids: list[int]) -> str:
        """The text of sampled tokens: without the end token that ended it."""
        return decode_text(self.tokenizer, token_ids, self.end_tokens)

    def _raw_reward(self, text: str, place: int) -> float:
        on = f"on the text {text[:200]!r}{'…' if len(text) > 200 else ''}; mend it and run the same command again"
        try:
            value = float(self.reward(text))
        except (Exception, SystemExit) as error:
            reason = f"{type(error).__name__}: {error}"
            raise Failure(f"the reward {self.reward.name!r} raised {reason}; {on}") from error
        if not np.isfinite(value):
            what = f"the reward {self.reward.name!r} gave {value}, not a finite number, {on}"
            raise Diverged(self.generation + place, f"{what}, with --retry-failed")
        return value


def decode_text(tokenizer: Any, token_ids: list[int], end_tokens: frozenset[int]) -> str:
    """Text of token ids; a final end token and special tokens are actions, not text."""
    if token_ids and token_ids[-1] in end_tokens:
        token_ids = token_ids[:-1]
    text: str = tokenizer.decode(token_ids, skip_special_tokens=True)
    return text


def _unpadded(rollout: Rollout) -> list[list[int]]:
    """Token ids of each text up to its length."""
    return [ids[:length] for ids, length in zip(rollout.token_ids.tolist(), rollout.lengths, strict=True)]


def _token_mask(rollout: Rollout, device: torch.device) -> torch.Tensor:
    """(B, T − 1): true where a token, the first of each text left out, belongs to its text. From lengths alone."""
    positions = torch.arange(1, rollout.token_ids.shape[1], device=device)
    return positions < torch.from_numpy(rollout.lengths).to(device)[:, None]


def _mean_negative(log_p: torch.Tensor, mask: torch.Tensor, lengths: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean of −log p over each text's tokens but the first, (B,), summed in float64."""
    total = (log_p.double() * mask).sum(-1).cpu().numpy()
    result: NDArray[np.float64] = -total / (lengths - 1)
    return result


def _diagnostics(
    rollout: Rollout, log_p: torch.Tensor, log_q: torch.Tensor, entropy: torch.Tensor, mask: torch.Tensor
) -> Row:
    """Means over the sampled tokens of a group (design: `entropy`, `kl_k3`, `sampler_gap`)."""
    first = rollout.prompt_length - 1
    sampled = mask[:, first:].double()
    count = sampled.sum()
    log_ratio = (log_q - log_p)[:, first:].double()  # r = p_original / p; Schulman's k3: r - 1 - log r
    k3 = torch.expm1(log_ratio) - log_ratio
    gap = (rollout.log_probabilities - log_p[:, first:]).double().abs()
    means = torch.stack([(entropy[:, first:] * sampled).sum(), (k3 * sampled).sum(), (gap * sampled).sum()]) / count
    return dict(zip(("entropy", "kl_k3", "sampler_gap"), means.tolist(), strict=True))
