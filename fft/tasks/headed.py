"""What a task with one head answers to, so that nothing else need know how many heads a task has."""

import jax
import jax.numpy as jnp


class OneHead:
    """A task whose rows are all answered by the head `name`; `fft.tasks.several` is one of several heads."""

    name: str

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads that answer."""
        return (self.name,)

    def nll(self, logits: jax.Array, batch: dict) -> jax.Array:
        """The negative log likelihood of every example, which each kind of task has its own of; float32 [B]."""
        raise NotImplementedError

    def logits(self, outputs: dict, batch: dict) -> jax.Array:
        """What the model says of every row: [B, C]."""
        return outputs["logits"][self.name]

    def loss(self, outputs: dict, batch: dict) -> tuple[jax.Array, jax.Array]:
        """`nll` of every example and its weight; float32 [B] each. Never reduced; a filler row (weight 0) has nll 0."""
        return self.nll(self.logits(outputs, batch), batch), batch["weight"]

    def summed(self, values: jax.Array, batch: dict) -> jax.Array:
        """Σ weight · values [B] over the rows of a batch: []; of several tasks one each, [K]."""
        return jnp.sum(batch["weight"] * values)
