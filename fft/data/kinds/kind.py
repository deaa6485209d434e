"""What every kind of task says of the labels in rows."""

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
    """Reads the labels of rows for tasks of one kind."""

    metric: ClassVar[str]
    """what a task is scored by where nobody says, a name in fft.stats.metrics"""
    what: ClassVar[str]
    """what a label is called"""
    advice: ClassVar[str]
    """what to do about training rows that all have one"""

    @abstractmethod
    def task(self, name: str, labels: tuple[str, ...] | None, metric: str, rows: Rows) -> Task:
        """The task `name`; `labels` are those of the head that it goes on with, None takes them from the rows.

        Raises: InputError for labels that are no such, by row.
        """

    @abstractmethod
    def encoded(self, task: Task, rows: Rows, numbers: bool) -> tuple[np.ndarray, list[str]]:
        """What the metric compares with, of every row [N], and notes; `numbers`: class numbers may stand for names.

        Raises: InputError for a label that the task does not have, by row.
        """

    def with_targets(self, task: Task, rows: Rows, encoded: Encoded) -> Encoded:
        """The rows with a target for each token, where the task has such."""
        return encoded

    def undefined(self, labels: np.ndarray, reason: str | None) -> str | None:
        """`reason`, why the score of rows with these labels says nothing, with what it may come from; None for None."""
        return reason

    def constant(self, labels: np.ndarray) -> str | None:
        """Why a drop of the score has no scale on rows with these labels; None where it has one."""
        return None

    def least_rows(self, drop: float) -> int:
        """The held-out rows that it takes to see such a drop, in units of the score."""
        return 1

    def training_notes(self, task: Task, rows: Mapping[str, Rows], splits: Mapping[str, Encoded]) -> list[str]:
        """Notes on the labels of the splits. Raises: InputError for training rows that teach nothing."""
        if len(np.unique(splits["train"].labels)) < 2:
            count = len(rows["train"].labels)
            said = agreeing(count, "the only training row has", f"all {count:,} training rows have")
            raise InputError(f"{rows['train'].source}: {said} one {self.what}. {self.advice}")
        return []

    @abstractmethod
    def refusal(self, rows: Rows) -> str:
        """Why training would refuse the labels of some rows, or could not score them; "" where it would not.

        Missing values have troubles of their own.
        """

    @abstractmethod
    def summary(self, rows: Rows) -> dict[str, Any]:
        """The labels of some rows as `fft data` counts them: one entry, by what it shows."""

    @abstractmethod
    def values(self, rows: Rows) -> list[Any]:
        """The label of every row, alike where training would read it alike."""
