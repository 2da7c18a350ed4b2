"""Chat templates of instruct models: what one makes of a prompt, and the token by which it ends a turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from rl_alliteration.errors import UserError
from rl_alliteration.flags import Chat

if TYPE_CHECKING:
    from rl_alliteration.lm.loading import LoadedModel

# Templates may put in today's date: the same command on another day would then be another trial. They get the day that
# Llama's template names where it knows no clock, by a macro of the name that transformers gives them the clock under.
_DATE = {
    "%A": "Friday", "%a": "Fri", "%B": "July", "%b": "Jul", "%d": "26", "%H": "00", "%I": "12", "%j": "208",
    "%M": "00", "%m": "07", "%p": "AM", "%S": "00", "%Y": "2024", "%y": "24",
}  # fmt: skip
_CLOCK = "strftime_now"
_STOPPED_CLOCK = (
    f"{{%- macro {_CLOCK}(format) -%}}{{{{ format"
    + "".join(f" | replace('{code}', '{value}')" for code, value in _DATE.items())
    + " }}{%- endmacro -%}\n"
)


def chat_prompts(loaded: LoadedModel, prompts: Sequence[str], chat: Chat) -> tuple[str, ...]:
    """What the chat template makes of each prompt; nothing without --chat.

    Raises:
        UserError: there is no template, it fails, or it leaves out what it is given.
    """
    if not chat.chat:
        return ()  # without the tokenizer, which may bring transformers
    return tuple(render_chat(loaded.pretrained_tokenizer, prompt, chat.system_prompt) for prompt in prompts)


def render_chat(tokenizer: Any, prompt: str, system_prompt: str | None) -> str:
    """What the template makes of a prompt, to the place where the answer begins; with the date of 26 July 2024.

    Args:
        tokenizer: as transformers has it.
        prompt: the user's message.
        system_prompt: the system message; None: what the template does without one.

    Raises:
        UserError: there is no template, it fails, it leaves out one of the two, or chance has a part in it.
    """
    if tokenizer.chat_template is None:
        raise UserError("--chat: the model's tokenizer has no chat template; leave --chat out")
    user = {"role": "user", "content": prompt}
    try:
        text, again = (_rendered(tokenizer, [user]) for _ in range(2))
    except Exception as error:  # a template raises what it likes
        raise UserError(
            f"--chat: the model's chat template failed on {_short(prompt)} ({_reason(error)}); give another --prompt, "
            "or leave --chat out"
        ) from error
    if text != again:
        raise UserError("--chat: the model's chat template gives another text each time; leave --chat out")
    if system_prompt is not None:
        try:
            text = _rendered(tokenizer, [{"role": "system", "content": system_prompt}, user])
        except Exception as error:
            raise UserError(
                f"--system-prompt: the model's chat template takes none ({_reason(error)}); put it into the prompt"
            ) from error
        if system_prompt.strip() not in text:
            raise UserError("--system-prompt: the model's chat template leaves it out; put it into the prompt")
    if prompt.strip() not in text:
        raise UserError(f"--chat: the model's chat template leaves out or changes {_short(prompt)}; leave --chat out")
    return text


def encode_chat(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of what `render_chat` gave: it has its own special tokens, none are added.

    Raises:
        UserError: it encodes to nothing, or cannot be encoded.
    """
    try:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    except Exception as error:  # no UTF-8, or the tokenizer has no token for what it does not know
        raise UserError(
            f"--prompt: {_short(text)} cannot be encoded ({_reason(error)}); give a text of UTF-8"
        ) from error
    if not ids:
        raise UserError(f"--chat: what the chat template makes, {_short(text)}, encodes to no token; leave --chat out")
    return ids


def end_of_turn(tokenizer: Any) -> tuple[int, ...]:
    """The token by which the template ends an answer, such as <|im_end|>; none if it does so by none.

    Found by rendering one: models name it among their end tokens, or do not.
    """
    answer = "xyzzy"
    chat = [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": answer}]
    try:
        _, found, after = _rendered(tokenizer, chat, answer_follows=False).rpartition(answer)
        ids = tokenizer.backend_tokenizer.encode(after, add_special_tokens=False).ids if found else []
    except Exception:  # it knows questions alone
        return ()
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder()
    return tuple(token for token in ids if token in added and added[token].content.strip())[:1]


def _rendered(tokenizer: Any, chat: list[dict[str, str]], *, answer_follows: bool = True) -> str:
    template: str = tokenizer.get_chat_template()
    if _CLOCK in template:
        template = _STOPPED_CLOCK + template
    text: str = tokenizer.apply_chat_template(
        chat, chat_template=template, tokenize=False, add_generation_prompt=answer_follows
    )
    return text


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:79] + "…")
