"""Replay: every step also trains on labelled rows of the original task."""

from dataclasses import dataclass
from typing import ClassVar

import jax

from fft.core.batch import Batch, Outputs
from fft.core.bounds import NonNegative
from fft.methods.base import Method, Ratio
from fft.methods.parts import Parts, StepContext
from fft.tasks import Task


@dataclass(frozen=True)
class Replay(Method):
    """Add  λ · mean nll  of a batch of original rows, drawn anew for every step in a seeded order.

    There are `ratio` original rows per new row. With λ = `ratio` every row has the same weight, as if all rows were in
    one batch.

    Reference: Robins 1995, Connection Science 7(2); Chaudhry et al. 2019, arXiv 1902.10486.
    """

    name: ClassVar[str] = "replay"
    strength: NonNegative = 1.0
    """λ"""
    ratio: Ratio = 1.0
    """original rows per new row in a step"""

    def parts(self) -> Parts:
        return Parts(
            streams={"original": self.ratio}, losses={"original": self._loss}, by_token=frozenset({"original"})
        )

    def _loss(self, now: StepContext, outputs: Outputs, batch: Batch, task: Task) -> jax.Array:
        return self.strength * task.terms(outputs, batch)
