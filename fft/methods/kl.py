"""KL to the base: distil the original head's predictions from the base on original or unlabelled inputs."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from fft.core.batch import Batch, Outputs
from fft.core.bounds import NonNegative, Positive
from fft.core.errors import InputError
from fft.core.tree import Params
from fft.methods.base import Method, Ratio
from fft.methods.context import Context
from fft.methods.parts import Parts, StepContext
from fft.tasks import Task


@dataclass(frozen=True)
class KL(Method):
    """Add  λ τ² mean KL(p* ‖ p)  over a batch of inputs; p* and p are the original head's predictions in the
    base and now.

    Labels are not used. The base's logits are computed once, before step 1, for the rows that the run will read; those
    of a language head, [T, V] for each row, in every step.

    References: Hinton et al. 2015, arXiv 1503.02531; Li and Hoiem 2016, arXiv 1606.09282, who use new inputs (lwf).
    """

    name: ClassVar[str] = "kl"
    strength: NonNegative = 1.0
    """λ"""
    on: Literal["original", "unlabelled"] = "original"
    """the inputs: the original task's training rows, or the texts of --unlabelled"""
    ratio: Ratio = 1.0
    """such inputs per new row in a step"""
    temperature: Positive = 1.0
    """τ; above 1 unlikely classes have more weight"""

    def parts(self) -> Parts:
        return Parts(
            needs=frozenset({"head"}),
            streams={self.on: self.ratio},
            check=partial(require_head, self.name),
            teaches=frozenset({self.on}),
            prepare=self._prepare,
            losses={self.on: self._loss},
            by_token=frozenset({self.on}),
        )

    def _prepare(self, context: Context, key: jax.Array) -> Params:
        """Return {"logits": the base's [N, C], or [N, T, C], by index of the stream's rows}, if they can be stored."""
        return base_logits(context, self.on)

    def _loss(self, now: StepContext, outputs: Outputs, batch: Batch, task: Task) -> jax.Array:
        return self.strength * divergence(outputs, batch, now.aux, task, self.temperature)


def require_head(method: str, context: Context) -> None:
    """Reject a base without an original head.

    Raises: InputError.
    """
    if context.original is None:
        raise InputError(
            f"{method} preserves the predictions of the original head, and the checkpoint has no head that is its "
            "classifier: name one with --original-head, or give --original with --original-head fit"
        )


def base_logits(context: Context, stream: str) -> Params:
    """Return {"logits": [N, C] or [N, T, C]} of the base's original head on a stream; {} if they cannot be stored."""
    if context.original is not None and not context.original.stores:
        return {}
    return {"logits": jnp.asarray(context.teacher.outputs(stream, "logits"))}


def divergence(outputs: Outputs, batch: Batch, aux: Params, task: Task, temperature: float) -> jax.Array:
    """Return the task's divergence of the original head's predictions from the base's at a temperature.

    [B], or [B, T] or [B, S] for a task that reads tokens; `aux` is the result of `base_logits`.
    """
    if outputs.base is not None and not task.stores:
        return task.divergences(outputs.base, outputs, batch, temperature)
    logits = task.logits(outputs, batch)
    teacher = aux["logits"][batch.row]
    if task.reads == "tokens":
        teacher = teacher[:, : logits.shape[1]]  # the base's logits are padded to the longest row
    return task.divergence(teacher, logits, temperature)
