"""`rl-alliteration claims`: do the study's findings hold?"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

from rl_alliteration import terminal
from rl_alliteration.analysis.claims import TITLES, check_claims, comparable, markdown
from rl_alliteration.analysis.measure import measure
from rl_alliteration.analysis.seeds import ONE_SEED
from rl_alliteration.cli.commands import Command
from rl_alliteration.errors import Failure
from rl_alliteration.results import reader
from rl_alliteration.results.storage import open_storage
from rl_alliteration.terminal import Grid, Screen, complain


@dataclasses.dataclass(frozen=True)
class Claims(Command):
    """Check the study's findings on the data: exit code 0 if each holds, 1 with the same table if one does not."""

    place: ClassVar[int] = 120

    storage: str
    """Folder or URI of the results. Default: $RL_ALLITERATION_STORAGE."""
    experiment: str | None = None
    """Only this one. Default: all."""
    format: Literal["table", "markdown"] = "table"
    """How the answer is written."""

    def run(self) -> int:
        storage = open_storage(self.storage)
        reader.trial_ids(storage, self.experiment)
        analysis = measure(reader.connect(storage), self.experiment)
        claims = check_claims(analysis)
        if self.format == "markdown":
            terminal.write(markdown(claims))
        else:
            table = Grid(show_lines=True)
            for title in TITLES:
                table.add_column(title, no_wrap=title == "holds", bare=title in ("finding", "holds"))
            for claim in claims:
                table.add_row(*claim.cells)
            Screen().show(table)
        unfinished = [trial.trial_id for trial in analysis.trials if trial.generations < trial.max_generations]
        if unfinished:
            complain(f"note: {len(unfinished)} trials are not finished, {unfinished[0]} first")
        apart = [trial for trial in comparable(analysis) if trial.apart]
        if apart:
            complain(
                f"note: {len(apart)} trials differ from others of their beta in more than the seed, "
                f"{apart[0].trial_id} ({apart[0].apart.removeprefix(', ')}) first; all are taken as seeds of it: "
                "choose with --experiment"
            )
        failed = sum(claim.holds is False for claim in claims)
        missing = sum(not claim.has_data for claim in claims)
        open_ = sum(claim.holds is None and claim.has_data for claim in claims)
        if failed or missing or open_:
            undecided = f", {open_} have {ONE_SEED}, which has no interval" if open_ else ""
            raise Failure(
                f"claims: {failed} of {len(claims)} findings do not hold, {missing} have no data to say{undecided}"
            )
        return 0
