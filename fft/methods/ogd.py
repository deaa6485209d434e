"""Orthogonal gradient descent: no step moves along what changes the original answers of some rows."""

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
from fft.core.network import Network, outputs_of
from fft.core.tree import Params, flatten, overlay, unflatten
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
"""a gradient of which less than this share is left points where the others do; float32 says no more"""


@dataclass(frozen=True)
class OGD(Method):
    """Apply  u − Σ_k ⟨u, v_k⟩ v_k  in place of the optimizer's update u. The v_k are the gradients ∂z_y / ∂θ of K
    original rows in the base, orthonormalised; z_y is the original head's logit of the row's label y.

    To first order no step changes these logits, whatever the optimizer makes of the gradient. The inner products run
    over the trained leaves that are not a fresh head's.

    Reference: Farajtabar et al. 2020, arXiv 1910.07104, algorithm 1 (OGD-GTL), which projects the gradient.
    """

    name: ClassVar[str] = "ogd"
    directions: Annotated[int, Interval(ge=1, le=MOST_DIRECTIONS)] = 16
    """K, original training rows; each takes as much memory as the trained parameters"""

    def parts(self) -> Parts:
        return Parts(tree=BASE_TREE, needs=frozenset({"original"}), prepare=self._prepare, confine=_orthogonal)

    def _prepare(self, context: Context, key: jax.Array) -> Params:
        """The orthonormal directions [K', leaf shape]; K' < K where gradients depend on each other.

        Raises: InputError where nothing that is trained has a say in the original answers.
        """
        task, batches = context.original, context.batches
        assert task is not None and batches is not None  # the method needs original data
        leaves = flatten(context.base)
        held = {p: leaf for p, leaf in leaves.items() if context.is_trained(p) and not context.is_fresh(p)}
        add = _adder(context.model, task)
        basis = unflatten({path: jnp.zeros((self.directions, *leaf.shape)) for path, leaf in held.items()})
        found = rows = 0
        for batch in batches(self.directions, PREDICT_BATCH):
            context.poll()
            for at in np.flatnonzero(row_weight(batch.weight) > 0)[: self.directions - rows]:
                row = jax.tree.map(lambda values, at=at: values[at : at + 1], batch)
                basis, is_new = add(basis, found, unflatten(held), context.base, row)
                found, rows = found + int(is_new), rows + 1
        if not found:
            raise InputError("ogd: no parameter that is trained has a say in the original answers: nothing to protect")
        context.note(f"OGD: {counted(found, 'orthonormal direction')} from {counted(rows, 'original row')}")
        return jax.tree.map(lambda leaf: leaf[:found], basis)


def _orthogonal(tx: "optax.GradientTransformation", now: StepContext) -> "optax.GradientTransformation":
    """`tx` whose updates have no part along the directions."""

    def update(gradients: Params, state: "optax.OptState", params: Params) -> tuple[Params, "optax.OptState"]:
        updates, state = updates_of(tx, gradients, state, params)
        return overlay(updates, unflatten(_without(flatten(now.aux), flatten(updates)))), state

    return transformation(tx.init, update)


def _without(basis: dict[str, jax.Array], leaves: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The leaves that have directions in the basis, less their part along these."""
    along = leaf_sum(jnp.tensordot(v, leaves[path], v.ndim - 1, precision="highest") for path, v in basis.items())
    return {path: leaves[path] - jnp.tensordot(along, v, 1, precision="highest") for path, v in basis.items()}


def _adder(model: Network, task: Task) -> Callable[[Params, int, Params, Params, Batch], tuple[Params, jax.Array]]:
    """The compiled (basis, k, held, base, row) -> (basis with the row's direction at k, or as it was; whether)."""

    def answer(held: Params, base: Params, row: Batch) -> jax.Array:
        logits = task.logits(outputs_of(model, overlay(base, held), row, read=(task.reads,)), row)
        of_target = jnp.expand_dims(row.targets if task.labels else jnp.zeros_like(row.targets, jnp.int32), -1)
        return jnp.sum(row.weight * jnp.take_along_axis(logits, of_target, axis=-1)[..., 0])

    @partial(jax.jit, donate_argnums=0)
    def add(basis: Params, k: int, held: Params, base: Params, row: Batch) -> tuple[Params, jax.Array]:
        basis = flatten(basis)
        slope = flatten(jax.grad(answer)(held, base, row))
        # Twice: once leaves rounding errors as large as what was taken away.
        rest = _without(basis, _without(basis, slope))
        before, after = (jnp.sqrt(leaf_sum(jnp.vdot(g, g) for g in leaves.values())) for leaves in (slope, rest))
        is_new = after > SPANNED * before
        unit = jnp.where(is_new, 1 / jnp.where(is_new, after, 1.0), 0.0)
        return unflatten({path: v.at[k].set(unit * rest[path]) for path, v in basis.items()}), is_new

    return add
