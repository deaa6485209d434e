"""A tiny decoder with next-token prediction as its task: a model that this package has no family of."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fft.core.batch import Batch, States
from fft.tasks import Classify


class Decoder(nn.Module):
    """A causal language model [B, T] -> logits [B, T, V]."""

    tied: bool = True

    @nn.compact
    def __call__(self, ids):
        table = nn.Embed(11, 8, name="embed")
        x = table(ids)
        query, key, value = jnp.split(nn.Dense(24, use_bias=False, name="qkv")(nn.RMSNorm(name="norm")(x)), 3, -1)
        scores = jnp.where(jnp.tril(jnp.ones((ids.shape[1],) * 2)) > 0, query @ key.swapaxes(-1, -2), -1e9)
        x = x + nn.Dense(8, use_bias=False, name="out")(jax.nn.softmax(scores) @ value)
        return table.attend(x) if self.tied else nn.Dense(11, use_bias=False, name="head")(x)


class LanguageModel(Classify):
    """Next-token prediction with its network: a target a token, its successor."""

    reads = "tokens"

    @staticmethod
    def states(params, batch, *, read=("tokens",), key=None, layers=()):
        return States(tokens=Decoder(tied="head" not in params).apply({"params": params}, batch.ids))

    @staticmethod
    def readout(params, head, states, *, key=None):
        return states


LANGUAGE = LanguageModel("lm", tuple(map(str, range(11))))


def decoder(tied=True):
    """(params, batch) with repeated tokens, padding and a filler row."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 11, (4, 7)).astype(np.int32)
    ids[:, 3] = ids[:, 1]
    params = Decoder(tied).init(jax.random.key(0), ids)["params"]
    params = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape), params)
    mask = (np.arange(7)[None] < np.array([7, 5, 6, 7])[:, None]).astype(np.int32)
    weight = np.pad(mask[:, 1:], ((0, 0), (0, 1))).astype(np.float32) * np.array([1, 1, 1, 0], np.float32)[:, None]
    targets = np.pad(ids[:, 1:], ((0, 0), (0, 1)))
    return params, Batch(ids, mask, np.zeros_like(ids), targets, weight, np.arange(4, dtype=np.int32))


def sequence_nll(logits, row):
    """The nll of a sequence [1, T, V], the sum over its tokens."""
    logp = jax.nn.log_softmax(logits)
    return -jnp.sum(row.weight * jnp.take_along_axis(logp, row.targets[..., None], axis=-1)[..., 0])


def language_logits(params, batch):
    """The logits [B, T, V]."""
    return LANGUAGE.states(params, batch).tokens
