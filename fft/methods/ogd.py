"""Orthogonal gradient descent: updates are orthogonal to the gradients of the base's outputs on original rows."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Interval

from fft.core.batch import Batch, row_weight
from fft.core.errors import InputError
from fft.core.naming import counted
from fft.core.network import Network
from fft.core.tree import Params, flatten, overlay, unflatten
from fft.fisher.squares import logits_of
from fft.methods.base import Method
from fft.methods.context import PREDICT_BATCH, Context
from fft.methods.parts import Parts, StepContext, transformation, updates_of
from fft.methods.sums import leaf_sum
from fft.methods.trees import BASE_TREE
from fft.tasks import Task

if TYPE_CHECKING:
    import optax

MOST_DIRECTIONS = 4096
SPANNED = 1e-3
"""the smallest share of a gradient outside the span of the others that is a new direction, given float32 errors"""


@dataclass(frozen=True)
class OGD(Method):
    """Apply  u − Σ_k ⟨u, v_k⟩ v_k  in place of the optimizer's update u. The v_k are the gradients ∂z_y / ∂θ of K
    original rows in the base, orthonormalised; z_y is the original head's logit of the row's label y.

    To first order no step changes these logits, whatever the optimizer does to the gradient. The inner products run
    over the trained leaves outside fresh heads.

    Reference: Farajtabar et al. 2020, arXiv 1910.07104, algorithm 1 (OGD-GTL), which projects the gradient.
    """

    name: ClassVar[str] = "ogd"
    directions: Annotated[int, Interval(ge=1, le=MOST_DIRECTIONS)] = 16
    """K, original training rows; each direction takes as much memory as the trained parameters"""

    def parts(self) -> Parts:
        return Parts(tree=BASE_TREE, needs=frozenset({"original"}), prepare=self._prepare, confine=_orthogonal)

    def _prepare(self, context: Context, key: jax.Array) -> Params:
        """Return the orthonormal directions [K', leaf shape]; K' < K if the gradients are linearly dependent.

        Raises: InputError if no trained parameter influences the original logits.
        """
        task, batches = context.original, context.batches
        assert task is not None and batches is not None  # the method needs original data
        leaves = flatten(context.base)
        protected = {p: leaf for p, leaf in leaves.items() if context.is_trained(p) and not context.is_fresh(p)}
        add = _adder(context.model, task)
        basis = unflatten({path: jnp.zeros((self.directions, *leaf.shape)) for path, leaf in protected.items()})
        count = rows = 0
        for batch in batches(self.directions, PREDICT_BATCH):
            context.poll()
            for at in np.flatnonzero(row_weight(batch.weight) > 0)[: self.directions - rows]:
                row = jax.tree.map(lambda values, at=at: values[at : at + 1], batch)
                basis, is_new = add(basis, count, unflatten(protected), context.base, row)
                count, rows = count + int(is_new), rows + 1
        if not count:
            raise InputError(
                "ogd: no trained parameter influences the original logits, so it has no effect: leave ogd out"
            )
        context.note(f"OGD: {counted(count, 'orthonormal direction')} from {counted(rows, 'original row')}")
        return jax.tree.map(lambda leaf: leaf[:count], basis)


def _orthogonal(tx: "optax.GradientTransformation", now: StepContext) -> "optax.GradientTransformation":
    """Wrap `tx`: remove the component of its updates along the directions."""

    def update(gradients: Params, state: "optax.OptState", params: Params) -> tuple[Params, "optax.OptState"]:
        updates, state = updates_of(tx, gradients, state, params)
        return overlay(updates, unflatten(_without(flatten(now.aux), flatten(updates)))), state

    return transformation(tx.init, update)


def _without(basis: dict[str, jax.Array], leaves: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Return the leaves in the basis without their component along its directions."""
    along = leaf_sum(jnp.tensordot(v, leaves[path], v.ndim - 1, precision="highest") for path, v in basis.items())
    return {path: leaves[path] - jnp.tensordot(along, v, 1, precision="highest") for path, v in basis.items()}


def _adder(model: Network, task: Task) -> Callable[[Params, int, Params, Params, Batch], tuple[Params, jax.Array]]:
    """Return the compiled (basis, k, protected, base, row) -> (basis, is_new).

    If the row's gradient has a new direction, the basis has it at index k, else it is unchanged.
    """

    def logit(protected: Params, base: Params, row: Batch) -> jax.Array:
        logits = logits_of(model, task, overlay(base, protected), row)
        is_class = jnp.issubdtype(jnp.asarray(row.targets).dtype, jnp.integer)  # else the only output is meant
        of_target = jnp.expand_dims(row.targets if is_class else jnp.zeros_like(row.targets, jnp.int32), -1)
        return jnp.sum(row.weight * jnp.take_along_axis(logits, of_target, axis=-1)[..., 0])

    @partial(jax.jit, donate_argnums=0)
    def add(basis: Params, k: int, protected: Params, base: Params, row: Batch) -> tuple[Params, jax.Array]:
        basis = flatten(basis)
        slope = flatten(jax.grad(logit)(protected, base, row))
        # Twice, because one pass leaves rounding errors in proportion to the removed component.
        rest = _without(basis, _without(basis, slope))
        before, after = (jnp.sqrt(leaf_sum(jnp.vdot(g, g) for g in leaves.values())) for leaves in (slope, rest))
        is_new = after > SPANNED * before
        unit = jnp.where(is_new, 1 / jnp.where(is_new, after, 1.0), 0.0)
        return unflatten({path: v.at[k].set(unit * rest[path]) for path, v in basis.items()}), is_new

    return add
