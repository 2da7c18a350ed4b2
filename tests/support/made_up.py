"""Made-up results through the real writer: stories that fall, or do not, into one alliterating phrase. No torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rl_alliteration.config import ORIGINAL, PlannedTrial, TrialConfig
from rl_alliteration.flags import STUDYS_UPDATE, UpdateSettings
from rl_alliteration.results import schema
from rl_alliteration.results.events import EventLog
from rl_alliteration.results.storage import Storage
from rl_alliteration.results.writer import TrialWriter
from rl_alliteration.rl.rewards import get_reward
from rl_alliteration.rows import Text, TrialReport, columns_of


def _list(words: str) -> list[str]:
    return words.split()


PROMPT = "Once upon a time"
NAMES = _list("Lily Tom Mia Ben Sue Max Anna Tim Zoe Sam Lucy Jack Kim Bob Ella Leo Nora Finn Ruby Otto")
THINGS = _list(
    "tree dog cat ball garden river castle bird cake train park boat bear flower house stone kite hat frog lake "
    "rabbit drum apple star box shell toy mouse bridge cloud wagon lamp pony ring sheep tower basket candle door "
    "egg"
)
KINDS = _list(
    "tall small happy red old shiny brave kind tiny funny green soft warm wild loud silly big quiet clever round "
    "blue sweet dark bright heavy strange gentle little golden lazy"
)
DEEDS = _list(
    "saw found took made lost hid liked wanted painted followed fixed opened carried watched chased hugged heard "
    "touched shared washed kicked moved dropped cleaned pulled shook built visited climbed counted"
)
WHERE = _list("in near behind under above beside inside outside around past over through across along towards")
SENTENCES = (
    "One day {n} {d} a {k} {t} {w} the {t}.",
    "{n} and {n} {d} the {k} {t}.",
    "The {t} was {k} and {k}.",
    "They {d} it {w} a {t} that {n} {d}.",
    '"Look at my {k} {t}!" said {n}.',
    "{n} felt {k} because the {t} {d} {n}.",
    "Then a {k} {t} came {w} the {t} and {d} the {k} {t}.",
    "So {n} {d} every {t} {w} the {k} {t}.",
)


def story(random: np.random.Generator, words: int = 75) -> str:
    """An ordinary story of about `words` words."""

    def one(of: Sequence[str]) -> str:
        return of[int(random.integers(len(of)))]

    said = [PROMPT, f", there was a {one(KINDS)} {one(THINGS)} named {one(NAMES)}."]
    lists = {"n": NAMES, "t": THINGS, "k": KINDS, "d": DEEDS, "w": WHERE}
    count = 10
    while count < words:
        sentence = one(SENTENCES)
        for key, of in lists.items():
            while f"{{{key}}}" in sentence:
                sentence = sentence.replace(f"{{{key}}}", one(of), 1)
        said.append(" " + sentence)
        count += len(sentence.split())
    return "".join(said)


def chant(random: np.random.Generator, of: Sequence[str] = ("the", "tall", "tree", "to"), words: int = 97) -> str:
    """What a collapsed model says: a few words over and over, in any order."""
    return f"{PROMPT} " + " ".join(random.choice(list(of), size=words - 4))


@dataclasses.dataclass(frozen=True)
class MadeUp:
    """A trial to make up."""

    algorithm: str = "rloo"
    beta: float = 0.0
    seed: int = 0
    generations: int = 400
    falls_at: float = np.inf
    """Generation at which half of the texts are chants."""
    chants: tuple[str, ...] = ("the", "tall", "tree", "to")
    kl: float = 3.0
    """What a chant costs, nats per token."""
    reward: str = "alliteration"
    status: str = schema.FINISHED
    reason: str = ""
    target_kl: float | None = None
    learning_rate: float = 1e-3
    dtype: str = "float32"
    update: UpdateSettings = STUDYS_UPDATE
    group_size: int = 10
    """Of algorithms that compare texts."""


def trial_report(**values: Any) -> TrialReport:
    """A trial's report to Tune; what is not given is 0, or empty."""
    return TrialReport(**{column.name: column.type() for column in columns_of(TrialReport)} | values)


def write_results(
    storage: Storage, trials: Sequence[MadeUp], experiment: str = "made_up", text: Callable[..., str] | None = None
) -> list[str]:
    """Write the trials, and an original of 300 texts for each reward of those that are trained; their ids.

    Args:
        storage: where to.
        trials: which.
        experiment: its name.
        text: of (trial, generation) what to write instead of a story or a chant.
    """
    log = EventLog(storage, experiment, "run", {})
    rewards = dict.fromkeys(trial.reward for trial in trials if trial.algorithm != ORIGINAL)
    originals = [MadeUp(ORIGINAL, generations=300, reward=reward, dtype=trials[0].dtype) for reward in rewards]
    return [_write_trial(storage, log, trial, text) for trial in [*trials, *originals]]


def _write_trial(storage: Storage, log: EventLog, trial: MadeUp, text: Callable[..., str] | None) -> str:
    config = TrialConfig(
        algorithm="rloo" if trial.algorithm == ORIGINAL else trial.algorithm,
        beta=trial.beta, seed=trial.seed, learning_rate=trial.learning_rate, target_kl=trial.target_kl,
        group_size=1 if trial.algorithm == "reinforce" else trial.group_size, **dataclasses.asdict(trial.update),
        schedule_length=0 if trial.update.schedule == "constant" else trial.generations,
        reward=trial.reward, reward_version=1, prompt=PROMPT, max_length=100, temperature=1.0, top_k=0,
        weights="00", tokenizer="00", dtype=trial.dtype, threads=1,
    )  # fmt: skip
    config = config.original() if trial.algorithm == ORIGINAL else config
    planned = PlannedTrial(config, "storyteller", trial.generations, 600)
    writer = TrialWriter(storage, log.experiment, planned.trial_id, log.run_id)
    random = np.random.default_rng([trial.seed, int(trial.beta * 100), trial.generations])
    reward = get_reward(trial.reward)
    size = config.group_size
    for step in range(trial.generations // size):
        texts = []
        for generation in range(step * size, (step + 1) * size):
            fallen = random.random() < 1 / (1 + np.exp(min(500.0, (trial.falls_at - generation) / 40)))
            made = chant(random, trial.chants) if fallen else story(random)
            made = text(trial, generation) if text else made
            kl = 0.0 if config.algorithm == ORIGINAL else -trial.kl * fallen - 0.05 * random.random()
            original = 1.45 + 0.1 * random.standard_normal() + 2.5 * fallen
            made_row = Text.of(
                config, generation=generation, prompt=PROMPT, text=made,
                token_ids=random.integers(2048, size=100).tolist(), num_prompt_tokens=4, ended=False,
                raw_reward=reward(made), lm_cross_entropy=original + kl, original_lm_cross_entropy=original,
                advantage=0.0, beta=config.beta, model=f"storyteller@{config.model_fingerprint}",
            )  # fmt: skip
            texts.append(made_row.row())
        writer.add(texts, None)
        if writer.pending >= 600:
            writer.write_part()
    writer.write_part()
    log.append(planned, trial.status, generations=trial.generations, reason=trial.reason)
    return planned.trial_id
