"""Which tokens a token attends to: positions in a row of packed texts, windows, causality, padding.

A cache has S slots, which hold the tokens one after another, padding included. Of a layer with a window W < S it holds
a ring of W slots: the token at position p of its row, which counts no padding, is in slot p mod W until that at p + W
replaces it. Letters: B batch, T tokens, S slots, W window.
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


def ring_size(window: int | None, slots: int) -> int:
    """Return the number of slots that a cache of S = `slots` has for a layer: W of a ring if it has a window W < S."""
    return slots if window is None else min(window, slots)


def reach_in_ring(segments: jax.Array, window: int, slots: Slots) -> tuple[jax.Array, jax.Array]:
    """Return which keys the tokens with the segments [B, T] attend to, and the slots of a ring they are written to.

    The keys are those in the ring of W = `window` slots and those of the tokens themselves: bool [B, T, W + T]. The
    slot int32 [B, T] is W, outside the ring, for padding and for tokens that later ones among these replace.
    """
    is_token = segments > 0
    before = jnp.sum(slots.segments > 0, axis=1, keepdims=True) - jnp.sum(is_token, axis=1, keepdims=True)
    own = before + jnp.cumsum(is_token, axis=1) - 1
    keys = jnp.concatenate([ring_positions(before, window), jnp.where(is_token, own, -1)], axis=1)
    distance = own[:, :, None] - keys[:, None, :]
    allowed = (keys >= 0)[:, None, :] & (distance >= 0) & (distance < window)
    stays = is_token & (own > own[:, -1:] - window)
    return allowed, jnp.where(stays, own % window, window)


def ring_positions(tokens: jax.Array, size: int) -> jax.Array:
    """Return the position [B, W] of the token in each slot of a ring after `tokens` [B, 1] tokens; below 0: none."""
    last = tokens - 1
    return last - (last - jnp.arange(size)) % size
