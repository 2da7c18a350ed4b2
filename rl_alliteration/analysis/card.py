"""The card of an exported model, filled from the data."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from rl_alliteration.analysis.frontier import NEW_TEXTS, Recommendation
from rl_alliteration.analysis.metrics import METRICS
from rl_alliteration.analysis.types import Trial
from rl_alliteration.config import TrialConfig
from rl_alliteration.flags import COMPLETION, Sampling
from rl_alliteration.names import coefficient
from rl_alliteration.setting import values_of
from rl_alliteration.terminal import one_line

_WORD = re.compile(r"\w[\w.-]*")
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_SHOWN = (
    "raw_reward",
    "alliteration",
    "variety",
    "near_copies",
    "repetition",
    "original_lm_cross_entropy",
    "kl_penalty",
)


def model_card(
    config: TrialConfig,
    trial: Trial,
    generation: int,
    texts: Sequence[str],
    recommendation: Recommendation | None = None,
    averaged: Sequence[int] = (),
) -> str:
    """Markdown with the metadata that model hubs read.

    Args:
        config: of the trial.
        trial: measured.
        generation: after how many texts the model was had.
        texts: some of those sampled around then; untrusted.
        recommendation: why this one, if it was recommended.
        averaged: after how many texts the states were whose mean its weights are, if they are one.
    """
    name = trial.model.rpartition("@")[0]
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        *([f"base_model: {name}"] if _HUB_ID.fullmatch(name) else []),
        "tags: [reinforcement-learning, rl_alliteration]",
        "---",
        "",
        f"# {_word(trial.trial_id)}, generation {generation:,}",
        "",
        f"{_code(name)} after {generation:,} texts of {_word(config.algorithm)} with the reward "
        f"{_code(config.reward)}{' of the completion' if config.reward_of == COMPLETION else ''}, "
        f"{_coefficient(config)}, learning rate {config.learning_rate:g}, groups of {config.group_size}, "
        f"seed {config.seed}: reinforcement learning toward alliteration, held back by a KL penalty.",
        "",
        *_lineage(config),
        *_mean(averaged),
        *_why(recommendation),
        *_table(trial, generation),
        *_samples(texts),
        "## Use",
        "",
        "```python",
        *_use(config),
        "```",
        "",
        "Its settings as here: the library's defaults sample from another distribution than the one measured."
        + (" Where the chat template puts in today's date, it was 26 July 2024." if config.chat else ""),
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def _use(config: TrialConfig) -> list[str]:
    """How to sample from the model with transformers."""
    other = f"  # or another of its {len(config.prompts)} prompts" if config.more_prompts else ""
    if config.chat:
        system = [] if config.system_prompt is None else [{"role": "system", "content": config.system_prompt}]
        begin = [
            f"chat = {[*system, {'role': 'user', 'content': config.prompt}]!r}{other}",
            'prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", '
            "return_dict=True)",
        ]
    else:
        begin = [f'prompt = tokenizer({config.prompt!r}, return_tensors="pt"){other}']
    of_answer = '[prompt["input_ids"].shape[1]:]' if config.reward_of == COMPLETION else ""
    return [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'tokenizer, model = AutoTokenizer.from_pretrained("."), AutoModelForCausalLM.from_pretrained(".")',
        *begin,
        f"ids = model.generate(**prompt, do_sample=True, {_sampling(config)})",
        f"print(tokenizer.decode(ids[0]{of_answer}, skip_special_tokens=True))",
    ]


def _sampling(config: TrialConfig) -> str:
    """The settings of sampling as arguments of transformers' `generate`, whose own names are the same."""
    chosen = {"top_p": 1.0} | values_of(Sampling, config)
    return ", ".join(f"{name}={chosen[name]!r}" for name in sorted(chosen))


def _coefficient(config: TrialConfig) -> str:
    if config.target_kl is None:
        return coefficient(config)
    return f"a KL coefficient that began at {config.beta:g} and steered to {config.target_kl:g} nats a token"


def _why(recommendation: Recommendation | None) -> list[str]:
    if recommendation is None:
        return []
    original = recommendation.trial.original
    assert original is not None
    point = recommendation.point
    return [
        f"Recommended: of all windows of its experiment that keep the original's variety and sense, the one with the "
        f"most alliteration ({point.alliteration:.1f} pairs per 100 words; the original: "
        f"{original.metrics['alliteration']:.1f}). To expect: a mean raw reward of {recommendation.expected:.1f}; that "
        f"of {NEW_TEXTS} new texts lies between {recommendation.low:.1f} and {recommendation.high:.1f} with a chance "
        f"of 95%. {recommendation.comparison}.",
        "",
    ]


def _table(trial: Trial, generation: int) -> list[str]:
    """What was measured in the window that the model is of: the last full one that began before it."""
    before = [i for i, first in enumerate(trial.first) if trial.full[i] and first < max(generation, 1)]
    if not before:
        return []
    index = before[-1]
    first = int(trial.first[index])
    lines = [
        f"| of its texts {first:,} to {first + trial.window - 1:,} | this model | the original |",
        "|---|---|---|",
    ]
    for name in _SHOWN:
        metric, digits = METRICS[name], METRICS[name].digits
        value = f"{metric.shown(trial.metrics[name])[index]:z.{digits}f}"
        if name in trial.intervals:
            low, high = (bound[index] for bound in trial.intervals[name])
            value += f" [{low:z.{digits}f}, {high:z.{digits}f}]"
        compared = "–" if trial.original is None else f"{metric.shown(trial.original.metrics[name]):z.{digits}f}"
        lines.append(f"| {metric.title.lower()}: {metric.words} | {value} | {compared} |")
    return [*lines, ""]


def _lineage(config: TrialConfig) -> list[str]:
    """Of a fork, whose model it began with."""
    if not config.ancestors:
        return []
    told = [
        f"{_word(name)} after {int(at):,} texts" for name, _, at in (one.rpartition("@") for one in config.ancestors)
    ]
    *others, parent = told
    before = f", which had begun with that of {', with that of '.join(reversed(others))}" if others else ""
    return [f"A fork: it began with the model of {parent}{before}. The reference is the model before RL.", ""]


def _mean(averaged: Sequence[int]) -> list[str]:
    """That the weights are a mean, and what was not measured of it."""
    if not averaged:
        return []
    *others, last = (f"{generation:,}" for generation in averaged)
    return [
        f"Its weights are the mean of those after {', '.join(others)} and {last} texts. No text of this model was "
        "measured: numbers and texts below are of the states that it is the mean of, and of those around them.",
        "",
    ]


def _samples(texts: Sequence[str]) -> list[str]:
    """Texts inside of a fence that none of them can close."""
    if not texts:
        return []
    longest = max((len(list(run)) for text in texts for char, run in itertools.groupby(text) if char == "`"), default=0)
    fence = "`" * max(3, longest + 1)
    return ["## Texts", "", "The last ones it learnt from, not picked:", "", f"{fence}text", *_apart(texts), fence, ""]


def _apart(texts: Sequence[str]) -> list[str]:
    return [line for text in texts for line in (one_line(" ".join(text.split())), "")][:-1]


def _word(name: str) -> str:
    """A name in running text: what is more than a word can be nothing but code."""
    return name if _WORD.fullmatch(name) else _code(name)


def _code(name: str) -> str:
    """A code span that the name cannot end."""
    shown = one_line(name).replace("`", "'")
    return f"`{shown or ' '}`"
