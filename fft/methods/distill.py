"""Feature distillation: the pooled hidden state that the heads read stays near the base's."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from fft.methods.base import MOST_RATIO, Context, Method
from fft.paths import Params
from fft.schema import between, positive

SMALLEST = 1e-12  # a state of zeros has no direction to keep


@dataclass(frozen=True)
class Distill(Method):
    """Add  λ mean ‖h − h*‖² / ‖h*‖²  over a batch of inputs, h and h* [D] the model's and the base's pooled states.

    It holds what every head could read, not only the original one, so it needs no head and no labels.

    Reference: Romero et al. 2015 (FitNets), arXiv 1412.6550, equation 3, without the regressor: the widths are equal.
    """

    name: ClassVar[str] = "distill"
    strength: float = 1.0
    """λ"""
    on: Literal["new", "original", "unlabelled"] = "original"
    """whose inputs: the new task's batch, the original task's training rows, or the texts of --unlabelled"""
    ratio: float = 0.25
    """original or unlabelled inputs of a step for each new row"""

    def __post_init__(self):
        between("distill.strength", self.strength, 0.0, math.inf)
        positive("distill.ratio", self.ratio, MOST_RATIO)

    @property
    def streams(self) -> Mapping[str, float]:
        return {} if self.on == "new" else {self.on: self.ratio}

    @property
    def needs_original(self) -> bool:
        """Whether the original task's data are needed."""
        return self.on == "original"

    def prepare(self, context: Context, key: jax.Array) -> Params:
        """{"pooled": the base's [N, D] at the places of the stream's rows}."""
        return {"pooled": jnp.asarray(context.outputs(self.on, "pooled"))}

    def loss(self, stream: str, outputs: dict, batch: dict, aux: Params, task: Any) -> jax.Array | float:
        if stream != self.on:
            return 0.0
        anchor = aux["pooled"][batch["row"]]
        moved = jnp.sum(jnp.square(outputs["pooled"] - anchor), axis=-1)
        return self.strength * moved / jnp.maximum(jnp.sum(jnp.square(anchor), axis=-1), SMALLEST)
