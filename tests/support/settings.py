"""Of each setting of a trial a few values to try: a new setting is a new line here."""

from __future__ import annotations

from typing import Any

VALUES: dict[str, tuple[Any, ...]] = {
    "algorithm": ("rloo", "mine", "reinforce"),
    "beta": (0.5, 40.0, 40.000001),
    "seed": (0, 1, 2, 3),
    "learning_rate": (1e-3, 1.0000001e-3, 5e-4),
    "group_size": (2, 4),
    "reward": ("alliteration", "a_words"),
    "algorithm_version": (1, 2),
    "reward_version": (1, 2),
    "prompt": ("Once", "One day"),
    "max_length": (16, 24),
    "temperature": (1.0, 0.7),
    "top_k": (0, 50),
    "weights": ("aa", "ab"),
    "tokenizer": ("bb", "bc"),
    "dtype": ("float32", "bfloat16"),
    "threads": (1, 2),
    "reward_parameters": ("", '{"rarity":{"a":1.5}}', '{"rarity":{"a":2.5}}'),
    "target_kl": (None, 0.1, 0.2),
    "more_prompts": ((), ("a",), ("a", "b")),
    "architecture": ("", "cc"),
    "credit": ("text", "to-go"),
    "kl": ("sampled", "exact", "k2"),
    "optimizer": ("sgd", "adamw"),
    "momentum": (0.0, 0.9),
    "schedule": ("constant", "linear"),
    "warm_up": (0, 100),
    "schedule_length": (0, 3600),
    "micro_batch": (0, 1),
    "reference_dtype": ("float32", "bfloat16"),
    "ancestors": (
        (),
        ("rloo-beta40-seed0-1a2b3c4d@8",),
        ("rloo-beta40-seed0-1a2b3c4d@8", "mine-kl0.1-seed1-1a2b3c4d@4"),
    ),
    "texts_version": (4, 1),
    "chat": (False, True),
    "system_prompt": (None, "", "Rhyme."),
    "chat_prompts": ((), ("<|user|>a",), ("<|user|>a", "<|user|>b")),
    "end_of_turn": ((), (1,), (2,)),
    "reward_of": ("text", "completion"),
}
"""The last one is no default."""
