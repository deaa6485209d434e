"""The data types of a batch and of a model's outputs, and the weights of loss terms for all tasks.

Letters: B rows, T tokens, D model, C classes.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray
NO_TARGET = -1
"""among the targets of tokens: none"""
Read = Literal["pooled", "tokens"]
"""which states a task reads: one per row ("pooled") or one per token ("tokens")"""


class Inputs(NamedTuple):
    """The texts of a batch, all that a model needs for a forward pass; each field is int32 [B, T].

    Example: `checkpoint.model.apply(checkpoint.params, Inputs(ids, mask, types))`.
    """

    ids: Array
    """token ids, padding included"""
    mask: Array
    """1 for a token, 0 for padding"""
    types: Array
    """token types: 1 for the second text of a pair, else 0"""


class Text(Protocol):
    """Anything with the texts of a batch, such as Inputs and Batch."""

    @property
    def ids(self) -> Array: ...

    @property
    def mask(self) -> Array: ...

    @property
    def types(self) -> Array: ...


class Batch(NamedTuple):
    """B rows of text with their targets.

    `targets` and `weight` have the same shape: [B] for one target per row (a class or a number), [B, T] for one per
    token, or [B, S] for one at each of the `places`.
    """

    ids: Array
    """`ids`, `mask` and `types` are as in Inputs"""
    mask: Array
    types: Array
    targets: Array
    """int32 classes or float32 numbers"""
    weight: Array
    """float32; 0 for rows that repeat another one to fill the batch, for padding, and for tokens without a target"""
    row: Array
    """int32 [B], the index of each row in its data set; it also indexes arrays with one entry per row. Of a packed row
    it is that of its first text
    """
    task: Array | None = None
    """int32 [B], the number of the task each row belongs to; None if there is only one task"""
    places: Array | None = None
    """int32 [B, S], the tokens whose states predict the targets; None for one target per row, or for every token"""
    segments: Array | None = None
    """int32 [B, T] of packed rows, the number, from 1, of the text that a token belongs to, 0 for padding; None for one
    text a row
    """
    numbers: Array | None = None
    """int32 [B, S], the index of each target among those of all rows of the data set; it indexes arrays with one entry
    per target. None where no method may ask: in batches that are scored, and where targets are drawn anew in each epoch
    """


class Labelled(Protocol):
    """The part of a batch that the train step and the Fisher pass read.

    Batch has it; a model that reads no texts may use a NamedTuple with these four fields and inputs of its own.
    """

    @property
    def targets(self) -> Array: ...

    @property
    def weight(self) -> Array: ...

    @property
    def row(self) -> Array: ...

    @property
    def task(self) -> Array | None: ...

    def _replace(self, **values: Array | None) -> Self: ...


class States(NamedTuple):
    """The hidden states of a batch, before any head; None for those that were not requested."""

    pooled: jax.Array | None = None
    """[B, D], one state per row: the input of sequence heads"""
    tokens: jax.Array | None = None
    """[B, T, D], one state per token of the text, without virtual tokens"""
    layers: Mapping[int, jax.Array] = MappingProxyType({})
    """{depth: [B, T, D]}, 0 for the embeddings and i for the i-th block; virtual tokens precede those of the text.
    The last block's holds only the first token, [B, 1, D], unless `tokens` were requested
    """


class Outputs(NamedTuple):
    """The result of a forward pass for tasks and methods, inside jit: states, and a function that applies heads."""

    states: States
    read: Callable[[str, jax.Array], jax.Array]
    """read(head, states [..., D]) -> [..., C], with the dropout of the pass"""
    base: "Outputs | None" = None
    """the base's outputs for the same rows without dropout, for methods that compare with them in every step"""

    @property
    def pooled(self) -> jax.Array:
        """The pooled states [B, D]; they must have been requested."""
        assert self.states.pooled is not None
        return self.states.pooled

    @property
    def tokens(self) -> jax.Array:
        """The token states [B, T, D]; they must have been requested."""
        assert self.states.tokens is not None
        return self.states.tokens


def segments_of(batch: Text) -> Array | None:
    """Return the segments [B, T] of packed rows, None for one text a row."""
    return batch.segments if isinstance(batch, Batch) else None


def row_weight(weight: Array) -> Array:
    """Return the weight of each row [B], the largest weight of its targets; `weight` is [B], [B, T] or [B, S]."""
    return weight if weight.ndim == 1 else weight.max(axis=1)


def weight_of(axes: int, batch: Labelled) -> Array:
    """Return the weights of loss terms with `axes` axes, [B] or [B, T]; their mean is Σ weight · term / Σ weight.

    Terms shaped like the targets get the targets' weights. Terms [B] for targets [B, T] or [B, S] get `row_weight`.
    Terms [B, T] for targets [B], as of a task that reads tokens, get the row's weight at every token of its text.
    """
    if axes == batch.weight.ndim:
        return batch.weight
    if axes == 1:
        return row_weight(batch.weight)
    assert isinstance(batch, Batch)  # only texts have tokens
    return jnp.expand_dims(batch.weight, -1) * batch.mask


def weighted_sum(terms: jax.Array, weight: Array) -> jax.Array:
    """Return Σ weight · terms [], for arrays of the same shape; terms of weight 0 need not be finite."""
    return jnp.sum(jnp.where(weight > 0, weight * terms, 0.0))
