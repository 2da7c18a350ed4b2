"""The way out: whatever reaches a person goes through here, so that no text drives a terminal, none is too foreign for
a log, and output that cannot be written is told in one line.
"""

from __future__ import annotations

import copy
import dataclasses
import errno
import html
import io
import logging
import math
import os
import select
import sys
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

_WIDTH = 160
TABLE_WIDTH = 130
"""Columns of a terminal below which a table whose texts do not fit in a line is shown as cards."""
_TEXT_WIDTH = 32
"""Columns that a text needs in a table."""
_MOST = 100_000
_REPLACED = "\N{REPLACEMENT CHARACTER}"


class OutputLost(Exception):
    """What a command is for could not be written to its output. No OSError: nobody is to take it for another's."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error.strerror or str(error))
        self.broken_pipe = isinstance(error, BrokenPipeError)


# --- texts -----------------------------------------------------------------------------------------------


def printable(text: str) -> str:
    """The text, of the same length, without what drives a terminal or misleads its reader: control characters (escape
    sequences among them), what turns the direction of reading, what has no width. Line breaks and tabs stay.
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def one_line(text: str) -> str:
    """As `printable`, with spaces for line breaks and tabs: no line of it can pass for one of ours."""
    return text if text.isprintable() else printable(text).replace("\n", " ").replace("\t", " ")


def is_text(word: str) -> bool:
    """Whether a word of the command line is Unicode: of bytes that are no UTF-8 Python makes lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in word)


def _shown(character: str) -> str:
    if character.isprintable() or character in "\n\t" or unicodedata.category(character) == "Zs":
        return character
    return _REPLACED


# --- standard streams ------------------------------------------------------------------------------------


class _Descriptor(io.FileIO):
    """Standard output or standard error. An error of it is raised once, or never; what comes after it is dropped."""

    def __init__(self, number: int, name: str, error: OSError | None, needed: bool) -> None:
        super().__init__(number, "w", closefd=False)
        self.name = name
        self.error = error
        self.needed = needed
        self.told = False

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                while (written := super().write(data)) is None:  # somebody has made the terminal non-blocking
                    select.select([], [self], [])
                return int(written)
            except OSError as error:
                self.error = error
        if self.needed and not self.told:
            self.told = True
            raise OutputLost(self.error)
        return len(data)


def prepare() -> None:
    """Make the standard streams of this process fit for whatever it prints; to be called before files are opened.

    A stream that is closed gets the null device: otherwise the next file that is opened has its number, and our
    output in it. What a stream's encoding does not have is replaced. Logging and warnings become `printable`.
    """
    closed = [number for number in range(3) if not _is_open(number)]
    for number in closed:
        os.open(os.devnull, os.O_WRONLY if number else os.O_RDONLY)  # the lowest number that is free
        os.set_inheritable(number, True)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    if sys.stdout is sys.__stdout__:
        sys.stdout = _stream(1, sys.stdout, "replace", closed=1 in closed)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _stream(2, sys.stderr, "backslashreplace", closed=2 in closed)
    replace_what_cannot_be_encoded()
    if (descriptor := _descriptor()) is not None:
        descriptor.needed = True
    logging.setLogRecordFactory(_Record)
    logging.captureWarnings(True)


def replace_what_cannot_be_encoded() -> None:
    """Nothing that is printed here, a reward's own prints among them, ends a run for want of a character."""
    for stream, errors in ((sys.stdin, "replace"), (sys.stdout, "replace"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def go_on_without_output() -> None:
    """The command's work matters, not what it prints: output that cannot be written no longer ends it."""
    if (descriptor := _descriptor()) is not None:
        descriptor.needed = False


def flush() -> None:
    """Write what has been printed; say so if output was lost that did not matter.

    Raises:
        OutputLost: it cannot be written, and matters.
    """
    descriptor = _descriptor()
    if sys.stdout is not None:
        sys.stdout.flush()
    if descriptor is not None and descriptor.error is not None and not descriptor.told:
        descriptor.told = True
        complain(f"note: not all that was printed could be written ({descriptor.error.strerror}); the work went on")


def _descriptor() -> _Descriptor | None:
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw if isinstance(raw, _Descriptor) else None


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _stream(number: int, stream: TextIO | None, errors: str, *, closed: bool) -> TextIO:
    """The stream anew, on a `_Descriptor`."""
    error = OSError(errno.EBADF, os.strerror(errno.EBADF)) if closed else None
    encoding, by_line = "utf-8", True
    if isinstance(stream, io.TextIOWrapper):
        stream.flush()
        encoding, by_line = stream.encoding, stream.line_buffering or stream.write_through
    raw = _Descriptor(number, ("<stdout>", "<stderr>")[number - 1], error, needed=number == 1)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, errors=errors, line_buffering=by_line)


class _Record(logging.LogRecord):
    """A message of any logger, whoever shows it."""

    def getMessage(self) -> str:
        return printable(super().getMessage())


# --- printing --------------------------------------------------------------------------------------------


class Screen(Console):
    """Standard output for people: texts are shown as they are, `printable`; nothing in them is markup."""

    def __init__(self, *, stderr: bool = False) -> None:
        # A notebook's output calls itself a terminal: it is given the lines of a log, which any viewer shows.
        notebook = Console().is_jupyter
        super().__init__(
            stderr=stderr,
            markup=False,
            highlight=False,
            emoji=False,
            force_jupyter=False,
            force_terminal=False if notebook else None,
        )
        self.notebook = notebook
        if not self.is_terminal:
            # A log or a pipe has no width, and COLUMNS may be a stray: GNU readline sets it for a program's children.
            self.width = _WIDTH

    def say(self, message: str) -> None:
        """A line, however long."""
        self.print(Text(one_line(message)), soft_wrap=True)

    def show(self, grid: Grid) -> None:
        """A table, or where it does not fit the same in cards."""
        self.print(self.fitting(grid))

    def fitting(self, grid: Grid) -> RenderableType:
        """The grid as a table, if it is wide enough for one; else a card a row, which breaks lines and cuts nothing."""
        texts = _TEXT_WIDTH if self.width >= TABLE_WIDTH else None
        return grid if grid.least_width(self, texts) <= self.width else grid.cards()

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """All that is shown, a live display too, comes through here; only segments of control are rich's own."""
        if isinstance(renderable, Text):
            renderable = _cleaned(renderable, printable)
        for segment in super().render(renderable, options):
            if segment.control is None and not segment.text.isprintable():
                segment = Segment(printable(segment.text), segment.style)
            yield segment


class NotebookLine:
    """A line of a notebook's output that changes in place, with a bar."""

    def __init__(self) -> None:
        self._shown: Any = None

    def show(self, line: str, done: int, of: int) -> None:
        """Show a line in place of the one before. `done` of `of`: how long the bar is."""
        from IPython.display import display  # there is one where there is a notebook

        line = one_line(line)
        bar = f'<progress max="{max(of, 1)}" value="{done}" aria-label="Texts"></progress>'
        bundle = {"text/plain": line, "text/html": f"<div>{bar} {html.escape(line)}</div>"}
        if self._shown is None:
            self._shown = display(bundle, raw=True, display_id=True)  # type: ignore[no-untyped-call]  # IPython's
        else:
            self._shown.update(bundle, raw=True)


class Grid(Table):
    """A table whose headings are a line each, and so are its cells, unless `several_lines` are texts in it.

    Columns with `no_wrap` are shown whole or not at all; the others, texts, take the width that is left.
    """

    def __init__(self, *, several_lines: bool = False, **settings: Any) -> None:
        super().__init__(**settings)
        self._clean = printable if several_lines else one_line
        self._bare: set[int] = set()

    def add_column(self, header: RenderableType = "", *args: Any, bare: bool = False, **settings: Any) -> None:
        """As rich's; `bare`: a card needs no heading before its value."""
        if bare:
            self._bare.add(len(self.columns))
        super().add_column(_cell(header, one_line), *args, **settings)

    def least_width(self, console: Console, texts: int | None) -> int:
        """Columns of the terminal that it needs: with texts so wide, or unbroken."""
        narrow = copy.copy(self)
        narrow.columns = [c if c.no_wrap else dataclasses.replace(c, width=texts) for c in self.columns]
        wide = console.options.update(width=_MOST)
        return min(console.measure(table, options=wide).maximum for table in (narrow, self))

    def cards(self) -> Group:
        """A card for each row: values in one line, with their headings, and under it each text of the row."""
        shown: list[RenderableType] = [Text(str(self.title))] if self.title else []
        for row in zip(*(column.cells for column in self.columns), strict=True):
            values = Text(overflow="fold")
            texts: list[RenderableType] = []
            for place, (column, cell) in enumerate(zip(self.columns, row, strict=True)):
                if not (isinstance(cell, Text) and cell.plain):
                    continue
                labelled = Text("" if place in self._bare else f"{column.header} ") + cell
                if column.no_wrap or not place:
                    values.append_text(Text(" · " if values.plain else "") + labelled)
                else:
                    labelled.overflow, labelled.no_wrap = "fold", False
                    texts.append(Padding(labelled, (0, 0, 0, 2)))
            shown += [*([values] if values.plain else []), *texts]
        return Group(*shown)

    def add_row(self, *cells: RenderableType | None, **settings: Any) -> None:
        """As rich's."""
        super().add_row(*(_cell(cell, self._clean) for cell in cells), **settings)


def complain(message: str) -> None:
    """A line about this program on standard error."""
    print(f"rl-alliteration: {one_line(' '.join(message.split()))}", file=sys.stderr, flush=True)


def write(text: str) -> None:
    """Text that is somebody else's, such as a log: as it is to a file or a pipe, `printable` in a terminal."""
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


class Data:
    """Standard output for CSV or JSON: exact to a file or a pipe, in UTF-8 always; `printable` in a terminal."""

    def __init__(self) -> None:
        self._clean: Callable[[str], str] = printable if sys.stdout.isatty() else str
        if not sys.stdout.isatty() and isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")

    def write(self, text: str) -> None:
        """Write a line or a part of one."""
        sys.stdout.write(self._clean(text))


def _cell(cell: Any, clean: Callable[[str], str]) -> Any:
    return _cleaned(Text(cell) if isinstance(cell, str) else cell, clean)


def _cleaned(text: Any, clean: Callable[[str], str]) -> Any:
    """A `Text` with the same styles; anything else as it is."""
    if not isinstance(text, Text) or text.plain.isprintable():
        return text
    text = text.copy()
    text.plain = clean(text.plain)
    return text


def duration(seconds: float) -> str:
    """Hours, minutes or seconds."""
    if math.isinf(seconds):
        return "for ever"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
