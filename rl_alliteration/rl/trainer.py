"""One trial, from top to bottom: sample a group, score it, turn rewards into advantages, take a step.

No Ray and no files: those who run a trial elsewhere take the rows that `step` returns.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rl_alliteration.config import TrialConfig
from rl_alliteration.errors import Failure
from rl_alliteration.flags import COMPLETION
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.lm.sampling import Rollout, entropies, log_probabilities, sample, uniforms
from rl_alliteration.rl.advantages import Algorithm
from rl_alliteration.rl.credit import Scored
from rl_alliteration.rl.kl import next_beta
from rl_alliteration.rl.losses import loss_of
from rl_alliteration.rl.measures import diagnostics_of, group_of, mean_negative, token_mask, unpadded
from rl_alliteration.rl.objective import Group, token_weights
from rl_alliteration.rl.optimizers import load_optimizer_state, make_optimizer, optimizer_state
from rl_alliteration.rl.parts import Decoder, settled_characters, token_rewards
from rl_alliteration.rl.record import token_records
from rl_alliteration.rl.rewards import Reward
from rl_alliteration.rl.scores import Scores, scores_of
from rl_alliteration.rl.undisturbed import undisturbed
from rl_alliteration.rl.update import UpdateRule
from rl_alliteration.rl.user_errors import told
from rl_alliteration.rows import NO_RECORD, Text, Update

Row = dict[str, Any]
Array = NDArray[np.float64]


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
    generation: int
    """Texts before it."""
    optimizer: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    """What the optimizer keeps, see `optimizers.optimizer_state`."""


class Trainer:
    """A trial's state (policy, counters) and its one operation, `step`.

    The state is the policy's weights, `generation`, the recent rewards of an algorithm that compares with them, a
    controlled KL coefficient and what the optimizer keeps; random numbers are a function of their place.
    """

    def __init__(
        self,
        config: TrialConfig,
        loaded: LoadedModel,
        reward: Reward,
        algorithm: Algorithm | None,
        device: torch.device | str = "cpu",
    ) -> None:
        """`algorithm` is None for the original.

        Raises:
            UserError: the settings of its updates do not fit together, or not with the algorithm.
        """
        self.config = config
        self.device = torch.device(device)
        self.rule = UpdateRule.of(config)
        if algorithm is not None:
            self.rule.check_algorithm(algorithm)
        self.reward = reward
        self.algorithm = algorithm
        self.loaded = loaded
        self.tokenizer = loaded.tokenizer
        self.end_tokens = loaded.end_tokens.union(config.end_of_turn)
        self.prompt_ids = loaded.prompt_ids(config.prompts, config.chat_prompts)
        self.model_column = f"{loaded.name}@{config.model_fingerprint}"
        """Of its texts' rows: a name for people, that of the first run where a later one finds the model elsewhere."""
        dtype = getattr(torch, config.dtype)
        kept_in = None if config.reference_dtype == "float32" else getattr(torch, config.reference_dtype)
        self.reference = loaded.reference(device, dtype, config.texts_version, kept_in)
        self.policy = loaded.policy(device, dtype, config.texts_version)
        rule = self.rule
        self.optimizer = make_optimizer(rule.optimizer, self.policy.model, config.learning_rate, rule.momentum)
        self.generation = 0
        self.recent_rewards: list[float] = []
        self.beta = config.beta
        """The KL coefficient of the next step."""
        self.records: Callable[[int], bool] = lambda generation: False
        """Whether the group that begins with a generation has its tokens recorded, see `record.recorded_groups`."""
        self._decode = Decoder(self.tokenizer)
        self._changes = threading.Lock()  # the state may be asked for on another thread, in the middle of a step

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
        chances = uniforms(config.seed, config.texts_before + self.generation, config.group_size, config.max_length)
        rollout = sample(
            self.policy,
            self.prompt_ids[prompt],
            chances,
            end_tokens=self.end_tokens,
            sampling=config,
            record=self.algorithm is not None and not config.micro_batch,
        )
        sampled = time.perf_counter()
        if not bool(rollout.log_probabilities.isfinite().all()):
            raise Diverged(self.generation, "a logit is not finite")

        # 2. Score it under the policy, with gradients, and under the frozen weights.
        scores: Scores | None = None
        if self.algorithm:
            exact = self.rule.kl == "exact"
            scores = scores_of(self.policy, self.reference, rollout, exact=exact, micro_batch=config.micro_batch)
        log_q = scores.log_q if scores else log_probabilities(self.reference, rollout.token_ids)
        log_p = scores.log_p if scores else log_q
        texts = [self.decode(ids) for ids in unpadded(rollout)]  # a GPU is at the scores meanwhile
        rewarded = texts
        if config.reward_of == COMPLETION:
            rewarded = [self.decode(ids[rollout.prompt_length :]) for ids in unpadded(rollout)]
        raw_rewards = np.array([self._raw_reward(text, place) for place, text in enumerate(rewarded)])
        mask = token_mask(rollout, log_p.device)
        cross_entropy = mean_negative(log_p, mask, rollout.lengths)
        original_cross_entropy = mean_negative(log_q, mask, rollout.lengths)

        # 3. Composite reward (study: "Definition of the KL penalty"); no gradient flows through it.
        kl_penalties = cross_entropy - original_cross_entropy
        rewards = raw_rewards + self.beta * kl_penalties
        if not np.isfinite(rewards).all():
            bad = int(np.flatnonzero(~np.isfinite(rewards))[0])
            raise Diverged(self.generation + bad, f"its reward is {rewards[bad]}")
        advantages = np.zeros_like(rewards)
        if self.algorithm:
            advantages = self.algorithm.advantages(rewards, self.recent_rewards)

        records = [NO_RECORD] * len(texts)
        if self.records(self.generation):
            entropy = scores.entropy if scores else entropies(self.reference, rollout.token_ids)
            numbers_of_tokens = (log_p, log_q, entropy)
            records = token_records(rollout, numbers_of_tokens, texts, self._decode, self.reward, rewarded, raw_rewards)
        rows = [
            Text.of(
                config,
                generation=self.generation + place,
                prompt=prompt,
                text=texts[place],
                token_ids=ids,
                num_prompt_tokens=rollout.prompt_length,
                ended=bool(rollout.ended[place]),
                raw_reward=float(raw_rewards[place]),
                lm_cross_entropy=float(cross_entropy[place]),
                original_lm_cross_entropy=float(original_cross_entropy[place]),
                advantage=float(advantages[place]),
                beta=self.beta,
                model=self.model_column,
                completion=rewarded[place] if config.reward_of == COMPLETION else "",
                record=records[place],
            ).row()
            for place, ids in enumerate(unpadded(rollout))
        ]

        # 4. One step on the loss, which the backward pass knows by its derivatives by log_p and by the divergence.
        diagnostics: dict[str, float] = {}
        rate = self.rule.rate(config.learning_rate, self.generation, config.group_size)
        if self.algorithm and scores:
            divergence = scores.divergence
            if divergence is not None and not bool(divergence[mask].isfinite().all()):
                raise Diverged(self.generation, "a KL divergence is not finite")
            numbers = {"advantages": advantages, "rewards": rewards, "raw_rewards": raw_rewards}
            group = group_of(rollout, log_p, log_q, mask, divergence, self.beta, **numbers)
            scored = functools.partial(self._scored, group, rollout, rewarded, raw_rewards)
            loss, weights, of_divergence = self._token_weights(self.algorithm, group, scored)
            scores.backward(weights, of_divergence)
            gradients = [p.grad for p in self.policy.parameters if p.grad is not None]
            diagnostics = {
                # The study's, exact in the stored columns, from which `verify` computes it again.
                "loss": float(advantages @ cross_entropy) if self.rule.has_studys_loss(self.algorithm) else float(loss),
                "grad_norm": float(torch.nn.utils.get_total_norm(gradients)),
                **diagnostics_of(rollout, log_p, log_q, scores.entropy, mask),
            }
            if not np.isfinite(list(diagnostics.values())).all():
                raise Diverged(self.generation, ", ".join(f"{name} {value}" for name, value in diagnostics.items()))
        logged = {name: sum(map(log, rewarded)) / len(rewarded) for name, log in self.reward.logs.items()}
        if config.target_kl is not None:
            logged["beta"] = self.beta
        if self.rule.changes_rate:
            logged["learning_rate"] = rate
        update: Update | None = None
        with self._changes:
            if self.algorithm:
                for parameters in self.optimizer.param_groups if self.rule.changes_rate else ():
                    parameters["lr"] = rate
                self.optimizer.step()
                update = Update(
                    step=self.step_index,
                    generation=self.generation,
                    **diagnostics,
                    sample_seconds=sampled - started,
                    train_seconds=time.perf_counter() - sampled,
                    tokens=int(rollout.lengths.sum()),
                    algorithm=config.algorithm,
                    beta=self.beta,
                    seed=config.seed,
                    group_size=config.group_size,
                    learning_rate=config.learning_rate,
                )
                self.recent_rewards = self.algorithm.remember(self.recent_rewards, rewards)
            if config.target_kl is not None:
                self.beta = next_beta(self.beta, -float(kl_penalties.mean()), config.target_kl)
            self.generation += config.group_size
        return Step(rows, None if update is None else update.row(), logged)

    def state(self) -> TrainerState:
        """The state after the last whole step; may be asked for on another thread while a step runs."""
        with self._changes:
            trained = self.policy.model.named_parameters() if self.algorithm else ()  # the original never changes
            weights = {name: parameter.detach().cpu().contiguous().clone() for name, parameter in trained}
            counters = {
                "step": self.step_index,
                "optimizer": {
                    "name": type(self.optimizer).__name__,
                    "learning_rate": self.config.learning_rate,
                    "state": {},  # in a file of its own
                },
                "random": {"generator": "Philox-4x64", "seed": self.config.seed, "generation": self.generation},
            }
            if self.algorithm and self.algorithm.memory:
                counters["recent_rewards"] = self.recent_rewards
            if self.config.target_kl is not None:
                counters["beta"] = self.beta
            kept = optimizer_state(self.optimizer, self.policy.model)
            return TrainerState(weights, counters, self.generation, kept)

    def load_state(
        self,
        weights: dict[str, torch.Tensor],
        generation: int,
        counters: Mapping[str, Any],
        optimizer: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Go back to the state after `generation` texts, which had these weights, counters and optimizer's state.

        Raises:
            ValueError: the weights or the optimizer's state are not this model's.
        """
        parameters = dict(self.policy.model.named_parameters()) if self.algorithm else {}
        shapes = {name: parameter.shape for name, parameter in parameters.items()}
        if shapes != {name: tensor.shape for name, tensor in weights.items()}:
            raise ValueError("the weights are another model's")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(weights[name])
        if generation or optimizer:
            load_optimizer_state(self.optimizer, self.policy.model, optimizer or {})
        else:  # before its first step it keeps nothing
            self.optimizer.state.clear()
        self.generation = generation
        self.recent_rewards = list(counters.get("recent_rewards", []))
        self.beta = counters.get("beta", self.config.beta)

    def decode(self, token_ids: list[int]) -> str:
        """The text of sampled tokens: without the end token that ended it."""
        return decode_text(self.tokenizer, token_ids, self.end_tokens)

    def _scored(self, group: Group, rollout: Rollout, rewarded: list[str], raw_rewards: Array) -> Scored:
        """What credit is given by."""
        by_token = np.zeros(group.mask.shape)
        if self.rule.credit == "to-go":
            first = rollout.prompt_length if self.config.reward_of == COMPLETION else 0
            for place, ids in enumerate(unpadded(rollout)):
                found = np.zeros(len(ids))
                found[first:] = self._token_rewards(ids[first:], rewarded[place], float(raw_rewards[place]))
                by_token[place, : len(ids) - 1] = found[1:]
        divergence = None if group.divergence is None else group.divergence.double().cpu().numpy()
        return Scored(
            raw_rewards=raw_rewards,
            token_rewards=by_token,
            log_ratio=(group.log_p.double() - group.log_q.double()).cpu().numpy(),
            divergence=divergence,
            mask=group.mask.cpu().numpy(),
            sampled=group.sampled.cpu().numpy(),
            greatest_length=self.config.max_length,
            beta=self.beta,
        )

    def _token_rewards(self, ids: list[int], text: str, number: float) -> Array:
        """The reward by token, (tokens,).

        Raises:
            Failure: the reward's parts are none, or not its own.
        """
        try:
            with undisturbed():
                parts = None if self.reward.parts is None else self.reward.parts(text)
            return token_rewards(number, parts, settled_characters(self._decode, ids, text))
        except (Exception, SystemExit) as error:
            raise Failure(
                f"the parts of the reward {self.reward.name!r} failed ({told(error)}) on the text "
                f"{text[:200]!r}; mend them and run the same command again"
            ) from error

    def _token_weights(
        self, algorithm: Algorithm, group: Group, scored: Callable[[], Scored]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """The loss and its derivatives by log-probabilities and divergences.

        Raises:
            Failure: its own code raised, or gave no loss.
        """
        try:
            with undisturbed():
                return token_weights(loss_of(self.rule, algorithm, scored), group)
        except Failure:
            raise
        except (Exception, SystemExit) as error:
            raise Failure(
                f"the loss of the algorithm {algorithm.name!r} failed ({type(error).__name__}: {error}); "
                "mend it and run the same command again"
            ) from error

    def _raw_reward(self, text: str, place: int) -> float:
        on = f"on the text {text[:200]!r}{'…' if len(text) > 200 else ''}; mend it and run the same command again"
        try:
            with undisturbed():
                given = self.reward(text)
        except (Exception, SystemExit) as error:
            raise Failure(f"the reward {self.reward.name!r} raised {told(error)}; {on}") from error
        try:
            if isinstance(given, str | bytes):
                raise TypeError("a text is no number")
            value = float(given)
        except Exception as error:
            what = repr(given)
            shown = what if len(what) <= 80 else f"{what[:80]}…"
            raise Failure(f"the reward {self.reward.name!r} gave {shown}, not a number, {on}") from error
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
