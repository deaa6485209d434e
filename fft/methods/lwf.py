"""Learning without forgetting: distil the original head's predictions from the base on the NEW inputs."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax

from fft.core.batch import Batch, Outputs
from fft.core.bounds import NonNegative, Temperature
from fft.core.settings import later
from fft.core.tree import Params
from fft.methods.base import Method
from fft.methods.context import Context
from fft.methods.kl import Likeliest, check_teacher, divergence, taught
from fft.methods.parts import Parts, StepContext
from fft.tasks import Task


@dataclass(frozen=True)
class LwF(Method):
    """Add  λ τ² mean KL(p* ‖ p)  over the new task's own batch, p* and p the predictions of the original head in the
    base and now. It needs no original data and no second forward pass.

    It preserves the original task only as far as the new inputs resemble the original ones.

    Reference: Li and Hoiem 2016, arXiv 1606.09282, equation 2 (with KL instead of cross-entropy, which has the same
    gradient).
    """

    name: ClassVar[str] = "lwf"
    strength: NonNegative = 1.0
    """λ"""
    temperature: Temperature = 2.0
    """τ; above 1 unlikely classes have more weight"""
    likeliest: Likeliest = later(0)

    def parts(self) -> Parts:
        return Parts(
            needs=frozenset({"head"}),
            check=partial(check_teacher, self.name, "new", self.likeliest),
            teaches=frozenset() if self.likeliest else frozenset({"new"}),
            prepare=self._prepare,
            losses={"new": self._loss},
            by_token=frozenset({"new"}),
        )

    def _prepare(self, context: Context, key: jax.Array) -> Params:
        """Return what `taught` returns for the new training rows."""
        return taught(context, "new", self.likeliest, self.temperature)

    def _loss(self, now: StepContext, outputs: Outputs, batch: Batch, task: Task) -> jax.Array:
        return self.strength * divergence(outputs, batch, now.aux, task, self.temperature)
