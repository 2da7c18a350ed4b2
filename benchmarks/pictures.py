"""Pictures of the live page and of a terminal for the documentation, from a storage of two experiments, in Chromium.

rl-alliteration sweep --experiment first --storage STORAGE --algorithm rloo --beta 0 10 30 --seed 0 1 \
    --learning-rate 3e-3 --max-generations 600 --original-texts 300 --checkpoint-every 300
rl-alliteration sweep --experiment first --storage STORAGE --algorithm reinforce --beta 0 10 30 \
    --learning-rate 3e-3 --max-generations 300 --original-texts 300
rl-alliteration search --experiment search --storage STORAGE --algorithm rloo --beta 5 60 \
    --learning-rate 1e-3 4e-3 --group-size 10 20 --trials 8 --max-generations 300 --max-texts 2400
python benchmarks/pictures.py STORAGE               → docs/images/live-*.png
python benchmarks/pictures.py watch STORAGE         → docs/images/status-watch.png, while a sweep of the storage runs
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import io
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from PIL import Image
from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

from rl_alliteration import open_results

if TYPE_CHECKING:
    from playwright.sync_api import Page

IMAGES = Path(__file__).parents[1] / "docs" / "images"
WIDTH = 1280
COLUMNS = 140
"""Of a terminal: tables fall back to cards below 130."""
COLOURS = 128
"""Of a picture: as small as it gets without being another one."""
DRAWN = "[...document.querySelectorAll('.plot')].every(div => div.dataset.drawn)"
MEASURED = "!document.getElementById('left').textContent"


@dataclasses.dataclass(frozen=True)
class Picture:
    """A view, as it is shown."""

    name: str
    view: str
    choices: tuple[tuple[str, object], ...] = ()
    part: str = "body"
    """What of the page: a selector."""
    height: int = 900
    """At most."""


def pictures(storage: str) -> list[Picture]:
    """All of them, with the trials that they are of."""
    names = open_results(storage, "first").trials()["trial_id"].to_pylist()
    of = {name.rpartition("-")[0]: f"first/{name}" for name in names}
    free, held = of["rloo-beta0-seed0"], of["rloo-beta10-seed1"]
    first = ("experiment", "first")
    return [
        Picture("live-trials", "", (first,), height=920),
        Picture("live-typical", "rollouts", (("trial", held), ("scope", "window"), ("generation", 500),
                                             ("order", "typical")), height=820),
        Picture("live-tokens", "rollouts", (("trial", held), ("generation", 300), ("shade", "difference")), height=760),
        Picture("live-compare", "compare", (("trial", free), ("trial", held), ("at", "kl"), ("value", 0.5)),
                height=1560),
        Picture("live-reward-kl", "curves", (first, ("x", "kl_penalty"), ("y", "raw_reward"), ("log", "x")), "figure"),
        Picture("live-letters", "texts", (("search", "s"), ("kind", "letter"), ("in", held)), "main", 1150),
        Picture("live-fork", "trial", (("trial", held), ("fork", 300)), "#go-on"),
        Picture("live-best-of-n", "frontier", (first,), "figure:has(#frontier-2)"),
        Picture("live-seeds", "", (first, ("group", "setting"), ("hide", "left"), ("hide", "repetition")), "#table"),
        Picture("live-variety", "curves", (first, ("x", "variety"), ("y", "raw_reward"), ("by", "trials")), "figure"),
        Picture("live-parallel", "search", (), "figure:has-text('What was chosen together')"),
    ]  # fmt: skip


@contextlib.contextmanager
def served(storage: str) -> Iterator[str]:
    """The link of a page over a storage."""
    command = [sys.executable, "-m", "rl_alliteration.cli", "serve", "--storage", storage, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        link = next(found[0] for line in server.stdout if (found := re.search(r"http://\S+", line)))
        try:
            yield link
        finally:
            server.terminate()


NO_PATHS = """
    path => document.querySelectorAll("code, footer").forEach(one => {
        one.firstChild.textContent = one.firstChild.textContent.replace(path, "results");
    })
"""
"""Where the storage lies on the machine that draws says nothing to a reader."""


def take(page: Page, picture: Picture, base: str, storage: str) -> None:
    """Open a view, wait for its figures, and keep a picture."""
    page.set_viewport_size({"width": WIDTH, "height": picture.height})
    page.goto(f"{base}/{picture.view}?{urlencode(picture.choices)}")
    page.wait_for_selector("html[data-ready=yes]", state="attached")
    for condition in (MEASURED, DRAWN):
        while not page.evaluate(condition):  # Playwright's own way to wait is what the page's policy forbids
            page.wait_for_timeout(100)
    if (tokens := page.locator(".tokens")).count():
        tokens.first.locator(".token:not([class$=high0])").nth(6).click()
    page.wait_for_timeout(300)
    page.evaluate(NO_PATHS, str(Path(storage).resolve()))
    if picture.part == "body":
        data = page.screenshot()
    else:
        page.add_style_tag(content="nav { position: static !important; }")
        part = page.locator(picture.part).first
        part.scroll_into_view_if_needed()
        box = part.bounding_box()
        assert box is not None
        around = 0 if picture.part == "main" else 12
        top = box["y"] + page.evaluate("scrollY") - around
        height = min(box["height"] + 2 * around, picture.height)
        data = page.screenshot(full_page=True, clip={"x": 0, "y": top, "width": WIDTH, "height": height})
    keep(picture.name, data)


def keep(name: str, data: bytes) -> None:
    """A screenshot, as a picture of few colours."""
    path = IMAGES / f"{name}.png"
    few = Image.open(io.BytesIO(data)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def first_frame(command: list[str]) -> str:
    """What a command that goes on writing shows first, in a terminal of COLUMNS."""
    reading, writing = pty.openpty()
    fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", 30, COLUMNS, 0, 0))
    environment = os.environ | {"TERM": "xterm-256color"}
    with subprocess.Popen(command, stdin=writing, stdout=writing, stderr=writing, env=environment) as process:
        shown = b""
        while not shown or select.select([reading], [], [], 1.0)[0]:
            shown += os.read(reading, 65_536)
        process.terminate()
    frame, *_ = shown.decode().split("\r\x1b[2K")  # by which the second one begins
    return frame.removeprefix("\x1b[?25l").replace("\r", "")


def watch(storage: str) -> None:
    """Take the picture of `status --watch`."""
    from playwright.sync_api import sync_playwright

    words = ["status", "--watch", "--storage"]
    shown = first_frame([sys.executable, "-m", "rl_alliteration.cli", *words, storage])
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(Text(f"$ rl-alliteration {' '.join(words)} results", "bold"))
    console.print(Text.from_ansi(shown))
    style = (
        "<style>body { font: 15px 'DejaVu Sans Mono', monospace; margin: 12px; display: inline-block } "
        "pre { padding: 8px }</style>"
    )
    with sync_playwright() as playwright:
        page = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"]).new_page()
        page.set_viewport_size({"width": 1400, "height": 400})
        page.set_content(style + console.export_html(inline_styles=True, theme=DIMMED_MONOKAI))
        keep("status-watch", page.locator("pre").screenshot())


def main(storage: str) -> None:
    """Take all pictures."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    with served(storage) as link, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 900})
        page.goto(link)
        page.wait_for_selector("#table tbody tr")
        for picture in pictures(storage):
            take(page, picture, link.partition("/?")[0], storage)
        browser.close()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["watch", storage]:
            watch(storage)
        case [storage]:
            main(storage)
        case _:
            sys.exit(__doc__)
