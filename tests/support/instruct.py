"""Tiny instruct models without a hub: random weights, a chat template, and tokenizers of both kinds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from rl_alliteration.lm.sources import resolve_source

START, END = "<|im_start|>", "<|im_end|>"
SYSTEM = "You are terse."
CHATML = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    f"{{{{ '{START}system\n{SYSTEM}{END}\n' }}}}{{% endif %}}"
    f"{{{{ '{START}' + message['role'] + '\n' + message['content'] + '{END}\n' }}}}{{% endfor %}}"
    f"{{% if add_generation_prompt %}}{{{{ '{START}assistant\n' }}}}{{% endif %}}"
)
"""As SmolLM2's: with a system message of its own where none is given."""
KINDS = ("bytes", "sentencepiece")


def instruct_folder(folder: Path, kind: str = "bytes", template: str | None = CHATML) -> Path:
    """A Llama whose end token is another one than the template's end of a turn, as some models' files have it."""
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = _byte_level() if kind == "bytes" else _sentencepiece()
    end, begin = ("<|endoftext|>", "<|endoftext|>") if kind == "bytes" else ("</s>", "<s>")
    pretrained: Any = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=begin, eos_token=end)
    pretrained.add_special_tokens({"additional_special_tokens": [START, END]})
    pretrained.chat_template = template
    pretrained.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(pretrained), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=256, initializer_range=0.2, bos_token_id=pretrained.bos_token_id,
        eos_token_id=pretrained.eos_token_id, pad_token_id=pretrained.eos_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight[pretrained.convert_tokens_to_ids(END)] *= 4  # so that some turns end
    model.save_pretrained(folder)
    return folder


def edit_template(folder: Path, template: str | None) -> None:
    """Another chat template, or none."""
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def copy_with(folder: Path, target: Path, template: str | None) -> Path:
    """The model with another chat template."""
    shutil.copytree(folder, target)
    edit_template(target, template)
    return target


def _byte_level() -> Tokenizer:
    return Tokenizer.from_file(str(Path(resolve_source("storyteller", "--model")) / "tokenizer.json"))


def _sentencepiece() -> Tokenizer:
    """As Llama's: a text begins with a space that decoding takes away, unknown characters are bytes."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    words = "Tell me a story about the tall tree and a tiny toad told to talk. Say it, then stop! system user assistant"
    trained.train_from_iterator([words, words.lower()] * 4, trainers.BpeTrainer(vocab_size=200, show_progress=False))
    described = json.loads(trained.to_str())["model"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *described["vocab"]]
    vocabulary = {piece: place for place, piece in enumerate(dict.fromkeys(pieces))}
    merges = [(left, right) for left, right in described["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer
