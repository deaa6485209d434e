"""Sequences of tokens with the places that are learned and scored, as rows of a language task."""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from fft.core.batch import NO_TARGET
from fft.data.encoded import Encoded


class Tokens(NamedTuple):
    """A text as tokens: ids int32 [n], and which of them are supervised, that is learned and scored, bool [n].

    The first token has nothing before it that could predict it, and is never supervised.
    """

    ids: np.ndarray
    supervised: np.ndarray

    @property
    def targets(self) -> int:
        """The number of supervised tokens."""
        return int(self.supervised[1:].sum())

    def cut(self, length: int, side: str) -> "Tokens":
        """Return the tokens of a row of at most `length` inputs, the rest cut off at the "end" or the "start".

        The last token is only a target, so that length + 1 tokens remain. Those behind the last supervised one are left
        out first, as they predict nothing.
        """
        last = int(np.flatnonzero(self.supervised).max(initial=0))
        ids, supervised = self.ids[: last + 1], self.supervised[: last + 1]
        if side == "end":
            return Tokens(ids[: length + 1], supervised[: length + 1])
        return Tokens(ids[-(length + 1) :], supervised[-(length + 1) :])


def whole(ids: np.ndarray) -> Tokens:
    """Return a text of which every token is supervised but the first, which nothing predicts."""
    supervised = np.ones(len(ids), bool)
    supervised[:1] = False
    return Tokens(ids, supervised)


def windows(tokens: Tokens, length: int) -> list[Tokens]:
    """Cut a text into consecutive windows of at most `length` inputs, so that every token is supervised once.

    A window begins with the last token of the one before, which predicts its first target.
    """
    starts = range(0, max(1, len(tokens.ids) - 1), length)
    parts = [Tokens(tokens.ids[at : at + length + 1], tokens.supervised[at : at + length + 1].copy()) for at in starts]
    for part in parts:
        part.supervised[0] = False
    return parts


def fitted(tokens: Tokens, length: int, cut: Literal["end", "start", "split"]) -> list[Tokens]:
    """Return a row in at most `length` inputs, cut off at one end, or split into windows that all are learned."""
    return windows(tokens, length) if cut == "split" else [tokens.cut(length, cut)]


def encoded(examples: Sequence[Sequence[Tokens]], labels: np.ndarray, numbers: Iterable[int]) -> Encoded:
    """Return examples, each of one or more sequences, as rows: the ids without the last, and the next ids as targets.

    `labels` [E] are what the metric compares with, `numbers` the examples' numbers in their source.
    """
    rows = [tokens for example in examples for tokens in example]
    ids = [tokens.ids[:-1] for tokens in rows]
    targets = [np.where(tokens.supervised[1:], tokens.ids[1:], NO_TARGET).astype(np.int32) for tokens in rows]
    of_row = np.repeat(np.arange(len(examples)), [len(example) for example in examples])
    parts = None if len(rows) == len(examples) else of_row
    return Encoded(
        ids, [np.zeros_like(row) for row in ids], labels, np.array(list(numbers), np.int64), None, targets, parts
    )
