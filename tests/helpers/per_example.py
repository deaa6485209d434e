"""Squared gradients of one example after another, in float64: what every Fisher pass is compared with."""

import jax
import jax.numpy as jnp
import numpy as np

from fft.core.batch import Batch, row_weight
from tests.helpers import torch_models as theirs

KEY_BIAS = "attention/key/bias"  # softmax does not see it: its true gradient is 0 and what is left is noise


def loop(run, params, batch, nll):
    """Σ_b g_b² / N in float64, one example after another; nll(run(params, row), row) is a scalar."""
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), params)
        total = jax.tree.map(jnp.zeros_like, params)
        real = np.flatnonzero(row_weight(batch.weight) > 0)
        gradient_of = jax.jit(jax.grad(lambda p, row: nll(run(p, row), row)))
        for b in real:
            gradient = gradient_of(params, jax.tree.map(lambda value, b=b: value[b : b + 1], batch))
            total = jax.tree.map(lambda t, g: t + g**2, total, gradient)
        return jax.tree.map(lambda t: np.asarray(t) / len(real), total)


def cross_entropy(head):
    def nll(outputs, row):
        return -jax.nn.log_softmax(outputs["logits"][head])[0, row.targets[0]]

    return nll


def family_batch(family, rows=5):
    """Padded rows with repeated ids, the last one filler."""
    batch = theirs.batch(family, rows=rows, tokens=9)
    batch.ids[:, 2] = batch.ids[:, 1]
    weight = np.ones(rows, np.float32)
    weight[-1] = 0
    row = np.arange(rows, dtype=np.int32)
    return Batch(*batch, row % 3, weight, row)
