"""L2-SP: decay towards the base instead of towards zero."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from fft.core.bounds import NonNegative
from fft.core.tree import Params, flatten
from fft.methods.base import Method
from fft.methods.parts import Parts, StepContext
from fft.methods.sums import leaf_sum


@dataclass(frozen=True)
class L2SP(Method):
    """Add  ½ α Σ (θ − θ*)² over the base's parameters + ½ β Σ θ² over fresh heads.

    θ* are the base parameters. Reference: Li, Grandvalet and Davoine 2018, arXiv 1802.01483, equation 4.
    """

    name: ClassVar[str] = "l2sp"
    strength: NonNegative = 0.1
    """α, the weight of the distance from the base"""
    head_strength: NonNegative = 0.01
    """β, the weight of the size of fresh heads"""

    def parts(self) -> Parts:
        return Parts(prepare=lambda context, key: context.is_original(), penalty=self._penalty)

    def _penalty(self, now: StepContext, params: Params) -> jax.Array:
        anchors, values, original = flatten(now.base), flatten(params), flatten(now.aux)

        def of_leaf(path: str) -> jax.Array:
            leaf = values[path]
            towards_base = self.strength * jnp.sum(jnp.square(leaf - anchors[path]))
            towards_zero = self.head_strength * jnp.sum(jnp.square(leaf))
            return 0.5 * jnp.where(original[path] > 0, towards_base, towards_zero)

        return leaf_sum(of_leaf(path) for path in original)
