"""The part of the Task interface that is the same for all tasks with one head."""

import dataclasses
from typing import Any, ClassVar, Self, cast

import jax
import jax.numpy as jnp

from fft.core.batch import Array, Batch, Labelled, Outputs, Read, row_weight


def at_places(states: jax.Array, places: Array) -> jax.Array:
    """Return the states [B, S, D] at places [B, S] of states [B, T, D]."""
    return jnp.take_along_axis(states, jnp.asarray(places)[:, :, None], axis=1)


class OneHead:
    """Base class of tasks that use the head `name` for all rows; `fft.tasks.several` is for several heads."""

    name: str
    reads: ClassVar[Read] = "pooled"
    stores: ClassVar[bool] = True
    generates: ClassVar[bool] = False
    enumerable: ClassVar[bool] = True

    @property
    def unit(self) -> float:
        """1: a row that was right is wrong."""
        return 1.0

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

    def divergence(self, teacher: jax.Array, logits: jax.Array, temperature: float) -> jax.Array:
        """Return the divergence of every prediction from a teacher's; each kind of task defines its own."""
        raise NotImplementedError

    def states_read(self, outputs: Outputs, batch: Labelled) -> jax.Array:
        """Return the states that the head reads: [B, D] of rows, [B, T, D] of tokens, or [B, S, D] of places."""
        if self.reads == "pooled":
            return outputs.pooled
        places = batch.places if isinstance(batch, Batch) else None
        return outputs.tokens if places is None else at_places(outputs.tokens, places)

    def logits(self, outputs: Outputs, batch: Labelled) -> jax.Array:
        """Return the logits of every row, [B, C], of every token, [B, T, C], or of the places, [B, S, C]."""
        return outputs.read(self.name, self.states_read(outputs, batch))

    def terms(self, outputs: Outputs, batch: Labelled) -> jax.Array:
        """Return the `nll` of every target in the targets' shape, neither reduced nor weighted."""
        return self.nll(self.logits(outputs, batch), batch.targets)

    def divergences(self, base: Outputs, outputs: Outputs, batch: Labelled, temperature: float) -> jax.Array:
        """Return the `divergence` of a model's outputs from the base's for the same rows: [B], [B, T] or [B, S]."""
        return self.divergence(self.logits(base, batch), self.logits(outputs, batch), temperature)

    def score(self, outputs: Outputs, batch: Labelled) -> jax.Array:
        """Return the logits [B, C]."""
        return self.logits(outputs, batch)

    def losses(self, scores: jax.Array, labels: Array) -> jax.Array:
        """Return the `nll` [N] of labels [N] under logits [N, C]."""
        return self.nll(scores, labels)

    def summed(self, values: jax.Array, batch: Batch) -> jax.Array:
        """Return Σ weight · values over the rows of a batch, [B] -> []."""
        return jnp.sum(row_weight(batch.weight) * values)
