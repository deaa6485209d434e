"""LP-FT: first the head alone on the features as they are, then everything."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import jax
import jax.numpy as jnp

from fft.core.bounds import Share
from fft.core.tree import Params
from fft.methods.base import Method
from fft.methods.context import Context
from fft.methods.parts import Parts, StepContext
from fft.methods.unfreeze import gated

if TYPE_CHECKING:
    import optax


@dataclass(frozen=True)
class LPFT(Method):
    """Train the heads alone for the first  ⌈share · steps⌉  steps, then whatever else is trained as well. Until then
    the rest keeps its value bit for bit.

    A fresh head asks the features to change at random. One that was fitted first asks for what the task lacks.

    Reference: Kumar et al. 2022, arXiv 2202.10054.
    """

    name: ClassVar[str] = "lpft"
    share: Share = 0.3
    """of the run's steps that train the heads alone"""

    def parts(self) -> Parts:
        return Parts(prepare=self._prepare, confine=_gated)

    def _prepare(self, context: Context, key: jax.Array) -> Params:
        """{"until": the number of those steps, int32 []}."""
        return {"until": jnp.int32(math.ceil(self.share * context.steps))}


def _gated(tx: "optax.GradientTransformation", now: StepContext) -> "optax.GradientTransformation":
    return gated(tx, lambda path: 0 if path.startswith("heads/") else now.aux["until"])
