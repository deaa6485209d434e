"""Conversations as tokens: which of them are the assistant's, proven by rendering.

Few chat templates mark the assistant's turns. They are found by rendering the conversation up to each turn: what the
template writes between the prompt of a turn, the text that generation would see, and the end of the turn is the
assistant's. Where a template has generation marks, both must agree.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fft.core.errors import InputError
from fft.data.messages import MESSAGES, TOOLS, Conversation, Message
from fft.data.prompts import rendered
from fft.data.sequences import Tokens
from fft.data.tokenize import Tokenizer

MARK = re.compile(r"{%-?\s*generation\s*-?%}")


class Turn(NamedTuple):
    """A turn of the assistant: the text before it, as generation would see it, and the text up to its end."""

    prompt: str
    answered: str
    learned: bool = True
    """whether its tokens are supervised; not of a message with the weight 0"""


class ChatTokens(NamedTuple):
    """A conversation as one sequence, or one for each turn of the assistant where its text is not that of all turns."""

    sequences: list[Tokens]
    across: int
    """the number of turns whose first token would be joined with the prompt's last one"""


def chat_tokens(tokenizer: Tokenizer, conversation: Conversation, where: str, everything: bool = False) -> ChatTokens:
    """Return a conversation as tokens of which those of the assistant's turns are supervised, or all of them.

    The supervised tokens of a turn end with the token that ends it; blanks behind that are not supervised, nor are
    turns with the weight 0.
    Raises: InputError that begins with `where` for a conversation without a turn to learn, for a template that fails or
    leaves a turn out, and for one whose generation marks differ.
    """
    every = _turns(tokenizer, conversation, where)
    turns = _learned(every, where)
    complete = _rendered(tokenizer, conversation, where)
    _refuse_unsaid(complete, conversation[MESSAGES], where)
    joined = _joined(tokenizer, complete, every)
    _check_marks(tokenizer, conversation, joined, where)
    if len(turns) < len(every):
        joined = _joined(tokenizer, complete, turns)
    across, sequences = 0, [joined] if joined is not None else []
    if joined is None:
        apart = [_joined(tokenizer, turn.answered, [turn]) for turn in turns]
        across = sum(sequence is None for sequence in apart)
        sequences = [sequence or _separate(tokenizer, turn) for sequence, turn in zip(apart, turns, strict=True)]
    if everything:
        sequences = [Tokens(tokens.ids, np.arange(len(tokens.ids)) > 0) for tokens in sequences]
    return ChatTokens(sequences, across)


def _turns(tokenizer: Tokenizer, conversation: Conversation, where: str) -> list[Turn]:
    """Return the turns of the assistant that have something before them."""
    messages, turns = conversation[MESSAGES], []
    for at, message in enumerate(messages):
        if message["role"] != "assistant" or not at:
            continue
        prompt = _rendered(tokenizer, {**conversation, MESSAGES: messages[:at]}, where, answer=True)
        answered = _rendered(tokenizer, {**conversation, MESSAGES: messages[: at + 1]}, where)
        if not answered.startswith(prompt) or answered == prompt:
            raise InputError(
                f"{where}: the chat template writes message {at + 1}, the assistant's, not behind the text with which "
                "generation begins, so that the tokens to learn cannot be told: correct the template"
            )
        turns.append(Turn(prompt, answered, message.get("weight") != 0))
    return turns


def _learned(turns: Sequence[Turn], where: str) -> list[Turn]:
    """Return the turns to learn. Raises: InputError if there are none."""
    learned = [turn for turn in turns if turn.learned]
    if not learned:
        why = "whose weight is not 0" if turns else "behind another one"
        raise InputError(
            f"{where}: the conversation has no message of the assistant {why}, so there is nothing to learn: add the "
            "answer, or remove the row"
        )
    return learned


def _joined(tokenizer: Tokenizer, text: str, turns: Sequence[Turn]) -> Tokens | None:
    """Return a text with all turns as one sequence; None if a turn's text is not that of the whole text, or its prompt
    is not the same tokens there as by itself.
    """
    encoding = tokenizer.backend.encode(text, add_special_tokens=False)
    ids, starts = np.array(encoding.ids, np.int32), np.array([start for start, _ in encoding.offsets])
    supervised = np.zeros(len(ids), bool)
    for turn in turns:
        prompt = tokenizer.backend.encode(turn.prompt, add_special_tokens=False).ids
        if not text.startswith(turn.answered) or prompt != ids[: len(prompt)].tolist():
            return None
        supervised[len(prompt) : int(np.searchsorted(starts, _end(tokenizer, turn)))] = True
    return Tokens(ids, supervised)


def _separate(tokenizer: Tokenizer, turn: Turn) -> Tokens:
    """Return a turn with the tokens of the prompt by itself, followed by those of the answer by itself."""
    answer = turn.answered[len(turn.prompt) : _end(tokenizer, turn)]
    first, second = (tokenizer.backend.encode(text, add_special_tokens=False).ids for text in (turn.prompt, answer))
    return Tokens(np.array([*first, *second], np.int32), np.arange(len(first) + len(second)) >= len(first))


def _end(tokenizer: Tokenizer, turn: Turn) -> int:
    """Return where a turn ends in its text: behind the token that ends it, without blanks that follow it."""
    answer = turn.answered[len(turn.prompt) :]
    stripped = answer.rstrip()
    added = tokenizer.backend.get_added_tokens_decoder().values()
    ends_in_token = any(stripped.endswith(token.content) for token in added if token.special)
    return len(turn.prompt) + len(stripped if ends_in_token else answer)


def _rendered(tokenizer: Tokenizer, conversation: Conversation, where: str, answer: bool = False) -> str:
    return rendered(tokenizer, conversation[MESSAGES], where, answer=answer, tools=conversation.get(TOOLS))


def _refuse_unsaid(text: str, messages: Sequence[Message], where: str) -> None:
    """Refuse tool calls that the template leaves out. Raises: InputError."""
    calls = [call["function"]["name"] for message in messages for call in message.get("tool_calls", ())]
    if unsaid := [name for name in calls if name not in text]:
        raise InputError(
            f"{where}: the chat template does not write the call of the tool {unsaid[0]!r}: give a template that knows "
            "tool calls, or write the call into the content"
        )


def _check_marks(tokenizer: Tokenizer, conversation: Conversation, tokens: Tokens | None, where: str) -> None:
    """Check the supervised tokens against the template's generation marks, if it has any; blanks may differ.

    Raises: InputError with the first text in which they differ.
    """
    if tokens is None or not MARK.search(str(tokenizer.source.chat_template)):
        return
    marked: Any = tokenizer.source.apply_chat_template(
        conversation[MESSAGES],
        tools=conversation.get(TOOLS),
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    marks = np.array(marked["assistant_masks"], bool)
    different = np.flatnonzero(marks != tokens.supervised) if len(marks) == len(tokens.ids) else np.arange(1)
    for at in different:
        text = tokenizer.backend.decode([int(tokens.ids[at])], skip_special_tokens=False)
        if text.strip() or len(marks) != len(tokens.ids):
            side = "inside" if at < len(marks) and marks[at] else "outside"
            raise InputError(
                f"{where}: token {at + 1}, {text!r}, is {side} the generation marks of the chat template, but "
                "rendering the conversation turn by turn says otherwise: correct the marks in the template, or remove "
                "them"
            )
