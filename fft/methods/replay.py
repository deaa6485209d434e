"""Replay: original training rows are mixed into every step, with their labels."""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax

from fft.core.batch import Batch, Outputs
from fft.core.settings import between, positive
from fft.methods.base import MOST_RATIO, Method
from fft.methods.parts import Parts, StepContext
from fft.tasks import Task


@dataclass(frozen=True)
class Replay(Method):
    """Add  λ · mean nll  of a batch of original rows, drawn anew for every step in a seeded order.

    `ratio` original rows stand beside each new one. With λ = `ratio` every row counts the same, as if the rows were
    mixed into one batch.

    Reference: Robins 1995, Connection Science 7(2); Chaudhry et al. 2019, arXiv 1902.10486.
    """

    name: ClassVar[str] = "replay"
    strength: float = 1.0
    """λ"""
    ratio: float = 1.0
    """original rows of a step for each new row"""

    def __post_init__(self) -> None:
        between("replay.strength", self.strength, 0.0, math.inf)
        positive("replay.ratio", self.ratio, MOST_RATIO)

    def parts(self) -> Parts:
        return Parts(streams={"original": self.ratio}, losses={"original": self._loss})

    def _loss(self, now: StepContext, outputs: Outputs, batch: Batch, task: Task) -> jax.Array:
        return self.strength * task.terms(outputs, batch)
