"""Prompts of text generation: read from a file, put into a chat template, encoded."""

from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from fft.core.errors import InputError, MachineError
from fft.data.backend import json_object
from fft.data.content import check_content, decoded
from fft.data.folders import no_file
from fft.data.jsonlines import record
from fft.data.tokenize import Tokenizer
from fft.disk.local import expanded

ENDINGS = (".jsonl", ".ndjson")
TEXT, CHAT = "prompt", "messages"
"""the columns of a row, of which it has one: a text, or a conversation"""

Messages = Sequence[Mapping[str, str]]
"""a conversation: objects with `role` and `content`"""


class Prompt(NamedTuple):
    """A prompt, and where it is from, for messages."""

    content: str | Messages
    """a text that is continued, or a conversation that is answered"""
    where: str


def read_prompts(path: Path) -> list[Prompt]:
    """Read a file with one JSON object a line, each with a `prompt` (a text) or `messages` (a conversation).

    Raises: InputError naming the row, MachineError if the file cannot be read.
    """
    if path.suffix.lower() not in ENDINGS and path.is_file():
        raise InputError(f"{path}: prompts are read from JSON lines: convert it, and name it .jsonl")
    try:
        if not path.is_file():
            raise InputError(no_file(path, ENDINGS))
        check_content(path, path.suffix.lower())
        lines = [line for line in decoded(path).split("\n") if line.strip()]
    except OSError as error:
        raise MachineError(f"{path}: cannot be read: {error.strerror or error}") from error
    return [_of_row(f"{path}, row {number}", line) for number, line in enumerate(lines, 1)]


def _of_row(where: str, line: str) -> Prompt:
    row = record(where, line)
    columns = [name for name in (TEXT, CHAT) if name in row]
    if len(columns) != 1:
        has = ", ".join(map(repr, row)) or "nothing"
        raise InputError(f"{where}: a row has either {TEXT!r}, a text, or {CHAT!r}, a conversation; this one has {has}")
    return checked(row[columns[0]], where)


def checked(content: Any, where: str) -> Prompt:
    """Return the prompt with this content. Raises: InputError if it is neither a text nor a conversation to answer."""
    if isinstance(content, str):
        try:
            content.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{where}: half a character at {error.start}: remove it, or save the text again") from None
        return Prompt(content, where)
    is_chat = isinstance(content, Sequence) and len(content) and all(isinstance(each, Mapping) for each in content)
    if not is_chat:
        raise InputError(
            f"{where}: expected a text, or a list of messages such as "
            f'[{{"role": "user", "content": "Hello"}}], got {type(content).__name__} {content!r}'
        )
    for number, message in enumerate(content, 1):
        if not all(isinstance(message.get(name), str) for name in ("role", "content")):
            raise InputError(f"{where}: message {number} needs a `role` and a `content`, both texts")
    if content[-1]["role"] == "assistant":
        raise InputError(f"{where}: the conversation ends with the assistant's answer: remove that message")
    return Prompt(content, where)


def in_chat(prompt: Prompt) -> Prompt:
    """Return a text as a conversation, which it begins as the user's message; a conversation as it is."""
    if isinstance(prompt.content, str):
        return Prompt([{"role": "user", "content": prompt.content}], prompt.where)
    return prompt


def encode_prompt(tokenizer: Tokenizer, prompt: Prompt, bos: int | None) -> np.ndarray:
    """Return the ids int32 [T] of a prompt; a text has the special tokens of the tokenizer, an empty one is `bos`.

    A conversation is rendered by the chat template, which writes its special tokens itself.
    Raises: InputError as `rendered`, and for an empty prompt without a `bos`.
    """
    content, is_text = prompt.content, isinstance(prompt.content, str)
    text = content if isinstance(content, str) else rendered(tokenizer, content, prompt.where)
    try:
        ids = tokenizer.backend.encode(text, add_special_tokens=is_text).ids
    except Exception as error:  # tokenizers raises bare Exception, as for a vocabulary without the unknown token
        raise InputError(f"{tokenizer.folder}: its tokenizer cannot read {prompt.where}: {error}") from None
    if not ids and bos is None:
        raise InputError(
            f"{prompt.where} has no tokens, and {tokenizer.folder} names no bos_token_id, with which a text could "
            "begin: give a prompt with some text"
        )
    return np.array(ids or [bos], np.int32)


def read_template(path: str | None) -> str | None:
    """Return the chat template in a file, None for no file.

    Raises: InputError for a file that is not there, empty or not UTF-8, MachineError for one that cannot be read.
    """
    if path is None:
        return None
    file = Path(expanded(path, "--chat-template"))
    try:
        if not file.is_file():
            raise InputError(f"{file}: there is no such file: --chat-template names a Jinja template, often *.jinja")
        return decoded(file)
    except OSError as error:
        raise MachineError(f"{file}: cannot be read: {error.strerror or error}") from error


def templated(tokenizer: Tokenizer, path: str | None) -> Tokenizer:
    """Return the tokenizer with the chat template in a file, if one is named. Raises: as `read_template`."""
    template = read_template(path)
    if template is None:
        return tokenizer
    source = copy(tokenizer.source)
    source.chat_template = template
    return tokenizer._replace(source=source, template=path)


def named_ids(folder: Path, config: Mapping[str, Any], vocab_size: int, field: str) -> tuple[int, ...]:
    """Return the ids in a field of the folder's generation_config.json, else of `config`: one, a list, or none.

    Raises: InputError for another value, and for ids that the model does not have.
    """
    path = folder / "generation_config.json"
    value = json_object(path).get(field)
    if value is None:
        path, value = folder / "config.json", config.get(field)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(each) is int and 0 <= each < vocab_size for each in ids):
        raise InputError(
            f"{path}: {field} is {value!r}; expected ids of the vocabulary, 0 to {vocab_size - 1}: correct it"
        )
    return tuple(ids)


def rendered(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    where: str,
    *,
    answer: bool = True,
    tools: list[dict[str, Any]] | None = None,
) -> str:
    """Return a conversation as the chat template of the tokenizer writes it, with `answer` up to the beginning of one.

    `tools` describe functions that the assistant may call. transformers runs the template in a sandbox, where it can
    call nothing that is unsafe.
    Raises: InputError for a tokenizer without a template, and for a template that fails or refuses the messages.
    """
    if not tokenizer.source.chat_template:
        raise InputError(
            f"{tokenizer.folder}: its tokenizer has no chat template, so {where} cannot be put into one: give a text "
            "that the model can continue, with --prompt, a model that was trained to answer, or, for data, a template: "
            "--new.chat-template FILE (--original.…, --task.…)"
        )
    try:
        chat: Any = [dict(message) for message in messages]
        text = tokenizer.source.apply_chat_template(
            chat, tools=cast("Any", tools), tokenize=False, add_generation_prompt=answer
        )
        return cast("str", text)
    except Exception as error:  # a template is a program: it can raise anything
        reason = " ".join(str(error).split())
        raise InputError(
            f"{where}: the chat template of {tokenizer.template or tokenizer.folder} fails ({type(error).__name__}: "
            f"{reason}): change the messages, or correct the template"
        ) from None
