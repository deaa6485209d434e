"""Text classification by cross-entropy, with one class per row, targets [B], or one per token, targets [B, T]."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from fft.core.batch import Array
from fft.tasks.headed import OneHead


@dataclass(frozen=True)
class Classify(OneHead):
    """Classification with the head `name` into C = len(labels) classes; class c has the name labels[c]."""

    name: str
    labels: tuple[str, ...]
    metric: str = "accuracy"
    kind: ClassVar[str] = "classification"
    named: ClassVar[bool] = True
    problem: ClassVar[str] = "single_label_classification"

    def nll(self, logits: jax.Array, targets: Array) -> jax.Array:
        """Return the cross-entropy in nats of every target, logsumexp_c(z_c) - z_target; [..., C] -> float32 [...].

        Targets are not checked: -1 would count as the last class, and a number of C or more gives NaN.
        """
        from optax.losses import softmax_cross_entropy_with_integer_labels

        return softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), targets)

    @classmethod
    def of_head(cls, name: str, labels: Sequence[str]) -> Self:
        """Return the task of a head with these labels."""
        return cls(name, tuple(labels))

    @property
    def outputs(self) -> int:
        """C, the width of the head."""
        return len(self.labels)

    def called(self, value: float) -> str | float | None:
        """Return the name of a class number, None for -1."""
        return self.labels[int(value)] if value >= 0 else None

    def calibrated(self, predict: Callable[[], tuple[np.ndarray, np.ndarray]]) -> Self:
        """Return the task itself: class probabilities have no scale to fit."""
        return self

    def divergence(self, teacher: jax.Array, logits: jax.Array, temperature: float) -> jax.Array:
        """Return τ² KL(softmax(teacher / τ) ‖ softmax(logits / τ)) in nats; [..., C] twice -> float32 [...].

        τ² makes the gradient's size independent of τ (Hinton et al. 2015, arXiv 1503.02531, section 2).
        """
        from optax.losses import kl_divergence_with_log_targets

        base, current = (jax.nn.log_softmax(z.astype(jnp.float32) / temperature) for z in (teacher, logits))
        return temperature**2 * kl_divergence_with_log_targets(current, base)

    def credit(self, scores: jax.Array, targets: jax.Array, scale: float) -> jax.Array:
        """Return 1 for rows whose target is the likeliest class, else 0, so that the mean is the accuracy.

        [B, C], [B] -> float32 [B]. It also stands in for macro_f1 and mcc, which are not means over rows.
        """
        return (jnp.argmax(scores, axis=-1) == targets).astype(jnp.float32)

    def scale(self, labels: np.ndarray) -> float:
        """Return 1: `credit` is in units of the accuracy."""
        return 1.0

    def sample(self, key: jax.Array, logits: jax.Array) -> jax.Array:
        """Draw classes int32 [...] from the model's distribution softmax(logits [..., C])."""
        return jax.random.categorical(key, logits)

    def support(self, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return every class and its probability, [C, ...] each, for logits [..., C]."""
        probabilities = jnp.moveaxis(jax.nn.softmax(logits), -1, 0)
        classes = jnp.arange(logits.shape[-1], dtype=jnp.int32).reshape(-1, *(1,) * (logits.ndim - 1))
        return jnp.broadcast_to(classes, probabilities.shape), probabilities
