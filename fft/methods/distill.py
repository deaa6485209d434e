"""Feature distillation: keep the pooled state, or the hidden states of some layers, near the base's."""

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

SMALLEST = 1e-12  # avoids 0 / 0 for a state of zeros


@dataclass(frozen=True)
class Distill(Method):
    """Add  λ mean_inputs mean_layers ‖h − h*‖² / ‖h*‖²,  h and h* the states of the model and the base in a layer: the
    pooled state [D], or the hidden states of an input's T real tokens as one vector [T·D].

    The features are preserved for every head, not only the original one, so no head and no labels are needed. The
    base's pooled states are computed once, before step 1; its hidden states, N·T·D numbers per layer, in every step.

    References: Romero et al. 2015 (FitNets), arXiv 1412.6550, equation 3, without the regressor: the widths are equal;
    Jiao et al. 2020 (TinyBERT), arXiv 1909.10351, equations 8 and 9, for the layers.
    """

    name: ClassVar[str] = "distill"
    strength: NonNegative = 1.0
    """λ"""
    on: Literal["new", "original", "unlabelled"] = "original"
    """the inputs: the new task's batch, the original task's training rows, or the texts of --unlabelled"""
    ratio: Ratio = 1.0
    """original or unlabelled inputs per new row in a step"""
    layers: str = "pooled"
    """pooled (the input of the heads), numbers as in 0,6,12 (0 the embeddings, i the i-th block), both, or all"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"all|(pooled|\d+)(,(pooled|\d+))*", self.layers):
            raise InputError(f"--distill.layers {self.layers!r}: expected pooled, all, or numbers such as 0,6,12")

    def parts(self) -> Parts:
        return Parts(
            streams={} if self.on == "new" else {self.on: self.ratio},
            layers=frozenset() if self.layers == "pooled" else frozenset({self.on}),
            check=self._check,
            prepare=self._prepare if self._uses_pooled else None,
            losses={self.on: self._loss},
        )

    def _check(self, context: Context) -> None:
        """Reject layer numbers that the base does not have.

        Raises: InputError.
        """
        blocks = len(context.base["layers"])
        if above := sorted(depth for depth in self._depths(blocks) if depth > blocks):
            raise InputError(
                f"--distill.layers names {above[0]}: this model has 0, the embeddings, and blocks 1 to {blocks}"
            )

    def _prepare(self, context: Context, key: jax.Array) -> Params:
        """Return {"pooled": the base's [N, D], by index of the stream's rows}."""
        return {"pooled": jnp.asarray(context.teacher.outputs(self.on, "pooled"))}

    def _loss(self, now: StepContext, outputs: Outputs, batch: Batch, task: Task) -> jax.Array:
        distances = [_relative_distance(outputs.pooled, now.aux["pooled"][batch.row])] if self._uses_pooled else []
        of_base = outputs.base.states.layers if outputs.base is not None else {}
        for depth in self._depths(max(of_base, default=0)):
            state, anchor = outputs.states.layers[depth], of_base[depth]
            tokens = anchor.shape[1]  # the model may have virtual tokens in front, the base has none
            real = batch.mask[:, :tokens, None] > 0
            state, anchor = (jnp.where(real, x[:, -tokens:], 0.0) for x in (state, anchor))
            distances.append(_relative_distance(*(x.reshape(len(x), -1) for x in (state, anchor))))
        return self.strength * sum(distances[1:], distances[0]) / len(distances)

    @property
    def _uses_pooled(self) -> bool:
        return self.layers == "all" or "pooled" in self.layers.split(",")

    def _depths(self, blocks: int) -> list[int]:
        """Return the layer numbers, for a model with `blocks` blocks."""
        if self.layers == "all":
            return list(range(blocks + 1))
        return sorted({int(name) for name in self.layers.split(",") if name != "pooled"})


def _relative_distance(now: jax.Array, anchor: jax.Array) -> jax.Array:
    """Return ‖h − h*‖² / ‖h*‖² [B] for rows [B, W]."""
    return jnp.sum(jnp.square(now - anchor), axis=-1) / jnp.maximum(jnp.sum(jnp.square(anchor), axis=-1), SMALLEST)
