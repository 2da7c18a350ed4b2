"""Forks: trials that begin from the model of another, their parent. Each keeps the one it began with, and whose it
was, so that it needs its parent no more."""

from __future__ import annotations

import contextlib
import re

from rl_alliteration.config import TrialConfig
from rl_alliteration.errors import Failure
from rl_alliteration.foreign import Damaged
from rl_alliteration.results.integrity import checkpoint_generations, read_state
from rl_alliteration.results.reader import all_trials, last_event
from rl_alliteration.results.schema import EXPERIMENT, TRIAL_ID
from rl_alliteration.results.storage import Storage

_BEGINNING = re.compile(
    rf"checkpoints/(?P<experiment>{EXPERIMENT})/(?P<trial_id>{TRIAL_ID})/generation-0{{8}}/state\.json"
)


def forks_of(storage: Storage, ancestors: tuple[str, ...] | str) -> list[tuple[str, str]]:
    """(experiment, trial id) of the forks that have their beginning, sorted.

    Args:
        storage: the results.
        ancestors: all of theirs, eldest first; or the last of them, `TRIAL_ID@GENERATION`.
    """
    wanted = (ancestors,) if isinstance(ancestors, str) else ancestors
    found = []
    for match in map(_BEGINNING.fullmatch, storage.list("checkpoints")):
        if match is not None and (config := _config(storage, match["experiment"], match["trial_id"])) is not None:
            known = config.ancestors[-1:] if isinstance(ancestors, str) else config.ancestors
            found += [(match["experiment"], match["trial_id"])] if known == wanted else []
    return sorted(found)


def kept_parent(storage: Storage, ancestor: str) -> TrialConfig | None:
    """The configuration of a parent, as its forks keep it; None if none does. `ancestor`: `TRIAL_ID@GENERATION`."""
    for experiment, trial_id in forks_of(storage, ancestor):
        with contextlib.suppress(Damaged):
            name = ancestor.rpartition("@")[0]
            config = TrialConfig.from_json(read_state(storage, experiment, trial_id, 0).parent, name)
            if config.trial_id == name:
                return config
    return None


def orphaned(storage: Storage, experiment: str, trial_id: str | None) -> list[tuple[str, str, bool]]:
    """What stays behind if an experiment, or one of its trials, is removed: parent, `EXPERIMENT/TRIAL_ID` of its fork,
    and whether that has its beginning, so that nothing of it depends on what goes."""
    known = all_trials(storage)
    kept = {name for owner, name in known if owner != experiment}
    going = {name for owner, name in known if owner == experiment and trial_id in (None, name)} - kept
    found = []
    for owner, name in known:
        config = None if owner == experiment and trial_id in (None, name) else _config(storage, owner, name)
        if config is not None and config.ancestors and (parent := config.ancestors[-1].rpartition("@")[0]) in going:
            found.append((parent, f"{owner}/{name}", 0 in checkpoint_generations(storage, owner, name)))
    return found


def _config(storage: Storage, experiment: str, trial_id: str) -> TrialConfig | None:
    with contextlib.suppress(Failure):  # of a damaged one nothing is known
        event = last_event(storage, experiment, trial_id)
        return None if event is None else TrialConfig.from_json(event["config"], trial_id)
    return None
