"""The pooled state of a decoder: that of one token of each row, or the mean of all.

Letters: B batch, P virtual tokens, T tokens, D model.
"""

import jax
import jax.numpy as jnp

from fft.models.decoder_shape import DecoderShape


def last_token(ids: jax.Array, mask: jax.Array, pad: int | None) -> jax.Array:
    """Return the place [B] of each row's last token: the rightmost id other than `pad`, as in transformers.

    Without `pad`, the rightmost token that the mask does not exclude.
    """
    is_token = mask > 0 if pad is None else ids != pad
    return jnp.argmax(jnp.arange(1, is_token.shape[1] + 1)[None] * is_token, axis=1)


def pooled_place(shape: DecoderShape, ids: jax.Array, mask: jax.Array, virtual: bool = False) -> jax.Array | None:
    """Return the place [B] of the token whose state is the pooled one, None if that is the mean of all tokens.

    Where `virtual` tokens precede the ids [B, T], the mask and the places are those of P + T tokens, and the last token
    is that of the mask, whatever its id: transformers, which is given embeddings alone there, reads the last place.
    """
    if shape.pooling == "last":
        return last_token(ids, mask, None if virtual else shape.pad)
    return jnp.zeros(len(ids), jnp.int32) if shape.pooling == "first" else None


def mean_token(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Return the mean over the tokens that the mask includes: [B, T, D] -> [B, D]; 0 for a row without tokens."""
    is_token = (mask > 0).astype(x.dtype)[..., None]
    return jnp.sum(x * is_token, axis=1) / jnp.maximum(jnp.sum(is_token, axis=1), 1)
