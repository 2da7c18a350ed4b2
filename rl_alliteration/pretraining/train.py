"""Training from top to bottom: data, model, one update after another, the model folder and its card."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rl_alliteration.errors import UserError
from rl_alliteration.lm.loading import load_model
from rl_alliteration.pretraining.card import card, compare
from rl_alliteration.pretraining.checkpoint import Record, load_record, load_state, save_state
from rl_alliteration.pretraining.data import SEPARATOR, Batches, encode, read_stories, train_tokenizer
from rl_alliteration.pretraining.evaluation import nats
from rl_alliteration.pretraining.model import new_model, optimizers_of, schedule
from rl_alliteration.pretraining.settings import Pretraining, check
from rl_alliteration.results.storage import Storage

_SAY_SECONDS = 15.0


def pretrain(settings: Pretraining) -> None:
    """Train, or resume; then write the card. Prints a line at each evaluation, and every 15 s between them.

    Raises:
        UserError: a setting is outside of what it accepts, or is not the one that the training was begun with.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    device = check(settings)
    stories = read_stories(settings.stories, "--stories")
    heldout = read_stories(settings.heldout, "--heldout") if settings.heldout else []
    if len(stories) < 2 * settings.validation:
        raise UserError(
            f"--validation: {settings.validation} of {len(stories)} stories leave too few to learn from; "
            f"give at most {len(stories) // 2}"
        )
    folder = Path(settings.output).expanduser().resolve()  # a shipped model may have the same name
    storage = Storage(folder)
    fixed = _fixed(settings, stories)
    begun = _begun(settings, fixed, storage)
    stories, validation = stories[: -settings.validation], stories[-settings.validation :]
    tokenizer = train_tokenizer(stories, settings.vocabulary, settings.context)
    encoded, encoded_validation = encode(tokenizer, stories), encode(tokenizer, validation)
    model = new_model(settings, len(tokenizer)).to(device).train()
    optimizers = optimizers_of(model, settings)
    batches = Batches(
        encoded, context=settings.context, batch=settings.batch, passes=settings.passes, seed=settings.seed
    )
    if begun is not None:
        load_state(storage, model, [optimizer for optimizer, _ in optimizers])
    record = begun or Record(fixed)
    _say(
        f"{len(stories):,} stories, {sum(map(len, encoded)):,} tokens; "
        f"{sum(p.numel() for p in model.parameters()):,} parameters; "
        f"{batches.updates:,} updates on {device}, {record.update:,} of them done"
    )

    started = said = time.perf_counter()
    first, seconds = record.update, record.seconds
    for update in range(first, batches.updates):
        batch = batches.of_update(update)
        loss = _take_step(model, optimizers, batch, update, batches.updates, settings)
        record.update = update + 1
        record.tokens += batch.size

        now = time.perf_counter()
        evaluates = record.update % settings.evaluate_every == 0 or record.update == batches.updates
        if not evaluates and now - said <= _SAY_SECONDS:
            continue
        line = f"update {record.update:,}/{batches.updates:,}, pass {batches.pass_of(update) + 1}: loss {loss:.3f}"
        if evaluates:
            total, count = nats(model, encoded_validation, settings.context)
            better = record.best is None or total / count < record.best
            if better:
                record.best = total / count
                model.save_pretrained(folder)
                tokenizer.save_pretrained(folder)
            record.losses.append([record.update, loss, total / count])
            record.seconds = seconds + time.perf_counter() - started
            save_state(storage, model, [optimizer for optimizer, _ in optimizers], record)
            line += f", validation {total / count:.4f} nats a token{' (kept)' if better else ''}"
        _say(f"{line}, {_left(now - started, record.update - first, batches.updates - record.update)}")
        said = now
    loaded = load_model(str(folder))
    compared = compare(loaded, heldout, settings.context) if heldout else ""
    if compared:
        _say(compared)
    (folder / "README.md").write_text(card(settings, loaded, folder, record, compared), encoding="utf-8")
    _say(f"the model is in {folder}; its card says what it learnt")


def _take_step(
    model: Any,
    optimizers: Sequence[tuple[torch.optim.Optimizer, float]],
    batch: NDArray[np.int64],
    update: int,
    updates: int,
    settings: Pretraining,
) -> float:
    """Update the model on a batch of token ids, (batch, context); the loss before it, nats a token."""
    device = next(model.parameters()).device
    ids = torch.from_numpy(batch).to(device)
    torch.manual_seed(settings.seed * 1_000_003 + update)  # the same dropout whenever training was resumed
    with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
        loss = model(input_ids=ids, labels=ids).loss
    for optimizer, rate in optimizers:
        optimizer.zero_grad(set_to_none=True)
        for group in optimizer.param_groups:
            group["lr"] = rate * schedule(update, updates)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer, _ in optimizers:
        optimizer.step()
    return float(loss.item())


def _fixed(settings: Pretraining, stories: Sequence[str]) -> dict[str, Any]:
    """What must be the same when training is resumed; of the stories what they say, not where they are."""
    digest = hashlib.sha256(SEPARATOR.join(stories).encode()).hexdigest()
    kept = {name: value for name, value in dataclasses.asdict(settings).items() if name not in _FREE}
    return {**kept, "stories": digest}


_FREE = ("output", "heldout", "device")
"""Settings that may differ when training is resumed."""


def _begun(settings: Pretraining, fixed: Mapping[str, Any], storage: Storage) -> Record | None:
    """The record of the training that was begun in this folder; None if there was none.

    Raises:
        UserError: it was begun with other settings or stories, or its checkpoint is damaged.
    """
    record = load_record(storage)
    if record is None:
        return None
    changed = [name for name, value in fixed.items() if record.settings.get(name) != value]
    if changed == ["stories"]:
        raise UserError(f"--stories: {settings.output!r} was begun with other stories; give them, or another --output")
    if changed:
        field = next(name for name in changed if name != "stories")
        raise UserError(
            f"--{field.replace('_', '-')}: {settings.output!r} was begun with {record.settings.get(field)!r}; "
            "give that, or another --output"
        )
    return record


def _left(seconds: float, done: int, left: int) -> str:
    return f"{done / max(seconds, 1e-9):.2f} updates/s, about {seconds / done * left / 60:.1f} min left"


def _say(message: str) -> None:
    print(message, flush=True)
