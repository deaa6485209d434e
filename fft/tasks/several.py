"""Several classification tasks as one, whose rows know which of them they belong to: Batch.task.

Whatever is made for one original task then works for several: its loss, the divergence from the base, the labels that
the Fisher information is taken over are those of each row's own head.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fft.core.batch import Batch, Labelled, Outputs
from fft.tasks.classify import Classify

IMPOSSIBLE = -1e9  # the logit of a class that a row's head does not have: its probability is 0, and so its gradient


@dataclass(frozen=True)
class Several(Classify):
    """The tasks number 0, 1, …, with C the classes of the widest; tasks may share a head."""

    tasks: tuple[Classify, ...] = ()

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads that answer, each once."""
        return tuple(dict.fromkeys(task.name for task in self.tasks))

    def logits(self, outputs: Outputs, batch: Labelled) -> jax.Array:
        """What each row's own head says [B, C], its width filled up with IMPOSSIBLE.

        Of rows that are of none of the tasks, such as new inputs, what all H heads say: [B, H · C].
        """
        of_heads = [outputs.read(head, outputs.pooled) for head in self.heads]
        wide = [((0, 0), (0, self.outputs - logits.shape[-1])) for logits in of_heads]
        said = jnp.stack(
            [jnp.pad(logits, pad, constant_values=IMPOSSIBLE) for logits, pad in zip(of_heads, wide, strict=True)], 1
        )
        if batch.task is None:
            return said.reshape(len(said), -1)
        head = jnp.array([self.heads.index(task.name) for task in self.tasks])[batch.task]
        return jnp.take_along_axis(said, head[:, None, None], axis=1)[:, 0]

    def divergence(self, teacher: jax.Array, logits: jax.Array, temperature: float) -> jax.Array:
        """That of one head; where all have spoken the sum over them, as Li and Hoiem 2016, arXiv 1606.09282, take it.

        [B, C] or [B, H · C] twice -> float32 [B].
        """
        before, now = (said.reshape(len(said), -1, self.outputs) for said in (teacher, logits))
        return jnp.sum(super().divergence(before, now, temperature), axis=-1)

    def summed(self, values: jax.Array, batch: Batch) -> jax.Array:
        """Σ weight · values [B] over each task's rows: [K]."""
        own = batch.task == jnp.arange(len(self.tasks))[:, None]
        return jnp.sum(own * batch.weight * values, axis=1)
