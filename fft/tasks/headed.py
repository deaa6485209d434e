"""What a task with one head answers to, so that nothing else need know how many heads a task has."""

import dataclasses
from typing import Any, ClassVar, Self, cast

import jax
import jax.numpy as jnp

from fft.core.batch import Array, Batch, Labelled, Outputs, Read, row_weight


class OneHead:
    """A task whose rows are all answered by the head `name`; `fft.tasks.several` is one of several heads."""

    name: str
    reads: ClassVar[Read] = "pooled"

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads that answer."""
        return (self.name,)

    def with_head(self, name: str) -> Self:
        """The task whose rows are answered by another head."""
        return dataclasses.replace(cast("Any", self), name=name)

    def nll(self, logits: jax.Array, targets: Array) -> jax.Array:
        """The negative log likelihood of every target, which each kind of task has its own of."""
        raise NotImplementedError

    def logits(self, outputs: Outputs, batch: Labelled) -> jax.Array:
        """What the model says: [B, C] of every row, or [B, T, C] of every token."""
        return outputs.read(self.name, outputs.pooled if self.reads == "pooled" else outputs.tokens)

    def terms(self, outputs: Outputs, batch: Labelled) -> jax.Array:
        """`nll` of every target, in the shape of the weights. Never reduced, nor weighted."""
        return self.nll(self.logits(outputs, batch), batch.targets)

    def score(self, outputs: Outputs, batch: Labelled) -> jax.Array:
        """The logits [B, C]."""
        return self.logits(outputs, batch)

    def losses(self, scores: jax.Array, labels: Array) -> jax.Array:
        """`nll` of the labels [N] of rows with these logits [N, C]."""
        return self.nll(scores, labels)

    def summed(self, values: jax.Array, batch: Batch) -> jax.Array:
        """Σ weight · values [B] over the rows of a batch: []; of several tasks one each, [K]."""
        return jnp.sum(row_weight(batch.weight) * values)
