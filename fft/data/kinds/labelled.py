"""The part of the Kind interface that is the same for all rows with one label each."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from fft.core.errors import InputError
from fft.core.naming import agreeing
from fft.data.encoded import Encoded
from fft.data.kinds.kind import EncodedRows, Kind
from fft.data.rows import Columns, Rows
from fft.data.tokenize import EncodeOptions, Tokenizer, encode_texts
from fft.tasks import Task


class Labelled(Kind):
    """Reads texts, or pairs of texts, with a label in a column of its own."""

    advice: ClassVar[str]
    """the remedy if all training rows have the same label"""

    def columns(self, named: Columns, existing: Sequence[str]) -> Columns:
        return named

    @abstractmethod
    def encoded(self, task: Task, rows: Rows, numbers: bool) -> tuple[np.ndarray, list[str]]:
        """Return the encoded labels [N] and notes; with `numbers`, class numbers are accepted in place of names.

        Raises: InputError naming the row of a label that the task does not have.
        """

    def with_targets(self, task: Task, rows: Rows, encoded: Encoded) -> Encoded:
        """Return the rows with a target for each token, if the task predicts tokens."""
        return encoded

    def encode(self, task: Task, rows: Rows, tokenizer: Tokenizer, options: EncodeOptions) -> EncodedRows:
        labels, notes = self.encoded(task, rows, options.numbers)
        encoded, text_notes = encode_texts(tokenizer, rows, labels, options)
        return EncodedRows(self.with_targets(task, rows, encoded), rows, [*notes, *text_notes])

    def training_notes(self, task: Task, rows: Mapping[str, Rows], splits: Mapping[str, Encoded]) -> list[str]:
        """Return notes on the labels of the splits. Raises: InputError if all training rows have the same label."""
        if len(np.unique(splits["train"].labels)) < 2:
            count = len(rows["train"].labels)
            subject = agreeing(count, "the only training row has", f"all {count:,} training rows have")
            raise InputError(f"{rows['train'].source}: {subject} one {self.what}. {self.advice}")
        return []
