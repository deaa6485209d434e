"""Replay: original training rows are mixed into every step, with their labels."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax

from fft.core.batch import Batch, Outputs
from fft.core.settings import between, positive
from fft.core.tree import Params
from fft.methods.base import MOST_RATIO, Method
from fft.tasks import Task


@dataclass(frozen=True)
class Replay(Method):
    """Add  λ · mean nll  of a batch of original rows, drawn anew for every step in a seeded order.

    `ratio` original rows stand beside each new one. With λ = `ratio` every row counts the same, as if the rows were
    mixed into one batch.

    Reference: Robins 1995, Connection Science 7(2); Chaudhry et al. 2019, arXiv 1902.10486.
    """

    name: ClassVar[str] = "replay"
    needs_original: ClassVar[bool] = True
    strength: float = 1.0
    """λ"""
    ratio: float = 1.0
    """original rows of a step for each new row"""

    def __post_init__(self) -> None:
        between("replay.strength", self.strength, 0.0, math.inf)
        positive("replay.ratio", self.ratio, MOST_RATIO)

    @property
    def streams(self) -> Mapping[str, float]:
        return {"original": self.ratio}

    def loss(self, stream: str, outputs: Outputs, batch: Batch, aux: Params, task: Task) -> jax.Array | float:
        return self.strength * task.terms(outputs, batch) if stream == "original" else 0.0
