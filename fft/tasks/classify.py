"""Text classification: label names to class numbers, and the cross-entropy of one example.

On a device a label of -1 scores as the last class and a label >= C gives NaN, so every label is checked here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from fft.tasks.headed import OneHead


@dataclass(frozen=True)
class Classify(OneHead):
    """Classification with the head `name` into C = len(labels) classes; class c is called labels[c]."""

    name: str
    labels: tuple[str, ...]
    metric: str = "accuracy"
    kind: ClassVar[str] = "classification"

    def nll(self, logits: jax.Array, batch: dict) -> jax.Array:
        """Cross-entropy in nats of every example, logsumexp_c(z_c) - z_label; [B, C] -> float32 [B]."""
        logits = logits.astype(jnp.float32)
        picked = jnp.take_along_axis(logits, batch["label"][:, None], axis=-1)[:, 0]
        nll = jax.nn.logsumexp(logits, axis=-1) - picked
        return jnp.where(batch["weight"] > 0, nll, 0.0)

    @property
    def outputs(self) -> int:
        """C, the width of the head."""
        return len(self.labels)

    def calibrated(self, predict: Callable[[], tuple[np.ndarray, np.ndarray]]) -> "Classify":
        """The task itself: class probabilities have no scale to fit."""
        return self

    def divergence(self, teacher: jax.Array, logits: jax.Array, temperature: float) -> jax.Array:
        """τ² KL(softmax(teacher / τ) ‖ softmax(logits / τ)) in nats of every example; [B, C] twice -> float32 [B].

        τ² keeps the size of the gradient (Hinton et al. 2015, arXiv 1503.02531, section 2).
        """
        before, now = (jax.nn.log_softmax(z.astype(jnp.float32) / temperature) for z in (teacher, logits))
        return temperature**2 * jnp.sum(jnp.exp(before) * (before - now), axis=-1)

    def credit(self, logits: jax.Array, label: jax.Array, spread: float) -> jax.Array:
        """1 where the label is the likeliest class, else 0: the mean is the accuracy; [B, C], [B] -> float32 [B].

        It stands for macro_f1 and mcc too, which have no score of one example.
        """
        return (jnp.argmax(logits, axis=-1) == label).astype(jnp.float32)

    def sample(self, key: jax.Array, logits: jax.Array) -> jax.Array:
        """Labels int32 [B] drawn from the model's own distribution softmax(logits [B, C])."""
        return jax.random.categorical(key, logits)

    def support(self, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Every label [C, B] with its probability [C, B]: expectations over the model's labels, without drawing."""
        classes = jnp.arange(logits.shape[-1], dtype=jnp.int32)
        return jnp.broadcast_to(classes[:, None], logits.shape[::-1]), jax.nn.softmax(logits).T
