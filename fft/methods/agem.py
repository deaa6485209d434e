"""A-GEM: if a gradient would raise the loss on original rows, project it to be orthogonal to their gradient."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from fft.core.batch import Batch, Outputs
from fft.methods.base import Method, Ratio
from fft.methods.parts import Gradients, Parts, StepContext
from fft.methods.sums import leaf_sum, summed
from fft.tasks import Task


@dataclass(frozen=True)
class AGEM(Method):
    """Descend  g − min(0, ⟨g, g_o⟩) / ⟨g_o, g_o⟩ · g_o  in place of g, the gradient of the objective. g_o is the
    gradient of the mean nll of original rows, drawn anew for every step; it is a constraint, not part of the
    objective.

    The inner products run over the trained leaves, before the clip.

    Reference: Chaudhry et al. 2019, arXiv 1812.00420, equation 11.
    """

    name: ClassVar[str] = "agem"
    ratio: Ratio = 1.0
    """original rows per new row in a step"""

    def parts(self) -> Parts:
        return Parts(
            streams={"original": self.ratio},
            losses={"original": _nll},
            by_token=frozenset({"original"}),
            combine=_projected,
        )


def _nll(now: StepContext, outputs: Outputs, batch: Batch, task: Task) -> jax.Array:
    return task.terms(outputs, batch)


def _projected(gradients: Gradients) -> dict[str, jax.Array]:
    """Return the gradient without the component that would raise the loss on the original rows."""
    reference = gradients["original"]
    gradient = summed({part: g for part, g in gradients.items() if part != "original"})
    agreement = leaf_sum(jnp.vdot(gradient[path], g) for path, g in reference.items())
    length = leaf_sum(jnp.vdot(g, g) for g in reference.values())
    # If the gradient on the original rows is 0, there is nothing to remove.
    against = jnp.where(length > 0, jnp.minimum(agreement, 0.0) / jnp.where(length > 0, length, 1.0), 0.0)
    return {path: g - against * reference[path] for path, g in gradient.items()}
