"""The prompts of a sweep: of its flags, or of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rl_alliteration.errors import UserError
from rl_alliteration.flags import STUDY_PROMPT
from rl_alliteration.tune.axes import unique
from rl_alliteration.user_files import read_text

if TYPE_CHECKING:
    from rl_alliteration.tune.plan import Sweep


def prompts_of(sweep: Sweep) -> tuple[str, ...]:
    """The prompts, of the flags or the file, once each, in the order given.

    Raises:
        UserError: the file cannot be read or is empty, or there are both.
    """
    if sweep.prompts is None:
        return unique(sweep.prompt) or (STUDY_PROMPT,)
    if sweep.prompt:
        raise UserError("--prompts: give either the file or --prompt, not both")
    lines = read_text(sweep.prompts, "--prompts").split("\n")
    prompts = unique(tuple(line.strip() for line in lines if line.strip()))
    if not prompts:
        raise UserError(f"--prompts: {sweep.prompts!r} has no prompt in it; give one per line")
    return prompts
