"""What MkDocs runs: reference pages written from the code, formulas as MathML, and the benchmarks' figures."""

from __future__ import annotations

import ast
import dataclasses
import html
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from rl_alliteration.analysis import table
from rl_alliteration.analysis.metrics import METRICS
from rl_alliteration.analysis.types import WINDOW
from rl_alliteration.cli.main import COMMANDS
from rl_alliteration.config import SETTINGS
from rl_alliteration.names import update_words
from rl_alliteration.pretraining.settings import Pretraining
from rl_alliteration.results import schema
from rl_alliteration.rl.advantages import ALGORITHMS
from rl_alliteration.rl.rewards import REWARDS
from rl_alliteration.tune import search
from rl_alliteration.tune.axes import FLAGS
from rl_alliteration.tune.presets import PRESETS, Preset

ROOT = Path(__file__).parent.parent


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """A fenced block `math` becomes MathML, which browsers draw without a script."""
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {}).setdefault("custom_fences", [])
    fences.append({"name": "math", "class": "math", "format": _formula})
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """The pages that the code describes, and the figures of the benchmarks under `results/`."""
    pages = {
        "reference/command-line.md": command_line(),
        "reference/presets.md": presets(),
        "reference/rewards-and-algorithms.md": rewards_and_algorithms(),
        "reference/columns.md": columns(),
        "reference/metrics.md": metrics(),
        "contributing.md": _beside("CONTRIBUTING.md"),
        "changelog.md": _beside("CHANGELOG.md"),
    }
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    for figure in sorted((ROOT / "benchmarks" / "results").glob("*.png")):
        files.append(File.generated(config, f"results/{figure.name}", abs_src_path=str(figure)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The table of modules, where a page has its place."""
    place = "<!-- modules -->"  # every module is read for it
    return markdown.replace(place, modules()) if place in markdown else markdown


def _beside(name: str) -> str:
    """A page that lies beside the site's, with its links as they are from within."""
    return (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")


def _formula(source: str, *_: Any, **__: Any) -> str:
    return convert(source, display="block")


# --- pages -----------------------------------------------------------------------------------------------


def command_line() -> str:
    """Every command with its flags."""
    lines = [
        "# Command line",
        "",
        "`rl-alliteration COMMAND …`, or `python -m rl_alliteration.cli COMMAND …`. This page is written from the "
        "code; `rl-alliteration COMMAND --help` prints the same.",
        "",
        "| command | |",
        "|---|---|",
        *(f"| [`{name}`](#{name}) | {_cell(_summary(command))} |" for name, command in COMMANDS.items()),
        "",
        "| exit code | meaning |",
        "|---:|---|",
        "| 0 | done |",
        "| 1 | a trial or a verification failed, or a finding does not hold; one line says which |",
        "| 2 | a mistake in the command; one line names the field and what it accepts, before anything is sampled |",
        "| 130, 143 | stopped by SIGINT or SIGTERM; the same command continues |",
    ]
    for name, command in COMMANDS.items():
        lines += ["", f"## {name}", "", inspect.cleandoc(command.__doc__ or ""), "", *_flags(command)]
    lines += ["", "## pretraining", "", "`python -m tune_jobs.pretrain_storyteller`: see"]
    lines += ["[Pretrain a storyteller](../how-to/pretrain.md).", "", *_flags(Pretraining)]
    return "\n".join(lines) + "\n"


def presets() -> str:
    """The values of every preset."""
    lines = [
        "# Presets",
        "",
        "Of `sweep`, by `--preset NAME` or `python -m tune_jobs.NAME` (`study_a_words` and "
        "`study_betas` together: `python -m tune_jobs.study`). Other flags override single values. Texts are per "
        "trial; the second number applies to the shipped models where it differs. `efficient` is not the study's "
        "update; a trial of it, of another length, runs beside the quickstart's others. Flags change both; it is left "
        "out where --algorithm asks for none of its own, and with another --max-generations it is another trial.",
        "",
        "| preset | algorithm | beta | seeds | reward | update | texts | interval of parts and checkpoints |",
        "|---|---|---|---|---|---|---:|---:|",
    ]
    rows = [
        row
        for name, preset in PRESETS.items()
        for row in ((f"`{name}`", preset), *((f"`{name}`, beside it", other) for other in preset.beside))
    ]
    for name, preset in rows:
        texts = f"{preset.max_generations:,}"
        if preset.storyteller_max_generations:
            texts += f"; {preset.storyteller_max_generations:,}"
        lines.append(
            f"| {name} | {', '.join(preset.algorithm)} | {_numbers(preset.beta)} | {_numbers(preset.seed)} "
            f"| {preset.reward} | {_update(preset)} | {texts} | {preset.checkpoint_every:,} |"
        )
    lines += [
        "",
        "Of `search`; learning rates are multiples of the one that suits the model:",
        "",
        "| preset | algorithm | beta | learning rate | group size | trials | texts a trial | texts in all |",
        "|---|---|---|---|---|---:|---:|---:|",
    ]
    for name, found in search.PRESETS.items():
        lines.append(
            f"| `{name}` | {', '.join(found.algorithm)} | {found.beta[0]:g} to {found.beta[1]:g} "
            f"| {found.rates[0]:g} to {found.rates[1]:g} × | {_numbers(found.group_size)} | {found.trials} "
            f"| {found.max_generations:,} | {found.max_texts:,} |"
        )
    return "\n".join(lines) + "\n"


def _update(preset: Preset) -> str:
    """Its update, in words."""
    return ", ".join([update_words(preset.update), *map(SETTINGS["group_size"].words, preset.group_size)])


def rewards_and_algorithms() -> str:
    """What `--reward` and `--algorithm` accept."""
    lines = [
        "# Rewards and algorithms",
        "",
        "`--reward` takes one of these, `MODULE:FUNCTION` ([your own](../how-to/reward.md)), each also with "
        "`_per_100_words` after it, or a weighted sum such as `alliteration + 0.5*a_words`.",
        "",
        "| reward | a text's number | version |",
        "|---|---|---:|",
        *(f"| `{name}` | {_cell(_summary(one.function))} | {one.version} |" for name, one in REWARDS.items()),
        "",
        "`--algorithm` takes one or more of these, or [your own](../how-to/algorithm.md). Group size: texts an update.",
        "",
        "| algorithm | advantages | group size | at least |",
        "|---|---|---:|---:|",
        *(
            f"| `{name}` | {_cell(_summary(one.function))} | {one.group_size} | {one.least_group_size} |"
            for name, one in ALGORITHMS.items()
        ),
    ]
    return "\n".join(lines) + "\n"


def columns() -> str:
    """Every stored column with its type, unit and meaning."""
    lines = [
        "# Columns",
        "",
        f"Schema version {schema.SCHEMA_VERSION}. Beside these columns every row has its `experiment` and `trial_id`, "
        "which are in the path of its file. A value that a row of an earlier version lacks has a stated default. "
        "Columns marked * may differ between two computations of one row; all others are equal bit for bit on the same "
        "hardware and versions.",
    ]
    of = {"generations": "one row per text", "steps": "one row per update", "trials": "one row per event of a trial"}
    for dataset in schema.DATASETS:
        found = schema.describe(dataset)
        arrow = schema.arrow(dataset)
        lines += ["", f"## {dataset}", "", f"{len(found)} columns, {of[dataset]}.", ""]
        lines += ["| column | type | unit | meaning |", "|---|---|---|---|"]
        for one in found:
            kind = _arrow_type(arrow.field(one.name).type)
            since = f" (since version {one.since}; earlier rows: {one.default!r})" if one.since > 1 else ""
            star = "" if one.compared else " *"
            lines.append(f"| `{one.name}`{star} | {kind} | {one.unit} | {_cell(one.meaning)}{since} |")
    measured = table.columns()
    lines += [
        "",
        "## windows",
        "",
        f"{len(measured)} columns, one row per window of {WINDOW} texts of a trial. No file: it is measured from the "
        "texts when a query names it. [Metrics](metrics.md) has the titles.",
        "",
        "| column | type | unit | meaning |",
        "|---|---|---|---|",
        *(f"| `{one.name}` | {_arrow_type(one.type)} | {one.unit} | {_cell(one.meaning)} |" for one in measured),
    ]
    return "\n".join(lines) + "\n"


def metrics() -> str:
    """What each window of texts is measured by."""
    lines = [
        "# Metrics",
        "",
        f"Of each window of {WINDOW} texts of a trial (`report --window`). [What is measured](../measures.md) says "
        "why.",
        "",
        "| metric | name in Python | meaning |",
        "|---|---|---|",
        *(
            f"| {one.title} | `{name}` | {_cell(one.words + (one.opposite and f'; in SQL {one.opposite}'))} |"
            for name, one in METRICS.items()
        ),
    ]
    return "\n".join(lines) + "\n"


def modules() -> str:
    """A table of the package's modules, each with the first line of its docstring."""
    package = ROOT / "rl_alliteration"
    lines = ["| module | |", "|---|---|"]
    for path in sorted(package.rglob("*.py"), key=lambda one: (str(one.parent), one.name)):
        first = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
        if first and path.name != "__init__.py":
            lines.append(f"| `{path.relative_to(package)}` | {_cell(first)} |")
    return "\n".join(lines)


# --- what the code says ----------------------------------------------------------------------------------


def _flags(command: type) -> Iterator[str]:
    """A table of a command's flags."""
    hints, helps = typing.get_type_hints(command), _docstrings(command)
    wide = typing.get_type_hints(command, include_extras=True)
    yield "| flag | value | default | meaning |"
    yield "|---|---|---|---|"
    for field in dataclasses.fields(command):
        marks = getattr(wide[field.name], "__metadata__", ())
        positional = any("Positional" in str(mark) for mark in marks)
        names = [
            "--" + FLAGS.get(field.name, field.name).replace("_", "-"),
            *(a for mark in marks for a in getattr(mark, "aliases", ()) or ()),
        ]
        shown = f"`{field.name.upper()}`" if positional else ", ".join(f"`{name}`" for name in names)
        required = field.default is dataclasses.MISSING
        default = "**required**" if required else _default(field.default)
        given = next((mark.help for mark in marks if getattr(mark, "help", None)), helps.get(field.name, ""))
        yield f"| {shown} | {_kind(hints[field.name])} | {default} | {_cell(given)} |"


def _arrow_type(kind: pa.DataType) -> str:
    """As people call it."""
    return "list&lt;int32&gt;" if pa.types.is_list(kind) else str(kind).replace("double", "float64")


def _kind(hint: Any) -> str:
    """A type, in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _kind(next(one for one in arguments if one is not type(None)))
    if origin is typing.Literal:
        return " or ".join(f"`{one}`" for one in arguments)
    if origin is tuple:
        return f"{_kind(arguments[0])} …"
    return {int: "integer", float: "number", bool: "–"}.get(hint, "text")


def _default(value: Any) -> str:
    return "–" if value in (None, (), False) else f"`{value}`"


def _docstrings(declaring: type) -> dict[str, str]:
    """The string under each field of a dataclass, those of its bases included."""
    found = {}
    for base in reversed([one for one in declaring.__mro__ if dataclasses.is_dataclass(one)]):
        try:
            source = inspect.getsource(base)
        except OSError:  # made from another's declaration
            continue
        (definition,) = ast.parse(textwrap.dedent(source)).body
        body = typing.cast(ast.ClassDef, definition).body
        for field, under in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(under, ast.Expr) and isinstance(field.target, ast.Name):
                found[field.target.id] = ast.literal_eval(under.value)
    return found


def _summary(documented: Any) -> str:
    """The first line of a docstring."""
    return inspect.cleandoc(documented.__doc__ or "").splitlines()[0]


def _cell(text: str) -> str:
    """A text as a cell of a Markdown table."""
    parts = " ".join(text.split()).replace("|", "\\|").split("`")  # outside of code only: < and > are no tags
    return "`".join(part if place % 2 else html.escape(part, quote=False) for place, part in enumerate(parts))


def _numbers(values: Sequence[float] | Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
