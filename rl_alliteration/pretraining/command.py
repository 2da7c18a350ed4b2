"""The command that pretrains a story model."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import tyro

from rl_alliteration import terminal
from rl_alliteration.cli.main import check_words, guarded, in_one_line
from rl_alliteration.pretraining.settings import Pretraining
from rl_alliteration.pretraining.train import pretrain


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and exit with a code as `rl-alliteration` does."""

    def run() -> int:
        check_words(["pretrain_storyteller", *(sys.argv[1:] if arguments is None else arguments)])
        with in_one_line("python -m tune_jobs.pretrain_storyteller"):
            settings = tyro.cli(Pretraining, args=arguments, prog="pretrain_storyteller")
        terminal.go_on_without_output()
        pretrain(settings)
        return 0

    sys.exit(guarded(run))
