"""Sparse tuning: only parameters that the original task depends on least are trained."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from fft.core.bounds import PositiveShare
from fft.core.tree import Params, flatten, overlay, unflatten
from fft.fisher.storage import unpack
from fft.methods.context import Context
from fft.methods.informed import Informed
from fft.methods.parts import Parts, StepContext, transformation, updates_of
from fft.methods.trees import BASE_TREE

if TYPE_CHECKING:
    import optax


@dataclass(frozen=True)
class Sparse(Informed):
    """Train of each leaf the  ⌈share · size⌉  parameters with the smallest Fisher information F of the original task at
    the base; the others keep their values bit for bit. Fresh heads are trained whole.

    The choice is leaf by leaf: over all parameters at once it would fall on embeddings of tokens that the original rows
    do not have, whose F is 0.

    Reference: Sung, Nair and Raffel 2021 (FISH Mask), arXiv 2111.09839, who train the parameters with the largest F of
    the NEW task.
    """

    name: ClassVar[str] = "sparse"
    share: PositiveShare = 0.1
    """of a leaf's parameters that are trained"""

    def parts(self) -> Parts:
        return super().parts()._replace(tree=BASE_TREE, prepare=self._prepare, confine=_masked)

    def _prepare(self, context: Context, key: jax.Array) -> Params:
        """1 where a parameter is trained, 0 where it is not, uint8, for every leaf but those of fresh heads.

        Raises: InputError without original data and without a Fisher, and for a Fisher of another base.
        """
        fisher = flatten(unpack(self.information(context, key)[0]))
        chosen = {path: self._chosen(np.asarray(leaf)) for path, leaf in fisher.items() if context.is_trained(path)}
        taken, size = (sum(f(mask) for mask in chosen.values()) for f in (np.sum, np.size))
        held = sum(float(np.sum(fisher[path][mask == 0])) for path, mask in chosen.items())
        whole = sum(float(np.sum(fisher[path])) for path in chosen)
        context.note(
            f"sparse: {taken} of {size} parameters are trained; the others hold {held / whole if whole else 1:.1%} of "
            "their Fisher information"
        )
        return unflatten({path: jnp.asarray(mask) for path, mask in chosen.items()})

    def _chosen(self, fisher: np.ndarray) -> np.ndarray:
        mask = np.zeros(fisher.size, np.uint8)
        mask[np.argsort(fisher, axis=None, kind="stable")[: math.ceil(self.share * fisher.size)]] = 1
        return mask.reshape(fisher.shape)


def _masked(tx: "optax.GradientTransformation", now: StepContext) -> "optax.GradientTransformation":
    """`tx` that sees the gradients of the chosen parameters alone, and changes no others."""

    def masked(tree: Params) -> Params:
        leaves = flatten(tree)
        return overlay(
            tree, unflatten({p: jnp.where(mask > 0, leaves[p], 0.0) for p, mask in flatten(now.aux).items()})
        )

    def update(gradients: Params, state: "optax.OptState", params: Params) -> tuple[Params, "optax.OptState"]:
        # The gradient for the clip and the moments, the update for the weight decay.
        updates, state = updates_of(tx, masked(gradients), state, params)
        return masked(updates), state

    return transformation(tx.init, update)
