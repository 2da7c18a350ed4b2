"""What a user's model folder may hold: each is used as it is meant, or refused in one line when it is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import VOCABULARY, save_folder
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, processors
from transformers import AutoTokenizer

from rl_alliteration.cli import main as cli
from rl_alliteration.config import TrialConfig
from rl_alliteration.errors import Failure, UserError
from rl_alliteration.flags import STUDY_PROMPT
from rl_alliteration.lm.loading import LoadedModel, load_model
from rl_alliteration.lm.sources import resolve_source
from rl_alliteration.results.storage import Storage
from rl_alliteration.trial.replay import open_trial
from rl_alliteration.tune.plan import Sweep, plan, resolve

Change = Callable[[dict[str, Any]], Any]


def edited(folder: Path, new: Path, config: Change = lambda _: None, tensors: Change = lambda _: None) -> Path:
    """A copy of a model's folder with changes to its configuration and its tensors."""
    shutil.copytree(folder, new)
    values = json.loads((new / "config.json").read_text())
    config(values)
    (new / "config.json").write_text(json.dumps(values))
    weights = load_file(new / "model.safetensors")
    save_file(tensors(weights) or weights, new / "model.safetensors", metadata={"format": "pt"})
    return new


def refusal(folder: Path | str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_model(str(folder), **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def with_keys(**keys: Any) -> Change:
    return lambda values: values.update(keys)


# A1: what changes the forward pass is part of what a model is.


def ids_of(folder: Path) -> list[str]:
    sweep = resolve(Sweep(storage="x", experiment="e", beta=(0.0,), model=str(folder), max_length=24))
    return [trial.trial_id for trial in plan(sweep, load_model(str(folder)))]


@pytest.mark.parametrize(
    "keys",
    [
        {"rms_norm_eps": 0.1},
        {"hidden_act": "gelu"},
        {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        {"max_position_embeddings": 64},
        {"pad_token_id": 5},  # its embedding is not trained
        {"a_key_that_code_may_read": 1},
    ],
    ids=str,
)
def test_what_changes_the_forward_pass_changes_the_trial(
    keys: dict[str, Any], tiny_llama: LoadedModel, tiny_llama_folder: Path, tmp_path: Path
) -> None:
    folder = edited(tiny_llama_folder, tmp_path / "m", with_keys(**keys))
    loaded = load_model(str(folder))
    assert loaded.weights_fingerprint == tiny_llama.weights_fingerprint
    assert loaded.architecture_fingerprint != tiny_llama.architecture_fingerprint
    assert not set(ids_of(folder)) & set(ids_of(tiny_llama_folder))


@pytest.mark.parametrize(
    "keys",
    [
        {"layer_norm_epsilon": 0.1},
        {"window_size": 3},
        {"attention_types": [[["global"], 4]], "attention_layers": ["global"] * 4},
        {"activation_function": "relu"},
        {"num_heads": 2},
    ],
    ids=str,
)
def test_what_changes_the_fast_path_changes_the_trial(
    keys: dict[str, Any], tiny_gpt_neo: LoadedModel, tiny_gpt_neo_folder: Path, tmp_path: Path
) -> None:
    loaded = load_model(str(edited(tiny_gpt_neo_folder, tmp_path / "m", with_keys(**keys))))
    assert loaded.weights_fingerprint == tiny_gpt_neo.weights_fingerprint
    assert loaded.architecture_fingerprint != tiny_gpt_neo.architecture_fingerprint


NEUTRAL: dict[str, Any] = {
    "_name_or_path": "elsewhere", "transformers_version": "4.30.0", "architectures": ["Other"], "torch_dtype": "half",
    "use_cache": False, "output_attentions": True, "output_hidden_states": True, "return_dict": False,
    "attention_dropout": 0.5, "initializer_range": 0.7, "id2label": {"0": "x", "1": "y"}, "bos_token_id": 3,
    "attn_implementation": "eager", "experts_implementation": "eager", "pretraining_tp": 1,
}  # fmt: skip


def test_keys_that_change_no_number_change_no_trial(
    tiny_llama: LoadedModel, tiny_llama_folder: Path, tmp_path: Path
) -> None:
    folder = edited(tiny_llama_folder, tmp_path / "m", with_keys(**NEUTRAL))
    assert load_model(str(folder)).architecture_fingerprint == tiny_llama.architecture_fingerprint
    assert ids_of(folder)[1].startswith("rloo-beta0-seed0-")
    logits = [
        load_model(str(path)).policy().forward.logits(torch.arange(12)[None]) for path in (folder, tiny_llama_folder)
    ]
    assert torch.equal(*logits)


def test_a_key_left_out_equals_its_default(tiny_llama: LoadedModel, tiny_llama_folder: Path, tmp_path: Path) -> None:
    def without(values: dict[str, Any]) -> None:
        for key in ("rms_norm_eps", "hidden_act", "attention_bias", "rope_parameters", "tie_word_embeddings"):
            del values[key]

    loaded = load_model(str(edited(tiny_llama_folder, tmp_path / "m", without)))
    assert loaded.architecture_fingerprint == tiny_llama.architecture_fingerprint


def test_either_spelling_of_rope_is_the_same_model(tiny_llama_folder: Path, tmp_path: Path) -> None:
    def old(values: dict[str, Any]) -> None:
        del values["rope_parameters"]
        values |= {"rope_theta": 20000.0, "rope_scaling": {"type": "linear", "factor": 2}}

    new = {"rope_type": "linear", "factor": 2.0, "rope_theta": 20000.0}
    folders = [
        edited(tiny_llama_folder, tmp_path / "old", old),
        edited(tiny_llama_folder, tmp_path / "new", with_keys(rope_parameters=new)),
    ]
    assert ids_of(folders[0])[:1] == ids_of(folders[1])[:1]


def test_files_of_any_kind_are_the_same_model(tiny_llama: LoadedModel, tiny_llama_folder: Path, tmp_path: Path) -> None:
    save_folder(tmp_path / "bin", tiny_llama.model, safetensors=False)
    (tmp_path / "parts").mkdir()
    tiny_llama.model.save_pretrained(tmp_path / "parts", max_shard_size="100KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    for name in ("bin", "parts"):
        loaded = load_model(str(tmp_path / name), tokenizer="storyteller")
        assert loaded.weights_fingerprint == tiny_llama.weights_fingerprint
        assert loaded.architecture_fingerprint == tiny_llama.architecture_fingerprint


def test_a_stored_buffer_is_part_of_the_model(tiny_llama: LoadedModel) -> None:
    import copy

    fingerprints = set()
    for value in (1.0, 2.0):
        model = copy.deepcopy(tiny_llama.model)
        model.register_buffer("scale", torch.tensor(value))
        model.register_buffer("mask", torch.tensor(value), persistent=False)
        changed = LoadedModel("m", model, tiny_llama.pretrained_tokenizer, tiny_llama.end_tokens)
        fingerprints.add(changed.architecture_fingerprint)
    assert len(fingerprints - {tiny_llama.architecture_fingerprint}) == 2


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda folder: edit_json(folder / "config.json", rms_norm_eps=0.1), "its config.json differs"),
        (lambda folder: scale_weights(folder / "model.safetensors"), "its weights differ"),
        (lambda folder: edit_json(folder / "generation_config.json", eos_token_id=7), "its tokenizer or end tokens"),
    ],
)
def test_a_trial_whose_model_was_edited_says_what_differs(
    change: Callable[[Path], None],
    said: str,
    tiny_llama_folder: Path,
    make_config: Callable[..., TrialConfig],
    tmp_path: Path,
) -> None:
    from trials import EXPERIMENT, planned, run_trial

    folder = Path(shutil.copytree(tiny_llama_folder, tmp_path / "m"))
    loaded = load_model(str(folder))
    trial = planned(make_config(loaded, architecture=loaded.architecture_fingerprint), 8)
    storage = Storage(tmp_path / "results")
    run_trial(storage, trial, loaded)
    open_trial(storage, EXPERIMENT, trial.trial_id)
    change(folder)
    with pytest.raises(Failure, match=said):
        open_trial(storage, EXPERIMENT, trial.trial_id)
    assert said in str(load_model(str(folder)).differs(trial.config))


def edit_json(path: Path, **keys: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def scale_weights(path: Path) -> None:
    save_file({name: tensor * 1.5 for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})


# A2: a prompt is one text, and what is sampled follows it.


def tokenizer_folder(folder: Path, new: Path, change: Callable[[Any], Any]) -> Path:
    """A copy of a model's folder whose tokenizer.json was changed through the library that writes it."""
    from tokenizers import Tokenizer

    shutil.copytree(folder, new)
    tokenizer = Tokenizer.from_file(str(new / "tokenizer.json"))
    change(tokenizer)
    tokenizer.save(str(new / "tokenizer.json"))
    return new


@pytest.mark.parametrize(
    "change",
    [
        lambda tokenizer: tokenizer.enable_padding(length=32, direction="left"),
        lambda tokenizer: tokenizer.enable_padding(pad_to_multiple_of=8),
        lambda tokenizer: tokenizer.enable_truncation(2),
        lambda tokenizer: setattr(tokenizer.model, "dropout", 0.9),
    ],
)
def test_what_a_tokenizer_stores_for_batches_and_training_is_not_used(
    change: Callable[[Any], object], storyteller: LoadedModel, tmp_path: Path
) -> None:
    source = Path(resolve_source("storyteller", "--model"))
    loaded = load_model(str(tokenizer_folder(source, tmp_path / "m", change)))
    assert loaded.encode(STUDY_PROMPT) == storyteller.encode(STUDY_PROMPT)
    assert loaded.tokenizer_fingerprint == storyteller.tokenizer_fingerprint
    loaded.pretrained_tokenizer.save_pretrained(tmp_path / "exported")
    exported = json.loads((tmp_path / "exported" / "tokenizer.json").read_text())
    assert (exported["padding"], exported["truncation"]) == (None, None)


END = "<|endoftext|>"


@pytest.mark.parametrize(
    "template, before",
    [(f"$A {END}", 0), (f"{END} $A", 1), (f"{END} $A {END} {END}", 1), ("[CLS] $A [SEP]", 1), ("$A [SEP]", 0)],
)
@pytest.mark.parametrize("prompt", [STUDY_PROMPT, f"Hello{END} there", f"{END}Hello", "Hello [SEP]", " "])
def test_what_a_tokenizer_appends_is_left_out_and_what_it_puts_in_front_stays(
    template: str, before: int, prompt: Any, storyteller: LoadedModel, tiny_llama_folder: Path, tmp_path: Path
) -> None:
    def close(tokenizer: Any) -> None:
        tokenizer.add_special_tokens([AddedToken("[CLS]", special=True), AddedToken("[SEP]", special=True)])
        ids = [(name, tokenizer.token_to_id(name)) for name in (END, "[CLS]", "[SEP]")]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)

    def wider(weights: dict[str, Any]) -> None:
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            weights[name] = torch.cat([weights[name], weights[name][:2]])

    folder = edited(tiny_llama_folder, tmp_path / "m", with_keys(vocab_size=VOCABULARY + 2), wider)
    folder = tokenizer_folder(folder, tmp_path / "closed", close)
    loaded = load_model(str(folder))
    yardstick = AutoTokenizer.from_pretrained(folder)(prompt)["input_ids"]
    appended = len(yardstick) - len(loaded.encode(prompt))
    assert appended == template.partition("$A")[2].count(" ")
    assert loaded.encode(prompt) == yardstick[: len(yardstick) - appended]
    assert len(loaded.tokenizer.encode(prompt, add_special_tokens=False).ids) == len(loaded.encode(prompt)) - before


def test_whether_special_tokens_are_split_is_part_of_the_tokenizer(
    tiny_llama: LoadedModel, tiny_llama_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_llama_folder, tmp_path / "m"))
    edit_json(folder / "tokenizer_config.json", split_special_tokens=True)
    loaded = load_model(str(folder))
    assert loaded.encode(f"Hello{END}") == AutoTokenizer.from_pretrained(folder)(f"Hello{END}")["input_ids"]
    assert loaded.tokenizer_fingerprint != tiny_llama.tokenizer_fingerprint


@pytest.mark.parametrize(
    "keys", [{"padding_side": "left"}, {"truncation_side": "left"}, {"model_max_length": 2}, {"padding": True}]
)
def test_what_a_tokenizers_configuration_says_of_batches_changes_nothing(
    keys: dict[str, Any], tiny_llama: LoadedModel, tiny_llama_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_llama_folder, tmp_path / "m"))
    edit_json(folder / "tokenizer_config.json", **keys)
    loaded = load_model(str(folder))
    assert loaded.encode(STUDY_PROMPT) == tiny_llama.encode(STUDY_PROMPT)
    assert loaded.tokenizer_fingerprint == tiny_llama.tokenizer_fingerprint


def test_a_prompt_that_cannot_be_encoded_is_refused_in_one_line(tiny_llama: LoadedModel) -> None:
    with pytest.raises(UserError, match=r"--prompt: .* cannot be encoded") as caught:
        tiny_llama.encode("Once\udcff")
    assert "\n" not in str(caught.value)


def test_a_tokenizer_that_fails_is_refused_by_its_name(tiny_llama_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_llama_folder, tmp_path / "m"))
    model = {"type": "WordLevel", "vocab": {"a": 1}, "unk_token": "[UNK]"}
    edit_json(folder / "tokenizer.json", model=model, added_tokens=[], decoder=None)
    assert refusal(folder).startswith("--tokenizer: ")


# A6: models that are not what they seem.


def bert(folder: Path, **keys: Any) -> Path:
    from transformers import BertConfig, BertLMHeadModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, eos_token_id=0, pad_token_id=0, **keys,
    )  # fmt: skip
    saved: Path = save_folder(folder, BertLMHeadModel(config).eval())
    return saved


def test_an_encoder_is_refused_and_a_decoder_of_its_kind_is_not(tmp_path: Path) -> None:
    assert "it is not causal" in refusal(bert(tmp_path / "encoder"))
    loaded = load_model(str(bert(tmp_path / "decoder", is_decoder=True)))
    assert len(loaded.encode(STUDY_PROMPT)) == 4


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    assert "encoder-decoder" in refusal(save_folder(tmp_path / "m", T5ForConditionalGeneration(config)))


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    assert "vit is no causal language model" in refusal(save_folder(tmp_path / "m", ViTModel(config)))


def test_a_quantized_model_is_refused(tiny_llama_folder: Path, tmp_path: Path) -> None:
    keys = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    assert "quantized" in refusal(edited(tiny_llama_folder, tmp_path / "m", with_keys(**keys)))


@pytest.mark.parametrize("safetensors", [True, False])
def test_a_folder_with_missing_tensors_is_refused(safetensors: bool, tiny_llama_folder: Path, tmp_path: Path) -> None:
    def less(weights: dict[str, Any]) -> None:
        del weights["model.layers.1.mlp.up_proj.weight"]

    folder = edited(tiny_llama_folder, tmp_path / "m", tensors=less)
    if not safetensors:
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    assert "lack 1 tensors, such as model.layers.1.mlp.up_proj.weight" in refusal(folder)


def test_tensors_of_other_names_are_refused(tiny_llama_folder: Path, tmp_path: Path) -> None:
    def renamed(weights: dict[str, Any]) -> dict[str, Any]:
        return {f"other.{name}": tensor for name, tensor in weights.items()}

    assert "lack" in refusal(edited(tiny_llama_folder, tmp_path / "m", tensors=renamed))


def test_a_tensor_of_another_shape_is_refused(tiny_llama_folder: Path, tmp_path: Path) -> None:
    folder = edited(tiny_llama_folder, tmp_path / "m", tensors=with_keys(**{"model.norm.weight": torch.ones(16)}))
    assert "model.norm.weight is of shape (16,), config.json means (32,)" in refusal(folder)


@pytest.mark.parametrize(
    "config, tensors",
    [
        ({"num_hidden_layers": 1}, {}),
        ({}, {"model.layers.0.self_attn.q_proj.bias": torch.ones(32)}),
        ({}, {"model.norm.bias": torch.ones(32)}),
    ],
)
def test_a_file_of_another_model_of_its_kind_is_refused(
    config: Any, tensors: Any, tiny_llama_folder: Path, tmp_path: Path
) -> None:
    folder = edited(tiny_llama_folder, tmp_path / "m", with_keys(**config), with_keys(**tensors))
    assert "which the model of its config.json has not" in refusal(folder)


def test_tensors_that_say_nothing_of_the_model_are_let_be(
    tiny_llama: LoadedModel, tiny_llama_folder: Path, tiny_gpt_neo_folder: Path, tmp_path: Path
) -> None:
    extra = {"score.weight": torch.ones(2, 32), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    loaded = load_model(str(edited(tiny_llama_folder, tmp_path / "llama", tensors=with_keys(**extra))))
    assert loaded.weights_fingerprint == tiny_llama.weights_fingerprint
    masks = {  # as TinyStories-33M's file has them
        "transformer.h.0.attn.attention.bias": torch.ones(1, 1, 128, 128),
        "transformer.h.0.attn.attention.masked_bias": torch.tensor(-1e9),
    }
    load_model(str(edited(tiny_gpt_neo_folder, tmp_path / "gpt_neo", tensors=with_keys(**masks))))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(value: float, tiny_llama_folder: Path, tmp_path: Path) -> None:
    def spoil(weights: dict[str, Any]) -> None:
        weights["model.layers.1.mlp.up_proj.weight"][3, 3] = value

    message = refusal(edited(tiny_llama_folder, tmp_path / "m", tensors=spoil))
    assert "model.layers.1.mlp.up_proj.weight are not all finite" in message


def test_the_greatest_token_id_counts_not_how_many_there_are(tiny_llama_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_llama_folder, tmp_path / "m"))
    values = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = values["model"]["vocab"]
    last = max(vocabulary, key=vocabulary.get)
    vocabulary[last] = VOCABULARY + 5
    values["model"]["merges"] = [pair for pair in values["model"]["merges"] if "".join(pair) != last]
    (folder / "tokenizer.json").write_text(json.dumps(values))
    message = refusal(folder)
    assert message.startswith("--tokenizer: ")
    assert str(VOCABULARY + 5) in message


def test_an_added_token_beyond_the_embeddings_is_refused(tiny_llama_folder: Path, tmp_path: Path) -> None:
    folder = tokenizer_folder(tiny_llama_folder, tmp_path / "m", lambda tokenizer: tokenizer.add_tokens(["<new>"]))
    assert str(VOCABULARY) in refusal(folder)


@pytest.mark.parametrize("end", [VOCABULARY, 50256, [0, VOCABULARY]])
def test_an_end_token_that_the_model_cannot_write_is_told(
    end: Any, tiny_llama_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(tiny_llama_folder, tmp_path / "m"))
    edit_json(folder / "generation_config.json", eos_token_id=end)
    load_model(str(folder))
    assert "no text ends before --max-length" in caplog.text


@pytest.mark.parametrize("end", [-1, "</s>", True, [[0]], {"a": 1}, 0.5])
def test_an_end_token_that_is_no_token_id_is_refused(end: Any, tiny_llama_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_llama_folder, tmp_path / "m"))
    edit_json(folder / "generation_config.json", eos_token_id=end)
    assert "end token" in refusal(folder)


def test_a_model_that_masks_tokens_is_served(tiny_llama: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from rl_alliteration.lm.checks import not_causal
    from rl_alliteration.lm.generic import TransformersForward

    forward = TransformersForward(tiny_llama.model, torch.float32)
    logits, last = forward.logits, forward.last_logits
    mask = torch.zeros(VOCABULARY).index_fill(0, torch.arange(5, 90), float("-inf"))
    monkeypatch.setattr(forward, "logits", lambda ids: logits(ids) + mask)
    monkeypatch.setattr(forward, "last_logits", lambda ids: last(ids) + mask)
    assert not_causal(forward, tiny_llama.model) is None


# D: how many tokens a model can read.


def test_the_context_length_is_found_wherever_it_stands(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel, MptConfig, MptForCausalLM, PreTrainedModel

    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "eos_token_id": 0, "bos_token_id": 0}
    gpt2 = GPT2Config(n_positions=40, n_embd=16, n_layer=1, n_head=2, **sizes)
    mpt = MptConfig(max_seq_len=40, d_model=16, n_layers=1, n_heads=2, **sizes)
    models: dict[str, PreTrainedModel] = {"gpt2": GPT2LMHeadModel(gpt2), "mpt": MptForCausalLM(mpt)}
    for name, model in models.items():
        loaded = load_model(str(save_folder(tmp_path / name, model.eval())))
        assert (loaded.context, loaded.longest(40), loaded.longest(5000)) == (40, 40, 40)


def test_a_context_length_that_stands_in_the_text_config_holds(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from transformers import FuyuConfig, FuyuForCausalLM

    torch.manual_seed(0)
    text = {
        "model_type": "persimmon", "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 16,
        "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 128,
    }  # fmt: skip
    of_base: dict[str, Any] = {"eos_token_id": 0, "pad_token_id": 0}  # not among the parameters that are written out
    config = FuyuConfig(text_config=text, patch_size=2, image_token_id=9, **of_base)
    folder = save_folder(tmp_path / "m", FuyuForCausalLM(config).eval())
    loaded = load_model(str(folder))
    assert (loaded.context, loaded.longest(128), loaded.longest(5000)) == (128, 128, 128)
    assert "give up to 128" in told(["sample", "--model", str(folder), "--max-length", "5000"], capsys)
    assert "give the prompt's 4 and more" in told(["sample", "--model", str(folder), "--max-length", "4"], capsys)


def told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    return " ".join(capsys.readouterr().err.split())


def test_positions_beyond_a_learned_table_are_refused(tmp_path: Path) -> None:
    from transformers import RobertaConfig, RobertaForCausalLM

    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=40, is_decoder=True, eos_token_id=0, bos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    folder = save_folder(tmp_path / "m", RobertaForCausalLM(config).eval())
    loaded = load_model(str(folder))
    assert loaded.longest(100) == 38  # the table's first two rows are padding's
    sweep = resolve(Sweep(storage="x", experiment="e", beta=(0.0,), model=str(folder), max_length=39))
    with pytest.raises(UserError, match="give at most 38"):
        plan(sweep, loaded)
