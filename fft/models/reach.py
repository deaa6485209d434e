"""Which tokens a token attends to: positions in a row of packed texts, windows, causality, padding.

Letters: B batch, T tokens, S slots.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Slots(NamedTuple):
    """The slots that hold the tokens of a text seen so far, and those of the tokens that are added now."""

    segments: jax.Array
    """int32 [B, S], as those of the tokens; 0 for padding and for slots that are not in use"""
    start: jax.Array
    """int32 [], the slot of the first token that is added"""


def positions_of(segments: jax.Array) -> jax.Array:
    """Return positions int32 [B, T] that count from 0 in every segment; `segments` [B, T] numbers runs of tokens."""
    index = jnp.arange(segments.shape[1], dtype=jnp.int32)[None]
    starts = jnp.concatenate([jnp.ones_like(segments[:, :1], bool), segments[:, 1:] != segments[:, :-1]], axis=1)
    return index - jax.lax.cummax(jnp.where(starts, index, 0), axis=1)


def allowed_keys(segments: jax.Array, window: int | None, causal: bool, slots: Slots | None = None) -> jax.Array:
    """Return bool [B, T, T]: whether token t attends to token s of its segment in the window, not later if causal.

    With `slots`, [B, T, S]: whether it attends to the token in slot s; padding between slots is no distance. Padding
    attends to the tokens of all segments, as in transformers, where a head may read it in left-padded rows.
    """
    if slots is None:
        keys, order = segments, jnp.arange(segments.shape[1])[None]
        own = order
    else:
        keys, order = slots.segments, jnp.cumsum(slots.segments > 0, axis=1)
        own = jax.lax.dynamic_slice_in_dim(order, slots.start, segments.shape[1], axis=1)
    distance = own[:, :, None] - order[:, None, :]
    near = jnp.abs(distance) < (window or keys.shape[1])
    if causal:
        near &= distance >= 0
    query, key = segments[:, :, None], keys[:, None, :]
    return near & ((query == key) | (query == 0)) & (key > 0)
