"""Rows of one split as tokens, with their labels or targets."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fft.core.brief import brief
from fft.data.masking import Masking


class Encoded(NamedTuple):
    """N tokenized rows: ids, types int32 [T_i] each, and E examples with labels int32 or float32 [E] and numbers int64
    [E] (source rows).

    A row is an example, unless `example` int64 [N] names the one of which each row is a part, as for the windows of a
    document. `task` int32 [N] is each row's task number, None if there is one task. `targets` int32 [T_i] each are the
    targets of the tokens, -1 for none, if the task predicts tokens; `labels` are then what the metric compares with.
    `masking` are the whole texts of rows with hidden tokens.
    """

    ids: list[np.ndarray]
    types: list[np.ndarray]
    labels: np.ndarray
    numbers: np.ndarray
    task: np.ndarray | None = None
    targets: list[np.ndarray] | None = None
    example: np.ndarray | None = None
    masking: Masking | None = None
    __repr__ = brief

    def redrawn(self, picked: np.ndarray, seed: Sequence[int]) -> "Encoded":
        """Return the rows with other hidden tokens in those at positions `picked`, if some are hidden at all."""
        if self.masking is None:
            return self
        assert self.targets is not None  # they are the hidden tokens
        ids, targets = list(self.ids), list(self.targets)
        for at in picked:
            ids[at], targets[at] = self.masking.draw(at, np.random.default_rng([*seed, int(at)]))
        return self._replace(ids=ids, targets=targets)

    @property
    def targets_stay(self) -> bool:
        """Whether tokens are predicted, the same ones in every epoch."""
        return self.targets is not None and self.masking is None

    def lengths(self) -> np.ndarray:
        """Return the number of tokens of every row, int64 [N]."""
        return np.array([len(ids) for ids in self.ids], np.int64)

    def target_counts(self) -> np.ndarray | None:
        """Return the number of targets of every row, int64 [N]; None for one target per row."""
        return None if self.targets is None else np.array([(row >= 0).sum() for row in self.targets], np.int64)

    def example_targets(self) -> np.ndarray:
        """Return the number of targets of every example, int64 [E]."""
        counts = self.target_counts()
        return np.ones(len(self.labels), np.int64) if counts is None else self.summed(counts).astype(np.int64)

    def take(self, picked: np.ndarray) -> "Encoded":
        """Return the rows at positions `picked`, in that order, each an example of its own.

        The label of a part of an example is the share of the example's that belongs to so many targets, rounded.
        """
        picked = np.asarray(picked, np.int64)
        task = None if self.task is None else self.task[picked]
        ids, types = ([values[i] for i in picked] for values in (self.ids, self.types))
        targets = None if self.targets is None else [self.targets[i] for i in picked]
        masking = None if self.masking is None else self.masking.take(picked)
        taken = Encoded(ids, types, self.labels[:0], self.numbers[:0], task, targets, masking=masking)
        if self.example is None:
            return taken._replace(labels=self.labels[picked], numbers=self.numbers[picked])
        counts, whole = taken.target_counts(), self.example[picked]
        assert counts is not None  # only rows with a target for each token are parts of an example
        shares = np.rint(self.labels[whole] * counts / self.example_targets()[whole])
        return taken._replace(labels=np.maximum(shares, 1).astype(self.labels.dtype), numbers=self.numbers[whole])

    def take_examples(self, picked: np.ndarray) -> "Encoded":
        """Return the examples at positions `picked`, which ascend, with all their rows."""
        if self.example is None:
            return self.take(picked)
        rows = np.flatnonzero(np.isin(self.example, picked))
        place = np.zeros(len(self.labels), np.int64)
        place[picked] = np.arange(len(picked))
        return self.take(rows)._replace(
            labels=self.labels[picked], numbers=self.numbers[picked], example=place[self.example[rows]]
        )

    def summed(self, values: np.ndarray) -> np.ndarray:
        """Return the sums of the rows' values [N, ...] over each example, [E, ...]; the values if rows are examples."""
        if self.example is None:
            return values
        sums = np.zeros((len(self.labels), *values.shape[1:]), np.float64)
        np.add.at(sums, self.example, values)
        return sums
