"""Imports go down the layers only, and files stay short."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rl_alliteration"

LAYERS = (
    (
        *(
            "errors",
            "foreign",
            "terminal",
            "setting",
            "flags",
            "identifiers",
            "config",
            "names",
            "rows",
            "user_files",
            "advice",
        ),
        "__init__",
    ),
    ("lm",),
    ("rl",),
    ("results",),
    ("analysis",),
    ("trial",),
    ("tune", "report"),
    ("app",),
    ("display", "handle", "interface"),
    ("cli",),
    ("pretraining",),
)
"""From the lowest; a file imports from its own layer and those below."""

EXCEPTIONS = {("__init__", "interface")}
"""The package's names come from the interface when they are asked for."""


def layer_of(name: str) -> int:
    return next(place for place, names in enumerate(LAYERS) if name in names)


def imports(path: Path) -> Iterator[str]:
    """What of this package a file imports, also within functions: the first part of each name."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (one.name.split(".")[1] for one in node.names if one.name.startswith("rl_alliteration."))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "rl_alliteration":
            parts = node.module.split(".")
            yield from parts[1:2] or (one.name for one in node.names if not one.name.startswith("_"))


def test_imports_go_down_the_layers_only() -> None:
    wrong = set()
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        wrong |= {(own, used) for used in imports(path) if layer_of(used) > layer_of(own)}
    assert wrong <= EXCEPTIONS


def test_files_are_short() -> None:
    long = {p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob("*.py") if len(p.read_text().splitlines()) > 400}
    assert not long


@pytest.mark.parametrize("room", ["results", "analysis", "report", "app"])
def test_what_reads_results_needs_neither_torch_nor_ray(room: str) -> None:
    paths = [path.relative_to(PACKAGE.parent).with_suffix("") for path in (PACKAGE / room).rglob("*.py")]
    names = [".".join(path.parts) for path in paths if path.stem != "__init__"]
    script = f"import importlib, sys\nfor name in {names!r}: importlib.import_module(name)\n"
    script += "sys.exit(', '.join({'torch', 'transformers', 'ray'} & set(sys.modules)) or 0)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
