"""The command line without Ray: bad input ends in exit code 2 and one line that names the field."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import run
from trials import EXPERIMENT, planned, rows, run_trial

from rl_alliteration import __version__
from rl_alliteration.cli.main import COMMANDS
from rl_alliteration.cli.summaries import highlighted
from rl_alliteration.config import TrialConfig
from rl_alliteration.errors import UserError
from rl_alliteration.flags import Chat, Sampling
from rl_alliteration.handle import open_results
from rl_alliteration.lm.loading import LoadedModel
from rl_alliteration.results import reader
from rl_alliteration.results.storage import Storage
from rl_alliteration.results.verify import verify_trial
from rl_alliteration.terminal import printable
from rl_alliteration.tune.plan import Sweep
from rl_alliteration.tune.prompts import prompts_of


@pytest.fixture(scope="module")
def results(
    tmp_path_factory: pytest.TempPathFactory, tiny_gpt_neo: LoadedModel, make_config: Callable[..., TrialConfig]
) -> str:
    storage = Storage(tmp_path_factory.mktemp("results"))
    for beta in (0, 10):
        run_trial(storage, planned(make_config(tiny_gpt_neo, beta=beta), 8), tiny_gpt_neo)
    return str(storage)


SWEEP = ("sweep", "--experiment", "e", "--beta", "0")


@pytest.mark.parametrize(
    "flags, named",
    [
        (("--algorithm", "ppo"), "--algorithm: 'ppo' is unknown; choose from dr_grpo, grpo, reinforce,"),
        (("--reward", "rhymes"), "--reward: 'rhymes' is unknown; choose one of a_words, alliteration,"),
        (("--reward", "alliteration + "), "--reward: 'alliteration + ' is malformed at '+ '; give rewards with + or -"),
        (("--reward", "nowhere:f"), "--reward: the module of 'nowhere:f' could not be imported (ModuleNotFoundError"),
        (("--reward", "os:sep"), "--reward: 'os:sep' is no function"),
        (("--preset", "huge"), "--preset: 'huge' is unknown; choose one of quickstart"),
        (("--model", "./nowhere"), "--model: no folder './nowhere'"),
        (("--target-kl",), "--target-kl: no value is given; give one or more, or leave the flag out"),
        (("--seed", "--dtype", "float32"), "--seed: no value is given"),
        (("--beta", "-1"), "--beta: -1.0"),
        (("--beta", "nan"), "--beta: nan"),
        (("--beta", "inf"), "--beta: inf"),
        (("--beta", "x"), "--beta"),
        (("--group-size", "1"), "--group-size: 1 is too few for rloo"),
        (("--max-length", "4"), "--max-length: 4 leaves nothing to sample after a prompt of 4 tokens"),
        (("--max-length", "257"), "--max-length: 257 is beyond what the model can read; give at most 256"),
        (("--prompt", ""), "--prompt: '' encodes to no token"),
        (("--prompt", "One day", "--prompt", ""), "--prompt: '' encodes to no token"),
        (("--prompt", "Hi", "--prompt", "Once upon a time in", "--max-length", "5"), "a prompt of 5 tokens"),
        (("--prompts", "/proc/nowhere"), "--prompts: '/proc/nowhere' cannot be read"),
        (("--prompts", "/dev/null"), "--prompts: '/dev/null' has no prompt in it"),
        (("--prompts", "/bin/sh"), "--prompts: '/bin/sh' cannot be read as a UTF-8 text file"),
        (("--prompts", "x", "--prompt", "y"), "--prompts: give either the file or --prompt"),
        (("--max-generations", "15"), "--max-generations: 15 is no multiple of the group size 10"),
        (("--max-generations", "0"), "--max-generations: 0"),
        (("--checkpoint-every", "0"), "--checkpoint-every: 0 is not accepted"),
        (("--algorithm", "reinforce", "--group-size", "0"), "--group-size: 0 is not accepted"),
        (("--target-kl", "0.1"), "--beta: 0.0 is not accepted; give a number above 0"),
        (("--target-kl", "-1", "--beta", "1"), "--target-kl: -1.0 is not accepted; give a number above 0"),
        (("--temperature", "1e-300"), "--temperature: 1e-300"),
        (("--checkpoint-every", "7"), "--checkpoint-every: 7 is no multiple of the group size 10"),
        (("--experiment", "Bad name"), "--experiment: 'Bad name'"),
        (("--experiment", "../up"), "--experiment: '../up'"),
        (("--gpus-per-trial", "many"), "--gpus-per-trial: 'many'"),
        (("--gpus-per-trial", "1.5"), "--gpus-per-trial: '1.5'"),
        (("--gpus-per-trial", "8"), "--gpus-per-trial: 8 asked for"),
        (("--cpus-per-trial", "4096"), "--cpus-per-trial: 4096 asked for"),
        (("--learning-rate", "0"), "--learning-rate: 0.0"),
        (("--temperature", "0"), "--temperature: 0.0"),
        (("--top-k", "-1"), "--top-k: -1"),
        (("--as-published", "--top-k", "5"), "--top-k: --as-published means 50"),
        (("--as-published", "--top-k", "0"), "--top-k: --as-published means 50; leave one of the two out"),
        (("--keep-checkpoints", "0"), "--keep-checkpoints: '0'"),
        (("--record-tokens", "some"), "--record-tokens: 'some' is not accepted; give one of none, first-group, all"),
        (("--seed", "-1"), "--seed: -1"),
        (("--dtype", "float16"), "--dtype: 'float16' is not accepted; give float32, bfloat16 or auto"),
        (("--unknown-flag", "1"), "--unknown-flag"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_bad_sweep_is_refused_in_one_line_before_anything_starts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, flags: tuple[str, ...], named: str
) -> None:
    code, out, err = run(capsys, *SWEEP, "--storage", str(tmp_path / "results"), *flags)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert named in err
    assert "Traceback" not in err
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize(
    "storage, named",
    [
        ("/proc/nowhere", "--storage: '/proc/nowhere' cannot be written"),
        ("s3://key:secret@bucket/results", "must not carry a user name or password"),
        ("ftp://host/results", "--storage: ftp:// is not supported"),
        ("http://[", "--storage: 'http://[' is not accepted"),
        ("", "--storage: '' is not accepted"),
        ("~nobody-of-that-name/x", "cannot be reached"),
    ],
)
def test_a_bad_storage_is_refused(capsys: pytest.CaptureFixture[str], storage: str, named: str) -> None:
    code, _, err = run(capsys, *SWEEP, "--storage", storage)
    assert (code, err.count("\n")) == (2, 1)
    assert named in err
    assert "secret" not in err


@pytest.mark.parametrize("command", [("status",), ("verify",), ("query", "SELECT 1")])
def test_an_empty_or_missing_results_folder_is_said(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: tuple[str, ...]
) -> None:
    code, _, err = run(capsys, *command, "--storage", str(tmp_path))
    assert (code, err.count("\n")) == (2, 1)
    assert "holds no results" in err
    code, _, err = run(capsys, *command, "--storage", str(tmp_path / "missing"))
    assert code == 2
    assert "no folder" in err


@pytest.mark.parametrize(
    "sql, message",
    [
        ("SELECT nope FROM generations", 'Referenced column "nope" not found'),
        ("SELEC 1", "syntax error"),
        ("", "one SELECT"),
        ("SELECT 1; SELECT 2", "one SELECT"),
        ("COPY generations TO 'x.csv'", "one SELECT"),
        ("CREATE TABLE t AS SELECT 1", "one SELECT"),
        ("SET threads = 1", "one SELECT"),
        ("EXPLAIN ANALYZE COPY (SELECT 1) TO 'x.parquet'", "one SELECT"),
        ("INSTALL httpfs", "one SELECT"),
        ("ATTACH 'x.db'", "one SELECT"),
        ("SELECT * FROM read_text('/etc/hostname')", "Permission Error"),
        ("SELECT * FROM read_csv('https://127.0.0.1/x')", "Error"),
    ],
)
def test_query_reads_and_does_nothing_else(
    capsys: pytest.CaptureFixture[str], results: str, sql: str, message: str
) -> None:
    code, _, err = run(capsys, "query", "--storage", results, sql)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


def test_query_answers_in_each_format(capsys: pytest.CaptureFixture[str], results: str) -> None:
    sql = "SELECT beta, count(*) AS texts FROM generations GROUP BY ALL ORDER BY beta"
    assert run(capsys, "query", "--storage", results, sql, "--format", "csv")[1].splitlines() == [
        "beta,texts",
        "0.0,8",
        "10.0,8",
    ]
    assert '{"beta": 10.0, "texts": 8}' in run(capsys, "query", "--storage", results, sql, "--format", "json")[1]
    assert "texts" in run(capsys, "query", "--storage", results, sql)[1]


@pytest.mark.parametrize("name", ["with space", "v[2]", "wild*card?", "back\\slash", "a=b", "quo'te\"s", "ünï"])
def test_a_storage_may_have_any_name(
    capsys: pytest.CaptureFixture[str], results: str, tmp_path: Path, name: str
) -> None:
    import shutil

    shutil.copytree(results, tmp_path / name)
    (tmp_path / "v2").mkdir()  # what the pattern v[2] would mean
    for command in (("status",), ("query", "SELECT count(*) AS texts FROM generations", "--format", "csv")):
        code, out, err = run(capsys, *command, "--storage", str(tmp_path / name))
        assert (code, err) == (0, "")
        assert "8/8" in out or out == "texts\n16\n"


def test_times_with_a_zone_come_back(capsys: pytest.CaptureFixture[str], results: str) -> None:
    assert run(capsys, "query", "--storage", results, "SELECT max(written_at::timestamptz) FROM trials")[0] == 0


def test_json_is_json(capsys: pytest.CaptureFixture[str], results: str) -> None:
    out = run(capsys, "query", "--storage", results, "SELECT 'nan'::double AS x, [1.5] AS y", "--format", "json")[1]
    assert out == '{"x": null, "y": [1.5]}\n'


@pytest.mark.parametrize("damage", ["part", "event", "tokenizer", "card", "manifest", "lease", "stray"])
def test_damaged_results_are_told_in_one_line(
    capsys: pytest.CaptureFixture[str], results: str, tmp_path: Path, damage: str
) -> None:
    import shutil

    shutil.copytree(results, tmp_path / "r")
    root = tmp_path / "r"
    pattern = {
        "part": "generations/**/part-00000000.parquet",
        "event": "trials/**/part-00000000.parquet",
        "tokenizer": "models/*/tokenizer.json",
        "card": "models/*/card.json",
        "manifest": "manifests/*/*/part-00000000.json",
    }.get(damage)
    if pattern:
        path = sorted(root.glob(pattern))[0]
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "lease":
        (root / "leases").mkdir(exist_ok=True)
        (root / f"leases/{EXPERIMENT}.json").write_text('{"owner": "x", "pid": "y"}')
    else:
        folder = sorted(root.glob("generations/*/*"))[0]
        (folder / "part-00000000 (copy).parquet").write_bytes(b"x")
        (folder / ".DS_Store").write_bytes(b"x")
    for command in ("verify", "status"):
        code, out, err = run(capsys, command, "--storage", str(root))
        assert "Traceback" not in out + err
        assert err.count("\n") <= 1
        if command == "verify":
            assert code == (0 if damage in ("stray", "lease") else 1)


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"rl-alliteration {__version__}\n", "")


def test_the_environment_says_where_results_are_if_no_flag_does(
    capsys: pytest.CaptureFixture[str], results: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = ("query", "SELECT count(*) AS texts FROM generations", "--format", "csv")
    code, _, err = run(capsys, *count)
    assert (code, err.count("\n")) == (2, 1) and "or set the environment variable RL_ALLITERATION_STORAGE" in err
    monkeypatch.setenv("RL_ALLITERATION_STORAGE", results)
    assert run(capsys, *count) == (0, "texts\n16\n", "")
    trial = reader.trial_ids(Storage(results))[0][1]
    for command in (("status",), ("verify",), ("claims",), ("remove", "--experiment", "none")):
        assert "RL_ALLITERATION_STORAGE" not in run(capsys, *command)[2]
    assert run(capsys, "compact", "--output", str(tmp_path / "copy"))[0] == 0
    words = ("--max-length", "12", "-n", "1")
    assert run(capsys, "sample", *words)[0] == 0  # of a model: no trial was asked for
    code, _, err = run(capsys, "sample", *words, "--experiment", EXPERIMENT, "--trial", "x")
    assert (code, f"--trial: 'x' is not in '{EXPERIMENT}'; there is: {trial}" in err) == (2, True)
    code, _, err = run(capsys, *count, "--storage", str(tmp_path / "missing"))
    assert (code, "no folder" in err) == (2, True)
    monkeypatch.setenv("RL_ALLITERATION_STORAGE", "")
    assert run(capsys, "status")[0] == 2


def test_every_command_that_takes_a_trial_takes_a_part_of_its_id(
    capsys: pytest.CaptureFixture[str], results: str, tmp_path: Path
) -> None:
    ids = [name for _, name in reader.trial_ids(Storage(results))]
    where = ("--storage", results, "--experiment", EXPERIMENT)
    others = {"sample": (), "export": ("--output", str(tmp_path / "m")), "remove": ()}
    for command, flags in others.items():
        code, out, err = run(capsys, command, *where, *flags, "--trial", "rloo")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert f"--trial: 'rloo' may be any of {', '.join(sorted(ids))}; give more of its id" in err
        err = run(capsys, command, *where, *flags, "--trial", ids[0].rpartition("-")[2][:7])[2]
        assert "--trial" not in err
    assert "  rloo-beta10-seed0" in run(capsys, "remove", *where, "--trial", "rloo-beta10")[1].replace("tiny/", "")
    (text,) = open_results(results).texts("rloo-beta0", number=1).to_pylist()
    assert text["trial_id"].startswith("rloo-beta0-seed0-")
    with pytest.raises(UserError, match="trial: 'rloo' may be any of"):
        open_results(results).texts("rloo")


def test_a_narrow_terminal_loses_nothing(
    capsys: pytest.CaptureFixture[str], results: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # rich takes the output for a terminal
    monkeypatch.setenv("COLUMNS", "60")
    out = run(capsys, "status", "--storage", results)[1]
    assert out.count("Once upon a time") == 2
    assert "beta 10 seed 0" in out


def test_a_pipe_has_room_for_the_table_whatever_columns_says(
    capsys: pytest.CaptureFixture[str], results: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert "Over the last 100 texts of each trial" in run(capsys, "status", "--storage", results)[1]


def test_the_precision_is_part_of_a_trials_identity(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    ids = {}
    for dtype in ("float32", "bfloat16", "auto"):
        flags = ("--preset", "no_kl", "--storage", str(tmp_path), "--dry-run", "--dtype", dtype)
        code, out, _ = run(capsys, "sweep", *flags)
        assert code == 0
        ids[dtype] = re.findall(r"rloo-beta0-seed0-\w{8}", out)
    assert ids["float32"] != ids["bfloat16"]
    assert ids["auto"] in (ids["float32"], ids["bfloat16"])


def test_status_has_a_row_a_trial(capsys: pytest.CaptureFixture[str], results: str) -> None:
    code, out, _ = run(capsys, "status", "--storage", results)
    assert code == 0
    assert out.count("8/8") == 2
    assert run(capsys, "status", "--storage", results, "--experiment", "other")[0] == 2


def test_verify_tells_by_its_exit_code(capsys: pytest.CaptureFixture[str], results: str) -> None:
    code, out, _ = run(capsys, "verify", "--storage", results, "--experiment", EXPERIMENT)
    assert (code, "16 texts verified" in out) == (0, True)


def test_a_dry_run_lists_and_starts_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, "sweep", "--preset", "beta_coarse", "--storage", str(tmp_path / "x"), "--dry-run")
    assert code == 0
    assert out.count("rloo-beta") == 6
    assert "7 trials, 22,600 texts" in out
    assert "about 0.6 GiB of memory for each trial that runs" in out
    dry = [*SWEEP, "--storage", str(tmp_path / "x"), "--dry-run"]
    told = [run(capsys, *dry, "--record-tokens", which)[1] for which in ("none", "all")]
    none, every = (int(re.findall(r"about (\d+) MB on disk", one)[0]) for one in told)
    assert none < every
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("command", [("sweep",), ("search", "--trials", "2")])
def test_trials_that_fit_into_no_machine_are_refused_before_they_start(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    most = ("--group-size", "1000000", "--max-generations", "2000000", "--checkpoint-every", "1000000")
    where = ("--storage", str(tmp_path), "--experiment", "large", "--beta", "10", "20", "--algorithm", "rloo")
    code, _, err = run(capsys, *command, *where, *most)
    assert code == 2
    assert "--group-size: a trial would take about" in err and "GiB of memory, this machine has" in err
    assert len(err.strip().splitlines()) == 1


def test_prompts_come_from_flags_or_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("One day\n\n  Once upon a time \r\nOne day\n")
    dry = [*SWEEP, "--storage", str(tmp_path / "x"), "--dry-run"]
    several = run(capsys, *dry, "--prompt", "One day", "--prompt", "Once upon a time")[1]
    assert run(capsys, *dry, "--prompts", str(file))[1] == several
    single = run(capsys, *dry)[1]
    assert single == run(capsys, *dry, "--prompt", "Once upon a time")[1] != several


@pytest.mark.parametrize(
    "data, prompts",
    [
        ("\ufeffOnce upon a time\nOne day\n".encode(), ("Once upon a time", "One day")),
        (b"Once upon a time\r\nOne day\r\n", ("Once upon a time", "One day")),
        ("Once\n\ufeffOne day".encode(), ("Once", "One day")),  # two files put one after another
        ("Once upon\u2028a time\x0bx\x85y\x1cz".encode(), ("Once upon\u2028a time\x0bx\x85y\x1cz",)),
    ],
)
def test_a_file_of_prompts_has_one_a_line_whatever_editor_wrote_it(
    data: bytes, prompts: tuple[str, ...], tmp_path: Path
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes(data)
    assert prompts_of(Sweep(storage="x", prompts=str(file))) == prompts


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32-be"])
def test_a_file_of_prompts_in_another_encoding_is_refused(encoding: str, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes("Once upon a time\n".encode(encoding))
    with pytest.raises(UserError, match=r"--prompts: .*UTF-8"):
        prompts_of(Sweep(storage="x", prompts=str(file)))


def test_status_tells_variety_within_and_across_prompts(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    tiny_gpt_neo: LoadedModel,
    make_config: Callable[..., TrialConfig],
) -> None:
    storage = Storage(tmp_path)
    config = make_config(tiny_gpt_neo, more_prompts=("One day", "A cat and a dog"), learning_rate=0.01)
    trial = planned(config, 24)
    run_trial(storage, trial, tiny_gpt_neo, stop_after=3)
    run_trial(storage, trial, tiny_gpt_neo)
    undisturbed = Storage(tmp_path / "undisturbed")
    run_trial(undisturbed, trial, tiny_gpt_neo)
    assert rows(storage, trial) == rows(undisturbed, trial)
    by_group = {row["step"]: row["prompt"] for row in rows(storage, trial)}
    assert len(set(by_group.values())) == 3
    assert all(row["text"].startswith(by_group[row["step"]]) for row in rows(storage, trial))
    assert verify_trial(storage, EXPERIMENT, trial.trial_id).problem is None
    assert "(within a prompt 0." in run(capsys, "status", "--storage", str(storage))[1]


def test_a_target_takes_the_place_of_the_presets_betas(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flags = ["sweep", "--preset", "beta_fine", "--target-kl", "0.05", "0.1", "--storage", str(tmp_path), "--dry-run"]
    out = run(capsys, *flags)[1]
    assert (out.count("rloo-kl0.05-seed0-"), out.count("rloo-kl0.1-seed0-"), out.count("beta")) == (1, 1, 0)


def test_sample_prints_texts(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "sample", "-n", "2", "--max-length", "12")
    assert code == 0
    assert out.count("Once upon a time") == 2


def test_sample_takes_the_settings_of_sampling(capsys: pytest.CaptureFixture[str]) -> None:
    greedy = run(capsys, "sample", "-n", "2", "--max-length", "12", "--top-k", "1")[1]
    first, second = (line for line in greedy.splitlines() if line)
    assert first == second
    cold = run(capsys, "sample", "-n", "2", "--max-length", "12", "--temperature", "0.001")[1]
    assert cold == greedy
    for flag, value in (("--temperature", "0"), ("--top-k", "-1"), ("--max-length", "1")):
        code, _, err = run(capsys, "sample", flag, value)
        assert code == 2 and err.startswith(f"rl-alliteration: {flag}: ") and "is not accepted; give" in err


@pytest.mark.parametrize("command", ["sweep", "search", "sample"])
def test_the_settings_of_sampling_are_flags(command: str) -> None:
    fields = {field.name: field for field in dataclasses.fields(COMMANDS[command])}
    shared = [field for kind in (Sampling, Chat) for field in dataclasses.fields(kind)]
    others = {field.name for field in shared if fields[field.name] is not field}
    # Whose default depends on --as-published.
    assert others == ({"top_k"} if hasattr(COMMANDS[command], "as_published") else set())


def test_texts_cannot_drive_a_terminal() -> None:
    assert printable("a\x1b[31mb\x07\u202ec\n") == "a\ufffd[31mb\ufffd\ufffdc\n"
    shown = highlighted("see the [red]tall tree[/red] \x1b]0;x\x07")
    assert "[red]tall" in shown.plain
    assert "\x1b" not in shown.plain


@pytest.mark.parametrize(
    "module", ["cli", "results.verify", "results.reader", "analysis.claims", "report.page", "tune.plan"]
)
def test_reading_results_needs_neither_torch_nor_ray(module: str) -> None:
    code = (
        f"import sys, rl_alliteration.{module}; sys.exit(bool({{'torch', 'transformers', 'ray'}} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
