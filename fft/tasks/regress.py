"""Regression on text: numeric targets, and the squared error of one example as a likelihood."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from fft.core.batch import Array
from fft.tasks.headed import OneHead

SMALLEST_SIGMA = 1e-6  # a base that fits perfectly would have infinite Fisher information


@dataclass(frozen=True)
class Regress(OneHead):
    """Regression with the head `name`; `sigma` is the standard deviation of the noise, in the unit of the target."""

    name: str
    metric: str = "pearson"
    sigma: float = 1.0
    labels: tuple[str, ...] = ()
    kind: ClassVar[str] = "regression"
    named: ClassVar[bool] = False
    problem: ClassVar[str] = "regression"

    def nll(self, logits: jax.Array, targets: Array) -> jax.Array:
        """(y - f)² / (2 σ²) of every example, without the constant log σ; [B, 1] -> float32 [B]."""
        predicted = logits[:, 0].astype(jnp.float32)
        return 0.5 * ((jnp.asarray(targets, jnp.float32) - predicted) / self.sigma) ** 2

    @classmethod
    def of_head(cls, name: str, labels: Sequence[str]) -> Self:
        """The task that a head serves; it has no labels."""
        return cls(name)

    @property
    def outputs(self) -> int:
        """1, the width of the head."""
        return 1

    def called(self, value: float) -> float:
        """The number itself."""
        return float(value)

    def calibrated(self, predict: Callable[[], tuple[np.ndarray, np.ndarray]]) -> Self:
        """The task with σ² = the mean squared residual of `predict() -> (logits [N, 1], targets [N])`."""
        logits, targets = predict()
        sigma = float(np.sqrt(np.mean((logits[:, 0] - targets) ** 2, dtype=np.float64)))
        return dataclasses.replace(self, sigma=max(sigma, SMALLEST_SIGMA))

    def divergence(self, teacher: jax.Array, logits: jax.Array, temperature: float) -> jax.Array:
        """KL between the normals around two predictions, (f* - f)² / 2σ²; [B, 1] twice -> float32 [B].

        The temperature plays no part: it would widen both normals by τ², which the factor τ² takes back.
        """
        return 0.5 * jnp.square((teacher - logits)[:, 0].astype(jnp.float32) / self.sigma)

    def credit(self, scores: jax.Array, targets: jax.Array, scale: float) -> jax.Array:
        """−(y − f)² / 2 `scale`; [B, 1], [B] -> float32 [B].

        What its mean loses is what a correlation r loses, to first order and up to 1/r: r² = 1 − mean (y − f)² / var y.
        """
        return -0.5 * jnp.square(targets - scores[:, 0]).astype(jnp.float32) / scale

    def scale(self, labels: np.ndarray) -> float:
        """The variance of the labels."""
        return float(np.var(labels))

    def sample(self, key: jax.Array, logits: jax.Array) -> jax.Array:
        """Targets float32 [B] drawn from the model's own distribution, normal around logits [B, 1] with sd σ."""
        return logits[:, 0] + self.sigma * jax.random.normal(key, logits.shape[:1])

    def support(self, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Two targets f ± σ [2, B], each with weight ½ [2, B]: they have the variance of the normal, so the mean of
        squared gradients over them is that over the whole distribution, (∂f/∂θ)² / σ².
        """
        prediction = logits[:, 0]
        return jnp.stack([prediction - self.sigma, prediction + self.sigma]), jnp.full((2, len(prediction)), 0.5)
