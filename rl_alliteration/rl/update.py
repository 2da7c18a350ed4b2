"""How a scored group becomes an update, as a trial's settings say it: checks, rate and credit. No torch."""

from __future__ import annotations

import dataclasses

from rl_alliteration.config import TrialConfig
from rl_alliteration.errors import UserError
from rl_alliteration.flags import UpdateSettings
from rl_alliteration.rl.advantages import Algorithm
from rl_alliteration.rl.credit import Credit, Scored, by_text, to_go
from rl_alliteration.rl.schedules import rate_factor
from rl_alliteration.setting import check, checked, values_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class UpdateRule(UpdateSettings):
    """The settings of an update, which fit together.

    Raises:
        UserError: they do not.
    """

    schedule_length: int = 0
    """Texts of the whole trial, for a schedule that is not constant."""

    def __post_init__(self) -> None:
        checked(self)
        check(not self.momentum or self.optimizer == "sgd", "momentum", "0: adamw has its own", self.momentum)
        if self.schedule != "constant":
            limit = f"fewer texts than the {self.schedule_length:,} of the trial, whose rate falls after them"
            check(self.warm_up < self.schedule_length, "warm-up", limit, self.warm_up)

    @classmethod
    def of(cls, config: TrialConfig) -> UpdateRule:
        """A trial's."""
        return cls(**values_of(UpdateSettings, config), schedule_length=config.schedule_length)

    @property
    def is_study(self) -> bool:
        """Whether the loss is the algorithm's own: one advantage a text, the KL in its reward."""
        return (self.credit, self.kl) == ("text", "sampled")

    def has_studys_loss(self, algorithm: Algorithm) -> bool:
        """Whether a step is taken on Σ advantage · cross-entropy."""
        return self.is_study and algorithm.loss is None

    def check_algorithm(self, algorithm: Algorithm) -> None:
        """Refuse an algorithm that cannot take its credit or its KL term.

        Raises:
            UserError: it has a loss of its own, or remembers rewards.
        """
        if self.is_study or (algorithm.loss is None and not algorithm.memory):
            return
        flag, value = ("credit", self.credit) if self.credit != "text" else ("kl", self.kl)
        has = "has a loss of its own" if algorithm.loss is not None else "compares with rewards of earlier groups"
        raise UserError(
            f"--{flag}: {value!r} is not accepted for {algorithm.name!r}, which {has}; leave it out, or use another "
            "algorithm, such as rloo"
        )

    @property
    def changes_rate(self) -> bool:
        """Whether the learning rate is not one number."""
        return self.schedule != "constant" or self.warm_up > 0

    def rate(self, base: float, generation: int, group_size: int) -> float:
        """The learning rate of the update on the group that begins with a generation."""
        warm_up, length = self.warm_up, self.schedule_length
        return base * rate_factor(self.schedule, generation, length, group_size=group_size, warm_up=warm_up)

    def credit_of(self, algorithm: Algorithm, scored: Scored) -> Credit:
        """What the tokens of a group are weighed by, unless `is_study`."""
        if self.credit == "text":
            return by_text(algorithm, scored)
        return to_go(algorithm, scored, kl_in_reward=self.kl in ("sampled", "exact"))
