"""The part of the Task interface that is the same for all tasks whose outputs are the logits of a distribution."""

import jax
import jax.numpy as jnp

from fft.core.batch import Array
from fft.tasks.headed import OneHead


class Categorical(OneHead):
    """Base class of tasks that predict one of C classes, or one of the V tokens of a vocabulary, by a softmax."""

    def nll(self, logits: jax.Array, targets: Array) -> jax.Array:
        """Return the cross-entropy in nats of every target, logsumexp_c(z_c) - z_target; [..., C] -> float32 [...].

        Targets are not checked: -1 would count as the last class, and a number of C or more gives NaN.
        """
        from optax.losses import softmax_cross_entropy_with_integer_labels

        return softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), targets)

    def divergence(self, teacher: jax.Array, logits: jax.Array, temperature: float) -> jax.Array:
        """Return τ² KL(softmax(teacher / τ) ‖ softmax(logits / τ)) in nats; [..., C] twice -> float32 [...].

        τ² makes the gradient's size independent of τ (Hinton et al. 2015, arXiv 1503.02531, section 2).
        """
        from optax.losses import kl_divergence_with_log_targets

        base, current = (jax.nn.log_softmax(z.astype(jnp.float32) / temperature) for z in (teacher, logits))
        return temperature**2 * kl_divergence_with_log_targets(current, base)

    def sample(self, key: jax.Array, logits: jax.Array) -> jax.Array:
        """Draw classes int32 [...] from the model's distribution softmax(logits [..., C])."""
        return jax.random.categorical(key, logits)

    def support(self, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return every class and its probability, [C, ...] each, for logits [..., C]."""
        probabilities = jnp.moveaxis(jax.nn.softmax(logits), -1, 0)
        classes = jnp.arange(logits.shape[-1], dtype=jnp.int32).reshape(-1, *(1,) * (logits.ndim - 1))
        return jnp.broadcast_to(classes, probabilities.shape), probabilities
