"""Text classification by cross-entropy, with one class per row, targets [B], or one per token, targets [B, T]."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from fft.core.batch import Array
from fft.tasks.categorical import Categorical


@dataclass(frozen=True)
class Classify(Categorical):
    """Classification with the head `name` into C = len(labels) classes; class c has the name labels[c]."""

    name: str
    labels: tuple[str, ...]
    metric: str = "accuracy"
    kind: ClassVar[str] = "classification"
    named: ClassVar[bool] = True
    problem: ClassVar[str] = "single_label_classification"

    @classmethod
    def of_head(cls, name: str, labels: Sequence[str]) -> Self:
        """Return the task of a head with these labels."""
        return cls(name, tuple(labels))

    @property
    def outputs(self) -> int:
        """C, the width of the head."""
        return len(self.labels)

    def called(self, value: float) -> str | float | None:
        """Return the name of a class number, None for -1."""
        return self.labels[int(value)] if value >= 0 else None

    def calibrated(self, predict: Callable[[], tuple[np.ndarray, np.ndarray]]) -> Self:
        """Return the task itself: class probabilities have no scale to fit."""
        return self

    def credit(self, scores: jax.Array, targets: jax.Array, scale: Array | float) -> jax.Array:
        """Return 1 for rows whose target is the likeliest class, else 0, so that the mean is the accuracy.

        [B, C], [B] -> float32 [B]. It also stands in for macro_f1 and mcc, which are not means over rows.
        """
        return (jnp.argmax(scores, axis=-1) == targets).astype(jnp.float32)

    def scale(self, labels: np.ndarray) -> float:
        """Return 1: `credit` is in units of the accuracy."""
        return 1.0
