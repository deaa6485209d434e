"""Sums over parameters and over gradients."""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp

from fft.core.errors import InputError
from fft.core.tree import Params, flatten


def leaf_sum(values: Iterator[jax.Array]) -> jax.Array:
    """Return the sum of some scalars, 0 if there are none."""
    return sum(values, jnp.zeros(()))


def summed(gradients: Mapping[str, dict[str, jax.Array]]) -> dict[str, jax.Array]:
    """Sum the gradients of the parts of the objective, by path."""
    first, *others = gradients.values()
    return {path: sum((other[path] for other in others), g) for path, g in first.items()}


def squared_distance(weights: Params, anchor: Params, params: Params) -> jax.Array:
    """Return  Σ w ⊙ (θ − θ*)²  over the leaves of `weights`, [].

    Raises: InputError for weights whose shape is not the parameter's.
    """
    anchors, values = flatten(anchor), flatten(params)

    def of_leaf(path: str, weight: jax.Array) -> jax.Array:
        if not weight.shape == values[path].shape == anchors[path].shape:
            raise InputError(f"the weights of {path} are {weight.shape}, the parameter is {values[path].shape}")
        return jnp.sum(weight * jnp.square(values[path] - anchors[path]))

    return leaf_sum(of_leaf(path, weight) for path, weight in flatten(weights).items())
