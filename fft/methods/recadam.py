"""RecAdam: a pull to the base, decoupled from the optimizer, that is strong at first and fades."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from fft.core.bounds import NonNegative, Positive, Share
from fft.core.tree import Params, flatten, map_leaves
from fft.methods.base import Method
from fft.methods.context import Context
from fft.methods.parts import Parts, StepContext
from fft.methods.trees import BASE_TREE


@dataclass(frozen=True)
class RecAdam(Method):
    """Apply  λ(t) u − min(1, η (1 − λ(t)) γ) (θ − θ*)  in place of the optimizer's update u of step t, with the
    learning rate η of the leaf and  λ(t) = 1 / (1 + exp(−(t − t₀) / w)),  which rises from 0 to 1 around t₀.

    The run stays near the base first and learns the new task later; at its end the pull is almost 0. A fresh head has
    no original value and gets the full u. The pull is decoupled: it does not pass through Adam's moments, which would
    divide its strength out. A contract multiplies γ.

    Reference: Chen et al. 2020, arXiv 2004.12651, section 3.3; there η (1 − λ) γ may exceed 1 and overshoot θ*.
    """

    name: ClassVar[str] = "recadam"
    strength: NonNegative = 5000.0
    """γ"""
    middle: Share = 0.25
    """t₀, as a share of the run"""
    width: Positive = 0.05
    """w, as a share of the run: λ rises from 0.12 to 0.88 within 4 w"""

    def parts(self) -> Parts:
        return Parts(tree=BASE_TREE, prepare=self._prepare, decay=self._decay)

    def _prepare(self, context: Context, key: jax.Array) -> Params:
        """Return {"middle", "width": t₀ and w in steps, "original": one scalar per leaf, 0 in fresh heads}."""
        in_steps = {"middle": self.middle * context.steps, "width": self.width * context.steps}
        return {name: jnp.float32(value) for name, value in in_steps.items()} | {"original": context.is_original()}

    def _decay(self, now: StepContext, updates: Params, theta: Params) -> Params:
        anchors, is_original = flatten(now.base), flatten(now.aux["original"])
        share = jax.nn.sigmoid((now.step - now.aux["middle"]) / now.aux["width"])

        def of_leaf(path: str, update: jax.Array, leaf: jax.Array) -> jax.Array:
            back = jnp.minimum(1.0, now.rate(path) * (1 - share) * self.strength * now.strength)
            return jnp.where(is_original[path] > 0, share * update - back * (leaf - anchors[path]), update)

        return map_leaves(of_leaf, updates, theta)
