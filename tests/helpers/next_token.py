"""The loss of predicting every next token of a text."""

import jax
import jax.numpy as jnp
import optax

from fft.core.batch import Array


def next_token_nll(logits: jax.Array, ids: Array, segments: Array) -> tuple[jax.Array, jax.Array]:
    """Return the negative log likelihood in nats of every next token, and its weight: float32 [B, T - 1] each.

    `logits` [B, T, V] at place t predict `ids` [B, T] at t + 1. `segments` [B, T] is 0 for padding and else the number
    of a packed text; the weight is 1 where both places are in one text, else 0. The loss of a batch is
    Σ weight · nll / Σ weight, over all micro-batches of a step.
    """
    nll = optax.losses.softmax_cross_entropy_with_integer_labels(logits[:, :-1].astype(jnp.float32), ids[:, 1:])
    segments = jnp.asarray(segments)
    weight = (segments[:, :-1] == segments[:, 1:]) & (segments[:, 1:] > 0)
    return nll, weight.astype(jnp.float32)
