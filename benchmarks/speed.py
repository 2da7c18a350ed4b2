"""One RLOO step (10 texts of 100 tokens sampled, scored by policy and reference, one update), ours and the peers'.

    make bench                                      the tables under benchmarks/results/
    python benchmarks/speed.py --model shipped --threads 1 --contestants study ours

Each contestant is a process of its own, so that peak memory is its own; all are kept alive and take turns, one step
each, so that whatever else the machine does falls on all alike. Medians over the repetitions after a warm-up.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

GROUP, LENGTH, PROMPT, BETA, LEARNING_RATE = 10, 100, "Once upon a time", 10.0, 1e-5
RESULTS = Path(__file__).parent / "results"
CONTESTANTS = ("study", "trl", "batched", "ours", "ours-bfloat16")


@dataclasses.dataclass(frozen=True)
class Speed:
    """Ours and the peers, side by side in one run."""

    model: str = "shipped"
    """`shipped`; `33m` or `llama`, with random weights of the study's shape or of the shipped model's; or a folder."""
    threads: int = 1
    contestants: Annotated[tuple[str, ...], tyro.conf.arg(help=f"among {', '.join(CONTESTANTS)}")] = CONTESTANTS
    repetitions: int = 7
    warm_up: int = 2
    device: Literal["cpu", "cuda"] = "cpu"
    output: str = ""
    """A name for the table under benchmarks/results/; empty: printed only."""


def main() -> None:
    """Run the contestants in turn and print their table; or be one of them, as this program's own child."""
    if len(sys.argv) > 1 and sys.argv[1] == "--worker":
        _work(*sys.argv[2:])
        return
    speed = tyro.cli(Speed)
    with tempfile.TemporaryDirectory() as folder:
        if speed.model in RANDOM:
            subprocess.run(
                [sys.executable, __file__, "--worker", f"make-{speed.model}", folder, "1", "cpu"], check=True
            )
        model = folder if speed.model in RANDOM else {"shipped": "storyteller"}.get(speed.model, speed.model)
        names = [*speed.contestants, "floor"]
        workers = [Worker(name, model, speed.threads, speed.device) for name in names]
        seconds = dict(zip(names, take_turns(workers, speed.warm_up, speed.repetitions), strict=True))
        notes = {worker.name: worker.end() for worker in workers}
    table = _table(speed, seconds, notes)
    print(table)
    if speed.output:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{speed.output}.md").write_text(table)


def take_turns(workers: Sequence[Worker], warm_up: int, repetitions: int) -> list[list[float]]:
    """Seconds of each worker's steps, one each in turn, those of the warm-up left out."""
    rounds = [[worker.step() for worker in workers] for _ in range(warm_up + repetitions)]
    return [list(taken) for taken in zip(*rounds[warm_up:], strict=True)]


class Worker:
    """A contestant's process."""

    def __init__(self, name: str, model: str, threads: int, device: str) -> None:
        self.name = name
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--worker", name, model, str(threads), device],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
        )  # fmt: skip

    def step(self) -> float:
        """Seconds of one step."""
        return float(self._ask("go"))

    def end(self) -> dict[str, Any]:
        """What it has to say: its peak memory, or the machine's speed."""
        note: dict[str, Any] = json.loads(self._ask("end"))
        self._process.wait()
        return note

    def _ask(self, what: str) -> str:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("answer "):
                return line.removeprefix("answer ")
        raise SystemExit(f"{self.name} ended; run it by hand: python {__file__} --worker {self.name} … and type go")


def _work(name: str, model: str, threads: str, device: str) -> None:
    import torch

    torch.set_num_threads(int(threads))
    if name.startswith("make-"):
        RANDOM[name.removeprefix("make-")](Path(model))
        return
    _Turns(MAKERS[name](model, device), device).run()


class _Turns:
    """Answers `go` with the seconds of one step, `end` with a note."""

    def __init__(self, contestant: Contestant, device: str) -> None:
        self.contestant, self.device = contestant, device

    def run(self) -> None:
        for line in sys.stdin:
            if line.strip() == "end":
                note = {"tokens": self.contestant.tokens, **self.contestant.note}
                note["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
                print("answer", json.dumps(note), flush=True)
                break
            print("answer", self.contestant.seconds(), flush=True)
        os._exit(0)  # some libraries' threads would keep it


class Contestant:
    """Steps of one of the programs compared."""

    def __init__(self, step: Callable[[], int], device: str, note: dict[str, Any] | None = None) -> None:
        self._step, self._device = step, device
        self.note = note or {}
        self.tokens = 0
        """Of the last step."""

    def seconds(self) -> float:
        """Takes one step."""
        import torch

        started = time.perf_counter()
        self.tokens = self._step()
        if self._device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started


def _ours(dtype: str) -> Callable[[str, str], Contestant]:
    def make(model: str, device: str) -> Contestant:
        from rl_alliteration.lm.loading import load_model
        from rl_alliteration.rl.advantages import get_algorithm
        from rl_alliteration.rl.rewards import get_reward
        from rl_alliteration.rl.trainer import Trainer
        from rl_alliteration.tune.plan import Sweep, plan, resolve

        loaded = load_model(model, checked=True)  # as a trial does
        sweep = resolve(
            Sweep(
                storage="unused",
                experiment="bench",
                model=model,
                beta=(BETA,),
                learning_rate=(LEARNING_RATE,),
                dtype=dtype,
                max_generations=GROUP,
            )
        )
        trainer = Trainer(plan(sweep, loaded)[-1].config, loaded, get_reward("alliteration"), get_algorithm("rloo"),
                          device)  # fmt: skip
        return Contestant(lambda: trainer.step().update["tokens"], device)  # type: ignore[index]

    return make


def _transformers(model: str, device: str) -> tuple[Any, Any, Any]:
    """Policy, reference and tokenizer as any user of transformers loads them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rl_alliteration.lm.sources import resolve_source

    source = resolve_source(model, "--model")
    loaded: list[Any] = [AutoModelForCausalLM.from_pretrained(source) for _ in range(2)]
    policy, reference = (model.to(device).eval() for model in loaded)
    return policy, reference.requires_grad_(False), AutoTokenizer.from_pretrained(source)


def _study(model: str, device: str) -> Contestant:
    """The study's procedure: one text at a time through `generate`, two forward passes, one update a group."""
    import torch

    from rl_alliteration.rl.rewards import get_reward

    policy, reference, tokenizer = _transformers(model, device)
    optimizer = torch.optim.SGD(policy.parameters(), lr=LEARNING_RATE)
    raw_reward = get_reward("alliteration")
    prompt = tokenizer(PROMPT, return_tensors="pt").input_ids.to(device)

    def step() -> int:
        losses, rewards, tokens = [], [], 0
        for _ in range(GROUP):
            ids = policy.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_length=LENGTH,
                do_sample=True,
                top_k=0,
                pad_token_id=0,
            )
            cross_entropy = policy(ids, labels=ids).loss
            with torch.no_grad():
                original = reference(ids, labels=ids).loss
            text = tokenizer.decode(ids[0], skip_special_tokens=True)
            rewards.append(raw_reward(text) + BETA * float(cross_entropy - original))
            losses.append(cross_entropy)
            tokens += ids.shape[1]
        total = sum(rewards)
        loss = sum((r - (total - r) / (GROUP - 1)) * ce for r, ce in zip(rewards, losses, strict=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return tokens

    return Contestant(step, device)


def _batched(model: str, device: str) -> Contestant:
    """The same with the group in one batch: what a careful user of transformers writes."""
    import torch

    from rl_alliteration.rl.rewards import get_reward

    policy, reference, tokenizer = _transformers(model, device)
    optimizer = torch.optim.SGD(policy.parameters(), lr=LEARNING_RATE)
    raw_reward = get_reward("alliteration")
    prompt = tokenizer(PROMPT, return_tensors="pt").input_ids.to(device).expand(GROUP, -1)
    end = policy.generation_config.eos_token_id

    def cross_entropy(language_model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        logits = language_model(ids).logits[:, :-1]
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        return (losses * mask).sum(1) / mask.sum(1)

    def step() -> int:
        ids = policy.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_length=LENGTH, do_sample=True, top_k=0, pad_token_id=0
        )
        ended = (ids == end).long()
        ended[:, : prompt.shape[1]] = 0
        mask = (ended.cumsum(1) - ended == 0)[:, 1:]
        policy_loss = cross_entropy(policy, ids, mask)
        with torch.no_grad():
            original = cross_entropy(reference, ids, mask)
        texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
        rewards = torch.tensor([float(raw_reward(text)) for text in texts], device=device)
        rewards = rewards + BETA * (policy_loss.detach() - original)
        advantages = rewards - (rewards.sum() - rewards) / (GROUP - 1)
        optimizer.zero_grad()
        (advantages * policy_loss).sum().backward()
        optimizer.step()
        return int(mask.sum()) + GROUP

    return Contestant(step, device)


def _trl(model: str, device: str) -> Contestant:
    """TRL's `RLOOTrainer`, set to the same work: its own loop asks when to begin each step."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import RLOOConfig, RLOOTrainer

    from rl_alliteration.rl.rewards import get_reward

    policy, _, tokenizer = _transformers(model, device)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    raw_reward = get_reward("alliteration")
    folder = tempfile.mkdtemp()
    arguments = RLOOConfig(
        output_dir=folder, per_device_train_batch_size=GROUP, num_generations=GROUP, max_steps=1_000_000,
        max_completion_length=LENGTH - len(tokenizer(PROMPT).input_ids), temperature=1.0, top_k=0, beta=0.1,
        learning_rate=LEARNING_RATE, optim="sgd", lr_scheduler_type="constant", bf16=False, use_cpu=device == "cpu",
        gradient_checkpointing=False, save_strategy="no", logging_strategy="no", report_to=[], disable_tqdm=True,
    )  # fmt: skip

    def reward(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        return [float(raw_reward(p + c)) for p, c in zip(prompts, completions, strict=True)]

    class Turns(TrainerCallback):
        """Hands the loop's steps out one at a time."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            line = sys.stdin.readline()
            if line.strip() != "go":
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
                print("answer", json.dumps({"peak": peak, "tokens": GROUP * LENGTH}), flush=True)
                os._exit(0)
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            print("answer", time.perf_counter() - self.started, flush=True)

    data = Dataset.from_dict({"prompt": [PROMPT] * 1000})
    RLOOTrainer(model=policy, reward_funcs=reward, args=arguments, train_dataset=data, processing_class=tokenizer,
                callbacks=[Turns()]).train()  # fmt: skip
    raise SystemExit("the trainer ended by itself")


def _floor(model: str, device: str) -> Contestant:
    """What the machine can do: products of 1,024 rows, by the faster of the two libraries, each dtype."""
    import torch

    from rl_alliteration.lm.linear import linear
    from rl_alliteration.lm.loading import load_model

    parameters = sum(p.numel() for p in load_model(model).model.parameters())
    operations = 2 * 2 * 1024 * 1024 * 4096
    note: dict[str, Any] = {"parameters": parameters, "GFLOP/s": {}}

    def best(dtype: torch.dtype) -> float:
        x = torch.randn(1024, 1024, dtype=dtype, device=device)
        weight = torch.randn(4096, 1024, dtype=dtype, device=device)
        times = []
        for product in (torch.nn.functional.linear, linear):
            for _ in range(4):
                started = time.perf_counter()
                with torch.inference_mode():
                    product(x, weight)
                    product(x, weight)
                if device == "cuda":
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - started)
        return operations / min(times) / 1e9

    def step() -> int:
        for dtype in (torch.float32, torch.bfloat16):
            name = str(dtype).removeprefix("torch.")
            note["GFLOP/s"][name] = max(note["GFLOP/s"].get(name, 0.0), best(dtype))
        return 0

    return Contestant(step, device, note)


MAKERS: dict[str, Callable[[str, str], Contestant]] = {
    "study": _study,
    "trl": _trl,
    "batched": _batched,
    "ours": _ours("float32"),
    "ours-bfloat16": _ours("bfloat16"),
    "floor": _floor,
}


def _make_33m(folder: Path) -> None:
    """TinyStories-33M's shape with random weights, initialised as transformers does, and a tokenizer of its size."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPTNeoConfig, GPTNeoForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = GPTNeoConfig(
        vocab_size=50257, hidden_size=768, num_layers=4, num_heads=16, max_position_embeddings=2048, window_size=256,
        attention_types=[[["global", "local"], 2]], bos_token_id=50256, eos_token_id=50256,
    )  # fmt: skip
    GPTNeoForCausalLM(config).save_pretrained(folder)
    words = [*PROMPT.split(), "<end>", *(f"word{number}" for number in range(50257))]
    vocabulary = {word: number for number, word in enumerate(words[:50257])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<end>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(folder)


def _make_llama(folder: Path) -> None:
    """A Llama of the shipped model's size with random weights, and the shipped model's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from rl_alliteration.lm.sources import resolve_source

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=2048, hidden_size=192, intermediate_size=512, num_hidden_layers=4, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(resolve_source("storyteller", "--model")).save_pretrained(folder)


RANDOM: dict[str, Callable[[Path], None]] = {"33m": _make_33m, "llama": _make_llama}


def _table(speed: Speed, seconds: dict[str, list[float]], notes: dict[str, dict[str, Any]]) -> str:
    return "\n".join(_lines(speed, seconds, notes)) + "\n"


def _lines(speed: Speed, seconds: dict[str, list[float]], notes: dict[str, dict[str, Any]]) -> Iterator[str]:
    rates = notes["floor"]["GFLOP/s"]
    # Sampling 1, the reference 1, the update 3 passes of 2 operations a parameter and token.
    operations = 2 * 5 * notes["floor"]["parameters"] * GROUP * LENGTH / 1e9
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "trl"))
    model = Path(speed.model).name  # of a folder
    yield f"# One RLOO step, {model} model, {speed.device}, {speed.threads} threads"
    yield ""
    yield f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC · {hardware(speed.device)} · {versions}"
    yield f"`python benchmarks/speed.py --model {model} --threads {speed.threads} --device {speed.device}`"
    yield (
        f"{speed.repetitions} repetitions in turn; {operations:.0f} GFLOP; the machine's matrix products: "
        f"{rates['float32']:.0f} GFLOP/s float32, {rates['bfloat16']:.0f} bfloat16"
    )
    yield ""
    ours = [name for name in seconds if name.startswith("ours")]
    yield "| | median s | least | most | texts/s | peak GiB | share of the floor | " + " | ".join(
        f"{name} faster by" for name in ours
    ) + " |"  # fmt: skip
    yield "|---|" + "---:|" * (6 + len(ours))
    for name, taken in seconds.items():
        if name == "floor":
            continue
        median = statistics.median(taken)
        rate = rates["bfloat16" if name.endswith("bfloat16") else "float32"]
        ratios = " | ".join(f"{median / statistics.median(seconds[other]):.2f}×" for other in ours)
        yield (
            f"| {name} | {median:.3f} | {min(taken):.3f} | {max(taken):.3f} | {GROUP / median:.1f} "
            f"| {notes[name]['peak']:.2f} | {100 * operations / rate / median:.0f}% | {ratios} |"
        )


def hardware(device: str) -> str:
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    processor = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    flags = Path("/proc/cpuinfo").read_text()
    extensions = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    return f"{processor} ({', '.join(extensions)})"


if __name__ == "__main__":
    main()
