"""Several classification tasks as one; Batch.task says which of them a row belongs to.

Code for one original task thus works for several: the loss, the divergence from the base and the labels for the Fisher
information are those of each row's own head.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fft.core.batch import Batch, Labelled, Outputs
from fft.tasks.classify import Classify

IMPOSSIBLE = -1e9  # the logit of a class that a row's head does not have; its probability and gradient are 0


@dataclass(frozen=True)
class Several(Classify):
    """The union of `tasks`, numbered 0, 1, …; C is the largest number of classes. Tasks may share a head."""

    tasks: tuple[Classify, ...] = ()

    @property
    def heads(self) -> tuple[str, ...]:
        """The names of the heads, without repetition."""
        return tuple(dict.fromkeys(task.name for task in self.tasks))

    def logits(self, outputs: Outputs, batch: Labelled) -> jax.Array:
        """Return the logits [B, C] of each row's own head, padded to C with IMPOSSIBLE.

        Rows without a task, such as new inputs, get the logits of all H heads, [B, H · C].
        """
        of_heads = [outputs.read(head, outputs.pooled) for head in self.heads]
        pads = [((0, 0), (0, self.outputs - logits.shape[-1])) for logits in of_heads]
        stacked = jnp.stack(
            [jnp.pad(logits, pad, constant_values=IMPOSSIBLE) for logits, pad in zip(of_heads, pads, strict=True)], 1
        )
        if batch.task is None:
            return stacked.reshape(len(stacked), -1)
        head = jnp.array([self.heads.index(task.name) for task in self.tasks])[batch.task]
        return jnp.take_along_axis(stacked, head[:, None, None], axis=1)[:, 0]

    def divergence(self, teacher: jax.Array, logits: jax.Array, temperature: float) -> jax.Array:
        """Return the divergence of one head's logits, or its sum over the heads for logits of all heads.

        [B, C] or [B, H · C] twice -> float32 [B]. Reference for the sum: Li and Hoiem 2016, arXiv 1606.09282.
        """
        target, model = (z.reshape(len(z), -1, self.outputs) for z in (teacher, logits))
        return jnp.sum(super().divergence(target, model, temperature), axis=-1)

    def summed(self, values: jax.Array, batch: Batch) -> jax.Array:
        """Return Σ weight · values over each task's rows, [B] -> [K]."""
        own = batch.task == jnp.arange(len(self.tasks))[:, None]
        return jnp.sum(own * batch.weight * values, axis=1)
