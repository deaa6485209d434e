"""Sparse tuning: train only the parameters that the original task depends on least."""

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
    """Train in each leaf the  ⌈share · size⌉  parameters with the smallest Fisher information F of the original task at
    the base; the others do not change by a bit. Fresh heads are trained fully.

    The choice is made leaf by leaf: over all parameters at once it would fall on the embeddings of tokens that do not
    occur in the original rows, whose F is 0.

    Reference: Sung, Nair and Raffel 2021 (FISH Mask), arXiv 2111.09839, who train the parameters with the largest F of
    the NEW task.
    """

    name: ClassVar[str] = "sparse"
    share: PositiveShare = 0.1
    """share of each leaf's parameters that is trained"""

    def parts(self) -> Parts:
        return super().parts()._replace(tree=BASE_TREE, prepare=self._prepare, confine=_masked)

    def _prepare(self, context: Context, key: jax.Array) -> Params:
        """Return a mask, uint8, 1 where a parameter is trained, for every trained leaf outside fresh heads.

        Raises: InputError if there are neither original data nor an artefact, and for an artefact of another base.
        """
        fisher = flatten(unpack(self.information(context, key)[0]))
        masks = {path: self._mask(np.asarray(leaf)) for path, leaf in fisher.items() if context.is_trained(path)}
        trained, size = (sum(f(mask) for mask in masks.values()) for f in (np.sum, np.size))
        frozen = sum(float(np.sum(fisher[path][mask == 0])) for path, mask in masks.items())
        total = sum(float(np.sum(fisher[path])) for path in masks)
        context.note(
            f"sparse: {trained} of {size} parameters are trained; the others have "
            f"{frozen / total if total else 1:.1%} of the Fisher information"
        )
        return unflatten({path: jnp.asarray(mask) for path, mask in masks.items()})

    def _mask(self, fisher: np.ndarray) -> np.ndarray:
        mask = np.zeros(fisher.size, np.uint8)
        mask[np.argsort(fisher, axis=None, kind="stable")[: math.ceil(self.share * fisher.size)]] = 1
        return mask.reshape(fisher.shape)


def _masked(tx: "optax.GradientTransformation", now: StepContext) -> "optax.GradientTransformation":
    """Wrap `tx`: mask its gradients and its updates."""

    def masked(tree: Params) -> Params:
        leaves = flatten(tree)
        return overlay(
            tree, unflatten({p: jnp.where(mask > 0, leaves[p], 0.0) for p, mask in flatten(now.aux).items()})
        )

    def update(gradients: Params, state: "optax.OptState", params: Params) -> tuple[Params, "optax.OptState"]:
        # The gradients are masked for the clip and the moments, the updates because of the weight decay.
        updates, state = updates_of(tx, masked(gradients), state, params)
        return masked(updates), state

    return transformation(tx.init, update)
