"""The average of a run's weights, which is what a run under a contract scores and keeps.

The last step is one noisy point about the place that training has come to; the average of many is nearer to its
middle, on the new task and on the original one.
"""

import jax
import jax.numpy as jnp
import optax

from fft.core.tree import Params

DECAY = 3
"""step i weighs about i³: most of the average is of the last half of the run, at any time"""


def averaged(average: Params, theta: Params, step: jax.Array) -> Params:
    """The average of the trees of steps 1 … `step` + 1, theta the latest, from the one of the steps before.

    a_t = a_{t-1} + (η + 1) / (t + η) · (θ_t − a_{t-1}),  t = step + 1,  η = DECAY: polynomial decay. Memory: one tree.
    Reference: Shamir & Zhang 2013, arXiv 1212.1824, section 4; why an average, Izmailov et al. 2018, arXiv 1803.05407.
    """
    mixed = optax.incremental_update(theta, average, (DECAY + 1) / (step + 1 + DECAY))
    return jax.tree.map(_unless_unmoved, average, theta, mixed)


def _unless_unmoved(old: jax.Array, new: jax.Array, mixed: jax.Array) -> jax.Array:
    """`mixed`, but exactly the old value where the new one is the same: s·x + (1 − s)·x is x only up to rounding, and a
    frozen parameter must not move.
    """
    return jnp.where(new == old, old, mixed.astype(old.dtype))
