"""A model small enough for closed forms: two linear blocks and heads, in plain jnp, with the tree names of `fft`."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fft.core.batch import States
from fft.core.tree import flatten
from fft.models.layers import Dense


class ToyBatch(NamedTuple):
    """Rows x [B, D] with a target each; a batch with `ids` can stand for texts."""

    x: np.ndarray
    targets: np.ndarray
    weight: np.ndarray
    row: np.ndarray
    task: np.ndarray | None = None
    ids: np.ndarray | None = None


class Toy(NamedTuple):
    depth: int = 2

    def states(self, params, batch, *, read=("pooled",), key=None, layers=()):
        x = jnp.asarray(batch.x) * params["embed"]["scale"]
        for i in range(self.depth):
            x = jnp.tanh(self.dense(params, f"layers/{i}/attention/query", x))
        return States(x)

    def readout(self, params, head, states, *, key=None):
        return self.dense(params, f"heads/{head}/out", states)

    def dense(self, params, path, x):
        leaves = flatten(params)
        return x @ leaves[f"{path}/kernel"] + leaves[f"{path}/bias"]

    def apply(self, params, batch, key=None):
        """As fft.models.Model.apply."""
        pooled = self.states(params, batch, key=key).pooled
        return {"pooled": pooled, "logits": {head: self.readout(params, head, pooled) for head in params["heads"]}}


class LayeredToy(Toy):
    """The same with flax's dense layers, for what looks into a model's modules."""

    def dense(self, params, path, x):
        return Under(tuple(path.split("/"))).apply({"params": params}, x)


class Under(nn.Module):
    """A dense layer at the end of a path of names, as wide as its kernel in the tree."""

    names: tuple[str, ...]

    @nn.compact
    def __call__(self, x):
        name, *rest = self.names
        if rest:
            return Under(tuple(rest), name=name)(x)
        return Dense(self.get_variable("params", name)["bias"].shape[0], name=name)(x)


def toy_params(seed=0, width=4, heads=None, words=0, keys=0):
    """The toy's parameters; with `words` a table of embeddings, and with `keys` kernels of that width, all unused."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape) * 0.7, jnp.float32)

    def dense(fan_in, fan_out):
        return {"kernel": normal(fan_in, fan_out), "bias": normal(fan_out)}

    return {
        "embed": {"scale": normal(width)} | ({"word": {"embedding": normal(words, width)}} if words else {}),
        "layers": {
            str(i): {"attention": {"query": dense(width, width)} | ({"key": dense(width, keys)} if keys else {})}
            for i in range(2)
        },
        "heads": {name: {"out": dense(width, c)} for name, c in (heads or {"original": 3}).items()},
    }


def toy_batch(seed=0, rows=8, width=4, classes=3, filler=0):
    rng = np.random.default_rng(seed)
    weight = np.ones(rows, np.float32)
    weight[rows - filler :] = 0
    x = rng.normal(size=(rows, width)).astype(np.float32)
    targets = rng.integers(0, classes, rows).astype(np.int32)
    return ToyBatch(x, targets, weight, np.arange(rows, dtype=np.int32))


def max_difference(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max((float(jnp.max(jnp.abs(x - y))) for x, y in pairs), default=0.0)
