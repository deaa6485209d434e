"""The interface of a task: loss, divergence from a teacher, labels for the Fisher information, row scores."""

from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol, Self

import jax
import numpy as np

from fft.core.batch import Array, Batch, Labelled, Outputs, Read


class Task(Protocol):
    """Pure functions of a model's outputs on a batch of B rows; a frozen dataclass for each kind of task.

    Loss terms have the shape of the targets, [B], [B, T] or [B, S], or one entry per row, [B]; the caller reduces them
    with fft.core.batch.weight_of. Logits are [B, C], or [B, T, C] or [B, S, C] for a task that reads tokens.
    """

    @property
    def name(self) -> str:
        """The name of the task, and of its head if it has one head."""
        ...

    kind: ClassVar[str]
    """the kind of task, as in Data.kind"""
    named: ClassVar[bool]
    """whether its outputs have names, `labels`"""
    problem: ClassVar[str]
    """the problem_type in transformers' config.json"""
    reads: ClassVar[Read]
    """the states that its heads read"""
    stores: ClassVar[bool]
    """whether the logits of many rows can be stored; if not, a method that needs the base's runs it in every step"""
    generates: ClassVar[bool]
    """whether the metric compares texts that the model writes, so that scoring is more than a forward pass"""
    enumerable: ClassVar[bool]
    """whether it has few enough outputs for a backward pass for each of them, see `support`"""

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, by number; () if there are none."""
        ...

    @property
    def metric(self) -> str:
        """The metric that scores the task, a name in fft.stats.metrics."""
        ...

    @property
    def heads(self) -> tuple[str, ...]:
        """The names of its heads, without repetition."""
        ...

    @property
    def outputs(self) -> int:
        """C, the width of a head."""
        ...

    @classmethod
    def of_head(cls, name: str, labels: Sequence[str]) -> Self:
        """Return the task of a head with these labels."""
        ...

    def with_head(self, name: str) -> Self:
        """Return the same task with another head."""
        ...

    def called(self, value: float) -> str | float | None:
        """Return the name of a label or prediction, given as the number that the metric takes."""
        ...

    def states_read(self, outputs: Outputs, batch: Labelled) -> jax.Array:
        """Return the states that the heads read: [B, D], [B, T, D], or [B, S, D] of the batch's places."""
        ...

    def logits(self, outputs: Outputs, batch: Labelled) -> jax.Array:
        """Return the logits [B, C] or [B, T, C]."""
        ...

    def nll(self, logits: jax.Array, targets: Array) -> jax.Array:
        """Return the negative log likelihood of every target in nats, float32 in the targets' shape."""
        ...

    def terms(self, outputs: Outputs, batch: Labelled) -> jax.Array:
        """Return the `nll` of the model's logits."""
        ...

    def divergence(self, teacher: jax.Array, logits: jax.Array, temperature: float) -> jax.Array:
        """Return τ² KL(teacher ‖ model) in nats at temperature τ: [..., C] twice -> float32 [...]."""
        ...

    def divergences(self, base: Outputs, outputs: Outputs, batch: Labelled, temperature: float) -> jax.Array:
        """Return the `divergence` of a model's outputs from the base's for the same rows, in the targets' shape."""
        ...

    def sample(self, key: jax.Array, logits: jax.Array) -> jax.Array:
        """Draw targets from the model's distribution, in the targets' shape."""
        ...

    def support(self, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return S targets that represent the model's distribution of each target, and their weights, [S, ...] each.

        Weighted means over them give the exact expectation of squared gradients, without sampling.
        """
        ...

    def score(self, outputs: Outputs, batch: Labelled) -> jax.Array:
        """Return what the metric needs from every row, [B, W]: the logits, or sums over the tokens of a row.

        For a task that reads pooled states it does not depend on the targets.
        """
        ...

    def losses(self, scores: jax.Array, labels: Array) -> jax.Array:
        """Return the mean nll of every row in nats, [N], from its `score` [N, W] and the metric's labels [N]."""
        ...

    def credit(self, scores: jax.Array, targets: jax.Array, scale: Array | float) -> jax.Array:
        """Return the contribution of each row to the metric, float32 [B]: its mean is the metric or falls with it.

        `scores` [B, W] is the result of `score`, and `scale` that of `scale`, or of each row's task, [B].
        """
        ...

    @property
    def unit(self) -> float:
        """A large drop of a row's `credit`, by which the mean of a few rows is doubted."""
        ...

    def scale(self, labels: np.ndarray) -> float:
        """Return the unit of `credit` for rows with these labels [N]."""
        ...

    def calibrated(self, predict: Callable[[], tuple[np.ndarray, np.ndarray]]) -> Self:
        """Return the task with its scale, if it has one, fitted to `predict()`: the base's logits and labels [N]."""
        ...

    def summed(self, values: jax.Array, batch: Batch) -> jax.Array:
        """Return Σ weight · values [B] over the rows of a batch, []; for several tasks one sum each, [K]."""
        ...
