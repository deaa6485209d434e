"""The part of the Task interface that is the same for all tasks with one head."""

import dataclasses
from typing import Any, ClassVar, Self, cast

import jax
import jax.numpy as jnp

from fft.core.batch import Array, Batch, Labelled, Outputs, Read, row_weight


class OneHead:
    """Base class of tasks that use the head `name` for all rows; `fft.tasks.several` is for several heads."""

    name: str
    reads: ClassVar[Read] = "pooled"

    @property
    def heads(self) -> tuple[str, ...]:
        """The names of the task's heads."""
        return (self.name,)

    def with_head(self, name: str) -> Self:
        """Return the same task with another head."""
        return dataclasses.replace(cast("Any", self), name=name)

    def nll(self, logits: jax.Array, targets: Array) -> jax.Array:
        """Return the negative log likelihood of every target; each kind of task defines its own."""
        raise NotImplementedError

    def logits(self, outputs: Outputs, batch: Labelled) -> jax.Array:
        """Return the logits of every row, [B, C], or of every token, [B, T, C]."""
        return outputs.read(self.name, outputs.pooled if self.reads == "pooled" else outputs.tokens)

    def terms(self, outputs: Outputs, batch: Labelled) -> jax.Array:
        """Return the `nll` of every target in the targets' shape, neither reduced nor weighted."""
        return self.nll(self.logits(outputs, batch), batch.targets)

    def score(self, outputs: Outputs, batch: Labelled) -> jax.Array:
        """Return the logits [B, C]."""
        return self.logits(outputs, batch)

    def losses(self, scores: jax.Array, labels: Array) -> jax.Array:
        """Return the `nll` [N] of labels [N] under logits [N, C]."""
        return self.nll(scores, labels)

    def summed(self, values: jax.Array, batch: Batch) -> jax.Array:
        """Return Σ weight · values over the rows of a batch, [B] -> []."""
        return jnp.sum(row_weight(batch.weight) * values)
