"""`rl-alliteration export`: a trial's model as a folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

from rl_alliteration import terminal
from rl_alliteration.analysis.card import model_card
from rl_alliteration.analysis.frontier import recommended
from rl_alliteration.analysis.measure import measure
from rl_alliteration.analysis.rules import KEEP_VARIETY, SENSE_NATS
from rl_alliteration.analysis.types import WINDOW
from rl_alliteration.cli.commands import Command
from rl_alliteration.errors import UserError
from rl_alliteration.names import find_trial
from rl_alliteration.results import reader
from rl_alliteration.results.storage import Storage, open_storage
from rl_alliteration.rows import rewarded
from rl_alliteration.terminal import Screen


@dataclasses.dataclass(frozen=True)
class Export(Command):
    """Write the model of a trial after any number of its texts, or the recommended one, as a transformers folder."""

    place: ClassVar[int] = 100

    storage: str
    """Folder or URI of the results. Default: $RL_ALLITERATION_STORAGE."""
    experiment: str
    """The trial's experiment."""
    output: str
    """A new folder."""
    trial: str | None = None
    """Its id, or as much of it as no other has: its beginning, or that of its hash, which `status` shows."""
    model: str | None = None
    """The folder of the trial's model, if it is no longer where it was."""
    generation: int | None = None
    """After how many texts. Default: all."""
    average: int | None = None
    """Instead of one state the mean of the weights of so many checkpoints: the last ones up to the generation, or up
    to the recommended one."""
    recommended: bool = False
    """The model that alliterates most among those that keep variety and sense; of all trials, or of --trial."""
    keep_variety: float = KEEP_VARIETY
    """With --recommended: share of the original's variety that it keeps, 0 to 1."""
    keep_sense: float = SENSE_NATS
    """With --recommended: most nats by which its texts' cross-entropy under the original model may differ from that of
    the original's own texts."""
    window: int = WINDOW
    """Generations that each of the card's numbers is of."""

    def run(self) -> int:
        terminal.go_on_without_output()
        storage = open_storage(self.storage)
        chosen = self._trial(storage)
        analysis = measure(reader.connect(storage), self.experiment, self.window, chosen)
        recommendation, generation = None, self.generation
        if self.recommended:
            recommendation = recommended(analysis, self.keep_variety, self.keep_sense)
            chosen, generation = recommendation.trial.trial_id, recommendation.generation
        assert chosen is not None
        from rl_alliteration.trial.averaging import averaged
        from rl_alliteration.trial.replay import export, new_folder, open_trial, replay

        with new_folder(Path(self.output)):
            say = Screen().say
            if recommendation is not None:
                say(str(recommendation))
            trial = open_trial(storage, self.experiment, chosen, self.model)
            checkpoints: list[int] = []
            if self.average is None:
                trainer = replay(trial, generation, say)
            else:
                trainer, checkpoints = averaged(trial, generation, self.average)
            measured = next(found for found in analysis.trials if found.trial_id == chosen)
            rows = trial.rows(max(0, trainer.generation - 3))
            last = [rewarded(row) for row in rows if row["generation"] < trainer.generation]
            card = model_card(trial.config, measured, trainer.generation, last, recommendation, checkpoints)
            export(trial, trainer, Path(self.output), card)
        mean = f", the mean of {len(checkpoints)} checkpoints," if checkpoints else ""
        say(f"{trial.trial_id} after {trainer.generation:,} texts{mean} is in {self.output}")
        return 0

    def _trial(self, storage: Storage) -> str | None:
        """The id of the trial that is asked for; None: all of them, for the recommended model."""
        known = [name for _, name in reader.trial_ids(storage, self.experiment)]
        chosen = None if self.trial is None else find_trial(self.trial, known, self.experiment)
        if self.recommended and self.generation is not None:
            raise UserError("--generation: --recommended finds it; leave one of the two out")
        if not self.recommended and self.trial is None:
            raise UserError("--trial: give a trial's id, or --recommended")
        return chosen
