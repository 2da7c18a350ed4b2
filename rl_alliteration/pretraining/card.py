"""The model card."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

from rl_alliteration import terminal
from rl_alliteration.flags import STUDY_MAX_LENGTH, STUDY_PROMPT
from rl_alliteration.lm.loading import LoadedModel, load_model
from rl_alliteration.lm.sampling import sample, uniforms
from rl_alliteration.lm.weights import as_transformers
from rl_alliteration.pretraining.checkpoint import Record
from rl_alliteration.pretraining.evaluation import WORDS, nats_per_word
from rl_alliteration.pretraining.settings import Pretraining
from rl_alliteration.rl.trainer import decode_text


def card(settings: Pretraining, loaded: LoadedModel, folder: Path, record: Record, compared: str) -> str:
    """The model card: what the model is, what it read, for how long, how well it predicts, what it writes.

    Args:
        settings: of its training.
        loaded: the model with the weights that were kept.
        folder: its folder, whose name is the model's.
        record: what its training has come to.
        compared: what `compare` says, or nothing.
    """
    assert record.best is not None
    parameters = sum(p.numel() for p in loaded.model.parameters())
    shown = {**record.settings, "stories": Path(settings.stories).name}  # no path of whoever trained it
    out = io.StringIO()
    print("---\nlibrary_name: transformers\npipeline_tag: text-generation\n---", file=out)
    print(f"# {folder.name}\n", file=out)
    print(
        f"Writes short stories. GPT-Neo: {parameters:,} parameters, {settings.layers} layers, width {settings.width}, "
        f"{settings.heads} heads, context {settings.context}, tied embeddings, float32; byte-level BPE of "
        f"{loaded.tokenizer.get_vocab_size():,} tokens; begin, end and padding share token 0.\n", file=out,
    )  # fmt: skip
    print(
        f"Trained by `tune_jobs/pretrain_storyteller.py`: {settings.passes} passes, {record.tokens / 1e6:.3g} M "
        f"tokens, {record.seconds / 60:.3g} minutes, {record.update:,} updates. The weights are those of the "
        f"lowest validation loss, {record.best:.4f} nats a token (the last {settings.validation} stories of the "
        f"file, at most {settings.context} tokens each). Settings: `{json.dumps(shown)}`.\n", file=out,
    )  # fmt: skip
    if compared:
        print(f"{compared}\n", file=out)
    print("Samples (temperature 1, full distribution, seed 0):\n", file=out)
    for text in _samples(loaded, settings.context):
        print("\n".join(f"    {line}" for line in terminal.printable(text).splitlines()), end="\n\n", file=out)
    return out.getvalue()


def compare(loaded: LoadedModel, stories: Sequence[str], context: int) -> str:
    """How well the model and the shipped one predict held-out stories, as a sentence."""
    extent = f"their first {WORDS} words"
    if context < 2 * WORDS:  # both models are to read the same words
        extent = f"what {context} tokens hold of them"
        readable = [loaded.tokenizer.encode(story).ids[:context] for story in stories]
        stories = [" ".join(loaded.tokenizer.decode(ids).split()[:-1]) for ids in readable]
    ours = nats_per_word(as_transformers(loaded.model), loaded.pretrained_tokenizer, stories, context)
    shipped = load_model("storyteller")
    theirs = nats_per_word(
        as_transformers(shipped.model), shipped.pretrained_tokenizer, stories, shipped.context or 256
    )
    return (
        f"{ours:.3f} nats a word on {len(stories):,} held-out stories ({extent}); the shipped "
        f"`storyteller` has {theirs:.3f} on the same."
    )


def _samples(loaded: LoadedModel, context: int) -> list[str]:
    """Three texts that begin with the study's prompt."""
    chances = uniforms(0, 0, 3, min(STUDY_MAX_LENGTH, context))
    rollout = sample(loaded.reference(), loaded.encode(STUDY_PROMPT), chances, end_tokens=loaded.end_tokens)
    return [
        decode_text(loaded.tokenizer, ids[:length], loaded.end_tokens)
        for ids, length in zip(rollout.token_ids.tolist(), rollout.lengths, strict=True)
    ]
