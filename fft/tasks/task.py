"""What a task answers to: its loss, the divergence from the base, the labels of a Fisher pass, the score of a row."""

from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol, Self

import jax
import numpy as np

from fft.core.batch import Array, Batch, Labelled, Outputs, Read


class Task(Protocol):
    """Pure functions of a model's outputs on a batch of B rows; frozen data, of one kind a class.

    A term of a loss has the shape of the targets, [B] or [B, T], or is one a row, [B]; whoever calls reduces it, by
    fft.core.batch.weight_of. Logits are [B, C], or [B, T, C] for a task that reads tokens.
    """

    @property
    def name(self) -> str:
        """What the task is called, and its head where it has one."""
        ...

    kind: ClassVar[str]
    """of which kind of task it is, as Data.kind names them"""
    named: ClassVar[bool]
    """whether its outputs have names, `labels`"""
    problem: ClassVar[str]
    """what transformers calls it, in config.json's problem_type"""
    reads: ClassVar[Read]
    """which states its heads read"""

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, by number; () where there are none."""
        ...

    @property
    def metric(self) -> str:
        """The score it is judged by, a name in fft.stats.metrics."""
        ...

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads that answer, each once."""
        ...

    @property
    def outputs(self) -> int:
        """C, the width of a head."""
        ...

    @classmethod
    def of_head(cls, name: str, labels: Sequence[str]) -> Self:
        """The task that a head with these labels serves."""
        ...

    def with_head(self, name: str) -> Self:
        """The task whose rows are answered by another head."""
        ...

    def called(self, value: float) -> str | float | None:
        """What a label or a prediction, as the metric takes them, is called."""
        ...

    def logits(self, outputs: Outputs, batch: Labelled) -> jax.Array:
        """What the model says: [B, C] or [B, T, C]."""
        ...

    def nll(self, logits: jax.Array, targets: Array) -> jax.Array:
        """The negative log likelihood of every target in nats, float32 in the targets' shape."""
        ...

    def terms(self, outputs: Outputs, batch: Labelled) -> jax.Array:
        """`nll` of the model's logits."""
        ...

    def divergence(self, teacher: jax.Array, logits: jax.Array, temperature: float) -> jax.Array:
        """τ² KL of the model's answers from the teacher's, in nats: [..., C] twice -> float32 [...]."""
        ...

    def sample(self, key: jax.Array, logits: jax.Array) -> jax.Array:
        """Targets drawn from the model's own distribution, in the targets' shape."""
        ...

    def support(self, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Targets [S, ...] that stand for the model's distribution of each target, and their weights [S, ...]:
        expectations of squares of gradients over it, without drawing.
        """
        ...

    def score(self, outputs: Outputs, batch: Labelled) -> jax.Array:
        """What the metric needs of every row: [B, W]; the logits, or sums over the tokens of a row.

        Where the task reads pooled states, the targets have no part in it.
        """
        ...

    def losses(self, scores: jax.Array, labels: Array) -> jax.Array:
        """The mean nll of every row in nats, [N], from its `score` [N, W] and what the metric compares with, [N]."""
        ...

    def credit(self, scores: jax.Array, targets: jax.Array, scale: float) -> jax.Array:
        """What each row adds to the score, float32 [B]: the mean over rows is the score, or falls with it.

        `scores` [B, W] are of `score`, `scale` is that of `scale`.
        """
        ...

    def scale(self, labels: np.ndarray) -> float:
        """What the credit of rows with these labels [N] is measured in."""
        ...

    def calibrated(self, predict: Callable[[], tuple[np.ndarray, np.ndarray]]) -> Self:
        """The task with what is fitted to `predict()`, the base's logits and the labels [N] of rows; else the task."""
        ...

    def summed(self, values: jax.Array, batch: Batch) -> jax.Array:
        """Σ weight · values [B] over the rows of a batch: []; of several tasks one each, [K]."""
        ...
