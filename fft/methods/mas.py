"""Memory aware synapses: a penalty keeps parameters that the base's outputs depend on near the base."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from fft.core.batch import Batch, Labelled, row_weight
from fft.core.bounds import Count, NonNegative
from fft.core.naming import counted
from fft.core.network import Network
from fft.core.tree import Params, flatten, overlay, unflatten
from fft.fisher.squares import logits_of, sum_over_rows
from fft.methods.base import Method
from fft.methods.context import PREDICT_BATCH, Context
from fft.methods.parts import Parts, StepContext
from fft.methods.sums import leaf_sum
from fft.tasks import Task


@dataclass(frozen=True)
class MAS(Method):
    """Add  λ Σ Ω ⊙ (θ − θ*)²  with  Ω = mean over original rows of |∂ ‖z‖² / ∂θ|,  z [C] the logits of the original
    head of the base. Labels are not used.

    The sum runs over the MERGED parameters. A fresh head has no original value and is not penalised.

    Reference: Aljundi et al. 2018, arXiv 1711.09601, section 4, with the squared norm that they use for many outputs.
    """

    name: ClassVar[str] = "mas"
    strength: NonNegative = 1.0
    """λ"""
    samples: Count = 512
    """original training rows that are read, chosen by the seed"""

    def parts(self) -> Parts:
        return Parts(needs=frozenset({"original"}), prepare=self._prepare, pull=self._pull)

    def _prepare(self, context: Context, key: jax.Array) -> Params:
        """Return Ω, shaped like the parameters without fresh heads."""
        task, batches = context.original, context.batches
        assert task is not None and batches is not None  # the method needs original data
        measured = unflatten({p: leaf for p, leaf in flatten(context.base).items() if not context.is_fresh(p)})
        add = _adder(context.model, task)
        total, examples = jax.tree.map(jnp.zeros_like, measured), 0
        for batch in batches(self.samples, PREDICT_BATCH):
            context.poll()
            total = add(total, measured, context.base, batch)
            examples += int(np.sum(row_weight(batch.weight) > 0))
        omega = jax.tree.map(lambda leaf: leaf / examples, total)
        trace = float(leaf_sum(jnp.sum(leaf) for leaf in jax.tree.leaves(omega)))
        context.note(f"MAS: importance over {counted(examples, 'original row')}: sum {trace:.4g}")
        return omega

    def _pull(self, now: StepContext) -> tuple[float, Params]:
        return self.strength, now.aux


def _adder(model: Network, task: Task) -> Callable[[Params, Params, Params, Batch], Params]:
    """Return the compiled (total, measured, base, batch) -> total + Σ_b |∂ ‖z_b‖² / ∂ measured|, row by row."""

    def squared_length(measured: Params, base: Params, row: Labelled) -> jax.Array:
        # Classes that the row's head lacks add a constant, whose gradient is 0.
        logits = logits_of(model, task, overlay(base, measured), row)
        return jnp.sum(jnp.square(row.weight[..., None] * logits))

    @jax.jit
    def add(total: Params, measured: Params, base: Params, batch: Batch) -> Params:
        def of_row(row: Labelled) -> Params:
            return jax.tree.map(jnp.abs, jax.grad(squared_length)(measured, base, row))

        return sum_over_rows(of_row, total, batch)

    return add
