"""The interface of a kind of task to the labels in rows."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from fft.core.errors import InputError
from fft.core.naming import agreeing
from fft.data.rows import Rows
from fft.data.tokenize import Encoded
from fft.tasks import Task


class Kind(ABC):
    """Reads the labels of rows, for tasks of one kind."""

    metric: ClassVar[str]
    """the default metric, a name in fft.stats.metrics"""
    what: ClassVar[str]
    """the word for a label in messages"""
    advice: ClassVar[str]
    """the remedy if all training rows have the same label"""

    @abstractmethod
    def task(self, name: str, labels: tuple[str, ...] | None, metric: str, rows: Rows) -> Task:
        """Return the task `name`; `labels` are those of an existing head, None derives them from the rows.

        Raises: InputError naming the row of an invalid label.
        """

    @abstractmethod
    def encoded(self, task: Task, rows: Rows, numbers: bool) -> tuple[np.ndarray, list[str]]:
        """Return the encoded labels [N] and notes; with `numbers`, class numbers are accepted in place of names.

        Raises: InputError naming the row of a label that the task does not have.
        """

    def with_targets(self, task: Task, rows: Rows, encoded: Encoded) -> Encoded:
        """Return the rows with a target for each token, if the task predicts tokens."""
        return encoded

    def undefined(self, labels: np.ndarray, reason: str | None) -> str | None:
        """Return `reason`, why the score is undefined on these labels, with a possible cause; None for None."""
        return reason

    def constant(self, labels: np.ndarray) -> str | None:
        """Return why a drop of the score has no scale on rows with these labels; None if it has one."""
        return None

    def least_rows(self, drop: float) -> int:
        """Return the number of held-out rows needed to detect such a drop, in units of the score."""
        return 1

    def training_notes(self, task: Task, rows: Mapping[str, Rows], splits: Mapping[str, Encoded]) -> list[str]:
        """Return notes on the labels of the splits. Raises: InputError if all training rows have the same label."""
        if len(np.unique(splits["train"].labels)) < 2:
            count = len(rows["train"].labels)
            subject = agreeing(count, "the only training row has", f"all {count:,} training rows have")
            raise InputError(f"{rows['train'].source}: {subject} one {self.what}. {self.advice}")
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
