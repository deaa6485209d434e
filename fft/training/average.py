"""The running average of the weights; a run under a contract scores and keeps this average.

The last step is one noisy sample around the point that training has reached; the average of many steps is nearer to
it, for the new task and for the original one.
"""

import jax
import jax.numpy as jnp
import optax

from fft.core.tree import Params

DECAY = 3
"""step i has a weight of about i³, so at any time most of the average comes from the last half of the steps so far"""


def averaged(average: Params, theta: Params, step: jax.Array) -> Params:
    """Return the average over steps 1 … `step` + 1, from that of the steps before and the latest tree theta.

    Polynomial decay:  a_t = a_{t-1} + (η + 1) / (t + η) · (θ_t − a_{t-1}),  t = step + 1,  η = DECAY. Memory: one tree.

    Reference: Shamir & Zhang 2013, arXiv 1212.1824, section 4; why to average: Izmailov et al. 2018, arXiv 1803.05407.
    """
    mixed = optax.incremental_update(theta, average, (DECAY + 1) / (step + 1 + DECAY))
    return jax.tree.map(_unless_unmoved, average, theta, mixed)


def _unless_unmoved(old: jax.Array, new: jax.Array, mixed: jax.Array) -> jax.Array:
    """`mixed`, but exactly the old value where the new one is the same: s·x + (1 − s)·x is x only up to rounding, and a
    frozen parameter must not move.
    """
    return jnp.where(new == old, old, mixed.astype(old.dtype))
