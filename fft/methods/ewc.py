"""Elastic weight consolidation: parameters that the original task depends on are held where they were."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from fft.errors import InputError
from fft.fisher import diagonal_fisher
from fft.methods.base import Context, Method, leaf_sum
from fft.paths import Params, flatten
from fft.schema import at_least, between

MOST_DRAWS = 10_000  # they are drawn, and held, all at once


@dataclass(frozen=True)
class EWC(Method):
    """Add  ½ λ Σ F ⊙ (θ − θ*)²  with the diagonal Fisher information F of the original task at the base θ*.

    The sum runs over the MERGED parameters, so with LoRA it is ½ λ Σ F ⊙ (s·B·A)². A fresh head has no
    original-task loss and takes no part. The Laplace argument with mean losses puts λ near N_original / N_new; the
    useful λ is larger, so search it on a logarithmic grid.

    Reference: Kirkpatrick et al. 2017, arXiv 1612.00796, equation 3.
    """

    name: ClassVar[str] = "ewc"
    needs_original: ClassVar[bool] = True
    strength: float = 1000.0
    """λ"""
    estimator: Literal["exact", "mc", "empirical", "gnb", "batched"] = "mc"
    """labels of the Fisher pass: all of them weighted by the model, drawn from the model, or the data's"""
    way: Literal["fused", "vmapped"] = "fused"
    """one backward pass a batch, or vmap(grad) over `chunk` rows at a time, which works for any model"""
    samples: int = 512
    """original training rows the Fisher pass reads"""
    draws: int = 1
    """labels drawn per row by `mc` and `gnb`"""
    chunk: int = 1
    """rows whose gradients `vmapped` holds at once"""

    def __post_init__(self):
        between("ewc.strength", self.strength, 0.0, math.inf)
        at_least("ewc.samples", self.samples, 1)
        at_least("ewc.chunk", self.chunk, 1)
        between("ewc.draws", self.draws, 1, MOST_DRAWS)

    def prepare(self, context: Context, key: jax.Array) -> Params:
        """The diagonal Fisher [leaf shapes] over every parameter but fresh heads."""
        if context.original is None:
            raise InputError("EWC measures the original task: give --original")
        fresh = tuple(f"heads/{name}/" for name in context.fresh_heads)
        task = context.original.calibrated(lambda: context.predictions(self.samples))
        fisher = diagonal_fisher(
            context.model,
            task,
            context.base,
            context.batches(self.samples),
            key,
            estimator=self.estimator,
            draws=self.draws,
            way=self.way,
            chunk=self.chunk,
            where=lambda path: not path.startswith(fresh),
            poll=context.poll,
            warn=lambda text: context.note(f"warning: {text}"),
        )
        trace = sum(float(jnp.sum(leaf)) for leaf in jax.tree.leaves(fisher.diagonal))
        sigma = f", residual sd {task.sigma:.4g}" if task.kind == "regression" else ""
        context.note(f"Fisher ({fisher.estimator}) over {fisher.examples} original rows: trace {trace:.4g}{sigma}")
        return fisher.diagonal

    def penalty(self, base: Params, params: Params, aux: Params) -> jax.Array:
        anchors, values = flatten(base), flatten(params)

        def of_leaf(path, fisher):
            if not fisher.shape == values[path].shape == anchors[path].shape:
                raise InputError(f"the Fisher of {path} is {fisher.shape}, the parameter {values[path].shape}")
            return jnp.sum(fisher * jnp.square(values[path] - anchors[path]))

        return 0.5 * self.strength * leaf_sum(of_leaf(path, f) for path, f in flatten(aux).items())
