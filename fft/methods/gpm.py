"""Gradient projection memory: updates do not change a layer's outputs for the inputs of original rows."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from fft.core.batch import Batch
from fft.core.bounds import Count, PositiveShare
from fft.core.errors import InputError
from fft.core.network import outputs_of
from fft.core.tree import Params, flatten, overlay, unflatten
from fft.methods.base import Method
from fft.methods.context import PREDICT_BATCH, Context
from fft.methods.parts import Parts, StepContext, transformation, updates_of
from fft.methods.trees import BASE_TREE

if TYPE_CHECKING:
    import optax

PARTS = ("kernel", "bias")


@dataclass(frozen=True)
class GPM(Method):
    """Apply  U − M Mᵀ U  in place of a dense layer's update U, the kernel's [in, out] with the bias's as one more row.

    The columns of M are the first left singular vectors of the layer's inputs (x, 1) over the tokens of original rows
    in the base: the fewest with the share ε of the inputs' squared length. Then x W + b does not change for (x, 1) in
    their span. Embeddings and norms, which have no such M, are frozen; a fresh head is trained freely.

    Reference: Saha, Garg and Roy 2021, arXiv 2103.09762, which project the gradient.
    """

    name: ClassVar[str] = "gpm"
    threshold: PositiveShare = 0.95
    """ε; 1 protects every direction of the inputs"""
    samples: Count = 128
    """original training rows that are read, chosen by the seed"""

    def parts(self) -> Parts:
        return Parts(tree=BASE_TREE, needs=frozenset({"original"}), prepare=self._prepare, confine=_projected)

    def _prepare(self, context: Context, key: jax.Array) -> Params:
        """Return {"inputs": M [in + 1, k] of each trained dense layer, "keep": a factor for other trained leaves}.

        The factor is 1 in a fresh head, else 0.
        Raises: InputError if no trained dense layer reads original rows.
        """
        leaves = [path for path in flatten(context.base) if context.is_trained(path)]
        total = _moments(context, self.samples)
        bases, keep = {}, {}
        for path in leaves:
            layer, _, part = path.rpartition("/")
            if context.is_fresh(path) or part not in PARTS or layer not in total:
                keep[path] = jnp.float32(context.is_fresh(path))
            elif layer not in bases:
                rows = [f"{layer}/{part}" in leaves for part in PARTS]
                bases[layer] = self._basis(total[layer], *rows)
        if not bases:
            raise InputError("gpm: no trained dense layer reads original rows, so it has no effect: leave gpm out")
        protected, size = (sum(basis.shape[axis] for basis in bases.values()) for axis in (1, 0))
        context.note(f"GPM: {protected} of the {size} input directions of {len(bases)} dense layers are protected")
        return {"inputs": unflatten(bases), "keep": unflatten(keep)}

    def _basis(self, moments: jax.Array, kernel: bool, bias: bool) -> jax.Array:
        """Return the first eigenvectors of the second moments, which are the left singular vectors of the inputs."""
        if not (kernel and bias):
            moments = moments[:-1, :-1] if kernel else moments[-1:, -1:]
        values, vectors = np.linalg.eigh(np.asarray(moments, np.float64))
        share = np.cumsum(values[::-1].clip(min=0.0)) / values.clip(min=0.0).sum()
        # Eigenvalues of a float32 sum are exact only up to about this share of the largest one.
        enough = min(self.threshold, 1 - len(values) * np.finfo(np.float32).eps)
        return jnp.float32(vectors[:, ::-1][:, : 1 + int(np.argmax(share >= enough))])


def _projected(tx: "optax.GradientTransformation", now: StepContext) -> "optax.GradientTransformation":
    """Wrap `tx`: project its updates of dense layers to be orthogonal to the protected input directions."""

    def update(gradients: Params, state: "optax.OptState", params: Params) -> tuple[Params, "optax.OptState"]:
        updates, state = updates_of(tx, gradients, state, params)
        changes = flatten(updates)
        for path, keep in flatten(now.aux["keep"]).items():
            changes[path] = changes[path] * keep
        for path, basis in flatten(now.aux["inputs"]).items():
            parts = [p for p in (f"{path}/{part}" for part in PARTS) if p in changes and now.is_trained(p)]
            rows = jnp.concatenate([jnp.atleast_2d(changes[p]) for p in parts])
            rows -= jnp.matmul(basis, jnp.matmul(basis.T, rows, precision="highest"), precision="highest")
            for p in parts:
                size = len(jnp.atleast_2d(changes[p]))
                changes[p], rows = rows[:size].reshape(changes[p].shape), rows[size:]
        return overlay(updates, unflatten(changes)), state

    return transformation(tx.init, update)


def _moments(context: Context, samples: int) -> dict[str, jax.Array]:
    """Return the second moments of each dense layer's inputs over original rows."""
    from fft.models.probes.inputs import dense_inputs, second_moments

    batches, task = context.batches, context.original
    assert batches is not None and task is not None  # the method needs original data

    @jax.jit
    def of_batch(base: Params, batch: Batch) -> dict[str, jax.Array]:
        def run() -> jax.Array:
            return task.logits(outputs_of(context.model, base, batch, read=(task.reads,)), batch)

        return second_moments(dense_inputs(run), batch)

    total: dict[str, jax.Array] = {}
    for batch in batches(samples, PREDICT_BATCH):
        context.poll()
        total = {path: total.get(path, 0.0) + moments for path, moments in of_batch(context.base, batch).items()}
    return total
