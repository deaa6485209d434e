"""Several tasks of the language head as one; Batch.task says which of them a row belongs to."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fft.core.batch import Array, Batch, row_weight
from fft.tasks.language import Language


@dataclass(frozen=True)
class Languages(Language):
    """The union of `tasks` that one kind of metric scores, numbered 0, 1, …

    They share a head and so loss, divergence and scores; only their contributions to the metric are summed apart.
    """

    tasks: tuple[Language, ...] = ()

    def losses(self, scores: jax.Array, labels: Array) -> jax.Array:
        """Return those of each single task."""
        return self.tasks[0].losses(scores, labels)

    def credit(self, scores: jax.Array, targets: jax.Array, scale: Array | float) -> jax.Array:
        """Return that of each single task; `scale` is that of each row's task, [B]."""
        return self.tasks[0].credit(scores, targets, scale)

    @property
    def unit(self) -> float:
        """That of each single task."""
        return self.tasks[0].unit

    def summed(self, values: jax.Array, batch: Batch) -> jax.Array:
        """Return the sums of values [B] over each task's rows with a target, [K]."""
        own = (batch.task == jnp.arange(len(self.tasks))[:, None]) & (row_weight(batch.weight) > 0)
        return jnp.sum(jnp.where(own, values, 0.0), axis=1)
