"""The command line. Imports torch and Ray only in the commands that need them."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import decimal
import io
import itertools
import json
import logging
import math
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import duckdb
import pyarrow
import tyro
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rl_alliteration.analysis.alliteration import alliterating_runs
from rl_alliteration.analysis.card import model_card
from rl_alliteration.analysis.claims import check_claims, comparable
from rl_alliteration.analysis.frontier import KEEP_VARIETY, recommended
from rl_alliteration.analysis.summary import LAST, TrialSummary, summarise
from rl_alliteration.analysis.windows import SENSE_NATS, WINDOW, measure
from rl_alliteration.errors import Failure, UserError
from rl_alliteration.report.command import Report, report
from rl_alliteration.results import maintenance, reader, schema, verify
from rl_alliteration.results.storage import Storage, check_location, open_storage
from rl_alliteration.results.writer import PlannedTrial
from rl_alliteration.tune import submission
from rl_alliteration.tune.plan import Sweep, plan, resolve
from rl_alliteration.tune.search import Search, resolve_search, sweep_of
from rl_alliteration.watch import REFRESH_SECONDS, Watch
from rl_alliteration.watch import table as live_table


@dataclasses.dataclass(frozen=True)
class Status:
    """How the trials stand: a row a trial."""

    storage: str
    """Folder or URI of the results."""
    experiment: str | None = None
    """Only this one."""
    watch: bool = False
    """Go on showing it, with what comes between two parts; needs no Ray, only the storage."""


@dataclasses.dataclass(frozen=True)
class Query:
    """Answer one SELECT over the views generations, steps, trials (newest event each) and trial_events."""

    sql: tyro.conf.Positional[str]
    """DuckDB's SQL."""
    storage: str
    """Folder of the results."""
    format: Literal["table", "csv", "json"] = "table"
    """How the answer is written."""


@dataclasses.dataclass(frozen=True)
class Verify:
    """Check every row: nothing missing, nothing twice, every number what its texts say."""

    storage: str
    """Folder of the results."""
    experiment: str | None = None
    """Only this one."""
    deep: bool = False
    """Compute cross-entropies again too: of every text under the original weights, and after each checkpoint."""


@dataclasses.dataclass(frozen=True)
class Export:
    """Write the model of a trial after any number of its texts, or the recommended one, as a transformers folder."""

    storage: str
    """Folder or URI of the results."""
    experiment: str
    """The trial's experiment."""
    output: str
    """A new folder."""
    trial: str | None = None
    """Its id, as `status` and `query` show it."""
    generation: int | None = None
    """After how many texts. Default: all."""
    recommended: bool = False
    """The model that alliterates most among those that keep variety and sense; of all trials, or of --trial."""
    keep_variety: float = KEEP_VARIETY
    """With --recommended: share of the original's variety that it keeps, 0 to 1."""
    keep_sense: float = SENSE_NATS
    """With --recommended: nats that its texts' cross-entropy under the original model is off at most."""
    window: int = WINDOW
    """Generations that each of the card's numbers is of."""


@dataclasses.dataclass(frozen=True)
class Claims:
    """Check the study's findings on the data: exit code 0 if each holds, 1 with the same table if one does not."""

    storage: str
    """Folder or URI of the results."""
    experiment: str | None = None
    """Only this one. Default: all."""
    format: Literal["table", "markdown"] = "table"
    """How the answer is written."""


@dataclasses.dataclass(frozen=True)
class Compact:
    """Copy results with one Parquet part a trial; the source is not touched."""

    storage: str
    """Folder or URI of the results."""
    output: str
    """A new folder or URI."""


@dataclasses.dataclass(frozen=True)
class Remove:
    """Delete an experiment or one of its trials: lists what goes, then asks."""

    storage: str
    """Folder or URI of the results."""
    experiment: str
    """What to delete, or whose trial."""
    trial: str | None = None
    """Only this trial, by its id."""
    yes: bool = False
    """Do not ask."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """Sample texts of a model, or of a trial after any number of its texts; alliterating runs are highlighted."""

    model: str | None = None
    """A shipped one, `storyteller` (the default) or `storyteller-2`; a hub id; or a folder."""
    storage: str | None = None
    """Folder or URI of results, to sample from a trial of theirs."""
    experiment: str | None = None
    """The trial's experiment."""
    trial: str | None = None
    """Its id, as `status` and `query` show it."""
    generation: int | None = None
    """After how many of its texts. Default: all."""
    number: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 5
    """How many."""
    seed: int = 0
    """Seed of the random numbers."""
    prompt: str = "Once upon a time"
    """What every text begins with."""
    max_length: int = 100
    """Most tokens of a text, the prompt's included."""
    tokenizer: str | None = None
    """Hub id or folder of another tokenizer than the model's own."""


@dataclasses.dataclass(frozen=True)
class Submit(Sweep):
    """Run a sweep as a job of a Ray cluster: its log is followed, its exit code is ours. Takes the flags of `sweep`."""

    address: str | None = None
    """The dashboard of the cluster. Default: $RAY_API_SERVER_ADDRESS, $RAY_ADDRESS, http://127.0.0.1:8265."""
    no_wait: bool = False
    """Do not follow the log."""
    working_dir: str | None = None
    """Folder that is sent along. Default: the clone that this command runs from, if it does."""
    pip: Annotated[tuple[str, ...], tyro.conf.arg(metavar="REQUIREMENT ...")] = ()
    """What the job needs beyond the cluster's own installation: requirements, or a wheel of this machine."""


@dataclasses.dataclass(frozen=True)
class Stop:
    """Stop a job: its trials publish what they have, and the same sweep goes on from there."""

    job: tyro.conf.Positional[str]
    """Its id, or the name of its experiment."""
    address: str | None = None
    """The dashboard of the cluster. Default: as for `submit`."""


@dataclasses.dataclass(frozen=True)
class Logs:
    """Print the log of a job."""

    job: tyro.conf.Positional[str]
    """Its id, or the name of its experiment."""
    address: str | None = None
    """The dashboard of the cluster. Default: as for `submit`."""
    follow: bool = False
    """Go on until the job ends, and exit with its code."""


COMMANDS = {
    "sweep": Sweep,
    "search": Search,
    "submit": Submit,
    "stop": Stop,
    "logs": Logs,
    "status": Status,
    "query": Query,
    "verify": Verify,
    "sample": Sample,
    "export": Export,
    "report": Report,
    "claims": Claims,
    "compact": Compact,
    "remove": Remove,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """`rl-alliteration`: run a command and exit with its code."""
    sys.exit(call(list(sys.argv[1:] if arguments is None else arguments)))


def call(arguments: list[str]) -> int:
    """Run a command; its exit code."""
    return guarded(lambda: _run(_parse(arguments)))


def run_preset(preset: str | None = None) -> None:
    """The entry point of the files in `tune_jobs`: `sweep` with a preset, and the flags given to the job."""
    chosen = ["--preset", preset] if preset else []
    main(["sweep", *chosen, *sys.argv[1:]])


def _parse(arguments: list[str]) -> Any:
    """The command as one of `COMMANDS`."""
    if arguments[:1] == ["submit"] and "--" in arguments:  # the flags of sweep may be set apart
        arguments.remove("--")
    _check_values(arguments)
    with in_one_line(f"rl-alliteration {arguments[0] if arguments and arguments[0] in COMMANDS else ''}"):
        return tyro.extras.subcommand_cli_from_dict(
            COMMANDS,  # type: ignore[arg-type]
            prog="rl-alliteration",
            description="Sweeps of reinforcement learning on language models.",
            args=arguments,
            config=(tyro.conf.FlagCreatePairsOff,),
        )


def _check_values(arguments: Sequence[str]) -> None:
    """Tyro takes a flag for several values with none at all as if it were not there.

    Raises:
        UserError: there is such a flag.
    """
    command = COMMANDS.get(arguments[0]) if arguments else None
    fields = dataclasses.fields(command) if command else ()
    several = {"--" + field.name.replace("_", "-") for field in fields if isinstance(field.default, tuple)}
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


def _run(command: Any) -> int:
    handlers: dict[type, Callable[[Any], int]] = {
        Sweep: _sweep,
        Search: _search,
        Submit: _submit,
        Stop: _stop,
        Logs: _logs,
        Status: _status,
        Query: _query,
        Verify: _verify,
        Sample: _sample,
        Export: _export,
        Report: _report,
        Claims: _claims,
        Compact: _compact,
        Remove: _remove,
    }
    return handlers[type(command)](command)


def guarded(work: Callable[[], int]) -> int:
    """The exit code of `work`; one line instead of a traceback for what a person can mend."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name in ("httpx", "matplotlib", "ray", "transformers", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        return work()
    except UserError as error:
        return _complain(str(error), 2)
    except Failure as error:
        return _complain(str(error), 1)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except SystemExit as end:  # Ray's own handler, while it starts, exits with the signal's number
        return 128 + signal.SIGTERM if end.code == signal.SIGTERM else int(end.code or 0)
    except BrokenPipeError:  # the reader of our output (head, less) has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (duckdb.Error, pyarrow.ArrowException, OSError) as error:
        return _complain(f"results could not be read: {error}", 1)


def _complain(message: str, code: int) -> int:
    print(f"rl-alliteration: {printable(' '.join(message.split()))}", file=sys.stderr)
    return code


# --- sweep -----------------------------------------------------------------------------------------------


def _sweep(sweep: Sweep) -> int:
    console = _console()
    sweep = resolve(sweep)
    check_location(sweep.storage)
    if submission.runs_as_job():
        submission.check_for_job(sweep)
    storage = None if sweep.dry_run else open_storage(sweep.storage, create=True)
    from rl_alliteration.language_model import load_model

    loaded = load_model(sweep.model, tokenizer=sweep.tokenizer, revision=sweep.revision)
    from rl_alliteration.tune.rarity import with_rarity

    trials = with_rarity(plan(sweep, loaded), loaded, sweep, _say(console))
    parameters = sum(p.numel() for p in loaded.model.parameters())
    if sweep.dry_run:
        _print_plan(console, trials, parameters)
        return 0
    assert storage is not None and sweep.experiment is not None
    if not loaded.has_fast_path:
        console.print(Text(f"{loaded.model.config.model_type}: sampling and scoring by transformers' own code, slower"))
    submission.use_own_token(submission.ray_address(sweep))
    from rl_alliteration.tune.sweep import run_sweep

    outcome = run_sweep(sweep, trials, loaded, storage, console)
    return _ended(console, storage, sweep.experiment, outcome, len(trials))


def _search(search: Search) -> int:
    console = _console()
    search = resolve_search(search)
    check_location(search.storage)
    if submission.runs_as_job():
        submission.check_for_job(sweep_of(search))
    storage = open_storage(search.storage, create=True)
    from rl_alliteration.language_model import load_model

    loaded = load_model(search.model, tokenizer=search.tokenizer, revision=search.revision)
    plan(sweep_of(search), loaded)  # whether prompt and length fit the model
    assert search.experiment is not None
    submission.use_own_token(submission.ray_address(sweep_of(search)))
    from rl_alliteration.tune.sweep import run_search

    outcome = run_search(search, loaded, storage, console)
    try:
        return _ended(console, storage, search.experiment, outcome, int(search.trials or 0))
    finally:  # some trial may have failed, and another be worth having
        if outcome.stopped_by is None:
            analysis = measure(reader.connect(storage), search.experiment)
            try:
                told = str(recommended(analysis, search.keep_variety, search.keep_sense))
            except Failure as nothing_found:  # a result as well
                told = str(nothing_found)
            console.print(Text(told), soft_wrap=True)


def _ended(console: Console, storage: Storage, experiment: str, outcome: Any, trials: int) -> int:
    """Show what a run of so many trials has left; its exit code.

    Raises:
        Failure: a trial failed.
    """
    _print_summaries(console, summarise(storage, experiment))
    where = shlex.quote(str(storage))
    console.print(Text(f"\nTexts and numbers (Parquet): {storage}/generations"))
    query = f'rl-alliteration query --storage {where} "SELECT beta, avg(raw_reward) FROM generations GROUP BY ALL"'
    console.print(Text(f"Query them:  {query}"), soft_wrap=True)
    chosen = f"--storage {where} --experiment {experiment}"
    console.print(Text(f"See them:    rl-alliteration report {chosen} --output report.html"), soft_wrap=True)
    console.print(
        Text(f"Curves:      tensorboard --logdir {where}/tensorboard --samples_per_plugin scalars=100000,text=1000"),
        soft_wrap=True,
    )
    if outcome.stopped_by is not None:
        console.print(Text("Stopped. The same command goes on from here."))
        return 128 + int(outcome.stopped_by)
    if outcome.errors:
        name, error = next(iter(outcome.errors.items()))
        raise Failure(f"{len(outcome.errors)} of {trials} trials failed; {name}: {error}")
    return 0


def _print_plan(console: Console, trials: Sequence[PlannedTrial], parameters: int) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("trial", "texts", "group", "learning rate", "reward"):
        table.add_column(column, justify="left" if column in ("trial", "reward") else "right")
    for trial in trials:
        config = trial.config
        table.add_row(
            Text(trial.trial_id, no_wrap=True), f"{trial.max_generations:,}", str(config.group_size),
            f"{config.learning_rate:g}", Text(config.reward),
        )  # fmt: skip
    console.print(table)
    texts = sum(trial.max_generations for trial in trials)
    # Of each trial the two newest checkpoints and that of its end; the original needs none.
    bytes_needed = texts * _BYTES_PER_TEXT + (len(trials) - 1) * 3 * 4 * parameters
    console.print(Text(f"{len(trials)} trials, {texts:,} texts, about {bytes_needed / 1e6:,.0f} MB on disk"))


_BYTES_PER_TEXT = 1_300  # measured: Parquet, checksums and TensorBoard of 100-token texts


# --- jobs ------------------------------------------------------------------------------------------------


def _submit(command: Submit) -> int:
    sweep = Sweep(**{field.name: getattr(command, field.name) for field in dataclasses.fields(Sweep)})
    resolved = resolve(sweep)
    check_location(sweep.storage)
    submission.check_for_job(sweep)
    environment = submission.runtime_environment(command.working_dir, command.pip)
    client = submission.connect(command.address)
    job = f"{resolved.experiment}-{submission.new_run_id()}"
    submission.submit(client, dataclasses.replace(sweep, experiment=resolved.experiment), environment, job)
    address = shlex.quote(client.get_address())
    say = _say(Console(stderr=True, markup=False, highlight=False, emoji=False))
    say(f"Job {job}; stop it with: rl-alliteration stop {job} --address {address}")
    if command.no_wait:
        say(f"See its log with: rl-alliteration logs {job} --follow --address {address}")
        return 0
    return _follow(client, job)


def _stop(command: Stop) -> int:
    client = submission.connect(command.address)
    job = submission.find_job(client, command.job)
    state = submission.stop(client, job)
    words = "is stopped; the same sweep, submitted again, goes on from here"
    _say(_console())(f"Job {job} {words if state == 'STOPPED' else f'had ended: {state}'}")
    return 0


def _logs(command: Logs) -> int:
    client = submission.connect(command.address)
    job = submission.find_job(client, command.job)
    if command.follow:
        return _follow(client, job)
    _write_log(submission.log_of(client, job))
    return 0


def _follow(client: Any, job: str) -> int:
    try:
        return submission.follow(client, job, _write_log)
    except KeyboardInterrupt:
        print(f"rl-alliteration: the job {job} goes on; only its log is no longer followed", file=sys.stderr)
        raise


def _write_log(text: str) -> None:
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


# --- results ---------------------------------------------------------------------------------------------


def _status(command: Status) -> int:
    storage = open_storage(command.storage)
    reader.trial_ids(storage, command.experiment)
    if command.watch:
        return _watch(Watch(storage, command.experiment), _console())
    _print_summaries(_console(), summarise(storage, command.experiment))
    return 0


def _watch(watch: Watch, console: Console) -> int:
    """In a terminal until it is interrupted; in a log a table now and then, until no driver is left."""
    if not console.is_terminal:
        while True:
            console.print(live_table(watch.look()))
            if not watch.has_driver():
                return 0
            time.sleep(_LOG_SECONDS)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(live_table(watch.look(), max(console.height - 3, 1)), refresh=True)
            time.sleep(REFRESH_SECONDS)


_LOG_SECONDS = 30.0


def _query(command: Query) -> int:
    columns, rows = reader.run_query(open_storage(command.storage), command.sql)
    if command.format == "json":
        for row in rows:
            print(json.dumps(_without_nan(dict(zip(columns, row, strict=True))), default=str, allow_nan=False))
    elif command.format == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        safe = printable if sys.stdout.isatty() else str
        writer.writerows([safe(value) if isinstance(value, str) else value for value in row] for row in rows)
    else:
        table = Table()
        for name in columns:
            table.add_column(Text(name))
        for row in rows:
            table.add_row(*(Text(_cell(value)) for value in row))
        _console().print(table)
    return 0


def _without_nan(value: Any) -> Any:
    """The value with null for numbers that JSON does not know."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    if isinstance(value, decimal.Decimal):
        return float(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else printable(str(value))


def _verify(command: Verify) -> int:
    storage = open_storage(command.storage)
    console = _console()
    wrong = 0
    verified = 0
    reader.trial_ids(storage, command.experiment)
    for experiment, trial_id in reader.all_trials(storage):
        if command.experiment not in (None, experiment):
            continue
        verdict = verify.verify_trial(storage, experiment, trial_id)
        if command.deep and verdict.problem is None:
            from rl_alliteration.replay import open_trial, verify_deep

            verdict = dataclasses.replace(verdict, problem=verify_deep(open_trial(storage, experiment, trial_id)))
        verified += verdict.generations
        for note in verdict.notes:
            console.print(Text(f"note   {experiment}/{trial_id}: {printable(note)}"), soft_wrap=True)
        if verdict.problem is None:
            console.print(Text(f"ok     {experiment}/{trial_id}: {verdict.generations:,} generations"), soft_wrap=True)
        else:
            wrong += 1
            console.print(Text(f"WRONG  {experiment}/{trial_id}: {printable(verdict.problem)}"), soft_wrap=True)
    if wrong:
        raise Failure(f"verify: {wrong} trial(s) are not what they should be, see above")
    console.print(Text(f"{verified:,} texts verified"))
    return 0


def _print_summaries(console: Console, summaries: Sequence[TrialSummary]) -> None:
    table = Table(title=f"Over the last {LAST} texts of each trial", box=None, pad_edge=False, title_justify="left")
    if console.width < 100:  # a table would lose what matters
        for summary in summaries:
            name = (
                summary.trial_id
                if summary.algorithm == "original"
                else f"{summary.algorithm} {_coefficient(summary, 'beta ')} seed {summary.seed}"
            )
            console.print(
                Text(
                    f"{summary.experiment} {name}: {_status_of(summary)}, "
                    f"{summary.generations}/{summary.max_generations} texts, reward {summary.raw_reward:.2f}, "
                    f"KL {summary.kl_penalty:.2f}, variety {_variety(summary)}, "
                    f"repetition {summary.repetition:.2f}"
                )
            )
            console.print(
                Text(printable(summary.error)) if summary.error else highlighted(summary.last_text, limit=140)
            )
        return
    several = len({summary.experiment for summary in summaries}) > 1
    searched = _differ_in_more_than_beta(summaries)
    for column in (*(["experiment"] if several else []), "algorithm", "beta", *(["rate", "group"] if searched else []),
                   "seed", "status", "texts", "reward", "KL", "variety", "repetition", "last text"):  # fmt: skip
        left = column in ("experiment", "algorithm", "status", "last text")
        table.add_column(column, justify="left" if left else "right", no_wrap=column != "last text")
    for summary in summaries:
        original = summary.algorithm == "original"
        cells = [
            summary.algorithm,
            "" if original else _coefficient(summary),
            *(([""] * 2 if original else [f"{summary.learning_rate:g}", str(summary.group_size)]) if searched else []),
            "" if original else str(summary.seed),
            _status_of(summary),
            f"{summary.generations}/{summary.max_generations}",
            f"{summary.raw_reward:.2f}",
            f"{summary.kl_penalty:.2f}",
            _variety(summary),
            f"{summary.repetition:.2f}",
        ]
        last = Text(printable(summary.error)) if summary.error else highlighted(summary.last_text, limit=140)
        table.add_row(*([Text(summary.experiment)] if several else []), *map(Text, cells), last)
    console.print(table)


def _differ_in_more_than_beta(summaries: Sequence[TrialSummary]) -> bool:
    """Whether one algorithm was run at several learning rates or group sizes, as a search does."""
    rates: dict[tuple[str, str], set[tuple[float, int]]] = {}
    for summary in summaries:
        key = (summary.experiment, summary.algorithm)
        rates.setdefault(key, set()).add((summary.learning_rate, summary.group_size))
    return any(len(found) > 1 for found in rates.values())


def _coefficient(summary: TrialSummary, fixed: str = "") -> str:
    return f"{fixed}{summary.beta:g}" if summary.target_kl is None else f"for KL {summary.target_kl:g}"


def _status_of(summary: TrialSummary) -> str:
    """With what stopped it: `stopped (collapse)`."""
    shown = summary.status == schema.STOPPED and summary.reason
    return f"{summary.status} ({printable(summary.reason)})" if shown else summary.status


def _variety(summary: TrialSummary) -> str:
    """In several prompts' texts, also of the pairs that share a prompt and of those that do not."""
    if math.isnan(summary.variety_across):
        return f"{summary.variety:.2f}"
    return f"{summary.variety:.2f} (within a prompt {summary.variety_within:.2f}, across {summary.variety_across:.2f})"


# --- sample ----------------------------------------------------------------------------------------------


def _sample(command: Sample) -> int:
    from rl_alliteration.language_model import load_model
    from rl_alliteration.sampling import sample, uniforms
    from rl_alliteration.trainer import decode_text

    if command.number < 1:
        raise UserError(f"-n: {command.number} is not accepted; give 1 or more")
    console = _console()
    if command.storage is not None:
        if command.model is not None or command.experiment is None or command.trial is None:
            raise UserError("--storage: give --experiment and --trial with it, and no --model")
        from rl_alliteration.replay import open_trial, replay

        trial = open_trial(open_storage(command.storage), command.experiment, command.trial)
        loaded, model = trial.loaded, replay(trial, command.generation, _say(console)).policy
    else:
        if command.experiment or command.trial or command.generation is not None:
            raise UserError("--storage: give the results' folder with --experiment, --trial and --generation")
        loaded = load_model(command.model or "storyteller", tokenizer=command.tokenizer)
        model = loaded.reference()
    prompt = loaded.encode(command.prompt)
    if not len(prompt) < command.max_length <= (loaded.context or command.max_length):
        raise UserError(
            f"--max-length: {command.max_length} is not accepted; "
            f"give {len(prompt) + 1} (the prompt and one) to {loaded.context} (what the model can read)"
        )
    if not 0 <= command.seed < 2**63:
        raise UserError(f"--seed: {command.seed} is not accepted; give an integer from 0 to 2^63 - 1")
    chances = uniforms(command.seed, 0, command.number, command.max_length)
    rollout = sample(model, prompt, chances, end_tokens=loaded.end_tokens)
    for ids, length in zip(rollout.token_ids.tolist(), rollout.lengths, strict=True):
        console.print(highlighted(decode_text(loaded.tokenizer, ids[:length], loaded.end_tokens)), soft_wrap=True)
        console.print()
    return 0


def _export(command: Export) -> int:
    storage = open_storage(command.storage)
    known = [name for _, name in reader.trial_ids(storage, command.experiment)]
    recommendation, chosen, generation = None, command.trial, command.generation
    if chosen is not None and chosen not in known:
        raise UserError(f"--trial: {chosen!r} is not in {command.experiment!r}; there is: {', '.join(known)}")
    if command.recommended:
        if generation is not None:
            raise UserError("--generation: --recommended finds it; leave one of the two out")
        analysis = measure(reader.connect(storage), command.experiment, command.window, chosen)
        recommendation = recommended(analysis, command.keep_variety, command.keep_sense)
        chosen, generation = recommendation.trial.trial_id, recommendation.generation
    elif chosen is None:
        raise UserError("--trial: give a trial's id, or --recommended")
    else:
        analysis = measure(reader.connect(storage), command.experiment, command.window, chosen)
    from rl_alliteration.replay import check_new_folder, export, open_trial, replay

    check_new_folder(Path(command.output))
    say = _say(_console())
    if recommendation is not None:
        say(str(recommendation))
    trial = open_trial(storage, command.experiment, chosen)
    trainer = replay(trial, generation, say)
    measured = next(found for found in analysis.trials if found.trial_id == chosen)
    last = [row["text"] for row in trial.rows(max(0, trainer.generation - 3)) if row["generation"] < trainer.generation]
    card = model_card(trial.config, measured, trainer.generation, last, recommendation)
    export(trial, trainer, Path(command.output), card)
    say(f"{trial.trial_id} after {trainer.generation:,} texts is in {command.output}")
    return 0


def _report(command: Report) -> int:
    report(command, _say(_console()))
    return 0


def _claims(command: Claims) -> int:
    storage = open_storage(command.storage)
    reader.trial_ids(storage, command.experiment)
    analysis = measure(reader.connect(storage), command.experiment)
    claims = check_claims(analysis)
    rows = [[claim.finding, claim.rule, claim.figure, claim.verdict] for claim in claims]
    titles = ["finding", "rule", "figure", "holds"]
    if command.format == "markdown":
        lines = [titles, ["---"] * len(titles), *rows]
        print("\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines))
    else:
        table = Table(show_lines=True)
        for title in titles:
            table.add_column(title)
        for row in rows:
            table.add_row(*map(Text, row))
        _console().print(table)
    unfinished = [trial.trial_id for trial in analysis.trials if trial.generations < trial.max_generations]
    if unfinished:
        print(f"note: {len(unfinished)} trials are not finished, {printable(unfinished[0])} first", file=sys.stderr)
    apart = [trial for trial in comparable(analysis) if trial.apart]
    if apart:
        print(
            f"note: {len(apart)} trials differ from others of their beta in more than the seed, "
            f"{printable(apart[0].trial_id)} ({printable(apart[0].apart.removeprefix(', '))}) first; all are taken as "
            "seeds of it: choose with --experiment",
            file=sys.stderr,
        )
    missing, failed = (sum(claim.holds is holds for claim in claims) for holds in (None, False))
    if missing or failed:
        raise Failure(f"claims: {failed} of {len(claims)} findings do not hold, {missing} have no data to say")
    return 0


# --- upkeep ----------------------------------------------------------------------------------------------


def _compact(command: Compact) -> int:
    source = open_storage(command.storage)
    reader.trial_ids(source)
    trials = maintenance.compact(source, open_storage(command.output, create=True))
    _say(_console())(f"{trials} trials copied to {command.output}")
    return 0


def _remove(command: Remove) -> int:
    storage = open_storage(command.storage)
    files = maintenance.removal(storage, command.experiment, command.trial)
    say = _say(_console())
    for (experiment, trial_id), count in maintenance.texts_by_trial(storage, command.experiment, command.trial).items():
        say(f"  {experiment}/{trial_id}: {count:,} texts")
    say(f"{len(files):,} files in {storage}")
    if not command.yes:
        if not sys.stdin.isatty():
            raise UserError("--yes: nobody is there to be asked; give it to delete all the same")
        if input("Delete them for good? [y/N] ").strip().lower() not in ("y", "yes"):
            say("Nothing was deleted.")
            return 0
    for path in files:
        storage.delete(path)
    say("Deleted.")
    return 0


def _say(console: Console) -> Callable[[str], None]:
    return lambda message: console.print(Text(printable(message)), soft_wrap=True)


# --- the terminal ----------------------------------------------------------------------------------------


def printable(text: str) -> str:
    """The text with control characters (escape sequences among them) replaced, so that it cannot drive a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def highlighted(text: str, limit: int | None = None) -> Text:
    """A generated text for a terminal: alliterating runs stand out, markup is not interpreted."""
    text = printable(text)
    if limit is not None:
        text = " ".join(text.split())
        text = text if len(text) <= limit else text[: limit - 1] + "…"
    shown = Text(text)
    for start, end in alliterating_runs(text):
        shown.stylize("bold yellow", start, end)
    return shown


def _console() -> Console:
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        # A log or a pipe has no width, and COLUMNS may be a stray: GNU readline sets it for a program's children.
        console.width = 160
    return console


if __name__ == "__main__":
    main()
