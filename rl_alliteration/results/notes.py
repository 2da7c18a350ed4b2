"""What people say of trials: a name, a note, a star; each trial's in a small file of its own, beside the datasets."""

from __future__ import annotations

import dataclasses
import re
from typing import Annotated

from pydantic import Field

from rl_alliteration.errors import Failure
from rl_alliteration.foreign import encode_record, read_record
from rl_alliteration.results import schema
from rl_alliteration.results.storage import Storage

NAME_LENGTH, NOTE_LENGTH = 80, 4000
"""Characters at most."""
_PATH = re.compile(rf"notes/(?P<experiment>{schema.EXPERIMENT})/(?P<trial_id>{schema.TRIAL_ID})\.json")


@dataclasses.dataclass(frozen=True)
class Note:
    """Of one trial: `notes/E/T.json`."""

    name: Annotated[str, Field(max_length=NAME_LENGTH)] = ""
    """What to call it beside what it is."""
    note: Annotated[str, Field(max_length=NOTE_LENGTH)] = ""
    starred: bool = False


NO_NOTE = Note()


def note_path(experiment: str, trial_id: str) -> str:
    """Where a trial's note is."""
    return f"notes/{experiment}/{trial_id}.json"


def noted(path: str) -> tuple[str, str] | None:
    """Experiment and trial id of a note's path; None if it is none."""
    match = _PATH.fullmatch(path)
    return None if match is None else (match["experiment"], match["trial_id"])


def read_note(storage: Storage, experiment: str, trial_id: str) -> tuple[Note, str | None]:
    """A trial's note, and the tag that `write_note` takes: None where there is no file.

    Raises:
        Damaged: it is none, or not as it was written.
    """
    path = note_path(experiment, trial_id)
    found = storage.get_tagged(path)
    return (NO_NOTE, None) if found is None else (read_record(Note, found[0], path, unsealed=False), found[1])


def write_note(storage: Storage, experiment: str, trial_id: str, note: Note, tag: str | None) -> str:
    """Keep a trial's note; its new tag.

    Args:
        storage: the results.
        experiment: of the trial.
        trial_id: of it.
        note: what to keep.
        tag: of the note that it takes the place of.

    Raises:
        Failure: somebody else has changed it meanwhile, or the storage cannot be written.
    """
    written = storage.put_if(note_path(experiment, trial_id), encode_record(note), tag)
    if written is None:
        raise Failure("the note was changed elsewhere meanwhile; load the page again")
    return written
