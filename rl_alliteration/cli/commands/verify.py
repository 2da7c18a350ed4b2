"""`rl-alliteration verify`: check every row."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from rl_alliteration.cli.commands import Command
from rl_alliteration.errors import Failure, UserError
from rl_alliteration.results import reader, verify
from rl_alliteration.results.storage import Storage, open_storage
from rl_alliteration.terminal import Screen


@dataclasses.dataclass(frozen=True)
class Verify(Command):
    """Check every row: nothing missing, nothing twice, every number what its texts say."""

    place: ClassVar[int] = 80

    storage: str
    """Folder of the results. Default: $RL_ALLITERATION_STORAGE."""
    experiment: str | None = None
    """Only this one."""
    deep: bool = False
    """Compute cross-entropies again too: of every text under the original weights, and after each checkpoint."""
    model: str | None = None
    """With --deep: the folder of a model that is no longer where it was."""

    def run(self) -> int:
        storage = open_storage(self.storage)
        if self.model is not None and not self.deep:
            raise UserError("--model: only --deep needs the model; give --deep with it")
        console = Screen()
        wrong = 0
        verified = 0
        reader.trial_ids(storage, self.experiment)
        for folder in reader.strangers(storage):
            console.say(f"note   {folder}: no name or file of ours, not looked at by any command")
        for experiment, trial_id in reader.all_trials(storage):
            if self.experiment not in (None, experiment):
                continue
            verdict = verify.verify_trial(storage, experiment, trial_id)
            if self.deep and verdict.problem is None:
                verdict = _deep(verdict, storage, self.model)
            verified += verdict.generations
            for note in verdict.notes:
                console.say(f"note   {experiment}/{trial_id}: {note}")
            if verdict.problem is None:
                console.say(f"ok     {experiment}/{trial_id}: {verdict.generations:,} generations")
            else:
                wrong += 1
                console.say(f"WRONG  {experiment}/{trial_id}: {verdict.problem}")
        if wrong:
            raise Failure(f"verify: {wrong} trial(s) are not what they should be, see above")
        console.say(f"{verified:,} texts verified")
        return 0


def _deep(verdict: verify.Verdict, storage: Storage, model: str | None) -> verify.Verdict:
    """The verdict with what the model says; `model`: where those models are that are not where they were."""
    from rl_alliteration.trial.replay import open_trial, verify_deep

    try:
        trial = open_trial(storage, verdict.experiment, verdict.trial_id)
    except (UserError, Failure):
        if model is None:
            raise
        trial = open_trial(storage, verdict.experiment, verdict.trial_id, model)
    notes = list(verdict.notes)
    return dataclasses.replace(verdict, problem=verify_deep(trial, notes.append), notes=tuple(notes))
