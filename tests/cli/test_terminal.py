"""What reaches a person: nothing foreign drives a terminal, no log is too narrow, no stream is taken for granted."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import run
from flaky import FlakyClient
from rich.live import Live
from rich.text import Text
from trials import EXPERIMENT, planned, run_trial

from rl_alliteration import terminal
from rl_alliteration.cli import main as cli
from rl_alliteration.cli.commands import sample
from rl_alliteration.cli.watch import LiveTrials
from rl_alliteration.cli.watch import table as live_table
from rl_alliteration.config import TrialConfig
from rl_alliteration.foreign import Damaged
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.report.command import Report, report
from rl_alliteration.results import schema
from rl_alliteration.results.cards import read_card, write_card
from rl_alliteration.results.parts import encode_part, read_part
from rl_alliteration.results.reader import all_trials, parts, searched
from rl_alliteration.results.storage import Storage
from rl_alliteration.results.verify import verify_trial
from rl_alliteration.terminal import Grid, OutputLost, Screen, one_line, printable
from rl_alliteration.trial.replay import verify_deep
from rl_alliteration.tune import submission

DRIVES = ("\x1b]0;pwned\x07", "\x1b[2J", "\x9b2J", "\b", "\u202e", "\u2066", "\u200e", "\u200b", "\ufeff")
"""A window's title, a cleared screen in 7 and 8 bits, a backspace, reading order, what has no width."""
HOSTILE = "x" + "".join(DRIVES) + "y"


def assert_harmless(shown: str) -> None:
    assert not [drives for drives in (*DRIVES, "\x07") if drives in shown]


@pytest.fixture(scope="module")
def results(
    tmp_path_factory: pytest.TempPathFactory, tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig]
) -> Storage:
    storage = Storage(tmp_path_factory.mktemp("results"))
    run_trial(storage, planned(make_config(tiny_gpt_neo, max_length=12), 16), tiny_gpt_neo)
    return storage


@pytest.fixture
def copy(results: Storage, tmp_path: Path) -> Storage:
    shutil.copytree(results.root, tmp_path / "copy")
    return Storage(tmp_path / "copy")


def trial_of(storage: Storage) -> str:
    return all_trials(storage)[0][1]


def change_event(storage: Storage, **changes: object) -> None:
    path = parts(storage, "trials", EXPERIMENT, trial_of(storage))[-1]
    rows = read_part(storage, path)
    rows[-1].update(changes)
    storage.put(path, encode_part(rows, "trials"))


# --- nothing foreign drives a terminal ---------------------------------------------------------------------


def test_what_is_shown_keeps_its_length_its_lines_and_its_spaces() -> None:
    text = f"tab\t{HOSTILE}\nno-break\N{NO-BREAK SPACE}and wide\N{IDEOGRAPHIC SPACE}space, é, 木, \N{GRINNING FACE}"
    shown = printable(text)
    assert_harmless(shown)
    assert len(shown) == len(text)
    assert shown.startswith("tab\tx\ufffd") and shown.endswith("y\nno-break\xa0and wide\u3000space, é, 木, 😀")
    assert one_line("a\nb\tc") == "a b c"


@pytest.mark.parametrize("in_terminal", [True, False])
def test_whatever_a_screen_is_given_cannot_drive_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, in_terminal: bool
) -> None:
    if in_terminal:
        monkeypatch.setenv("TTY_COMPATIBLE", "1")
    screen = Screen()
    assert screen.is_terminal == in_terminal
    table = Grid(title=HOSTILE, caption=HOSTILE)
    table.add_column(HOSTILE)
    table.add_column(Text(HOSTILE), footer=HOSTILE)
    table.add_row(HOSTILE, Text(HOSTILE, style="red"))
    table.add_row(None, "")
    screen.print(HOSTILE, Text(HOSTILE), table, [HOSTILE])
    screen.say(HOSTILE)
    screen.log(HOSTILE)
    screen.rule(HOSTILE)
    with Live(Text(HOSTILE), console=screen, auto_refresh=False) as live:
        live.update(table, refresh=True)
        if in_terminal:
            print(HOSTILE)  # comes through the live display
    out = capsys.readouterr().out
    assert out.count("pwned") >= 9
    assert_harmless(out)


def test_a_name_cannot_pass_for_a_line_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().say("ok     one\nok     another")
    table = Grid(box=None)
    table.add_column("a\nb")
    table.add_row("c\nd")
    Screen().print(table)
    assert [line.strip() for line in capsys.readouterr().out.splitlines()] == [
        "ok     one ok     another",
        "a b",
        "c d",
    ]


def test_log_lines_and_warnings_are_printable() -> None:
    script = (
        "import logging, sys, warnings; from rl_alliteration.cli.main import guarded; hostile = sys.argv[1]\n"
        "logging.getLogger('some.library').addHandler(logging.StreamHandler())\n"
        "guarded(lambda: logging.getLogger('some.library').warning('%s', hostile) or warnings.warn(hostile) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script, HOSTILE], capture_output=True, text=True, check=True)
    assert done.stderr.count("pwned") >= 3
    assert_harmless(done.stderr)


@pytest.mark.parametrize("columns", ["200", "60", "20"])
@pytest.mark.parametrize("watch", [[], ["--watch"]])
def test_status_shows_a_foreign_event_harmlessly(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, copy: Storage, watch: list[str], columns: str
) -> None:
    change_event(copy, status=schema.STOPPED, algorithm=HOSTILE, reason=f"{HOSTILE}\nfaked")
    for status in (schema.STOPPED, schema.FAILED, HOSTILE):
        change_event(copy, status=status, error=f"{HOSTILE}\nfaked" * (status == schema.FAILED), host=HOSTILE)
        if not watch:  # in a terminal that would move the cursor
            monkeypatch.setenv("TTY_COMPATIBLE", "1")
            monkeypatch.setenv("COLUMNS", columns)
        code, out, err = run(capsys, "status", "--storage", str(copy), *watch)
        failed = bool(watch) and status == schema.FAILED
        assert (code, err.count("\n")) == (int(failed), int(failed))
        assert_harmless(err)
        assert watch or "pwned" in out.replace("\n", "")  # there a trial's name is made of its configuration
        # A narrow terminal may break a line before any word; a line break of the event's own would show at any width.
        assert columns != "200" or not [line for line in out.splitlines() if line.startswith("faked")]
        assert_harmless(out)


@pytest.mark.parametrize("command", ["status", "verify", "remove", "report", "claims", "export"])
def test_foreign_folders_and_ids_are_shown_harmlessly(
    capsys: pytest.CaptureFixture[str], copy: Storage, tmp_path: Path, command: str
) -> None:
    hostile = HOSTILE.replace("\b", "")
    for dataset in schema.DATASETS:
        folder = copy.root / dataset
        shutil.copytree(folder / f"experiment={EXPERIMENT}", folder / f"experiment={hostile}")
        shutil.copytree(
            folder / f"experiment={EXPERIMENT}" / f"trial_id={trial_of(copy)}",
            folder / f"experiment={EXPERIMENT}" / f"trial_id={hostile}",
        )
    more = {
        "remove": ["--experiment", EXPERIMENT, "--trial", "other"],
        "report": ["--output", str(tmp_path / "page.html")],
        "export": ["--experiment", EXPERIMENT, "--trial", "other", "--output", str(tmp_path / "model")],
    }
    code, out, err = run(capsys, command, "--storage", str(copy), *more.get(command, []))
    assert code in (0, 1, 2)
    assert_harmless(out + err)


def test_columns_and_cells_of_a_query_are_shown_harmlessly(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, results: Storage
) -> None:
    sql = "SELECT chr(27) || ']0;pwned' || chr(7) AS \"\x1b]0;pwned\x07\u202e\", 'two\nlines' AS t"
    out = run(capsys, "query", "--storage", str(results), sql)[1]
    assert_harmless(out)
    assert [line.split("│")[2].strip() for line in out.splitlines() if "│" in line] == ["two", "lines"]
    exact = run(capsys, "query", "--storage", str(results), sql, "--format", "csv")[1]
    assert exact == '\x1b]0;pwned\x07\u202e,t\n\x1b]0;pwned\x07,"two\nlines"\n'
    named = json.loads(run(capsys, "query", "--storage", str(results), sql, "--format", "json")[1])
    assert named == {"\x1b]0;pwned\x07\u202e": "\x1b]0;pwned\x07", "t": "two\nlines"}


def test_in_a_terminal_csv_and_a_jobs_log_are_printable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, results: Storage
) -> None:
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    with pytest.raises(SystemExit):
        cli.main(["query", "--storage", str(results), "SELECT chr(27) || '[2J' AS a, 'é' AS b", "--format", "csv"])
    terminal.write(HOSTILE)
    assert out.getvalue().startswith("a,b\n\ufffd[2J,é\n")
    assert_harmless(out.getvalue())


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


# --- no log is too narrow ----------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
@pytest.mark.parametrize(
    "command",
    [
        ["status"],
        ["verify"],
        ["claims", "--format", "markdown"],
        ["query", "SELECT 'naïve – “木”' AS x"],
        ["query", "SELECT naïve木"],
        ["sample", "--prompt", "naïve – “木”", "--max-length", "40", "-n", "1"],
        ["status", "--help"],
    ],
    ids=" ".join,
)
def test_no_character_is_too_foreign_for_a_log(
    monkeypatch: pytest.MonkeyPatch, copy: Storage, command: list[str], encoding: str
) -> None:
    change_event(copy, status=schema.FAILED, error="naïve – “木” \ud800".replace("\ud800", "\ufffd"))
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    with pytest.raises(SystemExit) as end:
        cli.main(command if command[0] == "sample" else [*command[:1], "--storage", str(copy), *command[1:]])
    out, err = (stream.buffer.getvalue().decode(encoding) for stream in streams)
    assert end.value.code == {"SELECT naïve木": 2}.get(command[-1], 1 if command[0] in ("claims", "verify") else 0)
    assert "Traceback" not in out + err
    assert (err.count("\n") == 1) if end.value.code else out


def test_csv_and_json_are_the_same_data_whatever_the_encoding(
    monkeypatch: pytest.MonkeyPatch, results: Storage
) -> None:
    found = {}
    for encoding in ("utf-8", "ascii"):
        for form in ("csv", "json"):
            out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
            monkeypatch.setattr(sys, "stdout", out)
            with pytest.raises(SystemExit):
                cli.main(["query", "--storage", str(results), "SELECT 'naïve “木”' AS x", "--format", form])
            found[encoding, form] = out.buffer.getvalue()
    assert found["ascii", "csv"] == found["utf-8", "csv"] == "x\nnaïve “木”\n".encode()
    assert found["ascii", "json"] == found["utf-8", "json"]


# --- streams that are closed or full -----------------------------------------------------------------------


def shell(line: str, storage: Storage, cwd: Path | None = None) -> tuple[int, str, str]:
    """A command line with `rl` for ours and `$S` for the storage; its exit code, stdout and stderr."""
    script = f"S='{storage}'; rl() {{ '{sys.executable}' -m rl_alliteration.cli \"$@\"; }}; {line}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120, check=False, cwd=cwd)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "line, code, told",
    [
        ("rl status --storage $S > /dev/full", 1, "its output cannot be written (No space left on device)"),
        ("rl query --storage $S 'SELECT 1' --format csv > /dev/full", 1, "its output cannot be written (No space left"),
        ("rl verify --storage $S >&-", 1, "its output cannot be written (Bad file descriptor)"),
        ("rl --help > /dev/full", 1, "its output cannot be written (No space left on device)"),
        ("rl query --storage $S 'SELEC 1' > /dev/full", 2, "query: Parser Error"),
        ("rl query --storage $S 'SELEC 1' 2>&-", 2, ""),
        ("rl query --storage $S 'SELEC 1' 2> /dev/full", 2, ""),
        ("rl status --storage $S >&- 2>&- <&-", 1, ""),
        ("rl remove --storage $S --experiment tiny <&-", 2, "--yes: nobody is there to be asked"),
        ("rl remove --storage $S --experiment tiny --yes > /dev/full", 1, "its output cannot be written"),
        (
            "rl query --storage $S 'SELECT * FROM range(200000)' --format csv | head -n 1; exit ${PIPESTATUS[0]}",
            141,
            "",
        ),
        ("rl query --storage $S 'SELECT * FROM range(9000)' | head -n 1; exit ${PIPESTATUS[0]}", 141, ""),
    ],
)
def test_output_that_cannot_be_written_is_told_in_one_line(copy: Storage, line: str, code: int, told: str) -> None:
    found, _, err = shell(line, copy)
    assert found == code
    assert told in err
    assert err.count("\n") == bool(told)
    assert all_trials(copy)  # nothing was deleted unseen


def test_work_goes_on_without_its_output(copy: Storage, tmp_path: Path) -> None:
    code, _, err = shell(f"rl compact --storage $S --output {tmp_path}/full > /dev/full", copy)
    assert (code, err.count("\n")) == (0, 1)
    assert "not all that was printed could be written (No space left on device); the work went on" in err
    assert shell(f"rl compact --storage $S --output {tmp_path}/closed <&- >&- 2>&-", copy)[0] == 0
    for name in ("full", "closed"):
        assert verify_trial(Storage(tmp_path / name), EXPERIMENT, trial_of(copy)).problem is None


def test_no_file_gets_the_number_of_a_closed_stream() -> None:
    script = (
        "import os, rl_alliteration.terminal as t; t.prepare(); t.go_on_without_output(); print('not for you'); "
        "file = os.open('/proc/self/status', os.O_RDONLY); os._exit(file if os.get_inheritable(0) else 0)"
    )
    closed = subprocess.run(["bash", "-c", f'"{sys.executable}" -c "{script}" <&- >&- 2>&-'], check=False)
    assert closed.returncode > 2


def test_a_broken_pipe_ends_the_following_of_a_log() -> None:
    def write(text: str) -> None:
        raise OutputLost(BrokenPipeError())

    with pytest.raises(OutputLost):
        submission.follow(FlakyClient(["a"] * 4, "SUCCEEDED", 0), "j", write)


def test_the_end_of_input_is_no(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, copy: Storage
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal())
    code, out, _ = run(capsys, "remove", "--storage", str(copy), "--experiment", EXPERIMENT)
    assert code == 0
    assert "Nothing was deleted." in out and all_trials(copy)


# --- the words of the command line -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["sweep", "--storage", "x", "--prompt", "\udcff"], "--prompt: is not valid UTF-8"),
        (["sweep", "--storage", "x", "--prompt=\udcff"], "--prompt: is not valid UTF-8"),
        (["sweep", "--storage", "x", "--beta", "0", "1", "\udcff"], "--beta: is not valid UTF-8"),
        (["query", "SELECT '\udcff'", "--storage", "x"], "query: is not valid UTF-8"),
        (["query", "--storage", "x", "SELECT '\udcff'"], "query: is not valid UTF-8"),
        (["status", "--storage", "\udcff"], "--storage: is not valid UTF-8"),
        (["query", "SELECT '\0'", "--storage", "x"], "query: has a NUL character in it"),
        (["report", "--storage", "x", "--output", "a\0b"], "--output: has a NUL character in it"),
        (["\udcff"], "is not valid UTF-8"),
        (["report", "--storage", "x", "--window", "9" * 20], "--window: 99999999999999999999 is not accepted"),
        (["sweep", "--storage", "x", "--top-k", "9" * 40], "--top-k: "),
        (["sample", "-n", "9" * 20], "--number: 99999999999999999999 is not accepted"),
        (["sample", "--model", ""], "--model: the folder '' has no config.json"),
        (["sample", "--tokenizer", ""], "--tokenizer: the folder '' has no config.json"),
        (["stop", "x", "--address", "http://[::1"], "--address: 'http://[::1' is not accepted"),
    ],
    ids=ascii,
)
def test_a_word_that_is_no_text_or_no_number_is_refused_by_its_flag(
    capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert named in err


def test_a_folder_whose_name_is_no_utf_8_is_refused_as_a_storage(results: Storage, tmp_path: Path) -> None:
    folder = tmp_path / "\udcff"
    shutil.copytree(results.root, folder / "r")
    code, _, err = shell("rl status --storage r", results, cwd=folder)
    assert (code, err.count("\n")) == (2, 1)
    assert "--storage: 'r' cannot be reached" in err


def test_a_query_loses_no_column(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, results: Storage
) -> None:
    many = ", ".join(f"{i} AS column_{i}" for i in range(40))
    out = run(capsys, "query", "--storage", str(results), f"SELECT {many}")[1]
    assert [line for line in out.splitlines() if line] == [f"column_{i}: {i}" for i in range(40)]
    code, _, err = run(capsys, "query", "--storage", str(results), "SELECT 1 AS a, 2 AS a", "--format", "json")
    assert (code, err.count("\n")) == (2, 1)
    assert "two columns are named 'a'" in err


def test_a_compact_copy_that_cannot_be_written_names_its_flag(
    capsys: pytest.CaptureFixture[str], results: Storage
) -> None:
    code, _, err = run(capsys, "compact", "--storage", str(results), "--output", "/proc/nowhere")
    assert (code, err.count("\n")) == (2, 1)
    assert "--output: '/proc/nowhere' cannot be written" in err


def test_many_samples_come_as_they_are_made(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = run(capsys, "sample", "-n", "3", "--max-length", "8")[1]
    monkeypatch.setattr(sample, "_SIDE_BY_SIDE", 2)
    assert run(capsys, "sample", "-n", "3", "--max-length", "8")[1] == few


def test_a_report_replaces_no_device(results: Storage, tmp_path: Path) -> None:
    pipe, got = tmp_path / "pipe", tmp_path / "got"
    os.mkfifo(pipe)
    with got.open("wb") as file, subprocess.Popen(["cat", str(pipe)], stdout=file):
        report(Report(storage=str(results), output=str(pipe)), lambda line: None)
    assert got.read_bytes().startswith(b"<!doctype html>")
    assert pipe.is_fifo()


# --- cards and records of runs -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        {"end_tokens": "0"},
        {"model": 5},
        {"model": ""},
        {"weights": "short"},
        {"unknown": 1},
        {"end_tokens": [-1]},
        {"parameters": 10**30},
        {"revision": ["x"]},
        {"model_type": None},
    ],
    ids=str,
)
def test_a_foreign_card_is_checked_field_by_field(
    capsys: pytest.CaptureFixture[str], copy: Storage, damage: Any
) -> None:
    path = sorted(copy.root.glob("models/*/card.json"))[0]
    values = {key: value for key, value in json.loads(path.read_text()).items() if key not in ("seal", "version")}
    path.write_text(json.dumps(values | damage))  # as cards were before they had checksums
    with pytest.raises(Damaged, match=f"card.json is damaged.*{next(iter(damage))}"):
        read_card(copy, path.parent.name)
    assert run(capsys, "verify", "--storage", str(copy))[0] == 1
    code, _, err = run(capsys, "sample", "--storage", str(copy), "--experiment", EXPERIMENT, "--trial", trial_of(copy))
    assert (code, err.count("\n")) == (1, 1)
    assert "card.json is damaged" in err and "give --model" in err


def test_a_card_with_one_changed_character_is_damaged(copy: Storage) -> None:
    path = sorted(copy.root.glob("models/*/card.json"))[0]
    path.write_text(path.read_text().replace('"parameters": 1', '"parameters": 2'))
    with pytest.raises(Damaged, match="not what was written there"):
        read_card(copy, path.parent.name)
    assert "card.json is damaged" in str(verify_trial(copy, EXPERIMENT, trial_of(copy)).problem)


def test_a_card_of_before_there_were_checksums_is_read(copy: Storage) -> None:
    path = sorted(copy.root.glob("models/*/card.json"))[0]
    before = read_card(copy, path.parent.name)
    old = dataclasses.asdict(before)
    del old["architecture"]
    path.write_text(json.dumps(old))
    assert read_card(copy, path.parent.name) == dataclasses.replace(before, architecture="")


@pytest.mark.parametrize(
    "record",
    ["", "[]", "{", '{"limits": 1, "seal": "0", "version": 1}', "[" * 5000, '{"version": 9, "seal": ""}'],
    ids=lambda record: record[:20],
)
def test_a_broken_record_of_a_run_costs_the_report_only_what_it_says(
    copy: Storage, tmp_path: Path, record: Any
) -> None:
    copy.put(f"runs/{EXPERIMENT}/1.json", record.encode())
    with pytest.raises(Damaged, match=f"runs/{EXPERIMENT}/1.json"):
        searched(copy)
    said: list[str] = []
    report(Report(storage=str(copy), output=str(tmp_path / "page.html")), said.append)
    assert [f"runs/{EXPERIMENT}/1.json" in line for line in said] == [True, False]
    assert (tmp_path / "page.html").exists()


# --- a model that was moved, a checkpoint that is torn -----------------------------------------------------


@pytest.fixture
def moved(copy: Storage, tmp_path: Path, tiny_gpt_neo_folder: Path) -> tuple[Storage, Path]:
    """Results whose model is no longer where it was."""
    path = sorted(copy.root.glob("models/*/card.json"))[0]
    card = read_card(copy, path.parent.name)
    write_card(copy, path.parent.name, dataclasses.replace(card, model=str(tmp_path / "before")))
    shutil.copytree(tiny_gpt_neo_folder, tmp_path / "after")
    return copy, tmp_path / "after"


@pytest.mark.parametrize("command", ["sample", "export", "verify"])
def test_a_model_that_was_moved_can_be_named(
    capsys: pytest.CaptureFixture[str], moved: tuple[Storage, Path], tmp_path: Path, command: str
) -> None:
    storage, after = moved
    chosen = ["--experiment", EXPERIMENT, "--trial", trial_of(storage)]
    more = {
        "sample": [*chosen, "-n", "1"],
        "export": [*chosen, "--output", str(tmp_path / "out")],
        "verify": ["--deep"],
    }
    call = [command, "--storage", str(storage), *more[command]]
    code, _, err = run(capsys, *call)
    assert (code, err.count("\n")) == (2, 1)
    assert f"--model: the model of {trial_of(storage)} was in '{tmp_path / 'before'}', which cannot be had" in err
    code, out, _ = run(capsys, *call, "--model", str(after))
    assert code == 0 and out
    code, _, err = run(capsys, *(word.replace("/out", "/other") for word in call), "--model", "storyteller")
    assert (code, err.count("\n")) == (1, 1)
    assert "the model 'storyteller' is not the one" in err and "its weights differ" in err


def test_a_model_can_be_named_where_the_card_is_damaged(
    capsys: pytest.CaptureFixture[str], moved: tuple[Storage, Path]
) -> None:
    storage, after = moved
    sorted(storage.root.glob("models/*/card.json"))[0].write_text("{")
    chosen = ["--experiment", EXPERIMENT, "--trial", trial_of(storage), "-n", "1", "--model", str(after)]
    assert run(capsys, "sample", "--storage", str(storage), *chosen)[0] == 0


def test_a_torn_checkpoint_costs_the_deep_check_only_itself(
    capsys: pytest.CaptureFixture[str], moved: tuple[Storage, Path]
) -> None:
    storage, after = moved
    weights = sorted(storage.root.glob("checkpoints/*/*/*/weights.safetensors"))
    weights[0].write_bytes(weights[0].read_bytes()[:-1] + b"x")
    code, out, err = run(capsys, "verify", "--storage", str(storage), "--deep", "--model", str(after))
    assert "Traceback" not in out + err
    assert "is torn" in out + err
    assert code == (0 if "ok  " in out else 1)


def test_the_deep_check_says_which_checkpoint_it_left_out(
    moved: tuple[Storage, Path], tiny_gpt_neo: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rl_alliteration.trial.replay as module

    storage, after = moved
    weights = sorted(storage.root.glob("checkpoints/*/*/*/weights.safetensors"))
    weights[0].write_bytes(b"")
    notes: list[str] = []
    assert verify_deep(module.open_trial(storage, EXPERIMENT, trial_of(storage), str(after)), notes.append) is None
    assert len(notes) == 1 and "generation-00000008 is torn" in notes[0]


@pytest.mark.chaos
def test_an_export_that_does_not_fit_is_told_in_one_line(
    results: Storage, moved: tuple[Storage, Path], tmp_path: Path
) -> None:
    storage, after = moved
    chosen = f"--experiment {EXPERIMENT} --trial {trial_of(storage)} --model {after} --output {tmp_path}/out"
    code, _, err = shell(f"ulimit -f 20; rl export --storage $S {chosen}", storage)
    assert (code, err.count("\n")) == (1, 1)
    assert "out' is not whole" in err and "File too large" in err


# --- the card of an exported model -------------------------------------------------------------------------


def test_nothing_foreign_breaks_out_of_an_exported_card(
    results: Storage, make_config: Callable[..., TrialConfig], tiny_gpt_neo: LoadedModel
) -> None:
    from rl_alliteration.analysis.card import model_card
    from rl_alliteration.analysis.measure import measure
    from rl_alliteration.results.reader import connect

    breaks = f"a`\n```\n---\nlicense: evil\n---\n# Title\n<script>{HOSTILE}"
    trial = measure(connect(results), EXPERIMENT, 10).trials[0]
    trial = dataclasses.replace(trial, trial_id=breaks, model=f"{breaks}@f")
    config = make_config(tiny_gpt_neo, prompt=breaks, algorithm="rloo")
    for name in ("algorithm", "reward"):
        object.__setattr__(config, name, breaks)
    card = model_card(config, trial, 16, [breaks, "````"], None)
    assert_harmless(card)
    lines = card.splitlines()
    assert lines.count("---") == 2  # the front matter's
    assert "license: evil" not in lines and "# Title" not in lines
    fences = [line for line in lines if line.startswith("```")]
    assert fences == ["`````text", "````", "`````", "```python", "```"]
    code = card.split("```python\n")[1].split("\n```")[0]
    compile(code, "card", "exec")
    heading = next(line for line in lines if line.startswith("# "))
    assert heading.count("`") == 2 and heading.startswith("# `") and "`, generation 16" in heading


# --- results that nothing of ours wrote --------------------------------------------------------------------


SHOWN = [["status"], ["status", "--watch"], ["claims"], ["report"]]


@pytest.mark.parametrize("command", SHOWN, ids=" ".join)
@pytest.mark.parametrize(
    "changes",
    [{"config": "x"}, {"config": "[]"}, {"config": '{"target_kl": "x"}'}, {"config": None}]
    + [{name: None} for name in ("status", "beta", "max_generations", "learning_rate")],
    ids=str,
)
def test_an_event_that_nothing_of_ours_wrote_is_told_in_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    copy: Storage,
    command: list[str],
    changes: dict[str, Any],
) -> None:
    monkeypatch.chdir(copy.root)
    change_event(copy, **changes)
    code, _, err = run(capsys, *command, "--storage", str(copy))
    assert (code, err.count("\n")) == (1, 1)
    assert trial_of(copy) in err and "is damaged" in err


@pytest.mark.parametrize("command", SHOWN, ids=" ".join)
@pytest.mark.parametrize("changes", [{"text": None}, {"raw_reward": float("nan")}, {"kl_penalty": None}], ids=str)
def test_texts_that_nothing_of_ours_wrote_are_told_in_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    copy: Storage,
    command: list[str],
    changes: dict[str, Any],
) -> None:
    monkeypatch.chdir(copy.root)
    path = parts(copy, "generations", EXPERIMENT, trial_of(copy))[-1]
    rows = read_part(copy, path)
    rows[-1].update(changes)
    copy.put(path, encode_part(rows, "generations"))
    code, _, err = run(capsys, *command, "--storage", str(copy))
    assert (code, err.count("\n")) == (1, 1)
    assert f"the texts of {EXPERIMENT}/{trial_of(copy)} are damaged: a {next(iter(changes))}" in err


def test_a_watch_bears_any_status_and_any_speed(copy: Storage) -> None:
    trial = LiveTrials(copy).look()[0]
    odd = dataclasses.replace(
        trial, summary=dataclasses.replace(trial.summary, status="odd"), generations=0, speed=5e-324
    )
    screen = Screen()
    with screen.capture() as captured:
        screen.print(live_table([odd, trial, odd], rows=2))
    assert "odd" in captured.get() and "for ever" in captured.get()
