"""Chat templates: what they make of a prompt, how they end a turn, and what is told of those that fail."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from instruct import CHATML, END, KINDS, START, SYSTEM, copy_with, instruct_folder

from rl_alliteration.errors import UserError
from rl_alliteration.flags import Chat
from rl_alliteration.lm.chat import chat_prompts, encode_chat, end_of_turn, render_chat
from rl_alliteration.lm.loading import LoadedModel, load_model
from rl_alliteration.rl.trainer import decode_text

PROMPT = "Tell me a story."


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: instruct_folder(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


@pytest.fixture(scope="module")
def instruct(folders: dict[str, Path]) -> dict[str, LoadedModel]:
    return {kind: load_model(str(folder)) for kind, folder in folders.items()}


def with_template(instruct: dict[str, LoadedModel], template: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    tokenizer = instruct["bytes"].pretrained_tokenizer
    monkeypatch.setattr(tokenizer, "chat_template", template)
    return tokenizer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("system", [None, "", "Rhyme."])
def test_the_tokens_of_a_chat_prompt_are_those_of_transformers(
    kind: str, system: str | None, instruct: dict[str, LoadedModel]
) -> None:
    loaded = instruct[kind]
    rendered = chat_prompts(loaded, (PROMPT, "Say it."), Chat(chat=True, system_prompt=system))
    found = loaded.prompt_ids((PROMPT, "Say it."), rendered)
    for prompt, ids in found.items():
        chat = [] if system is None else [{"role": "system", "content": system}]
        chat.append({"role": "user", "content": prompt})
        expected = loaded.pretrained_tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        assert ids == expected
    said = SYSTEM if system is None else system
    assert rendered[0] == f"{START}system\n{said}{END}\n{START}user\n{PROMPT}{END}\n{START}assistant\n"


def test_without_chat_a_prompt_is_encoded_as_ever(instruct: dict[str, LoadedModel]) -> None:
    loaded = instruct["sentencepiece"]
    assert chat_prompts(loaded, (PROMPT,), Chat()) == ()
    assert loaded.prompt_ids((PROMPT,), ()) == {PROMPT: loaded.encode(PROMPT)}
    assert loaded.encode(PROMPT)[0] == loaded.tokenizer.token_to_id("<s>")  # a chat template brings its own


@pytest.mark.parametrize("kind", KINDS)
def test_the_end_of_a_turn_is_found_where_the_models_files_do_not_name_it(
    kind: str, instruct: dict[str, LoadedModel]
) -> None:
    loaded = instruct[kind]
    (end,) = end_of_turn(loaded.pretrained_tokenizer)
    assert end == loaded.tokenizer.token_to_id(END) and end not in loaded.end_tokens


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",  # ends turns by no token
        "{% for m in messages %}{{ raise_exception('no') if m.role == 'assistant' else m.content }}{% endfor %}",
        "{{ messages[0].content }}<|im_end|>",  # leaves answers out
        "{% for m in messages %}{{ m.content }}",
    ],
)
def test_a_template_may_end_turns_by_no_token(
    template: str, instruct: dict[str, LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert end_of_turn(with_template(instruct, template, monkeypatch)) == ()


REFUSES_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role\nnot supported') }}{% endif %}"
    "{{ m.content }}{% endfor %}"
)


@pytest.mark.parametrize(
    "template, system, said",
    [
        (None, None, "--chat: the model's tokenizer has no chat template; leave --chat out"),
        (None, "Rhyme.", "--chat: the model's tokenizer has no chat template; leave --chat out"),
        ("{% for m in messages %}{{ m.content }}", None, "--chat: the model's chat template failed on 'Tell me a st"),
        ("{{ messages[0]['content'] + 1 }}", None, "--chat: the model's chat template failed on 'Tell me a story.' ("),
        ("{{ messages[9].content.x.y }}", None, "--chat: the model's chat template failed on"),
        ("{{ raise_exception('\x1b[31m') }}", None, "--chat: the model's chat template failed on"),
        ({"tool_use": CHATML}, None, "--chat: the model's chat template failed on"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", None, "--chat: the model's chat template failed on"),
        (
            REFUSES_SYSTEM,
            "Rhyme.",
            "--system-prompt: the model's chat template takes none (TemplateError: System role ",
        ),
        ("{{ messages[-1].content }}", "Rhyme.", "--system-prompt: the model's chat template leaves it out; put it"),
        (
            "Hello!",
            None,
            "--chat: the model's chat template leaves out or changes 'Tell me a story.'; leave --chat out",
        ),
        (
            "{{ messages[0].content }}{{ range(10**5) | random }}",
            None,
            "--chat: the model's chat template gives another",
        ),
        ("{{ messages[-1].content | upper }}", None, "--chat: the model's chat template leaves out or changes"),
        ("", None, "--chat: the model's chat template leaves out or changes"),
    ],
)
def test_a_template_that_cannot_be_used_is_told_in_one_line(
    template: Any, system: str | None, said: str, instruct: dict[str, LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = with_template(instruct, template, monkeypatch)
    with pytest.raises(UserError) as error:
        render_chat(tokenizer, PROMPT, system)
    assert str(error.value).startswith(said) and "\n" not in str(error.value) and len(str(error.value)) < 500


def test_a_chat_prompt_that_has_no_token_or_cannot_be_encoded(instruct: dict[str, LoadedModel]) -> None:
    with pytest.raises(UserError, match=r"^--chat: what the chat template makes, '', "):
        encode_chat(instruct["bytes"].tokenizer, "")
    with pytest.raises(UserError, match=r"^--prompt: 'a\\ud800' cannot be encoded"):
        encode_chat(instruct["bytes"].tokenizer, "a\ud800")


def test_a_template_that_puts_in_the_date_gives_the_same_on_every_day(
    instruct: dict[str, LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    dated = (  # as Llama's: asks whether there is a clock, within a loop and a macro
        "{% if strftime_now is defined %}{% set today = strftime_now('%d %b %Y') %}{% else %}{% set today = '?' %}"
        "{% endif %}{% macro year() %}{{ strftime_now('%Y') }}{% endmacro %}"
        "{% for m in messages %}{{ today }} {{ strftime_now('%A, %B %d, %Y %H:%M') }} {{ year() }} {{ m.content }}"
        "{% endfor %}"
    )
    tokenizer = with_template(instruct, dated, monkeypatch)
    day = datetime.date(2024, 7, 26)
    said = f"{day:%d %b %Y} {day:%A, %B %d, %Y} 00:00 2024 {PROMPT}"
    assert render_chat(tokenizer, PROMPT, None) == said


def test_the_template_is_read_with_the_weights_alone_too(folders: dict[str, Path], tmp_path: Path) -> None:
    loaded = load_model(str(folders["bytes"]), checked=True)
    assert render_chat(loaded.pretrained_tokenizer, PROMPT, None).endswith("assistant\n")
    without = load_model(str(copy_with(folders["bytes"], tmp_path / "m", None)))
    assert without.tokenizer_fingerprint == loaded.tokenizer_fingerprint  # ids of trials without --chat stay
    with pytest.raises(UserError, match="has no chat template"):
        render_chat(without.pretrained_tokenizer, PROMPT, None)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_a_completion_is_the_texts_end(kind: str, data: st.DataObject, instruct: dict[str, LoadedModel]) -> None:
    """Whatever was sampled: parts of characters, special tokens, spaces."""
    loaded = instruct[kind]
    prompt = data.draw(st.sampled_from([PROMPT, "é", "Say it, then  ", "\n", "☃"]))
    chat = Chat(chat=data.draw(st.booleans()))
    (ids,) = loaded.prompt_ids((prompt,), chat_prompts(loaded, (prompt,), chat)).values()
    bytes_first = st.integers(0, 300)  # where the tokens of single bytes are
    sampled = data.draw(st.lists(st.one_of(bytes_first, st.integers(0, loaded.tokenizer.get_vocab_size() - 1))))
    text, completion = (decode_text(loaded.tokenizer, found, frozenset()) for found in (ids + sampled, sampled))
    before = text.removesuffix(completion)
    assert before + completion == text
    if kind == "bytes":
        assert before == decode_text(loaded.tokenizer, ids, frozenset())


def test_a_completion_has_no_space_that_its_tokenizer_takes_away_from_a_text(instruct: dict[str, LoadedModel]) -> None:
    """Of sentencepiece's kind; so what is cut off a text is not always what its last tokens say by themselves."""
    for kind, sampled, expected in (("bytes", " the tree", " the tree"), ("sentencepiece", "the tree", "the tree")):
        loaded = instruct[kind]
        ids = loaded.tokenizer.encode(sampled, add_special_tokens=False).ids
        assert decode_text(loaded.tokenizer, ids, frozenset()) == expected
        assert decode_text(loaded.tokenizer, loaded.encode("Say it.") + ids, frozenset()) == "Say it. the tree"
