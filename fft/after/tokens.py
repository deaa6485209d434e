"""Whether two checkpoints read texts as the same tokens, and write the same texts."""

from collections.abc import Mapping

import numpy as np

from fft.core.errors import InputError
from fft.core.naming import counted
from fft.data import Encoded, Rows
from fft.data.settings import Data
from fft.data.tokenize import Tokenizer

SHOWN = 5
"""tokens that a note names"""
OTHER_TEMPLATE = (
    "because their chat templates differ: give one for both with --original.chat-template FILE (of the new task, "
    "--new.chat-template), such as the chat_template.jinja of one of them"
)

Names = tuple[str, str]
"""the names of both checkpoints, for messages"""


def other_tokenizer(purpose: str) -> str:
    """Return why rows are read differently, for `refuse_other_tokens`; `purpose` is a participle, as "merged"."""
    return f"so their tokenizers differ; only checkpoints with the same tokenizer can be {purpose}"


def refuse_other_tokens(source: str | None, names: Names, first: Encoded, second: Encoded, cause: str) -> None:
    """Refuse rows of `source` that two tokenizers read differently; `cause` ends the message.

    Raises: InputError that names the row.
    """
    own, its = _by_number(first), _by_number(second)
    for number in sorted(own.keys() | its.keys()):
        if not _equal(own.get(number, []), its.get(number, [])):
            raise InputError(f"{source}, row {number}: {names[0]} and {names[1]} read it as different tokens, {cause}")


def vocabulary_notes(names: Names, first: Tokenizer, second: Tokenizer) -> list[str]:
    """Refuse two vocabularies that contradict each other, and return a note for each that has tokens of its own.

    Raises: InputError that names an id with two tokens, or a token with two ids.
    """
    own, its = first.vocabulary, second.vocabulary
    tokens = {number: token for token, number in its.items()}
    for token, number in sorted(own.items(), key=lambda item: item[1]):
        if tokens.get(number, token) == token and its.get(token, number) == number:
            continue
        other = f"{tokens[number]!r}" if number in tokens else f"it is token {its[token]}"
        raise InputError(
            f"only checkpoints of one tokenizer can be compared: token {number} is {token!r} in {names[0]}, and in "
            f"{names[1]} {other}. Put the tokenizer files back that belong to the weights, or name the base that "
            f"{names[1]} was tuned from"
        )
    return [*_added(names[0], own, names[1], its), *_added(names[1], its, names[0], own)]


def read_by_template(data: Data, rows: Rows) -> bool:
    """Whether the rows are conversations that each checkpoint's own chat template writes."""
    return bool(rows.chat) and data.chat_template is None


def _added(name: str, own: Mapping[str, int], other: str, its: Mapping[str, int]) -> list[str]:
    """Return a note on the tokens that only the vocabulary `own` has; [] without one."""
    added = sorted(own.keys() - its.keys(), key=lambda token: own[token])
    if not added:
        return []
    listed = ", ".join(map(repr, added[:SHOWN])) + (", …" if len(added) > SHOWN else "")
    return [f"the tokenizer of {name} has {counted(len(added), 'token')} that {other} lacks, {listed}"]


def _by_number(rows: Encoded) -> dict[int, list[tuple[np.ndarray, ...]]]:
    """Return the parts of every example by its number in the source: ids, types and, if there are any, targets."""
    result: dict[int, list[tuple[np.ndarray, ...]]] = {}
    examples = np.arange(len(rows.ids)) if rows.example is None else rows.example
    targets = rows.targets or [np.zeros(0)] * len(rows.ids)
    for example, *part in zip(examples, rows.ids, rows.types, targets, strict=True):
        result.setdefault(int(rows.numbers[example]), []).append(tuple(part))
    return result


def _equal(first: list[tuple[np.ndarray, ...]], second: list[tuple[np.ndarray, ...]]) -> bool:
    """Whether two examples have equal parts."""
    return len(first) == len(second) and all(
        np.array_equal(one, other)
        for ours, theirs in zip(first, second, strict=True)
        for one, other in zip(ours, theirs, strict=True)
    )
