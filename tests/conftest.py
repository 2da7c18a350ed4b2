"""What all tests share: small models, a configuration factory, the marker `unit`."""

from __future__ import annotations

import os

from heads import TOKEN, ray_head

# One token for all: a process keeps the mode that it has imported Ray with, and the first token that it has seen.
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
os.environ["OMP_NUM_THREADS"] = (
    "1"  # of commands too: on a busy machine threads that wait for one another take all of it
)

import importlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from rl_alliteration.config import TrialConfig
from rl_alliteration.lm.loading import LoadedModel, load_model
from rl_alliteration.lm.sources import resolve_source

torch.set_num_threads(1)

# The same examples each time, and no clock: tests must not depend on how busy the machine is.
settings.register_profile("repository", deadline=None, derandomize=True, database=None)
settings.load_profile("repository")

VOCABULARY = 2048  # the storyteller's


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    with_cluster = {item.path for item in items if "cluster" in fixtures_of(item)}
    for item in items:
        if not any(item.get_closest_marker(marker) for marker in ("ray", "chaos", "browser", "real")):
            item.add_marker(pytest.mark.unit)
        # What is set up once for several tests, for a module or all, is set up by one worker, which runs them all.
        of_module = any(found[-1].scope == "module" for found in fixtures_of(item).values())
        if "cluster" in fixtures_of(item) or (of_module and item.path in with_cluster):
            item.add_marker(pytest.mark.xdist_group("cluster"))
        elif of_module:
            item.add_marker(pytest.mark.xdist_group(str(item.path)))
    items.sort(key=lambda item: item.get_closest_marker("unit") is not None)  # the long ones are not to come last


def fixtures_of(item: pytest.Item) -> Mapping[str, Sequence[Any]]:
    """The definitions of a test's fixtures, by name; pytest has no public way to ask."""
    return item._fixtureinfo.name2fixturedefs if isinstance(item, pytest.Function) else {}


def trial_config(loaded: LoadedModel, **changes: Any) -> TrialConfig:
    """A short RLOO trial of `loaded`, with `changes`."""
    fields: dict[str, Any] = {
        "algorithm": "rloo",
        "beta": 40,
        "seed": 0,
        "learning_rate": 1e-3,
        "group_size": 4,
        "reward": "alliteration",
        "reward_version": 1,
        "prompt": "Once upon a time",
        "max_length": 24,
        "temperature": 1.0,
        "top_k": 0,
        "weights": loaded.weights_fingerprint,
        "tokenizer": loaded.tokenizer_fingerprint,
        "dtype": "float32",
        "threads": 1,
        "texts_version": loaded.texts_version,
    }
    return TrialConfig(**(fields | changes))


@pytest.fixture(scope="session")
def make_config() -> Callable[..., TrialConfig]:
    """`make_config(loaded, **changes) -> TrialConfig`."""
    return trial_config


@pytest.fixture(scope="session")
def storyteller() -> LoadedModel:
    """The shipped model; not to be changed, `policy()` gives a copy."""
    return load_model("storyteller")


def save_folder(folder: Path, model: Any, *, safetensors: bool = True) -> Path:
    """`model` with the storyteller's tokenizer, as `save_pretrained` leaves it or as pytorch_model.bin."""
    model.save_pretrained(folder)
    if not safetensors:
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(resolve_source("storyteller", "--model")) / name, folder)
    return folder


def _tiny_gpt_neo() -> Any:
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    torch.manual_seed(0)
    config = GPTNeoConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_layers=4,
        num_heads=4,
        attention_types=[[["global", "local"], 2]],
        window_size=16,
        max_position_embeddings=128,
        initializer_range=0.2,  # at the default of 0.02 attention hardly moves the logits: nothing would show
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return GPTNeoForCausalLM(config).eval()


@pytest.fixture(scope="session")
def tiny_gpt_neo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the same kind as TinyStories-33M: GPT-Neo with local attention that shows."""
    return save_folder(tmp_path_factory.mktemp("tiny_gpt_neo"), _tiny_gpt_neo())


@pytest.fixture(scope="session")
def tiny_gpt_neo_bin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of `tiny_gpt_neo_folder` as pytorch_model.bin, the way TinyStories-33M is stored."""
    return save_folder(tmp_path_factory.mktemp("tiny_gpt_neo_bin"), _tiny_gpt_neo(), safetensors=False)


@pytest.fixture(scope="session")
def tiny_opt_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that goes through transformers' own code."""
    from transformers import OPTConfig, OPTForCausalLM

    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        enable_bias=False,  # of keys its gradient is nothing but rounding
        init_std=0.2,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return save_folder(tmp_path_factory.mktemp("tiny_opt"), OPTForCausalLM(config).eval())


@pytest.fixture(scope="session")
def tiny_llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of another architecture than the study's that has a description too."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return save_folder(tmp_path_factory.mktemp("tiny_llama"), LlamaForCausalLM(config).eval())


@pytest.fixture(scope="session")
def tiny_gpt_neo(tiny_gpt_neo_folder: Path) -> LoadedModel:
    return load_model(str(tiny_gpt_neo_folder))


@pytest.fixture(scope="session")
def tiny_llama(tiny_llama_folder: Path) -> LoadedModel:
    return load_model(str(tiny_llama_folder))


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """The address of a small cluster. Sweeps on it do not start a Ray each."""
    with ray_head(cpus=1, dashboard=False) as head:
        yield head.address


@pytest.fixture
def on_cluster(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of this test run on that cluster, in processes of their own or in this one."""
    monkeypatch.setenv("RAY_ADDRESS", cluster)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on this machine: install Debian's package chromium to run the browser tests")
    from playwright.sync_api import sync_playwright

    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def float64_throughout(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers casts GPT-Neo's attention, and norms, to float32 even in a float64 model; here they stay float64."""
    from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoSelfAttention

    def attention(self: Any, query: Any, key: Any, value: Any, attention_mask: Any = None) -> Any:
        scores = query @ key.transpose(-1, -2)
        last, keys = scores.shape[-2], scores.shape[-1]
        allowed = self.bias[:, :, keys - last : keys, :keys]
        weights = scores.masked_fill(~allowed, float("-inf")).softmax(-1)
        return weights @ value, weights

    monkeypatch.setattr(GPTNeoSelfAttention, "_attn", attention)

    def norm(self: Any, x: Any) -> Any:
        weight = 1 + self.weight if hasattr(self, "eps") else self.weight  # of Gemma 3; the others have another name
        epsilon = self.eps if hasattr(self, "eps") else self.variance_epsilon
        return x * (x.square().mean(-1, keepdim=True) + epsilon).rsqrt() * weight

    for family in ("Llama", "Mistral", "Qwen2", "Qwen3", "SmolLM3", "Gemma3"):
        module = importlib.import_module(f"transformers.models.{family.lower()}.modeling_{family.lower()}")
        monkeypatch.setattr(getattr(module, f"{family}RMSNorm"), "forward", norm)


@pytest.fixture(scope="session")
def tiny_opt(tiny_opt_folder: Path) -> LoadedModel:
    return load_model(str(tiny_opt_folder))
