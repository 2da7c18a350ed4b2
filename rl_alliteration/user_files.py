"""Text files that a user brings."""

from __future__ import annotations

from pathlib import Path

from rl_alliteration.errors import UserError


def read_text(path: str, flag: str) -> str:
    """The text of a UTF-8 file, its lines ended by "\\n"; without the byte order marks that some editors put first.

    Args:
        path: of the file.
        flag: that it was given with, for messages.

    Raises:
        UserError: it cannot be read, or is no UTF-8 text.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: nobody's home is known
        raise UserError(f"{flag}: {path!r} cannot be read as a UTF-8 text file ({error})") from error
    if "\0" in text:
        raise UserError(f"{flag}: {path!r} has NUL characters in it, as UTF-16 has; save it as UTF-8 text")
    # Files put one after another have a mark in the middle.
    return text.removeprefix("\ufeff").replace("\n\ufeff", "\n")
