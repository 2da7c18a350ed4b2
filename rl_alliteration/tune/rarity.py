"""How rare each initial is in a model's own texts: what `rare_alliteration` weighs pairs by.

    python -m rl_alliteration.tune.rarity storyteller > rl_alliteration/models/storyteller/initials.json

The table is a part of a trial's configuration, and so of its id: whoever reads the results has it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from importlib.resources import files

from rl_alliteration.config import ORIGINAL_GENERATIONS, SHIPPED_MODELS, TrialConfig, canonical_json
from rl_alliteration.language_model import LoadedModel, load_model
from rl_alliteration.results.storage import existing_storage
from rl_alliteration.results.writer import PlannedTrial
from rl_alliteration.rewards import get_reward, initial_rarity
from rl_alliteration.trainer import Trainer
from rl_alliteration.tune.plan import Sweep, plan, resolve


def with_rarity(
    trials: Sequence[PlannedTrial], loaded: LoadedModel, sweep: Sweep, say: Callable[[str], None]
) -> list[PlannedTrial]:
    """The trials with the table in their configuration, if their reward needs it.

    A shipped model has one. For another model it is made of the 1,000 texts of the trial `original`, once, and kept
    in the storage, so that the same command finds the same trials again, wherever it runs.

    Args:
        trials: as planned.
        loaded: their model.
        sweep: theirs; a dry run keeps nothing.
        say: told when sampling begins, which takes a while.
    """
    config = trials[0].config
    if "rarity" not in get_reward(config.reward).needs:
        return list(trials)
    table = _shipped(config)
    if table is None:
        sampling = [config.identity[name] for name in ("prompts", "max_length", "temperature", "top_k")]
        digest = hashlib.sha256(canonical_json(sampling).encode()).hexdigest()[:8]
        path = f"models/{config.model_fingerprint}/initials-{digest}.json"
        storage = existing_storage(sweep.storage)
        if storage is None or not storage.exists(path):
            say(f"sampling {ORIGINAL_GENERATIONS:,} texts of the model before RL, for the rarity of their initials")
            table = _sampled(config, loaded)
            if storage is not None and not sweep.dry_run:
                storage.put(path, json.dumps(table, indent=1).encode())
        else:
            table = json.loads(storage.get(path))
    parameters = canonical_json({"rarity": table})
    return [
        dataclasses.replace(trial, config=dataclasses.replace(trial.config, reward_parameters=parameters))
        for trial in trials
    ]


def _shipped(config: TrialConfig) -> dict[str, float] | None:
    """The table that comes with the package, if these are the weights and the tokenizer of a shipped model."""
    for name in SHIPPED_MODELS:
        record = json.loads((files("rl_alliteration") / "models" / name / "initials.json").read_text())
        if (record["weights"], record["tokenizer"]) == (config.weights, config.tokenizer):
            rarity: dict[str, float] = record["rarity"]
            return rarity
    return None


def _sampled(config: TrialConfig, loaded: LoadedModel) -> dict[str, float]:
    """The table of the texts that the trial without updates has."""
    config = dataclasses.replace(config.original(), reward="alliteration", reward_version=1)
    trainer = Trainer(config, loaded, get_reward("alliteration"), None)
    texts: list[str] = []
    while len(texts) < ORIGINAL_GENERATIONS:
        texts += [row["text"] for row in trainer.step().texts]
    return initial_rarity(texts)


def main(name: str) -> None:
    """Print the table of a model's texts with the study's prompt and sampling, and whose it is."""
    loaded = load_model(name)
    config = plan(resolve(Sweep(storage="none", experiment="none", beta=(0.0,), model=name)), loaded)[-1].config
    record = {"weights": config.weights, "tokenizer": config.tokenizer, "rarity": _sampled(config, loaded)}
    print(json.dumps(record, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main(sys.argv[1])
