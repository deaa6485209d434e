"""Feature distillation: what the heads read, or what some layers make of the tokens, stays near the base's."""

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from fft.core.batch import Batch, Outputs
from fft.core.bounds import NonNegative
from fft.core.errors import InputError
from fft.core.tree import Params
from fft.methods.base import Method, Ratio
from fft.methods.context import Context
from fft.methods.parts import Parts, StepContext
from fft.tasks import Task

SMALLEST = 1e-12  # a state of zeros has no direction to keep


@dataclass(frozen=True)
class Distill(Method):
    """Add  λ mean_inputs mean_layers ‖h − h*‖² / ‖h*‖²,  h and h* what the model and the base have in a layer: the
    pooled state [D], or the states of an input's T real tokens as one vector [T·D].

    It holds what every head could read, not only the original one, so it needs no head and no labels. The base's pooled
    states are computed once, before step 1; what it has in a layer is N·T·D numbers, so that is made anew in the step.

    References: Romero et al. 2015 (FitNets), arXiv 1412.6550, equation 3, without the regressor: the widths are equal;
    Jiao et al. 2020 (TinyBERT), arXiv 1909.10351, equations 8 and 9, for the layers.
    """

    name: ClassVar[str] = "distill"
    strength: NonNegative = 1.0
    """λ"""
    on: Literal["new", "original", "unlabelled"] = "original"
    """whose inputs: the new task's batch, the original task's training rows, or the texts of --unlabelled"""
    ratio: Ratio = 1.0
    """original or unlabelled inputs of a step for each new row"""
    layers: str = "pooled"
    """pooled (what the heads read), numbers as in 0,6,12 (0 the embeddings, i the i-th block), both, or all"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"all|(pooled|\d+)(,(pooled|\d+))*", self.layers):
            raise InputError(f"--distill.layers {self.layers!r}: expected pooled, all, or numbers such as 0,6,12")

    def parts(self) -> Parts:
        return Parts(
            streams={} if self.on == "new" else {self.on: self.ratio},
            layers=frozenset() if self.layers == "pooled" else frozenset({self.on}),
            check=self._check,
            prepare=self._prepare if self._holds_pooled else None,
            losses={self.on: self._loss},
        )

    def _check(self, context: Context) -> None:
        """Refuse a base without the layers."""
        blocks = len(context.base["layers"])
        if above := sorted(each for each in self._numbers(blocks) if each > blocks):
            raise InputError(
                f"--distill.layers names {above[0]}: this model has 0, the embeddings, and blocks 1 to {blocks}"
            )

    def _prepare(self, context: Context, key: jax.Array) -> Params:
        """{"pooled": the base's [N, D] at the places of the stream's rows}."""
        return {"pooled": jnp.asarray(context.teacher.outputs(self.on, "pooled"))}

    def _loss(self, now: StepContext, outputs: Outputs, batch: Batch, task: Task) -> jax.Array:
        moved = [_moved(outputs.pooled, now.aux["pooled"][batch.row])] if self._holds_pooled else []
        of_base = outputs.base.layers if outputs.base is not None else {}
        for depth in self._numbers(max(of_base, default=0)):
            found, anchor = outputs.states.layers[depth], of_base[depth]
            tokens = anchor.shape[1]  # virtual ones, which the base has none of, stand before them
            real = batch.mask[:, :tokens, None] > 0
            found, anchor = (jnp.where(real, x[:, -tokens:], 0.0) for x in (found, anchor))
            moved.append(_moved(*(x.reshape(len(x), -1) for x in (found, anchor))))
        return self.strength * sum(moved[1:], moved[0]) / len(moved)

    @property
    def _holds_pooled(self) -> bool:
        return self.layers == "all" or "pooled" in self.layers.split(",")

    def _numbers(self, blocks: int) -> list[int]:
        """The depths that are held, in a model of so many blocks."""
        if self.layers == "all":
            return list(range(blocks + 1))
        return sorted({int(each) for each in self.layers.split(",") if each != "pooled"})


def _moved(now: jax.Array, anchor: jax.Array) -> jax.Array:
    """‖h − h*‖² / ‖h*‖² [B] of rows [B, W]."""
    return jnp.sum(jnp.square(now - anchor), axis=-1) / jnp.maximum(jnp.sum(jnp.square(anchor), axis=-1), SMALLEST)
