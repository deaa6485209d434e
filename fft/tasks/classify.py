"""Text classification: the cross-entropy of one target, [B] for a class a row; the same for one a token, [B, T].

On a device a label of -1 scores as the last class and a label >= C gives NaN, so every label is checked here.
"""

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
    """Classification with the head `name` into C = len(labels) classes; class c is called labels[c]."""

    name: str
    labels: tuple[str, ...]
    metric: str = "accuracy"
    kind: ClassVar[str] = "classification"
    named: ClassVar[bool] = True
    problem: ClassVar[str] = "single_label_classification"

    def nll(self, logits: jax.Array, targets: Array) -> jax.Array:
        """Cross-entropy in nats of every target, logsumexp_c(z_c) - z_target; [..., C] -> float32 [...]."""
        from optax.losses import softmax_cross_entropy_with_integer_labels

        return softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), targets)

    @classmethod
    def of_head(cls, name: str, labels: Sequence[str]) -> Self:
        """The task that a head with these labels serves."""
        return cls(name, tuple(labels))

    @property
    def outputs(self) -> int:
        """C, the width of the head."""
        return len(self.labels)

    def called(self, value: float) -> str | float | None:
        """The name of a class number, None of -1."""
        return self.labels[int(value)] if value >= 0 else None

    def calibrated(self, predict: Callable[[], tuple[np.ndarray, np.ndarray]]) -> Self:
        """The task itself: class probabilities have no scale to fit."""
        return self

    def divergence(self, teacher: jax.Array, logits: jax.Array, temperature: float) -> jax.Array:
        """τ² KL(softmax(teacher / τ) ‖ softmax(logits / τ)) in nats of every target; [..., C] twice -> float32 [...].

        τ² keeps the size of the gradient (Hinton et al. 2015, arXiv 1503.02531, section 2).
        """
        from optax.losses import kl_divergence_with_log_targets

        base, current = (jax.nn.log_softmax(z.astype(jnp.float32) / temperature) for z in (teacher, logits))
        return temperature**2 * kl_divergence_with_log_targets(current, base)

    def credit(self, scores: jax.Array, targets: jax.Array, scale: float) -> jax.Array:
        """1 where the target is the likeliest class, else 0: the mean is the accuracy; [B, C], [B] -> float32 [B].

        It stands for macro_f1 and mcc too, which have no score of one example.
        """
        return (jnp.argmax(scores, axis=-1) == targets).astype(jnp.float32)

    def scale(self, labels: np.ndarray) -> float:
        """1: the credit is a count."""
        return 1.0

    def sample(self, key: jax.Array, logits: jax.Array) -> jax.Array:
        """Classes int32 [...] drawn from the model's own distribution softmax(logits [..., C])."""
        return jax.random.categorical(key, logits)

    def support(self, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Every class [C, ...] with its probability [C, ...], of logits [..., C]."""
        probabilities = jnp.moveaxis(jax.nn.softmax(logits), -1, 0)
        classes = jnp.arange(logits.shape[-1], dtype=jnp.int32).reshape(-1, *(1,) * (logits.ndim - 1))
        return jnp.broadcast_to(classes, probabilities.shape), probabilities
