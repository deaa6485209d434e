"""Sharpness-aware minimisation: descend the gradient at the worst point nearby, to reach a flat minimum."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from fft.core.bounds import Positive
from fft.core.tree import Params, map_leaves
from fft.methods.base import Method
from fft.methods.parts import Parts
from fft.methods.sums import leaf_sum


@dataclass(frozen=True)
class SAM(Method):
    """Descend  ∇L(θ + ε) + ∇penalty(θ)  with  ε = ρ ∇L(θ) / ‖∇L(θ)‖₂,  L the mean loss of a step's rows.

    The norm runs over all trained leaves together, and clipping applies to the descended gradient, not to ε. Every step
    takes two forward and backward passes over the same rows, with the same dropout.

    References: Foret et al. 2021, arXiv 2010.01412, equations 2 and 3, p = 2; Mehta et al. 2023, arXiv 2112.09153, for
    forgetting.
    """

    name: ClassVar[str] = "sam"
    rho: Positive = 0.05
    """ρ, the length of ε, in units of the trained parameters"""

    def parts(self) -> Parts:
        return Parts(climb=self._climb)

    def _climb(self, theta: Params, gradient: Mapping[str, jax.Array]) -> Params:
        """Return θ + ε."""
        length = jnp.sqrt(leaf_sum(jnp.vdot(g, g) for g in gradient.values()))
        by = self.rho / jnp.where(length > 0, length, 1.0)  # where the gradient is 0, so is ε
        return map_leaves(lambda path, leaf: leaf + by * gradient[path] if path in gradient else leaf, theta)
