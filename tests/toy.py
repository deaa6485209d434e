"""A model small enough for closed forms: two linear blocks and heads, in plain jnp, with the tree names of `fft`."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Toy(NamedTuple):
    depth: int = 2

    def apply(self, params, batch, key=None):
        x = jnp.asarray(batch["x"])  # [B, D]
        x = x * params["embed"]["scale"]
        for i in range(self.depth):
            layer = params["layers"][str(i)]["attention"]["query"]
            x = jnp.tanh(x @ layer["kernel"] + layer["bias"])
        logits = {name: x @ head["out"]["kernel"] + head["out"]["bias"] for name, head in params["heads"].items()}
        return {"pooled": x, "logits": logits}


def toy_params(seed=0, width=4, heads=None, words=0):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape) * 0.7, jnp.float32)

    def dense(fan_in, fan_out):
        return {"kernel": normal(fan_in, fan_out), "bias": normal(fan_out)}

    return {
        "embed": {"scale": normal(width)} | ({"word": {"embedding": normal(words, width)}} if words else {}),
        "layers": {str(i): {"attention": {"query": dense(width, width)}} for i in range(2)},
        "heads": {name: {"out": dense(width, c)} for name, c in (heads or {"original": 3}).items()},
    }


def toy_batch(seed=0, rows=8, width=4, classes=3, filler=0):
    rng = np.random.default_rng(seed)
    weight = np.ones(rows, np.float32)
    weight[rows - filler :] = 0
    return {
        "x": rng.normal(size=(rows, width)).astype(np.float32),
        "label": rng.integers(0, classes, rows).astype(np.int32),
        "row": np.arange(rows, dtype=np.int32),
        "weight": weight,
    }


def max_difference(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max((float(jnp.max(jnp.abs(x - y))) for x, y in pairs), default=0.0)
