"""What rewards need beside a text: tables of numbers, made of the unmodified model's own texts.

    python -m rl_alliteration.tune.reward_parameters storyteller > rl_alliteration/models/storyteller/initials.json

They are a part of a trial's configuration, and so of its id: whoever reads the results has them.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import sys
import types
from collections.abc import Callable, Sequence
from importlib.resources import files

from rl_alliteration.config import ORIGINAL_GENERATIONS, SHIPPED_MODELS, PlannedTrial, TrialConfig, canonical_json
from rl_alliteration.errors import UserError
from rl_alliteration.foreign import Damaged, Finite, encode_record, read_object, read_record, typed
from rl_alliteration.lm.loading import LoadedModel, load_model
from rl_alliteration.results.storage import Storage, existing_storage
from rl_alliteration.rl.rewards import get_reward, initial_rarity
from rl_alliteration.rl.trainer import Trainer
from rl_alliteration.rows import rewarded
from rl_alliteration.tune.plan import Sweep, plan, resolve

Table = dict[str, float]

_SHIPPED = "rarity"
"""The table that shipped models bring."""


def with_reward_parameters(
    trials: Sequence[PlannedTrial], loaded: LoadedModel, sweep: Sweep, say: Callable[[str], None]
) -> list[PlannedTrial]:
    """The trials with the tables in their configuration that their reward needs.

    Each is made of the 1,000 texts of the trial `original`, once, and kept in the storage, so that the same command
    finds the same trials again, wherever it runs. A shipped model brings some.

    Args:
        trials: as planned.
        loaded: their model.
        sweep: theirs; a dry run samples nothing, and without a table leaves the trials as they are (`id_is_known`).
        say: called with a line when sampling begins, which takes a while, or where a dry run goes without.

    Raises:
        UserError: what a reward makes of the texts is no table of finite numbers.
    """
    config = trials[0].config
    needs = get_reward(config.reward).needs
    if not needs:
        return list(trials)
    storage = existing_storage(sweep.storage)

    @functools.cache
    def texts() -> list[str]:
        say(f"sampling {ORIGINAL_GENERATIONS:,} texts of the model before RL, for the reward's {' and '.join(needs)}")
        return _sampled(config, loaded)

    version = f"-version{config.reward_version}" if config.reward_version > 1 else ""
    tables = {}
    for name, table_of in needs.items():
        # Rewards may call their tables alike; that of initials has the name of before there were others.
        ours = table_of is initial_rarity
        label = "initials" if ours else f"{name}-{_digest(table_of)}"
        path = f"models/{config.model_fingerprint}/{label}-{config.sampling_digest}{version}.json"
        shipped = _shipped(config) if ours else None
        if shipped is not None:
            tables[name] = shipped
        elif storage is not None and storage.exists(path):
            tables[name] = _kept(storage, path, name)
        elif sweep.dry_run:
            say(
                f"the ids of these trials are not known yet: they contain the reward's {name}, which the sweep makes "
                f"of {ORIGINAL_GENERATIONS:,} texts of the model before RL"
            )
            return list(trials)
        else:
            tables[name] = _checked(table_of(texts()), name)
            if storage is not None:
                storage.put(path, encode_record({name: tables[name]}))
    parameters = canonical_json(tables)
    return [
        dataclasses.replace(trial, config=dataclasses.replace(trial.config, reward_parameters=parameters))
        for trial in trials
    ]


def id_is_known(trial: PlannedTrial) -> bool:
    """Whether its configuration has all that its id is made of: not where its reward's tables are missing."""
    return bool(trial.config.reward_parameters) or not get_reward(trial.config.reward).needs


def _digest(table_of: Callable[..., Table]) -> str:
    """Of a function's name and code: one that is edited makes its table anew."""
    code = getattr(table_of, "__code__", None)
    constants = [one for one in getattr(code, "co_consts", ()) if not isinstance(one, types.CodeType)]
    described = (table_of.__module__, table_of.__qualname__, getattr(code, "co_code", b""), constants)
    return hashlib.sha256(repr(described).encode()).hexdigest()[:8]


def _checked(table: Table, name: str) -> Table:
    try:
        return typed(Table, json.loads(json.dumps(table, allow_nan=False)), name)
    except (Damaged, TypeError, ValueError) as error:
        raise UserError(
            f"--reward: its {name!r} is not a table of finite numbers by name ({error}); mend it"
        ) from error


def _kept(storage: Storage, path: str, name: str) -> Table:
    """A table in a storage.

    Raises:
        Damaged: it is none.
    """
    try:
        values = read_object(storage.get(path), path)
        if name not in values:
            return typed(dict[str, Finite], values, path)  # of before there were checksums
        return read_record(dict[str, dict[str, Finite]], json.dumps(values), path)[name]
    except Damaged as damaged:
        raise Damaged(f"{damaged}; delete it and run the same command again: the same table is made") from damaged


def _shipped(config: TrialConfig) -> dict[str, float] | None:
    """The rarity of initials that comes with the package, if model and tokenizer are those of a shipped one."""
    for name in SHIPPED_MODELS:
        record = json.loads((files("rl_alliteration") / "models" / name / "initials.json").read_text("utf-8"))
        same = (record["weights"], record["tokenizer"]) == (config.weights, config.tokenizer)
        if same and config.architecture in ("", record["architecture"]):
            rarity: dict[str, float] = record[_SHIPPED]
            return rarity
    return None


def _sampled(config: TrialConfig, loaded: LoadedModel) -> list[str]:
    """The texts that the trial without updates has."""
    config = dataclasses.replace(config.original(), reward="alliteration", reward_version=1)
    trainer = Trainer(config, loaded, get_reward("alliteration"), None)
    texts: list[str] = []
    while len(texts) < ORIGINAL_GENERATIONS:
        texts += map(rewarded, trainer.step().texts)
    return texts


def main(name: str) -> None:
    """Print the table of a model's texts with the study's prompt and sampling, and whose it is."""
    loaded = load_model(name)
    config = plan(resolve(Sweep(storage="none", experiment="none", beta=(0.0,), model=name)), loaded)[0].config
    fingerprints = {name: getattr(config, name) for name in ("weights", "architecture", "tokenizer")}
    record = {**fingerprints, _SHIPPED: initial_rarity(_sampled(config, loaded))}
    print(json.dumps(record, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main(sys.argv[1])
