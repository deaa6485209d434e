"""A tiny decoder with next-token prediction as its task: a model that this package has no family of."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fft.tasks.headed import OneHead


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


class LanguageModel(OneHead):
    """Next-token prediction; the nll of a sequence is the sum over its tokens."""

    name, kind = "lm", "language"

    @staticmethod
    def apply(params, batch, key=None):
        return {"logits": {"lm": Decoder(tied="head" not in params).apply({"params": params}, batch["ids"])}}

    def nll(self, logits, batch):
        logp = jax.nn.log_softmax(logits[:, :-1].astype(jnp.float32))
        nll = -jnp.take_along_axis(logp, batch["label"][:, 1:, None], axis=-1)[..., 0]
        return jnp.sum(nll * batch["mask"][:, 1:], axis=1) * (batch["weight"] > 0)

    @staticmethod
    def sample(key, logits):
        drawn = jax.random.categorical(key, logits)
        return jnp.concatenate([jnp.zeros_like(drawn[:, :1]), drawn[:, :-1]], axis=1)


LANGUAGE = LanguageModel()


def decoder(tied=True):
    """(params, batch) with repeated tokens, padding and a filler row."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 11, (4, 7)).astype(np.int32)
    ids[:, 3] = ids[:, 1]
    params = Decoder(tied).init(jax.random.key(0), ids)["params"]
    params = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape), params)
    mask = (np.arange(7)[None] < np.array([7, 5, 6, 7])[:, None]).astype(np.int32)
    return params, {"ids": ids, "label": ids, "mask": mask, "weight": np.array([1, 1, 1, 0], np.float32)}
