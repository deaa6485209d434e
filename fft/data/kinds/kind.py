"""The interface of a kind of task to the rows of its data."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from fft.data.encoded import Encoded
from fft.data.rows import Columns, Rows
from fft.data.tokenize import EncodeOptions, Tokenizer
from fft.tasks import Task

if TYPE_CHECKING:
    from fft.models.model import Checkpoint


class EncodedRows(NamedTuple):
    """Tokenized rows of one split, the rows themselves, without those that were dropped, and notes on them.

    `long` is the number of rows of a language task that were longer than the limit.
    """

    encoded: Encoded
    rows: Rows
    notes: list[str]
    long: int = 0


class Kind(ABC):
    """Reads the rows of tasks of one kind."""

    predicts: ClassVar[str]
    """the kind of its tasks and their heads, a name in fft.tasks.KINDS"""
    metric: ClassVar[str]
    """the default metric, a name in fft.stats.metrics"""
    what: ClassVar[str]
    """the word for a label in messages"""
    masked: ClassVar[bool] = False
    """whether it predicts hidden tokens, which only a masked language model can"""
    prompts: ClassVar[bool] = False
    """whether a row has a prompt that a model can answer"""
    length: ClassVar[int] = 128
    """the most tokens of a row by default"""

    @property
    def scored(self) -> str:
        """The kind of its metrics, `Metric.kind`."""
        return self.predicts

    @abstractmethod
    def columns(self, named: Columns, existing: Sequence[str]) -> Columns:
        """Return the columns to read of a source with the `existing` ones; `named` are those that the settings name."""

    def column_notes(self, existing: Sequence[str]) -> list[str]:
        """Return notes on columns that are not read though they have a meaning for this kind."""
        return []

    @abstractmethod
    def task(self, name: str, labels: tuple[str, ...] | None, metric: str, rows: Rows) -> Task:
        """Return the task `name`; `labels` are those of an existing head, None derives them from the rows.

        Raises: InputError naming the row of an invalid label.
        """

    @abstractmethod
    def encode(self, task: Task, rows: Rows, tokenizer: Tokenizer, options: EncodeOptions) -> EncodedRows:
        """Return the rows as tokens, with their labels and targets.

        Raises: InputError naming the row of a label that the task does not have, or of a text that cannot be encoded.
        """

    def misfit(self, checkpoint: "Checkpoint") -> str | None:
        """Return why the model cannot learn tasks of this kind, and the kind that it can; None if it can."""
        return None

    def bound(self, task: Task, checkpoint: "Checkpoint", splits: Mapping[str, Encoded], max_new: int) -> Task:
        """Return the task with what scoring needs of the checkpoint; an answer has at most `max_new` tokens.

        Raises: InputError for rows that could not be scored so.
        """
        return task

    def undefined(self, labels: np.ndarray, reason: str | None) -> str | None:
        """Return `reason`, why the score is undefined on these labels, with a possible cause; None for None."""
        return reason

    def constant(self, labels: np.ndarray) -> str | None:
        """Return why a drop of the score has no scale on rows with these labels; None if it has one."""
        return None

    def unwatched(self, metric: str) -> str | None:
        """Return why a contract cannot be kept in a metric of this kind, as a clause; None if it can."""
        return None

    def least_rows(self, drop: float) -> int:
        """Return the number of held-out rows needed to detect such a drop, in units of the score."""
        return 1

    def training_notes(self, task: Task, rows: Mapping[str, Rows], splits: Mapping[str, Encoded]) -> list[str]:
        """Return notes on the splits. Raises: InputError for training rows from which nothing can be learned."""
        return []

    def shown(self, tokenizer: Tokenizer, result: EncodedRows) -> list[str]:
        """Return how the first row is learned, for the user to check, if that is not the whole of it."""
        return []

    @abstractmethod
    def refusal(self, rows: Rows) -> str:
        """Return why training would reject the labels of these rows or could not score them, else "".

        Missing values are reported separately.
        """

    @abstractmethod
    def summary(self, rows: Rows) -> dict[str, Any]:
        """Return the label counts or quantiles of the rows for `fft data`, as a dict of one entry."""

    @abstractmethod
    def values(self, rows: Rows) -> list[Any]:
        """Return the label of every row; labels that training reads as equal are equal."""
