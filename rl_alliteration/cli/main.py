"""The command line: words to a command, its exit code, one line for an error.

Imports neither torch nor Ray; the commands that need them do.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import logging
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Sequence

import duckdb
import pyarrow
import tyro

from rl_alliteration import __version__, terminal
from rl_alliteration.cli.commands import STORAGE, Command, all_commands
from rl_alliteration.errors import Failure, UserError
from rl_alliteration.terminal import OutputLost, complain, is_text

COMMANDS = all_commands()


def main(arguments: Sequence[str] | None = None) -> None:
    """`rl-alliteration`: run a command and exit with its code."""
    sys.exit(call(list(sys.argv[1:] if arguments is None else arguments)))


def call(arguments: list[str]) -> int:
    """Run a command; its exit code."""
    return guarded(lambda: _print_version() if arguments[:1] == ["--version"] else parse(arguments).run())


def _print_version() -> int:
    print(f"rl-alliteration {__version__}")
    return 0


def run_preset(preset: str | None = None) -> None:
    """The entry point of the files in `tune_jobs`: `sweep` with a preset, and the flags given to the job."""
    chosen = ["--preset", preset] if preset else []
    main(["sweep", *chosen, *sys.argv[1:]])


def parse(arguments: list[str]) -> Command:
    """The command with its flags.

    Raises:
        UserError: there is no such command or flag, or a value is not accepted.
    """
    if arguments[:1] == ["submit"] and "--" in arguments:  # the flags of sweep may be set apart
        arguments.remove("--")
    arguments = _with_storage(arguments)
    check_words(arguments, _several(arguments))
    _check_values(arguments)
    with in_one_line(f"rl-alliteration {arguments[0] if arguments and arguments[0] in COMMANDS else ''}"):
        command = tyro.extras.subcommand_cli_from_dict(
            COMMANDS,  # type: ignore[arg-type]
            prog="rl-alliteration",
            description="Sweeps of reinforcement learning on language models. --version prints the version.",
            args=arguments,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    _check_whole_numbers(command)
    return command


def _with_storage(arguments: list[str]) -> list[str]:
    """The command line with the environment's storage where a command needs one and is given none.

    Raises:
        UserError: there is none.
    """
    command = COMMANDS.get(arguments[0]) if arguments else None
    fields = {field.name: field for field in dataclasses.fields(command)} if command else {}
    needed = "storage" in fields and fields["storage"].default is dataclasses.MISSING
    given = any(word.partition("=")[0] in ("--storage", "--help", "-h") for word in arguments)
    if given or not needed:
        return arguments
    if not (storage := os.environ.get(STORAGE)):
        raise UserError(f"--storage: give the folder or URI of the results, or set the environment variable {STORAGE}")
    return [*arguments, f"--storage={storage}"]


def _check_whole_numbers(command: Command) -> None:
    """Whether each fits into a column of the results.

    Raises:
        UserError: one does not.
    """
    for name, value in vars(command).items():
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int) and abs(number) >= 2**63:
                flag = name.replace("_", "-")
                raise UserError(f"--{flag}: {number} is not accepted; give a whole number below 2^63")


def check_words(arguments: Sequence[str], several: Collection[str] = ()) -> None:
    """Whether the words of a command line are text.

    Args:
        arguments: the words.
        several: flags that take several values.

    Raises:
        UserError: one is not; names its flag, or the command that it is of.
    """
    flag = ""
    for before, word in itertools.pairwise(["", *arguments]):
        flag = before if before.startswith("--") else flag if flag in several else ""
        problem = "has a NUL character in it" if "\0" in word else "" if is_text(word) else "is not valid UTF-8"
        if problem:
            name = word.partition("=")[0] if word.startswith("--") else flag or arguments[0]
            raise UserError(f"{name}: {problem}; give text, and to a file with such a name a link with another")


def _several(arguments: Sequence[str]) -> set[str]:
    """The flags of a command that take several values."""
    command = COMMANDS.get(arguments[0]) if arguments else None
    fields = dataclasses.fields(command) if command else ()
    return {"--" + field.name.replace("_", "-") for field in fields if isinstance(field.default, tuple)}


def _check_values(arguments: Sequence[str]) -> None:
    """Tyro takes a flag for several values with none at all as if it were not there.

    Raises:
        UserError: there is such a flag.
    """
    several = _several(arguments)
    for flag, following in itertools.pairwise([*arguments, "--"]):
        if flag.replace("_", "-") in several and following.startswith("--"):
            raise UserError(f"{flag}: no value is given; give one or more, or leave the flag out")


@contextlib.contextmanager
def in_one_line(command: str) -> Iterator[None]:
    """Tyro's box of an error becomes the line of a `UserError`, which names the command whose help says more."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            yield
    except SystemExit as end:
        if not end.code:
            raise
        raise UserError(f"{'; '.join(_sections(complaint.getvalue()))} (see {command} --help)") from None


def _sections(box: str) -> list[str]:
    """What tyro's box says, a string a section: its first line is a title, lines of dashes part the sections."""
    sections = [""]
    for line in box.splitlines()[1:]:
        line = line.strip(" │|+╭╮╰╯")
        if line and not line.strip("─-"):
            sections.append("")
        else:
            sections[-1] = f"{sections[-1]} {line}".strip()
    sections = [section.removeprefix("Argument helptext: ") for section in sections if section]
    return [section for section in sections if not section.startswith("For full helptext")]


def guarded(work: Callable[[], int]) -> int:
    """The exit code of `work`; one line instead of a traceback for what a person can mend."""
    terminal.prepare()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name in ("httpx", "matplotlib", "ray", "transformers", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        try:
            return work()
        finally:
            terminal.flush()
    except UserError as error:
        return _complain(str(error), 2)
    except Failure as error:
        return _complain(str(error), 1)
    except OutputLost as lost:  # a broken pipe: its reader (head, less) has had enough
        return 128 + signal.SIGPIPE if lost.broken_pipe else _complain(f"its output cannot be written ({lost})", 1)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except SystemExit as end:  # Ray's own handler, while it starts, exits with the signal's number
        return 128 + signal.SIGTERM if end.code == signal.SIGTERM else int(end.code or 0)
    except UnicodeDecodeError:  # DuckDB hands over the bytes of a damaged file as they are
        return _complain("results could not be read: a text among them is not UTF-8; `verify` says which", 1)
    except (duckdb.Error, pyarrow.ArrowException, OSError) as error:
        return _complain(f"results could not be read: {error}", 1)


def _complain(message: str, code: int) -> int:
    complain(message)
    return code


if __name__ == "__main__":
    main()
