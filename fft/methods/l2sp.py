"""L2-SP: decay towards the base instead of towards zero."""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from fft.core.settings import between
from fft.core.tree import Params, flatten, map_leaves
from fft.methods.base import Method, leaf_sum
from fft.methods.context import Context


@dataclass(frozen=True)
class L2SP(Method):
    """Add  ½ α Σ (θ − θ*)² over kept parameters + ½ β Σ θ² over fresh heads.

    θ* are the base parameters. Reference: Li, Grandvalet and Davoine 2018, arXiv 1802.01483, equation 4.
    """

    name: ClassVar[str] = "l2sp"
    strength: float = 0.1
    """α, on the distance from the base"""
    head_strength: float = 0.01
    """β, on the size of a fresh head"""

    def __post_init__(self) -> None:
        between("l2sp.strength", self.strength, 0.0, math.inf)
        between("l2sp.head-strength", self.head_strength, 0.0, math.inf)

    def prepare(self, context: Context, key: jax.Array) -> Params:
        """One scalar a leaf: 1 where the base value is worth keeping, 0 in fresh heads."""
        return map_leaves(lambda path, leaf: jnp.float32(not context.is_fresh(path)), context.base)

    def penalty(self, base: Params, params: Params, aux: Params) -> jax.Array:
        anchors, values, kept = flatten(base), flatten(params), flatten(aux)

        def of_leaf(path: str) -> jax.Array:
            leaf = values[path]
            towards_base = self.strength * jnp.sum(jnp.square(leaf - anchors[path]))
            towards_zero = self.head_strength * jnp.sum(jnp.square(leaf))
            return 0.5 * jnp.where(kept[path] > 0, towards_base, towards_zero)

        return leaf_sum(of_leaf(path) for path in kept)
