"""Errors in a user's own code: what went wrong, and in which line of which file."""

from __future__ import annotations

import os
import sysconfig
import traceback
from pathlib import Path

_OURS = str(Path(__file__).parents[1])
_LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def told(error: BaseException) -> str:
    """An error with the line that it comes from, of the user's own file where one is to blame.

    >>> told(ZeroDivisionError("division by zero"))
    'ZeroDivisionError: division by zero'
    """
    where = _place(error)
    said = f"{type(error).__name__}: {error}"
    return f"{said} ({where})" if where else said


def _place(error: BaseException) -> str:
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((f"{_OURS}{os.sep}", "<frozen"))
    ]
    own = [frame for frame in frames if not frame.filename.startswith(_LIBRARIES)]
    if not own or isinstance(error, SyntaxError):  # which names its place itself
        return ""
    path = own[-1].filename
    near = os.path.relpath(path) if path.startswith(f"{os.getcwd()}{os.sep}") else path
    return f"{near}, line {own[-1].lineno}"
