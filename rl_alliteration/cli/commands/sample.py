"""`rl-alliteration sample`: read what a model writes."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from rl_alliteration.cli.commands import STORAGE, Command
from rl_alliteration.cli.summaries import highlighted
from rl_alliteration.errors import UserError
from rl_alliteration.flags import STUDY_PROMPT, Chat, Sampling
from rl_alliteration.lm.chat import chat_prompts, end_of_turn
from rl_alliteration.results.storage import open_storage
from rl_alliteration.setting import checked, settings_of
from rl_alliteration.terminal import Screen

if TYPE_CHECKING:
    from rl_alliteration.lm.language_model import LanguageModel
    from rl_alliteration.lm.loading import LoadedModel


@dataclasses.dataclass(frozen=True)
class Source:
    """What to sample from, and how many texts."""

    model: str | None = None
    """A shipped one, `storyteller` (the default) or `storyteller-2`; a hub id; or a folder. With --storage: the folder
    of the trial's model, if it is no longer where it was."""
    storage: str | None = None
    """Folder or URI of results, to sample from a trial of theirs. Default, with --trial: $RL_ALLITERATION_STORAGE."""
    experiment: str | None = None
    """The trial's experiment."""
    trial: str | None = None
    """Its id, or as much of it as no other has: its beginning, or that of its hash, which `status` shows."""
    generation: int | None = None
    """After how many of its texts. Default: all."""
    number: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 5
    """How many."""
    seed: int = 0
    """Seed of the random numbers."""
    prompt: str = STUDY_PROMPT
    """What every text begins with; with --chat, the user's message, and the answer alone is shown."""
    tokenizer: str | None = None
    """Hub id or folder of another tokenizer than the model's own."""


@dataclasses.dataclass(frozen=True)
class Sample(Chat, Sampling, Source, Command):  # fields come from the last base first
    """Sample texts of a model, or of a trial after any number of its texts; alliterating runs are highlighted."""

    place: ClassVar[int] = 90

    def run(self) -> int:
        from rl_alliteration.lm.sampling import sample, uniforms
        from rl_alliteration.rl.trainer import decode_text

        if self.number < 1:
            raise UserError(f"-n: {self.number} is not accepted; give 1 or more")
        self.check_chat()
        values = checked(self)
        sampling = Sampling(**{name: values[name] for name in settings_of(Sampling)})
        console = Screen()
        loaded, model = self._model(console)
        prompt = self._prompt(loaded)
        end_tokens = loaded.end_tokens.union(end_of_turn(loaded.pretrained_tokenizer) if self.chat else ())
        first_shown = len(prompt) if self.chat else 0
        for first in range(0, self.number, _SIDE_BY_SIDE):
            count = min(_SIDE_BY_SIDE, self.number - first)
            chances = uniforms(self.seed, first, count, self.max_length)
            rollout = sample(model, prompt, chances, end_tokens=end_tokens, sampling=sampling)
            for ids, length in zip(rollout.token_ids.tolist(), rollout.lengths, strict=True):
                text = decode_text(loaded.tokenizer, ids[first_shown:length], end_tokens)
                console.print(highlighted(text), soft_wrap=True)
                console.print()
        return 0

    def _model(self, console: Screen) -> tuple[LoadedModel, LanguageModel]:
        """The model as it was loaded, and what to sample from."""
        given = self.storage
        if given is None and self.trial is not None:
            given = os.environ.get(STORAGE) or None
        if given is None:
            if self.experiment or self.trial or self.generation is not None:
                raise UserError("--storage: give the results' folder with --experiment, --trial and --generation")
            from rl_alliteration.lm.loading import load_model

            loaded = load_model("storyteller" if self.model is None else self.model, tokenizer=self.tokenizer)
            return loaded, loaded.reference()
        if self.experiment is None or self.trial is None:
            raise UserError("--storage: give --experiment and --trial with it")
        from rl_alliteration.trial.replay import open_trial, replay

        storage = open_storage(given)
        trial = open_trial(storage, self.experiment, self.trial, self.model, self.tokenizer)
        return trial.loaded, replay(trial, self.generation, console.say).policy

    def _prompt(self, loaded: LoadedModel) -> list[int]:
        """The prompt's tokens, which leave room for a text."""
        rendered = chat_prompts(loaded, (self.prompt,), self)
        (prompt,) = loaded.prompt_ids((self.prompt,), rendered).values()
        given = f"--max-length: {self.max_length}"
        if self.max_length <= len(prompt):
            template = ", with its chat template," if self.chat else ""
            raise UserError(f"{given} is not accepted; give the prompt's {len(prompt)}{template} and more")
        if self.max_length > (readable := loaded.longest(self.max_length)):
            raise UserError(f"{given} is beyond what the model can read; give up to {readable}")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"--seed: {self.seed} is not accepted; give an integer from 0 to 2^63 - 1")
        return prompt


_SIDE_BY_SIDE = 50  # texts that are sampled together: a larger number costs no more memory
