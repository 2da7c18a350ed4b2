"""A user's own reward is tried before Ray starts: what is wrong with it is one line that names file and line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import run

from rl_alliteration.rl.rewards import get_reward
from rl_alliteration.rl.trying import try_reward

HEAD = "import json\n\n\ndef helper(text):\n    return json.loads(text)\n\n\n"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of a module `own_reward`, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path / "own_reward.py"
    sys.modules.pop("own_reward", None)


@pytest.mark.parametrize(
    "body, said",
    [
        ("def f(text):\n    return 1 / 0", "raised ZeroDivisionError: division by zero (own_reward.py, line 9) on"),
        (
            "def f(text):\n    return helper(text)",
            "JSONDecodeError: Expecting value: line 1 column 1 (char 0) (own_",
        ),
        (
            "def f(text):\n    exit(3)",
            "SystemExit: 3 (own_reward.py, line 9) on the text 'Once upon a time'; mend",
        ),
        (
            "def f(text):\n    return text.split()[4]",
            "IndexError: list index out of range (own_reward.py, line 9)",
        ),
        ("def f(text):\n    return float(text.isascii()) or None", "gave None, not a finite number, on the text"),
        ("def f(text):\n    return '3'", "gave '3', not a finite number"),
        ("def f(text):\n    return float('inf')", "gave inf, not a finite number"),
        ("def f():\n    return 1.0", "raised TypeError: f() takes 0 positional arguments but 1 was given on"),
        (
            "def f(text):\n    return 1.0\n\n\nf.parts = lambda text: [(2.0, 0)]",
            "parts that failed (ValueError: its",
        ),
        ("def f(text)\n    return 1.0", "could not be imported (SyntaxError: expected ':' (own_reward.py, line 8))"),
        (
            "nothing.here\n\n\ndef f(text):\n    return 1.0",
            "name 'nothing' is not defined (own_reward.py, line 8))",
        ),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(
    capsys: pytest.CaptureFixture[str], module: Path, body: str, said: str
) -> None:
    module.write_text(f"{HEAD}{body}\n")
    flags = ("--storage", "results", "--experiment", "e", "--beta", "1", "--reward", "own_reward:f")
    code, out, err = run(capsys, "sweep", *flags, "--dry-run")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("rl-alliteration: --reward: ") and said in err, err


def test_what_it_keeps_from_one_call_to_the_next_is_not_sent(capsys: pytest.CaptureFixture[str], module: Path) -> None:
    module.write_text("calls = []\n\n\ndef f(text):\n    calls.append(text)\n    return float(len(calls))\n")
    flags = ("--storage", "results", "--experiment", "e", "--beta", "1", "--reward", "2*own_reward:f")
    assert run(capsys, "sweep", *flags, "--dry-run")[0] == 0
    assert sys.modules["own_reward"].calls == []


@pytest.mark.parametrize("name", ["alliteration", "a_words_per_100_words", "phonetic_alliteration"])
def test_the_shipped_rewards_pass(name: str) -> None:
    try_reward(get_reward(name), "Once upon a time")
