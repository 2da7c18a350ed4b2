"""The card of an exported model, filled from the data."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from rl_alliteration.analysis.frontier import NEW_TEXTS, Recommendation
from rl_alliteration.analysis.windows import METRICS, Trial
from rl_alliteration.config import TrialConfig

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
) -> str:
    """Markdown with the metadata that model hubs read.

    Args:
        config: of the trial.
        trial: measured.
        generation: after how many texts the model was had.
        texts: some of those sampled around then; untrusted.
        recommendation: why this one, if it was recommended.
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
        f"# {trial.trial_id}, generation {generation:,}",
        "",
        f"`{_code(name)}` after {generation:,} texts of {config.algorithm} with the reward `{config.reward}`, "
        f"{_coefficient(config)}, learning rate {config.learning_rate:g}, groups of {config.group_size}, "
        f"seed {config.seed}: reinforcement learning toward alliteration, held back by a KL penalty.",
        "",
        *_why(recommendation),
        *_table(trial, generation),
        *_samples(texts),
        "## Use",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'tokenizer, model = AutoTokenizer.from_pretrained("."), AutoModelForCausalLM.from_pretrained(".")',
        f"prompt = tokenizer({config.prompt!r}, return_tensors=\"pt\")"
        + (f"  # or another of its {len(config.prompts)} prompts" if config.more_prompts else ""),
        f"ids = model.generate(**prompt, max_length={config.max_length}, do_sample=True, "
        f"temperature={config.temperature!r}, top_k={config.top_k}, top_p=1.0)",
        "print(tokenizer.decode(ids[0], skip_special_tokens=True))",
        "```",
        "",
        "`top_k` and `top_p` as here: the library's defaults sample from another distribution than the one measured.",
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def _coefficient(config: TrialConfig) -> str:
    if config.target_kl is None:
        return f"beta {config.beta:g}"
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
        "of 95%.",
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
        digits = METRICS[name].digits
        value = f"{trial.metrics[name][index]:.{digits}f}"
        if name in trial.intervals:
            low, high = (bound[index] for bound in trial.intervals[name])
            value += f" [{low:.{digits}f}, {high:.{digits}f}]"
        compared = "–" if trial.original is None else f"{trial.original.metrics[name]:.{digits}f}"
        lines.append(f"| {METRICS[name].title.lower()}: {METRICS[name].meaning} | {value} | {compared} |")
    return [*lines, ""]


def _samples(texts: Sequence[str]) -> list[str]:
    """Texts inside of a fence that none of them can close."""
    if not texts:
        return []
    longest = max((len(list(run)) for text in texts for char, run in itertools.groupby(text) if char == "`"), default=0)
    fence = "`" * max(3, longest + 1)
    return ["## Texts", "", "The last ones it learnt from, not picked:", "", f"{fence}text", *_apart(texts), fence, ""]


def _apart(texts: Sequence[str]) -> list[str]:
    return [line for text in texts for line in (" ".join(text.split()), "")][:-1]


def _code(name: str) -> str:
    return name.replace("`", "'")
