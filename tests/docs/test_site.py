"""The documentation is built strictly, says what the code says, and loads nothing from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

from rl_alliteration.cli.main import COMMANDS
from rl_alliteration.results import schema
from rl_alliteration.tune.presets import PRESETS

ROOT = Path(__file__).parents[2]
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "object": "data"}


class Loads(HTMLParser):
    """What a browser fetches to show a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag in LOADED and LOADED[tag] in given:
            self.found.append(given[LOADED[tag]])
        if tag == "link" and given.get("rel") not in ("canonical", "next", "prev"):
            self.found.append(given.get("href", ""))
        self.found += re.findall(r"url\(['\"]?([^)'\"]*)", given.get("style", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(folder))
    build(config)  # a warning, such as of a link that leads nowhere, is an error
    return folder


def page(site: Path, name: str) -> str:
    return (site / name).read_text(encoding="utf-8")


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 25
    for path in pages:
        text = path.read_text(encoding="utf-8")
        loads = Loads(text).found
        assert any(one.endswith(".css") for one in loads)
        assert not [one for one in loads if re.match(r"(\w+:)?//", one)], path
        assert 'class="mermaid"' not in text  # the theme would fetch a script to draw it
    for path in site.rglob("*.css"):
        imports = re.findall(r"(?:@import\s*|url\()['\"]?(?:https?:)?//[^)'\"]*", path.read_text(encoding="utf-8"))
        assert not imports, path


def test_the_reference_has_every_command_column_and_preset(site: Path) -> None:
    commands = page(site, "reference/command-line.html")
    assert all(f'<h2 id="{name}">' in commands for name in COMMANDS)
    assert "<code>--keep-variety</code>" in commands
    columns = page(site, "reference/columns.html")
    for dataset in schema.DATASETS:
        for name in schema.arrow(dataset).names:
            assert f"<code>{name}</code>" in columns
    presets = page(site, "reference/presets.html")
    assert all(f"<code>{name}</code>" in presets for name in PRESETS)


def test_the_benchmarks_tables_and_figures_are_on_their_pages(site: Path) -> None:
    study = page(site, "study.html")
    assert "Without a KL penalty the model collapses" in study
    assert (site / "results" / "frontier.png").is_file()
    assert "study" in page(site, "speed.html")
    assert all("<math" in page(site, name) for name in ("algorithm.html",))
    assert "--8&lt;--" not in "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.html"))


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_of_the_files_beside_the_site_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    local = [target for target in targets if target and not re.match(r"\w+:", target)]
    assert not [target for target in local if not (ROOT / target).exists()]


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
