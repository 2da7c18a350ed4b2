"""What a sweep keeps or restores beside its trials: the model's card and tokenizer, event logs, checkpoints."""

from __future__ import annotations

from rl_alliteration.config import PlannedTrial
from rl_alliteration.foreign import Damaged
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.results.cards import ModelCard, read_tokenizer, write_card, write_tokenizer
from rl_alliteration.results.events import EventLog
from rl_alliteration.results.storage import Storage
from rl_alliteration.trial.checkpoints import CheckpointStore
from rl_alliteration.tune.plan import Sweep
from rl_alliteration.tune.resume import Found


def store_model(storage: Storage, trial: PlannedTrial, loaded: LoadedModel, sweep: Sweep) -> str | None:
    """Keep the tokenizer and a card with the results, so that texts can be checked without the model.

    Returns:
        What was wrong with those that were there, and has been written again; None if nothing was.
    """
    fingerprint = trial.config.model_fingerprint
    problem = None
    if storage.list(f"models/{fingerprint}"):
        try:
            read_tokenizer(storage, fingerprint, trial.config.tokenizer)
            return None
        except Damaged as damaged:
            problem = f"{damaged}; written again"
    card = ModelCard(
        model=loaded.name,
        weights=loaded.weights_fingerprint,
        architecture=loaded.architecture_fingerprint,
        tokenizer=loaded.tokenizer_fingerprint,
        tokenizer_source=sweep.tokenizer,
        revision=loaded.revision or sweep.revision,
        end_tokens=tuple(sorted(loaded.end_tokens)),
        parameters=sum(p.numel() for p in loaded.model.parameters()),
        model_type=loaded.model.config.model_type,
    )
    write_tokenizer(storage, fingerprint, loaded.tokenizer.to_str())
    write_card(storage, fingerprint, card)
    return problem


def restore_files(storage: Storage, log: EventLog, found: Found) -> list[str]:
    """Put right what of a trial's files needs no computing: its event log, and checkpoints that are of no use.

    Returns:
        What was done, a line each.
    """
    if found.seen is None:
        return []
    events = found.seen.events
    done = log.restore(found.trial.trial_id, events.rows, events.problems, events.unlisted)
    newest = max(found.seen.checkpoints, default=0)
    for generation, problem in found.seen.checkpoints.items():
        if problem is not None and 0 < generation < newest:  # a replay from the one before it gives the same model
            CheckpointStore(storage, log.experiment, found.trial.trial_id).delete(generation)
            done.append(f"{problem}; it is removed, as later ones are there")
    return done
