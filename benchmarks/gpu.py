"""On the machine's GPU: are the numbers transformers', are trials the same each time, and how fast is a step?

    python benchmarks/gpu.py                        on a GPU: some minutes
    python benchmarks/gpu.py --device cpu --quick   on any machine: that this program works

It needs no Ray, no model hub and no package index: PyTorch (2.11 or newer), transformers 5, and of this package's other
requirements platformdirs and pydantic (for a machine without an index: wheels of these two, of pydantic_core,
annotated_types and typing_inspection). The package need not be installed: run it in the repository, with PYTHONPATH=.
It writes `benchmarks/results/gpu-DEVICE.md` and ends with 1 if a number is off.

- parity: of each architecture random small configurations and one of a real model's size, with random weights: logits
  and gradients of scoring, logits of decoding token by token, and of decoding as the CUDA graph does, against
  transformers' own code.
- determinism: one trial twice, once more in another process, and one that goes on from its state half-way.
- speed: steps of RLOO with 10 texts of 100 tokens, in turn; each in float32 and bfloat16, on a GPU with decoding
  captured as one CUDA graph a token and without it. Of a step that is all that is captured: not its scores and update.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import datetime
import hashlib
import itertools
import json
import platform
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import unittest.mock
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

from rl_alliteration.config import TrialConfig
from rl_alliteration.lm.architectures import ARCHITECTURES, describe
from rl_alliteration.lm.decoder import DecoderForward
from rl_alliteration.lm.description import Parameters
from rl_alliteration.lm.deterministic import deterministic
from rl_alliteration.lm.loading import LoadedModel, load_model
from rl_alliteration.lm.sampling import DeviceLoop
from rl_alliteration.lm.sources import resolve_source
from rl_alliteration.rl.advantages import get_algorithm
from rl_alliteration.rl.rewards import get_reward
from rl_alliteration.rl.trainer import Row, Trainer

RESULTS = Path(__file__).parent / "results"
DTYPES = ("float32", "bfloat16")
BOUND = 1e-4
"""Most that a float32 number may be off, as a share of the greatest. (Float64 is for the tests: transformers computes
parts of most models in float32 even then.)"""
GROUP, LENGTH = 10, 100
Sizes = dict[str, Any]

KINDS = {
    "gpt_neo": "GPTNeo", "gpt2": "GPT2", "gpt_neox": "GPTNeoX", "llama": "Llama", "mistral": "Mistral",
    "qwen2": "Qwen2", "qwen3": "Qwen3", "smollm3": "SmolLM3", "gemma3_text": "Gemma3Text",
}  # fmt: skip


def _like_llama(width: int, inner: int, layers: int, heads: int, shared: int, vocabulary: int, **more: Any) -> Sizes:
    return {
        "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": shared, "vocab_size": vocabulary, "max_position_embeddings": 2048, **more,
    }  # fmt: skip


REAL: dict[str, tuple[str, Sizes]] = {
    "gpt_neo": (
        "TinyStories-33M",
        {
            "hidden_size": 768, "num_layers": 4, "num_heads": 16, "max_position_embeddings": 2048, "window_size": 256,
            "attention_types": [[["global", "local"], 2]], "vocab_size": 50257,
        },
    ),
    "gpt2": ("GPT-2", {"vocab_size": 50257}),
    "gpt_neox": (
        "Pythia-160M",
        {
            "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
            "vocab_size": 50304,
        },
    ),
    "llama": ("SmolLM2-135M", _like_llama(576, 1536, 30, 9, 3, 49152, tie_word_embeddings=True)),
    "mistral": ("SmolLM2-135M's", _like_llama(576, 1536, 30, 9, 3, 49152, sliding_window=64)),
    "qwen2": ("Qwen2-0.5B", _like_llama(896, 4864, 24, 14, 2, 151936, tie_word_embeddings=True)),
    "qwen3": ("Qwen3-0.6B", _like_llama(1024, 3072, 28, 16, 8, 151936, head_dim=128, tie_word_embeddings=True)),
    "smollm3": ("SmolLM2-135M's", _like_llama(576, 1536, 30, 9, 3, 49152)),
    "gemma3_text": ("Gemma 3 270M", _like_llama(640, 2048, 18, 4, 1, 262144, head_dim=256, sliding_window=64)),
}  # fmt: skip


def small_sizes(name: str, draw: random.Random) -> Sizes:
    """A small configuration of an architecture, at random."""
    layers = draw.choice([1, 2, 3])
    if name == "gpt_neo":
        heads = draw.choice([1, 2, 4])
        kinds = [draw.choice(["global", "local"]) for _ in range(2)]
        return {
            "hidden_size": 16 * heads, "num_heads": heads, "num_layers": 2, "attention_types": [[kinds, 1]],
            "window_size": draw.randint(1, 30), "vocab_size": 300,
        }  # fmt: skip
    if name == "gpt2":
        heads = draw.choice([1, 2, 4])
        scaled = {"scale_attn_by_inverse_layer_idx": draw.random() < 0.5}
        return {"n_embd": 16 * heads, "n_head": heads, "n_layer": layers, "vocab_size": 300, **scaled}
    if name == "gpt_neox":
        heads = draw.choice([1, 2, 4])
        return {
            "hidden_size": 16 * heads, "num_attention_heads": heads, "num_hidden_layers": layers,
            "intermediate_size": 48, "rotary_pct": draw.choice([0.25, 0.5, 1.0]), "vocab_size": 300,
            "use_parallel_residual": draw.random() < 0.5,
        }  # fmt: skip
    shared, each = draw.choice([1, 2]), draw.choice([1, 2, 3])
    sizes = _like_llama(16 * shared * each, 48, layers, shared * each, shared, 300, sliding_window=draw.randint(1, 30))
    if name in ("qwen2", "qwen3"):
        sizes["use_sliding_window"] = True
    if name in ("qwen2", "qwen3", "gemma3_text"):
        sizes["layer_types"] = [draw.choice(["full_attention", "sliding_attention"]) for _ in range(layers)]
    if name in ("qwen3", "gemma3_text"):
        sizes["head_dim"] = draw.choice([8, 16])
    return sizes


def built(name: str, sizes: Sizes, seed: int) -> Any:
    """A model of transformers' whose every weight shows."""
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    config = getattr(transformers, f"{KINDS[name]}Config")(**{**sizes, **ends})
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    if sizes.get("vocab_size") == 300:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The greatest difference, as a share of the greatest number."""
    return float((found.detach() - expected.detach()).abs().max() / expected.detach().abs().max())


def parity(model: Any, device: str, length: int) -> dict[str, float]:
    """How far the numbers are off from transformers': of scoring, its gradients, decoding, decoding on the device."""
    plain, model = model.to(device), copy.deepcopy(model).to(device)
    forward = DecoderForward(describe(model.config, Parameters.of(model)))
    prompt = 7
    ids = torch.randint(model.config.vocab_size, (3, length), generator=torch.Generator().manual_seed(1)).to(device)
    ids[:, :prompt] = ids[0, :prompt]
    deterministic(strict=False)  # transformers' code need not be
    expected = plain(input_ids=ids, use_cache=False).logits
    seed = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2)).to(expected)
    (expected * seed).sum().backward()
    deterministic(strict=True)
    logits = forward.logits(ids)
    (logits * seed).sum().backward()
    pairs = zip(model.parameters(), plain.parameters(), strict=True)
    found = {
        "scores": off(logits, expected),
        "gradients": max(off(ours.grad, theirs.grad) for ours, theirs in pairs if theirs.grad.abs().max() > 1e-20),
    }
    places = range(prompt, length)

    def by_host() -> Iterator[torch.Tensor]:
        yield forward.start(ids[0, :prompt], *ids.shape)
        for place in places:
            yield forward.advance(ids[:, place])

    def by_device() -> Iterator[torch.Tensor]:
        yield forward.start(ids[0, :prompt], *ids.shape)
        for place in places:
            yield forward.advance_at(ids[:, place], torch.tensor([place], device=device))

    for way, tokens in (("decoding", by_host), ("decoding as in the graph", by_device)):
        found[way] = off(torch.stack([one.clone() for one in tokens()], 1), expected[:, prompt - 1 :])
    return found


@dataclasses.dataclass
class Report:
    """Lines of Markdown, and whether all is as it should be."""

    lines: list[str] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)

    def table(self, title: str, columns: list[str], rows: list[list[str]]) -> None:
        """Add one, and show it."""
        text = [f"### {title}", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        text += [f"| {' | '.join(row)} |" for row in rows] + [""]
        print(*text, sep="\n", flush=True)
        self.lines += text


def failure_of(work: Callable[[], Any]) -> tuple[Any, str]:
    """What it gives, and in one line what it raised."""
    try:
        return work(), ""
    except Exception as error:  # whatever a driver or a kernel says: the other rows are wanted all the same
        return None, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def check_parity(report: Report, device: str, configurations: int, real: bool) -> None:
    """The table of parity, a row an architecture and size."""
    ways = ["scores", "gradients", "decoding", "decoding as in the graph"]
    rows = []
    for name in ARCHITECTURES:
        draw = random.Random(name)
        sizes = {f"{configurations} small ones": [small_sizes(name, draw) for _ in range(configurations)]}
        if real:
            sizes[REAL[name][0]] = [REAL[name][1]]
        for title, some in sizes.items():
            length = LENGTH if title == REAL[name][0] else 24
            found, said = failure_of(
                lambda: [parity(built(name, one, seed), device, length) for seed, one in enumerate(some)]  # noqa: B023
            )
            worst = {way: max(one[way] for one in found) for way in ways} if found else {}
            good = bool(worst) and all(value <= BOUND for value in worst.values())
            if not good:
                report.problems.append(f"parity of {name}, {title}: {said or worst}")
            numbers = [f"{value:.0e}" for value in worst.values()] or [said, "", "", ""]
            rows.append([name, title, *numbers, "yes" if good else "**no**"])
    report.table(
        "Parity: most that a float32 number is off from transformers', as a share of the greatest",
        ["architecture", "size", *ways, f"within {BOUND:g}"],
        rows,
    )


def make_folder(name: str, sizes: Sizes, folder: Path) -> Path:
    """A model with random weights and the shipped model's tokenizer, as `save_pretrained` leaves it."""
    built(name, sizes, 0).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(resolve_source("storyteller", "--model")) / file, folder)
    return folder


def make_trainer(loaded: LoadedModel, device: str, dtype: str, length: int = LENGTH) -> Trainer:
    """Of an RLOO trial with the study's settings."""
    reward, algorithm = get_reward("alliteration"), get_algorithm("rloo")
    config = TrialConfig(
        algorithm="rloo", algorithm_version=algorithm.version, beta=10.0, seed=0, learning_rate=1e-4,
        group_size=GROUP, reward="alliteration", reward_version=reward.version, prompt="Once upon a time",
        max_length=length, weights=loaded.weights_fingerprint, tokenizer=loaded.tokenizer_fingerprint,
        architecture=loaded.architecture_fingerprint, threads=torch.get_num_threads(), dtype=dtype,
        texts_version=loaded.texts_version,
    )  # fmt: skip
    return Trainer(config, loaded, reward, algorithm, device)


def rows_of(trainer: Trainer, steps: int) -> list[Row]:
    """All columns but durations."""
    rows = []
    for _ in range(steps):
        step = trainer.step()
        update = {key: value for key, value in (step.update or {}).items() if not key.endswith("_seconds")}
        rows += [*step.texts, update]
    return rows


def digest(rows: list[Row]) -> str:
    """Of rows, to the last bit."""
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def check_determinism(report: Report, device: str, steps: int, length: int, names: list[str]) -> None:
    """The table of determinism: a row a model and precision."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for name, dtype in itertools.product(["storyteller", *names], DTYPES):
            model = name
            if name != "storyteller":
                folder = Path(temporary) / name
                sizes = small_sizes(name, random.Random(name)) | {"vocab_size": 2048}
                model = str(folder if folder.is_dir() else make_folder(name, sizes, folder))
            found, said = failure_of(lambda: _same_each_time(model, device, dtype, steps, length))  # noqa: B023
            ways = found or {"again": False, "in another process": False, "resumed": False}
            if said or not all(ways.values()):
                report.problems.append(f"determinism of {name}, {dtype}: {said or ways}")
            words = [said, "", ""] if said else ["equal" if same else "**differs**" for same in ways.values()]
            rows.append([name, dtype, *words])
    report.table(
        f"Determinism: all columns but durations, {steps} steps of {GROUP} texts of {length} tokens",
        ["model", "precision", "again", "in another process", "resumed half-way"],
        rows,
    )


def _same_each_time(model: str, device: str, dtype: str, steps: int, length: int) -> dict[str, bool]:
    loaded = load_model(model)
    rows = rows_of(make_trainer(loaded, device, dtype, length), steps)
    again = rows_of(make_trainer(loaded, device, dtype, length), steps)
    half = make_trainer(loaded, device, dtype, length)
    resumed = rows_of(half, steps // 2)
    state = half.state()
    other = make_trainer(loaded, device, dtype, length)
    other.load_state(state.weights, state.generation, state.counters, state.optimizer)
    resumed += rows_of(other, steps - steps // 2)
    command = [sys.executable, __file__, "--digest", model, dtype, "--device", device]
    command += ["--steps", str(steps), "--length", str(length), "--threads", str(torch.get_num_threads())]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]
    return {"again": again == rows, "in another process": told == digest(rows), "resumed": resumed == rows}


def measure_speed(report: Report, device: str, repetitions: int, real: bool) -> None:
    """The table of speed: steps of all variants of a model in turn."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        models = {"storyteller": "storyteller"}
        for name in ("gpt_neo", "llama") if real else ():
            title, sizes = REAL[name]
            models[f"{title}'s shape"] = str(make_folder(name, sizes, Path(temporary) / name))
        for title, model in models.items():
            variants: dict[tuple[str, str], Callable[[], float]] = {}
            for dtype, graph in itertools.product(DTYPES, ("with", "without") if device == "cuda" else ("none here",)):
                step, said = failure_of(lambda: _timed_step(model, device, dtype, graph))  # noqa: B023
                if said:
                    report.problems.append(f"speed of {title}, {dtype}, CUDA graph {graph}: {said}")
                    rows.append([title, dtype, graph, said, "", "", ""])
                else:
                    variants[dtype, graph] = step
            rounds = [{key: step() for key, step in variants.items()} for _ in range(repetitions)]
            for key in variants:
                taken = [one[key] for one in rounds]
                median = statistics.median(taken)
                numbers = [f"{median:.4f}", f"{min(taken):.4f}", f"{max(taken):.4f}", f"{GROUP / median:.1f}"]
                rows.append([title, *key, *numbers])
    report.table(
        f"Speed: a step of RLOO, {GROUP} texts of {LENGTH} tokens, {repetitions} in turn",
        ["model", "precision", "CUDA graph", "median s", "least", "most", "texts/s"],
        rows,
    )


def _timed_step(model: str, device: str, dtype: str, graph: str) -> Callable[[], float]:
    """After two steps to warm up."""
    trainer = make_trainer(load_model(model), device, dtype)

    def step() -> float:
        started = time.perf_counter()
        trainer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    never = unittest.mock.patch.object(DeviceLoop, "_captured", return_value=None)
    if graph == "without":
        with never:  # a model's loop is made with its first group
            step()
    else:
        step()
    step()
    return step


def hardware(device: str) -> str:
    """Its name, for people."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    about = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", about.read_text()) if about.exists() else []
    return f"CPU {names[0] if names else platform.machine()}, {torch.get_num_threads()} threads"


def main() -> int:
    """Check, measure, write the tables; 1 if a number is off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes and few of them")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--output", default="", help="a folder other than benchmarks/results")
    for name, kind, count in (("--digest", str, 2), ("--steps", int, None), ("--length", int, None)):
        parser.add_argument(name, type=kind, nargs=count, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device: PyTorch finds no GPU here; give cpu, or see to its driver")
    torch.set_num_threads(given.threads)
    deterministic(strict=True)  # as in a trial: what has no kernel that is the same each time is an error here
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if given.digest:
        model, dtype = given.digest
        print(digest(rows_of(make_trainer(load_model(model), given.device, dtype, given.length), given.steps)))
        return 0
    report, quick = Report(), given.quick
    check_parity(report, given.device, 2 if quick else 20, real=not quick)
    names = ["llama"] if quick else [name for name in ARCHITECTURES if name != "gpt_neo"]
    check_determinism(report, given.device, 4, 24 if quick else LENGTH, names)
    measure_speed(report, given.device, 3 if quick else 20, real=not quick)
    folder = Path(given.output) if given.output else RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    name = torch.cuda.get_device_name() if given.device == "cuda" else "cpu"
    file = folder / f"gpu-{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}.md"
    file.write_text("\n".join([*_head(given), *report.lines]), encoding="utf-8")
    print(*report.problems, f"written: {file}", sep="\n")
    return 1 if report.problems else 0


def _head(given: argparse.Namespace) -> list[str]:
    flags = f" --device {given.device}" + (" --quick" if given.quick else "")
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    lines = [
        f"# Parity, determinism and speed: {hardware(given.device)}",
        "",
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC · {versions} · `python benchmarks/gpu.py{flags}`",
        "",
    ]
    if given.device != "cuda":
        lines += ["No GPU: this shows that the program works, and its times are no measurement.", ""]
        lines += ["**Unmeasured on a GPU**: all of it.", ""]
    return lines


if __name__ == "__main__":
    sys.exit(main())
