"""Train a story model such as the shipped `storyteller` from a text file: tokenizer, GPT-Neo, schedule, model card.

    python -m tune_jobs.pretrain_storyteller --stories tinystories.txt --heldout heldout.txt --output my-storyteller
    rl-alliteration sweep --model my-storyteller ...

Read from top to bottom: settings, data, model, losses, checkpoint, training, card. The same command goes on after a
kill with the same numbers, bit for bit on the same machine. The model folder holds the weights of the lowest
validation loss so far, so that it can be used while training goes on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
import tyro
from numpy.typing import NDArray
from torch import Tensor

from rl_alliteration.cli import guarded, in_one_line, printable
from rl_alliteration.config import STUDY_MAX_LENGTH, STUDY_PROMPT
from rl_alliteration.errors import UserError
from rl_alliteration.language_model import load_model
from rl_alliteration.results.storage import Storage
from rl_alliteration.sampling import sample, uniforms
from rl_alliteration.trainer import decode_text

SEPARATOR = "<|endoftext|>"
"""Between stories in a file; as a token, id 0, it begins, ends and pads a text."""

WORDS = 100
"""Models are compared over so many first words of each held-out story: about what the study samples."""

_CHECKPOINT = "training/checkpoint.safetensors"


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """Train a story model from a text file of stories."""

    stories: str
    """UTF-8 text file; a line <|endoftext|> between stories."""
    output: str
    """Folder of the model; in `training/` the state that the same command goes on from."""
    heldout: str | None = None
    """Another such file, never trained on: the card compares the model with the shipped one on it."""
    passes: int = 10
    """How often every story is read."""
    vocabulary: int = 2048
    """Tokens of the byte-level BPE that is trained on the stories."""
    layers: int = 4
    """Blocks of the model."""
    width: int = 192
    """Of its hidden states; a multiple of the heads."""
    heads: int = 6
    """Attention heads a block."""
    context: int = 256
    """Most tokens that it can read."""
    dropout: float = 0.0
    """Of embeddings and residuals, while training."""
    weight_decay: float = 0.0
    """Decoupled, of matrices and embeddings."""
    batch: int = 32
    """Rows of `context` tokens an update."""
    matrix_learning_rate: float = 0.02
    """Muon's, of the matrices inside the blocks; falls to 0 in a line, as the other one does."""
    learning_rate: float = 3e-3
    """AdamW's, of embeddings, biases and norms."""
    validation: int = 200
    """Stories, the last of the file, that are set aside: their loss chooses the weights that are kept."""
    evaluate_every: int = 200
    """Updates between two validation losses and checkpoints."""
    device: str = "auto"
    """`auto`: a GPU where there is one; or cpu, cuda, cuda:1."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Of products while training; weights are float32."""
    seed: int = 0
    """Of the first weights, the order of the stories and dropout."""


# --- data ------------------------------------------------------------------------------------------------


def read_stories(path: str, flag: str) -> list[str]:
    """The stories of a file.

    Raises:
        UserError: it cannot be read, or has none.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{flag}: {path!r} cannot be read as a UTF-8 text file ({error})") from error
    stories = [story.strip() for story in text.split(SEPARATOR)]
    stories = [story for story in stories if story]
    if not stories:
        raise UserError(f"{flag}: {path!r} has no story in it; give a text file with a line {SEPARATOR} between two")
    return stories


def train_tokenizer(stories: Sequence[str], vocabulary: int, context: int) -> Any:
    """Byte-level BPE, as transformers has it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[SEPARATOR],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(stories, trainer)
    ends = {"bos_token": SEPARATOR, "eos_token": SEPARATOR, "pad_token": SEPARATOR}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=context, **ends)


def encode(tokenizer: Any, stories: Sequence[str]) -> list[list[int]]:
    """Token ids of each story, its end token included."""
    return [[*encoding.ids, 0] for encoding in tokenizer.backend_tokenizer.encode_batch(list(stories))]


def rows_of_pass(
    stories: Sequence[list[int]], context: int, seed: int, number: int, rows: int | None = None
) -> NDArray[np.int64]:
    """The stories in the pass's own order as rows of tokens, (rows, context).

    Each row begins with a story, as sampled texts do, and is filled up with the beginning of the next ones; what
    does not fit is left out, in another pass it is something else. `rows`: as many as the first pass came to.
    """
    order = np.random.default_rng([seed, number]).permutation(len(stories))
    filled: list[list[int]] = []
    place = 0
    while place < len(order) if rows is None else len(filled) < rows:
        row: list[int] = []
        while len(row) < context:
            row += stories[order[place % len(order)]]
            place += 1
        filled.append(row[:context])
    return np.array(filled, dtype=np.int64)


# --- model and losses ------------------------------------------------------------------------------------


def new_model(settings: Pretraining, vocabulary: int) -> Any:
    """GPT-Neo, the architecture of TinyStories-33M, with the seed's first weights."""
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    torch.manual_seed(settings.seed)
    model: Any = GPTNeoForCausalLM(
        GPTNeoConfig(
            vocab_size=vocabulary,
            hidden_size=settings.width,
            num_layers=settings.layers,
            num_heads=settings.heads,
            attention_types=[[["global"], settings.layers]],
            max_position_embeddings=settings.context,
            window_size=settings.context,
            embed_dropout=settings.dropout,
            resid_dropout=settings.dropout,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )
    )
    for block in model.transformer.h:
        block.attn.attention._attn = _fused_attention
    return model


def _fused_attention(query: Tensor, key: Tensor, value: Tensor, _: Tensor | None = None) -> tuple[Tensor, None]:
    """Causal attention as one kernel, unscaled as GPT-Neo's is; transformers computes all (T, T) scores at length."""
    query, key = query.to(value.dtype), key.to(value.dtype)
    return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=1.0), None


def optimizers_of(model: Any, settings: Pretraining) -> list[tuple[torch.optim.Optimizer, float]]:
    """Muon for the matrices inside the blocks, AdamW for the rest, each with its greatest learning rate."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".h." in name]
    chosen = set(map(id, matrices))
    rest = [p for p in model.parameters() if id(p) not in chosen]
    groups = [
        {"params": [p for p in rest if p.ndim == 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in rest if p.ndim != 2], "weight_decay": 0.0},
    ]
    muon = torch.optim.Muon(matrices, lr=settings.matrix_learning_rate, weight_decay=settings.weight_decay)
    adamw = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.95))
    return [(muon, settings.matrix_learning_rate), (adamw, settings.learning_rate)]


def schedule(update: int, updates: int) -> float:
    """Share of the greatest learning rate: up in the first hundredth, then down to 0 in a line."""
    warm_up = max(updates // 100, 1)
    return min((update + 1) / warm_up, 1 - update / updates)


@torch.no_grad()
def nats(model: Any, stories: Sequence[list[int]], context: int, batch: int = 32) -> tuple[float, int]:
    """Sum of −log p over all tokens but the first of each story's first `context`, and how many they are."""
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    total, count = 0.0, 0
    cut = sorted((ids[:context] for ids in stories), key=len)
    for start in range(0, len(cut), batch):
        group = cut[start : start + batch]
        lengths = torch.tensor([len(ids) for ids in group], device=device)
        padded = torch.tensor([ids + [0] * (len(group[-1]) - len(ids)) for ids in group], device=device)
        log_p = model(input_ids=padded).logits[:, :-1].log_softmax(-1).gather(-1, padded[:, 1:, None])[..., 0]
        mask = torch.arange(1, padded.shape[1], device=device) < lengths[:, None]
        total -= float((log_p.double() * mask).sum())
        count += int(mask.sum())
    model.train(training)
    return total, count


def nats_per_word(model: Any, tokenizer: Any, stories: Sequence[str], context: int) -> float:
    """Mean −log p a word, over the first 100 words of each story but the first: for models of any tokenizer."""
    texts = [" ".join(story.split()[:WORDS]) for story in stories]
    encoded = [tokenizer.backend_tokenizer.encode(text).ids[:context] for text in texts]
    words = sum(len(tokenizer.decode(ids).split()) - 1 for ids in encoded)
    return nats(model, encoded, context)[0] / max(words, 1)


# --- checkpoint ------------------------------------------------------------------------------------------


def save_state(
    storage: Storage, model: Any, optimizers: Sequence[torch.optim.Optimizer], record: dict[str, Any]
) -> None:
    """All of the training's state as one file, put there whole. Nothing is ever unpickled."""
    tensors = {f"model.{name}": p.detach().cpu().contiguous() for name, p in model.named_parameters()}
    for number, optimizer in enumerate(optimizers):
        for index, values in optimizer.state_dict()["state"].items():
            tensors |= {f"{number}.{index}.{key}": value.cpu().contiguous() for key, value in values.items()}
    storage.put(_CHECKPOINT, safetensors.torch.save(tensors, metadata={"record": json.dumps(record)}))


def load_record(storage: Storage) -> dict[str, Any] | None:
    """What the checkpoint says of itself, if there is one.

    Raises:
        UserError: it is damaged.
    """
    path = storage.folder(_CHECKPOINT)
    if path is None or not path.exists():
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            record: dict[str, Any] = json.loads(file.metadata()["record"])
    except (safetensors.SafetensorError, TypeError, KeyError, ValueError) as error:
        raise UserError(f"--output: {str(path)!r} is damaged ({error}); give another --output, or remove it") from error
    return record


def load_state(storage: Storage, model: Any, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Go back to the checkpoint, of a model and optimizers like these."""
    path = storage.folder(_CHECKPOINT)
    assert path is not None
    with safetensors.safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
    for number, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith(f"{number}."):
                _, index, key = name.split(".")
                state.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


# --- training --------------------------------------------------------------------------------------------


def pretrain(settings: Pretraining) -> int:
    """Train, or go on; then write the card. The exit code.

    Raises:
        UserError: a setting is outside of what it accepts.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    device = _checked(settings)
    stories = read_stories(settings.stories, "--stories")
    heldout = read_stories(settings.heldout, "--heldout") if settings.heldout else []
    if len(stories) < 2 * settings.validation:
        raise UserError(
            f"--validation: {settings.validation} of {len(stories)} stories leave too few to learn from; "
            f"give at most {len(stories) // 2}"
        )
    folder = Path(settings.output).expanduser().resolve()  # a shipped model may have the same name
    storage = Storage(folder)
    fixed = {key: value for key, value in vars(settings).items() if key not in _FREE}
    fixed["stories"] = hashlib.sha256(SEPARATOR.join(stories).encode()).hexdigest()  # what they say, not where they are
    record = load_record(storage)
    changed = [key for key, value in fixed.items() if record and record["settings"].get(key) != value]
    if record and changed == ["stories"]:
        raise UserError(f"--stories: {settings.output!r} was begun with other stories; give them, or another --output")
    if record and changed:
        field = next(key for key in changed if key != "stories")
        raise UserError(
            f"--{field.replace('_', '-')}: {settings.output!r} was begun with {record['settings'].get(field)!r}; "
            "give that, or another --output"
        )
    stories, aside = stories[: -settings.validation], stories[-settings.validation :]
    tokenizer = train_tokenizer(stories, settings.vocabulary, settings.context)
    encoded, encoded_aside = encode(tokenizer, stories), encode(tokenizer, aside)
    model = new_model(settings, len(tokenizer)).to(device).train()
    optimizers = optimizers_of(model, settings)

    rows = len(rows_of_pass(encoded, settings.context, settings.seed, 0))
    updates_of_pass = math.ceil(rows / settings.batch)
    updates = settings.passes * updates_of_pass
    if record is None:
        record = {"settings": fixed, "update": 0, "tokens": 0, "seconds": 0.0, "best": None, "losses": []}
    else:
        load_state(storage, model, [optimizer for optimizer, _ in optimizers])
    parameters = sum(p.numel() for p in model.parameters())
    _say(
        f"{len(stories):,} stories, {sum(map(len, encoded)):,} tokens; {parameters:,} parameters; "
        f"{updates:,} updates on {device}, {record['update']:,} of them done"
    )

    started = last = time.perf_counter()
    begun, seconds = record["update"], record["seconds"]
    order, number = np.empty((0, 0), np.int64), -1
    for update in range(begun, updates):
        if update // updates_of_pass != number:
            number = update // updates_of_pass
            order = rows_of_pass(encoded, settings.context, settings.seed, number, rows)
        first = update % updates_of_pass * settings.batch
        batch = torch.from_numpy(order[first : first + settings.batch]).to(device)
        torch.manual_seed(settings.seed * 1_000_003 + update)  # dropout, whenever training was taken up again
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
            loss = model(input_ids=batch, labels=batch).loss
        for optimizer, rate in optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = rate * schedule(update, updates)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, _ in optimizers:
            optimizer.step()
        record["update"] = update + 1
        record["tokens"] += batch.numel()

        now = time.perf_counter()
        if (update + 1) % settings.evaluate_every == 0 or update + 1 == updates:
            total, count = nats(model, encoded_aside, settings.context)
            better = record["best"] is None or total / count < record["best"]
            if better:
                record["best"] = total / count
                model.save_pretrained(folder)
                tokenizer.save_pretrained(folder)
            record["losses"].append([update + 1, loss.item(), total / count])
            record["seconds"] = seconds + time.perf_counter() - started
            save_state(storage, model, [optimizer for optimizer, _ in optimizers], record)
            _say(
                f"update {update + 1:,}/{updates:,}, pass {number + 1}: loss {loss.item():.3f}, "
                f"validation {total / count:.4f} nats a token{' (kept)' if better else ''}, "
                f"{_left(now - started, update + 1 - begun, updates - update - 1)}"
            )
            last = now
        elif now - last > 15:
            _say(
                f"update {update + 1:,}/{updates:,}, pass {number + 1}: loss {loss.item():.3f}, "
                f"{_left(now - started, update + 1 - begun, updates - update - 1)}"
            )
            last = now
    (folder / "README.md").write_text(card(settings, folder, record, parameters, heldout), encoding="utf-8")
    _say(f"the model is in {folder}; its card says what it learnt")
    return 0


_FREE = ("output", "heldout", "device")
"""Settings that may differ when training is taken up again."""


def _checked(settings: Pretraining) -> torch.device:
    """The device, if all settings are what they may be."""
    for field, least in (("passes", 1), ("vocabulary", 257), ("layers", 1), ("width", 1), ("heads", 1), ("context", 8),
                         ("batch", 1), ("validation", 1), ("evaluate_every", 1), ("seed", 0)):  # fmt: skip
        if getattr(settings, field) < least:
            flag = field.replace("_", "-")
            raise UserError(f"--{flag}: {getattr(settings, field)} is not accepted; give {least} or more")
    for field in ("matrix_learning_rate", "learning_rate", "weight_decay"):
        if not (math.isfinite(getattr(settings, field)) and getattr(settings, field) >= 0):
            flag = field.replace("_", "-")
            raise UserError(f"--{flag}: {getattr(settings, field)} is not accepted; give a number, 0 or more")
    if not 0 <= settings.dropout < 1:
        raise UserError(f"--dropout: {settings.dropout} is not accepted; give a number from 0 to less than 1")
    if settings.width % settings.heads:
        raise UserError(f"--width: {settings.width} is no multiple of the {settings.heads} heads")
    output = Path(settings.output).expanduser()
    if output.exists() and not output.is_dir():
        raise UserError(f"--output: {settings.output!r} is no folder; give one, it is made if it is not there")
    if not hasattr(torch.optim, "Muon"):
        raise UserError(f"torch {torch.__version__} has no Muon; install torch 2.9 or newer")
    name = settings.device if settings.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = str(error).splitlines()[0]
        raise UserError(f"--device: {name!r} cannot be used ({reason}); give auto, cpu or cuda") from error


def card(settings: Pretraining, folder: Path, record: dict[str, Any], parameters: int, heldout: Sequence[str]) -> str:
    """The model card: what it is, what it read, how long, how well, what it writes."""
    loaded = load_model(str(folder))
    model = loaded.reference()
    vocabulary = loaded.tokenizer.get_vocab_size()
    chances = uniforms(0, 0, 3, min(STUDY_MAX_LENGTH, settings.context))
    rollout = sample(model, loaded.encode(STUDY_PROMPT), chances, end_tokens=loaded.end_tokens)
    samples = [
        decode_text(loaded.tokenizer, ids[:length], loaded.end_tokens)
        for ids, length in zip(rollout.token_ids.tolist(), rollout.lengths, strict=True)
    ]
    out = io.StringIO()
    told = {**record["settings"], "stories": Path(settings.stories).name}  # no path of whoever trained it
    print("---\nlibrary_name: transformers\npipeline_tag: text-generation\n---", file=out)
    print(f"# {folder.name}\n", file=out)
    print(
        f"Writes short stories. GPT-Neo: {parameters:,} parameters, {settings.layers} layers, width {settings.width}, "
        f"{settings.heads} heads, context {settings.context}, tied embeddings, float32; byte-level BPE of "
        f"{vocabulary:,} tokens; begin, end and padding share token 0.\n", file=out,
    )  # fmt: skip
    print(
        f"Trained by `tune_jobs/pretrain_storyteller.py`: {settings.passes} passes, {record['tokens'] / 1e6:.3g} M "
        f"tokens, {record['seconds'] / 60:.3g} minutes, {record['update']:,} updates. The weights are those of the "
        f"lowest validation loss, {record['best']:.4f} nats a token (the last {settings.validation} stories of the "
        f"file, at most {settings.context} tokens each). Settings: `{json.dumps(told)}`.\n", file=out,
    )  # fmt: skip
    if heldout:
        extent = f"their first {WORDS} words"
        if settings.context < 2 * WORDS:  # both models are to read the same words
            extent = f"what {settings.context} tokens hold of them"
            readable = [loaded.tokenizer.encode(story).ids[: settings.context] for story in heldout]
            heldout = [" ".join(loaded.tokenizer.decode(ids).split()[:-1]) for ids in readable]
        ours = nats_per_word(model.model, loaded.pretrained_tokenizer, heldout, settings.context)
        shipped = load_model("storyteller")
        theirs = nats_per_word(shipped.reference().model, shipped.pretrained_tokenizer, heldout, shipped.context or 256)
        compared = (
            f"{ours:.3f} nats a word on {len(heldout):,} held-out stories ({extent}); the shipped "
            f"`storyteller` has {theirs:.3f} on the same."
        )
        _say(compared)
        print(f"{compared}\n", file=out)
    print("Samples (temperature 1, full distribution, seed 0):\n", file=out)
    for text in samples:
        print("\n".join(f"    {line}" for line in printable(text).splitlines()), end="\n\n", file=out)
    return out.getvalue()


def _left(seconds: float, done: int, left: int) -> str:
    return f"{done / max(seconds, 1e-9):.2f} updates/s, about {seconds / done * left / 60:.1f} min left"


def _say(message: str) -> None:
    print(message, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command: train, and exit with a code as `rl-alliteration` does."""

    def run() -> int:
        with in_one_line("python -m tune_jobs.pretrain_storyteller"):
            settings = tyro.cli(Pretraining, args=arguments, prog="pretrain_storyteller")
        return pretrain(settings)

    sys.exit(guarded(run))


if __name__ == "__main__":
    main()
