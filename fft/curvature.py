"""The rise of a loss along one change of the parameters, to second order with the whole Fisher information."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from fft.paths import Params


class Curvature:
    """½ Δᵀ F Δ = ½ E_x Σ_y p(y|x) (Δᵀ ∂ log p(y|x) / ∂θ)² in nats, F the whole Fisher information at the base.

    F is never formed: the inner product is one derivative along Δ, for the price of about two forward passes. What the
    diagonal leaves out, what parameters do together, is all in it. The labels are the model's own, all of them (see
    `support` of the tasks). `batches` are host batches; the change is an argument of the one program a padded length.

    Reference: Martens 2014, arXiv 1412.1193, section 9 (the Fisher as a Gauss-Newton matrix; products with it).
    """

    def __init__(self, model: Any, task: Any, base: Params, batches: Iterable[dict]):
        self.base, self.batches = base, list(batches)
        self.rows = sum(int((batch["weight"] > 0).sum()) for batch in self.batches)

        def loss(logits, batch):
            return task.loss({"logits": {task.name: logits}}, batch)[0]

        @jax.jit
        def total(base, tuned, batch):
            change = jax.tree.map(jnp.subtract, tuned, base)
            outputs = jax.jvp(lambda params: model.apply(params, batch)["logits"][task.name], (base,), (change,))
            labels, weights = task.support(outputs[0])

            def slope(label):
                return jax.jvp(lambda logits: loss(logits, {**batch, "label": label}), *((one,) for one in outputs))[1]

            return 0.5 * jnp.sum(weights * jnp.square(jax.vmap(slope)(labels)))

        self._total = total

    def rise(self, tuned: Params) -> float:
        """½ Δᵀ F Δ for Δ from the base to `tuned`."""
        return sum(float(self._total(self.base, tuned, batch)) for batch in self.batches) / self.rows
