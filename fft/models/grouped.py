"""Attention with grouped queries: the products and the softmax, in parts where later keys are masked anyway.

Letters: B batch, t rows that attend, S keys, G key-value heads, R query heads that share one, K head width.
"""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from fft.core.computation import wide
from fft.models.layers import MASKED

PARTS, LEAST = 4, 128  # a row is attended in at most so many parts, of at least so many tokens


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    allowed: jax.Array,
    scale: float,
    cap: float | None = None,
    drop: Callable[[jax.Array], jax.Array] = lambda weights: weights,
) -> jax.Array:
    """Return softmax(scale · q kᵀ over the allowed keys) v, [B, t, G · R · K].

    The query is [B, t, G · R, K], key and value are [B, S, G, K], `allowed` is bool [B, t, S]. Scores s become
    cap · tanh(s / cap) if there is a `cap`; `drop` is applied to the weights [B, G, R, t, S].
    """
    query = query.reshape(*query.shape[:2], key.shape[2], -1, query.shape[-1]).transpose(0, 2, 3, 1, 4)
    grouped = query.shape[:-1]  # B, G, R, t
    # The R heads of a group are rows of one product, [R · t, K] by [K, S]: with the heads as a dimension of their own,
    # XLA on CPU takes 2 to 3 times as long for the scores and their gradients
    query = query.reshape(*grouped[:2], -1, query.shape[-1])
    key, value = key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3)
    scores = jnp.einsum("bgqk,bgsk->bgqs", query, key, preferred_element_type=wide(key.dtype)) * scale
    scores = scores.reshape(*grouped, -1)
    if cap is not None:
        scores = cap * jnp.tanh(scores / cap)
    weights = jax.nn.softmax(jnp.where(allowed[:, None, None], scores, MASKED), axis=-1)
    weights = drop(weights.astype(value.dtype)).reshape(*query.shape[:-1], -1)
    mixed = jnp.einsum("bgqs,bgsk->bgqk", weights, value).reshape(*grouped, -1)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(len(mixed), grouped[-1], -1)


def attend_before(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    allowed: jax.Array,
    scale: float,
    cap: float | None = None,
    window: int | None = None,
) -> jax.Array:
    """Return `attend` for T tokens of which each attends to itself and those before it, less than `window` away.

    The row is computed in parts, each with the keys that one of its tokens may see. Half of the scores are not
    computed, and those of a part stay in the caches. What a token without an allowed key attends to is undefined.
    """
    parts = [
        attend(query[:, rows], key[:, keys], value[:, keys], allowed[:, rows, keys], scale, cap)
        for rows, keys in spans(query.shape[1], window)
    ]
    return jnp.concatenate(parts, axis=1)


def spans(tokens: int, window: int | None) -> Iterator[tuple[slice, slice]]:
    """Yield the tokens of each part of a causal row, and those that they may attend to."""
    size = max(LEAST, -(-tokens // PARTS))
    for start in range(0, tokens, size):
        end = min(start + size, tokens)
        yield slice(start, end), slice(0 if window is None else max(0, start - window + 1), end)
