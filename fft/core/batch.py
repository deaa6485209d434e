"""What a batch holds, what a model makes of it, and by what the terms of a loss are weighted: one rule for all tasks.

Letters: B rows, T tokens, D model, C classes.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray
Read = Literal["pooled", "tokens"]
"""which states a task reads: one a row, or one a token"""


class Inputs(NamedTuple):
    """The texts of a batch, which is all that a model reads: int32 [B, T] each.

    Example: `checkpoint.model.apply(checkpoint.params, Inputs(ids, mask, types))`.
    """

    ids: Array
    """token ids, padding included"""
    mask: Array
    """1 for a token, 0 for padding"""
    types: Array
    """0 or, for the second text of a pair, 1"""


class Text(Protocol):
    """What has the texts of a batch: Inputs, Batch."""

    @property
    def ids(self) -> Array: ...

    @property
    def mask(self) -> Array: ...

    @property
    def types(self) -> Array: ...


class Batch(NamedTuple):
    """B rows of text with what is to be predicted.

    `targets` and `weight` have one shape: [B] where a row has one target, a class or a number, [B, T] where every token
    may have one.
    """

    ids: Array
    """as in Inputs, like the two after it"""
    mask: Array
    types: Array
    targets: Array
    """int32 classes or float32 numbers"""
    weight: Array
    """float32; 0 for filler rows, which repeat a real one, for padding, and for tokens that have no target"""
    row: Array
    """int32 [B], the places of the rows in what they were taken from: what an array with one entry a row is read by"""
    task: Array | None = None
    """int32 [B], which of several tasks a row is of; None where there is one task"""


class Labelled(Protocol):
    """What the train step and the Fisher pass read of a batch: Batch, or a NamedTuple with other inputs beside these
    four, for a model that reads no texts.
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
    """What a model makes of a batch before any head; None for what was not asked for."""

    pooled: jax.Array | None = None
    """[B, D], one state a row: what the heads of a sequence read"""
    tokens: jax.Array | None = None
    """[B, T, D], one state a token of the text, without virtual tokens"""
    layers: Mapping[int, jax.Array] = MappingProxyType({})
    """{depth: [B, T, D]}, 0 the embeddings, i the i-th block; virtual tokens stand before the text's. Of the last block
    it is the first token alone, [B, 1, D], unless `tokens` were asked for
    """


class Outputs(NamedTuple):
    """What a forward pass hands to tasks and methods, inside jit: the states, and how a head reads them."""

    states: States
    read: Callable[[str, jax.Array], jax.Array]
    """read(head, states [..., D]) -> [..., C], with the dropout of the pass"""
    base: States | None = None
    """the base's on the same rows without dropout, for a method that compares layers (Parts.layers)"""

    @property
    def pooled(self) -> jax.Array:
        """The states [B, D] of a pass that was asked for them."""
        assert self.states.pooled is not None
        return self.states.pooled

    @property
    def tokens(self) -> jax.Array:
        """The states [B, T, D] of a pass that was asked for them."""
        assert self.states.tokens is not None
        return self.states.tokens


def row_weight(weight: Array) -> Array:
    """The weight of each row [B], from weights [B] or [B, T]: the largest of its targets'."""
    return weight if weight.ndim == 1 else weight.max(axis=1)


def weight_of(axes: int, batch: Labelled) -> Array:
    """The weights of a loss's terms, [B] for 1 axis or [B, T] for 2; the terms' mean is Σ weight · term / Σ weight.

    Terms shaped like the targets have the targets' weights; terms [B] beside targets [B, T] those of the rows; terms
    [B, T] beside targets [B], as of a task that reads tokens, the row's weight at every token of its text.
    """
    if axes == batch.weight.ndim:
        return batch.weight
    if axes == 1:
        return row_weight(batch.weight)
    assert isinstance(batch, Batch)  # only texts have tokens
    return jnp.expand_dims(batch.weight, -1) * batch.mask


def weighted_sum(terms: jax.Array, weight: Array) -> jax.Array:
    """Σ weight · terms [], both of one shape; what stands where the weight is 0 need not be finite."""
    return jnp.sum(jnp.where(weight > 0, weight * terms, 0.0))
