"""The whole study with five seeds: REINFORCE against RLOO, all betas, and the smallest that stands, extended.

    python -m tune_jobs.study --storage results            # about 75 minutes on 2 CPU cores; run it again to go on
    python -m tune_jobs.study --storage results --model roneneldan/TinyStories-33M      # on a GPU

Takes the flags of `sweep`. Which beta to extend is read off the data, by the rule of `claims`. At the end it prints
the study's findings; one that does not hold is a result, and no failure of this job.
"""

import argparse
import sys

from rl_alliteration.analysis.claims import beta_to_extend
from rl_alliteration.analysis.measure import measure
from rl_alliteration.cli.main import call
from rl_alliteration.config import SHIPPED_MODELS
from rl_alliteration.results.reader import connect
from rl_alliteration.results.storage import open_storage

EXTENDED_TO = 6000  # a shipped model
EXTENDED_TO_ELSE = 8000  # as in the study


def run(flags: list[str]) -> int:
    """Run what is missing; the first exit code that is not 0."""
    known = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    known.add_argument("--storage")
    known.add_argument("--model", default="storyteller")
    known.add_argument("--max-generations", type=int)
    known.add_argument("--dry-run", action="store_true")
    told, _ = known.parse_known_args(flags)
    for preset in ("study_a_words", "study_betas"):
        code = call(["sweep", "--preset", preset, *flags])
        if code:
            return code
    if told.dry_run:
        print("then the smallest beta that has not collapsed is extended, once the others are there")
        return 0
    beta = beta_to_extend(measure(connect(open_storage(told.storage)), "study_betas"))
    if beta is not None:
        length = EXTENDED_TO if told.model in SHIPPED_MODELS else EXTENDED_TO_ELSE
        if told.max_generations is not None:  # a try at another size
            length = 2 * told.max_generations
        code = call(
            ["sweep", "--preset", "study_betas", *flags, "--beta", f"{beta:g}", "--max-generations", str(length)]
        )
        if code:
            return code
    call(["claims", "--storage", told.storage])
    print(f"See it:  rl-alliteration report --storage {told.storage}")
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
