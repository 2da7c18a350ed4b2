"""Trials of an instruct model: the reward is of the completion, and so is all that is measured and shown."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import run
from instruct import END, KINDS, copy_with, instruct_folder
from trainers import make_trainer
from trials import EXPERIMENT, rows, run_trial

from rl_alliteration.analysis.diversity import variety
from rl_alliteration.analysis.measure import measure, original_keys
from rl_alliteration.analysis.stopping import EarlyStopping
from rl_alliteration.analysis.summary import summarise
from rl_alliteration.config import PlannedTrial, TrialConfig
from rl_alliteration.foreign import Damaged
from rl_alliteration.lm.loading import LoadedModel, load_model
from rl_alliteration.results import reader, schema
from rl_alliteration.results.parts import read_part
from rl_alliteration.results.storage import Storage
from rl_alliteration.results.verify import verify_trial
from rl_alliteration.rl.parts import settled_characters, token_rewards
from rl_alliteration.rl.parts import words as words_of
from rl_alliteration.rl.rewards import Reward, get_reward
from rl_alliteration.trial.replay import open_trial, replay, verify_deep
from rl_alliteration.tune.plan import Sweep, plan, resolve

CHAT: dict[str, Any] = {
    "chat": True, "max_length": 64, "group_size": (4,), "learning_rate": (0.01,), "max_generations": 16,
    "checkpoint_every": 8, "original_texts": 40, "prompt": ("Tell me a story.", "Say it."), "system_prompt": "Rhyme.",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return instruct_folder(tmp_path_factory.mktemp("instruct"))


@pytest.fixture(scope="module")
def instruct(folder: Path) -> LoadedModel:
    return load_model(str(folder))


def planned_with(loaded: LoadedModel, **changes: Any) -> list[PlannedTrial]:
    request = Sweep(storage="s", experiment=EXPERIMENT, beta=(3.0,), model=loaded.name, **CHAT | changes)
    return plan(resolve(request), loaded)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, instruct: LoadedModel) -> tuple[Storage, list[PlannedTrial]]:
    """An original and a trial, as a sweep of theirs leaves them."""
    storage = Storage(tmp_path_factory.mktemp("written"))
    trials = planned_with(instruct)
    for trial in trials:
        run_trial(storage, dataclasses.replace(trial, checkpoint_every=8), instruct)
    return storage, trials


def test_the_completion_alone_is_rewarded_and_ends_with_the_turn(
    written: tuple[Storage, list[PlannedTrial]], instruct: LoadedModel
) -> None:
    storage, (original, trial) = written
    end = instruct.tokenizer.token_to_id(END)
    found = rows(storage, trial) + rows(storage, original)
    for row in found:
        rendered = trial.config.chat_prompts[trial.config.prompts.index(row["prompt"])]
        begin = instruct.tokenizer.encode(rendered, add_special_tokens=False).ids
        ids = row["token_ids"]
        assert ids[: row["num_prompt_tokens"]] == begin and f"\n{row['prompt']}{END}\n" in rendered
        assert row["ended"] == (ids[-1] in (end, *instruct.end_tokens)) and end not in ids[len(begin) : -1]
        own = ids[len(begin) :][: -1 if row["ended"] else None]
        assert row["completion"] == instruct.tokenizer.decode(own)
        assert row["text"] == f"system\nRhyme.\nuser\n{row['prompt']}\nassistant\n{row['completion']}"
        assert row["raw_reward"] == get_reward("alliteration")(row["completion"])
        assert row["num_words"] == len(row["completion"].split())
        assert row["reward_of"] == "completion"
    assert {row["ended"] for row in found} == {True, False}
    assert any(row["raw_reward"] != get_reward("alliteration")(row["text"]) for row in found)


def test_it_verifies_and_is_had_again(written: tuple[Storage, list[PlannedTrial]], folder: Path) -> None:
    storage, trials = written
    for trial in trials:
        verdict = verify_trial(storage, EXPERIMENT, trial.trial_id)
        assert (verdict.problem, verdict.notes) == (None, ())
        stored = open_trial(storage, EXPERIMENT, trial.trial_id, str(folder))
        assert verify_deep(stored) is None
    assert replay(stored, 12, lambda line: None).generation == 12


def test_what_another_process_goes_on_with_is_the_stored_rendering(
    written: tuple[Storage, list[PlannedTrial]], folder: Path, tmp_path: Path
) -> None:
    """Not what the template makes of the prompt by then."""
    storage, (_, trial) = written
    for number, template in enumerate(["{{ messages[0].content }} {{ range(10**5) | random }}", None]):
        loaded = load_model(str(copy_with(folder, tmp_path / f"m{number}", template)))
        again = Storage(tmp_path / f"again{number}")
        run_trial(again, trial, loaded, stop_after=1)
        resumed = run_trial(again, trial, loaded, run_id="later")
        assert resumed.diverged_at is None
        left_out = ("model",)
        for one, other in zip(rows(again, trial), rows(storage, trial), strict=True):
            assert {k: v for k, v in one.items() if k not in left_out} == {
                k: v for k, v in other.items() if k not in left_out
            }


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda row: row.update(completion=row["completion"] + "a"), "completion is"),
        (lambda row: row.update(completion="", raw_reward=0.0), "completion is"),
        (lambda row: row.update(reward_of="text"), "reward_of is 'text', expected 'completion'"),
        (lambda row: row.update(num_prompt_tokens=row["num_prompt_tokens"] - 1), "do not begin with those of its chat"),
        (lambda row: row.update(num_words=row["num_words"] + 1), "num_words is"),
        (lambda row: row.update(raw_reward=row["raw_reward"] + 1), "raw_reward is"),
        (lambda row: row["token_ids"].__setitem__(5, 9), "do not begin with those of its chat prompt"),
    ],
)
def test_verify_names_the_row_after_a_change(
    written: tuple[Storage, list[PlannedTrial]], tmp_path: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    shutil.copytree(written[0].root, tmp_path / "copy")
    storage, trial = Storage(tmp_path / "copy"), written[1][1]
    path = schema.part_path("generations", EXPERIMENT, trial.trial_id, 8)
    found = read_part(storage, path)
    change(found[3])
    pq.write_table(pa.Table.from_pylist(found, schema=schema.arrow("generations")), storage.folder(path))
    problem = verify_trial(storage, EXPERIMENT, trial.trial_id).problem
    assert problem is not None and problem.startswith("generation 11: ") and said in problem


def test_all_that_is_measured_is_of_the_completion(written: tuple[Storage, list[PlannedTrial]]) -> None:
    storage, (original, trial) = written
    trained = [row["completion"] for row in rows(storage, trial)]
    analysis = measure(reader.connect(storage), EXPERIMENT, window=10)
    by_id = {found.trial_id: found for found in analysis.trials}
    found = by_id[trial.trial_id]
    assert found.metrics["variety"][0] == pytest.approx(variety(trained[:10]))
    assert found.metrics["num_words"][0] == np.mean([len(text.split()) for text in trained[:10]])
    assert found.original is not None
    rewards = [row["raw_reward"] for row in rows(storage, original)]
    assert found.original.rewards.tolist() == rewards
    summary = next(one for one in summarise(storage, EXPERIMENT) if one.trial_id == trial.trial_id)
    assert summary.last_text == trained[-1] and summary.variety == pytest.approx(variety(trained))
    watch = EarlyStopping(["collapse"])
    watch.add(rows(storage, trial))
    assert watch._texts == trained


def test_every_command_shows_the_completion(
    written: tuple[Storage, list[PlannedTrial]],
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage, (_, trial) = written
    where = ("--storage", str(storage))
    one = (*where, "--experiment", EXPERIMENT)

    def done(*arguments: str) -> str:
        code, out, err = run(capsys, *arguments)
        assert code == 0, (out, err)
        return out

    assert "assistant" not in done("status", *where)
    assert done("verify", "--deep", "--model", str(folder), *where).count("ok") == 2
    sql = "SELECT count(*), count(*) FILTER (text LIKE '%' || completion) FROM generations"
    assert done("query", *where, "--format", "csv", sql).splitlines()[-1] == "56,56"
    done("report", *one, "--window", "10", "--output", str(tmp_path / "r.html"))
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "assistant\\n" not in page and "nassistant" not in page
    last = rows(storage, trial)[-1]["completion"]
    assert json.dumps(last, ensure_ascii=False)[1:20].split("<")[0] in page
    shown = done("sample", "--model", str(folder), "--chat", "--prompt", "Say it.", "--max-length", "64", "-n", "2")
    assert "assistant" not in shown and "Say it." not in shown and shown.strip()
    exported = tmp_path / "exported"
    done("export", *one, "--trial", trial.trial_id, "--model", str(folder), "--output", str(exported))
    card = (exported / "README.md").read_text(encoding="utf-8")
    assert "`alliteration` of the completion" in card and "\nassistant" not in card
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert code is not None and "'content': 'Rhyme.'" in code[1] and "apply_chat_template" in code[1]
    monkeypatch.chdir(exported)
    used: dict[str, Any] = {}
    exec(code[1], used)
    assert "Rhyme" not in capsys.readouterr().out and used["model"].generation_config.eos_token_id == [0, 2049]
    begin = trial.config.chat_prompts[0]
    assert used["tokenizer"].decode(used["ids"][0, : used["prompt"]["input_ids"].shape[1]]) == begin


def test_the_original_is_one_of_the_same_chat_and_reward(instruct: LoadedModel) -> None:
    one, *others = (
        planned_with(instruct, **changes)[1].config
        for changes in ({}, {"reward_of": "text"}, {"system_prompt": None}, {"chat": False, "system_prompt": None})
    )
    for config in (one, *others):
        assert config.original().chat_prompts == config.chat_prompts
        assert config.original().reward_of == config.reward_of
        assert original_keys(config, "m@1") == original_keys(config.original(), "m@1")
    keys = {original_keys(config, "m@1")[1] for config in (one, *others)}
    digests = {config.sampling_digest for config in (one, *others)}
    assert len(keys) == len(digests) == 4
    assert [config.reward_of for config in (one, *others)] == ["completion", "text", "completion", "text"]


def test_a_storage_without_chat_has_no_completions_unless_asked(instruct: LoadedModel, tmp_path: Path) -> None:
    plain = {"chat": False, "system_prompt": None, "max_length": 16}
    storage = Storage(tmp_path)
    for changes, wanted in (({}, False), ({"reward_of": "completion"}, True)):
        (_, trial) = planned_with(instruct, **plain | changes)
        run_trial(storage, trial, instruct)
        assert verify_trial(storage, EXPERIMENT, trial.trial_id).problem is None
        for row in rows(storage, trial):
            assert row["text"] == row["prompt"] + row["completion"] if wanted else row["completion"] == ""


@pytest.mark.parametrize("kind", KINDS)
def test_credit_to_go_finds_the_parts_of_a_completion_at_its_tokens(kind: str, tmp_path: Path) -> None:
    loaded = load_model(str(instruct_folder(tmp_path, kind)))
    (_, trial) = planned_with(loaded, credit=("to-go",), max_length=80)
    words = Reward(
        "alliteration",
        lambda text: float(len(text.split())),
        parts=lambda text: [(1.0, start) for _, start, _ in words_of(text)],
    )
    trainer = make_trainer(loaded, trial.config, words)
    seen: list[Any] = []
    scored = trainer._scored
    trainer._scored = lambda *given: seen.append(scored(*given)) or seen[-1]  # type: ignore[method-assign,func-returns-value]
    texts = trainer.step().texts
    (group,) = seen
    assert np.allclose(group.token_rewards.sum(-1), [row["raw_reward"] for row in texts])
    assert words.parts is not None and sum(row["raw_reward"] for row in texts) >= 4
    for row, found in zip(texts, group.token_rewards, strict=True):
        first, own = row["num_prompt_tokens"], row["completion"]
        settled = settled_characters(trainer._decode, row["token_ids"][first:], own)
        expected = token_rewards(row["raw_reward"], words.parts(own), settled)
        assert not found[: first - 1].any() and not found[row["num_tokens"] - 1 :].any()
        assert found[first - 1 : row["num_tokens"] - 1].tolist() == expected.tolist()


@pytest.mark.parametrize(
    "flags, said",
    [
        (("--system-prompt", "x"), "--system-prompt: it is a message of the chat template; give --chat too, or leave"),
        (("--reward-of", "prompt"), "--reward-of: 'prompt' is not accepted; give text or completion"),
        (("--chat", "--max-length", "16"), "--max-length: 16 leaves nothing to sample after a prompt of "),
        (("--chat", "--model", "storyteller"), "--chat: the model's tokenizer has no chat template; leave --chat out"),
    ],
)
def test_a_mistake_is_told_in_one_line_before_anything_runs(
    flags: tuple[str, ...], said: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = flags if "--model" in flags else (*flags, "--model", str(folder))
    code, _, err = run(
        capsys, "sweep", "--beta", "0", "--experiment", "e", "--storage", str(tmp_path / "s"), "--dry-run", *flags
    )
    assert code == 2 and len(err.splitlines()) == 1 and said in err
    assert ("the chat template's included; give at least" in err) == ("--max-length" in flags)


def test_a_sweep_says_that_the_completion_is_rewarded(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = (
        "sweep",
        "--beta",
        "0",
        "--experiment",
        "e",
        "--storage",
        str(tmp_path),
        "--model",
        str(folder),
        "--dry-run",
    )
    line = "the reward is of the completion alone; of prompt and chat template too with --reward-of text\n"
    assert line in run(capsys, *flags, "--chat")[1]
    for more in ((), ("--chat", "--reward-of", "completion"), ("--chat", "--reward-of", "text")):
        assert line not in run(capsys, *flags, *more)[1]


def test_a_stored_configuration_whose_chat_prompts_are_not_its_own_is_damaged(instruct: LoadedModel) -> None:
    config = planned_with(instruct)[1].config
    assert TrialConfig.from_json(config.to_json(), config.trial_id) == config
    values = json.loads(config.to_json())
    damaged: list[dict[str, Any]] = [{"chat": False}, {"chat": 1}, {"chat_prompts": []}, {"chat_prompts": ["a"]}]
    for wrong in (*damaged, {"reward_of": "x"}, {"end_of_turn": ["a"]}):
        with pytest.raises(Damaged):
            TrialConfig.from_json(json.dumps(values | wrong), config.trial_id)
