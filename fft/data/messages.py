"""Conversations as people have them, in one form: OpenAI's messages, ShareGPT's conversations, Alpaca's instructions.

A conversation is {"messages": [{"role", "content", …}], "tools": […]}, the second only where the data have it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fft.core.errors import InputError
from fft.disk.files import parsed

MESSAGES, SHAREGPT, TOOLS = "messages", "conversations", "tools"
INSTRUCTION, INPUT, OUTPUT = "instruction", "input", "output"
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "tool": "tool",
    "observation": "tool",
}
"""the spellings of `from` in ShareGPT's files, and the role of each"""

OPTIONAL = {MESSAGES: TOOLS, SHAREGPT: TOOLS, INSTRUCTION: INPUT}
"""a column of conversations: the one beside it that some of the rows, or none, may have"""

Conversation = dict[str, Any]
Message = dict[str, Any]


def chat_columns(existing: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that hold a conversation among the `existing` ones, without optional ones; () for none."""
    for name in (MESSAGES, SHAREGPT):
        if name in existing:
            return (name,)
    return (INSTRUCTION, OUTPUT) if {INSTRUCTION, OUTPUT} <= set(existing) else ()


def as_text(values: Mapping[str, Any], where: str) -> str:
    """Return the conversation in a row's columns as its JSON text, equal for equal conversations.

    Raises: InputError that begins with `where` for a row that is no conversation.
    """
    return json.dumps(_conversation(values, where), ensure_ascii=False, sort_keys=True)


def from_text(text: str) -> Conversation:
    """Return the conversation of a JSON text of `as_text`."""
    return json.loads(text)


def _conversation(values: Mapping[str, Any], where: str) -> Conversation:
    if INSTRUCTION in values:
        return {MESSAGES: _of_instruction(values, where)}
    name, of = (MESSAGES, _message) if MESSAGES in values else (SHAREGPT, _of_sharegpt)
    messages = _listed(values[name], f"{where}, column {name!r}", of)
    tools = values.get(TOOLS)
    tools = _parsed(tools, f"{where}, column {TOOLS!r}") if isinstance(tools, str) else tools
    if not tools:
        return {MESSAGES: messages}
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise InputError(f"{where}, column {TOOLS!r}: expected a list of descriptions of functions, got {tools!r:.80}")
    _refuse_half(tools, f"{where}, column {TOOLS!r}")
    return {MESSAGES: messages, TOOLS: tools}


def _listed(value: Any, where: str, of: Callable[[Mapping[str, Any], str], Message]) -> list[Message]:
    value = _parsed(value, where) if isinstance(value, str) else value
    if not isinstance(value, list) or not value or not all(isinstance(each, Mapping) for each in value):
        raise InputError(
            f'{where}: expected a list of messages such as [{{"role": "user", "content": "Hello"}}, …], '
            f"got {type(value).__name__} {value!r:.80}"
        )
    return [of(message, f"{where}, message {number}") for number, message in enumerate(value, 1)]


def _message(message: Mapping[str, Any], where: str) -> Message:
    """Return an OpenAI message with its content as text, and the arguments of tool calls as objects."""
    role = message.get("role")
    if role not in ROLES:
        raise InputError(f"{where}: the role is {role!r:.80}: give one of {', '.join(ROLES)}")
    if message.get("weight") not in (None, 0, 1):
        raise InputError(
            f"{where}: the weight is {message['weight']!r:.80}: give 0 for an answer that is not learned, 1 for one "
            "that is"
        )
    extra = {name: value for name, value in message.items() if value is not None and name not in ("role", "content")}
    _refuse_half(extra, where)
    if "tool_calls" in extra:
        extra["tool_calls"] = _calls(extra["tool_calls"], where)
    content = _content(message.get("content"), where)
    if not content.strip() and not extra.get("tool_calls"):
        raise InputError(f"{where}: the content of the {role}'s message is empty: remove the message or fill it in")
    return {"role": role, "content": content, **extra}


def _content(content: Any, where: str) -> str:
    """Return a content that is null, a text, or a list of text parts, as a text."""
    if content is None:
        return ""
    if isinstance(content, str):
        return _encodable(content, where)
    parts = content if isinstance(content, list) else [content]
    texts = [part["text"] for part in parts if _is_text(part)]
    if len(texts) < len(parts):
        raise InputError(f"{where}: the content is neither a text nor a list of parts of type text: {content!r:.80}")
    return _encodable("".join(texts), where)


def _is_text(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _encodable(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where}: half a character (U+{ord(text[error.start]):04X}) behind {text[: error.start][-20:]!r}: remove "
            "it, or save the text again"
        ) from None
    return text


def _refuse_half(value: Any, where: str) -> None:
    """Refuse half characters in what a template may write. Raises: InputError."""
    try:
        _encodable(json.dumps(value, ensure_ascii=False), where)
    except RecursionError:
        raise InputError(f"{where}: it is nested too deep to be read: remove some levels") from None


def _calls(calls: Any, where: str) -> list[Message]:
    if not isinstance(calls, list) or not all(isinstance(call, Mapping) for call in calls):
        raise InputError(f"{where}: tool_calls must be a list of objects, got {calls!r:.80}")
    return [_call(call, f"{where}, tool call {number}") for number, call in enumerate(calls, 1)]


def _call(call: Mapping[str, Any], where: str) -> Message:
    function = call.get("function", call)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InputError(f"{where}: expected a function with a name, got {function!r:.80}")
    arguments = function.get("arguments", {})
    arguments = _parsed(arguments or "{}", f"{where}, arguments") if isinstance(arguments, str) else arguments
    if not isinstance(arguments, Mapping | None):
        raise InputError(f"{where}, arguments: expected an object, or one as a text, got {arguments!r:.80}")
    return {**call, "type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _of_sharegpt(message: Mapping[str, Any], where: str) -> Message:
    sender = message.get("from")
    if not isinstance(sender, str) or sender not in SHAREGPT_ROLES:
        raise InputError(f"{where}: `from` is {sender!r:.80}: give one of {', '.join(SHAREGPT_ROLES)}")
    renamed = {"role": SHAREGPT_ROLES[sender], "content": message.get("value"), "weight": message.get("weight")}
    return _message(renamed, where)


def _of_instruction(values: Mapping[str, Any], where: str) -> list[Message]:
    """Return an instruction with its input as the user's message, and the output as the answer."""
    texts = {name: _content(values.get(name), f"{where}, column {name!r}") for name in (INSTRUCTION, INPUT, OUTPUT)}
    asked = "\n\n".join(text for text in (texts[INSTRUCTION], texts[INPUT]) if text.strip())
    return [
        _message({"role": "user", "content": asked}, f"{where}, column {INSTRUCTION!r}"),
        _message({"role": "assistant", "content": texts[OUTPUT]}, f"{where}, column {OUTPUT!r}"),
    ]


def _parsed(text: str, where: str) -> Any:
    try:
        return parsed(text)
    except ValueError as error:
        raise InputError(f"{where}: not JSON: {error}") from None
