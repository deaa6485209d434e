"""Regression on text: numeric targets with a Gaussian likelihood, that is squared errors."""

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
    """Regression with the head `name`; `sigma` is the standard deviation of the noise in units of the target."""

    name: str
    metric: str = "pearson"
    sigma: float = 1.0
    labels: tuple[str, ...] = ()
    kind: ClassVar[str] = "regression"
    named: ClassVar[bool] = False
    problem: ClassVar[str] = "regression"

    def nll(self, logits: jax.Array, targets: Array) -> jax.Array:
        """Return (y - f)² / (2 σ²) for every row, without the constant log σ; [B, 1] -> float32 [B]."""
        predicted = logits[:, 0].astype(jnp.float32)
        return 0.5 * ((jnp.asarray(targets, jnp.float32) - predicted) / self.sigma) ** 2

    @classmethod
    def of_head(cls, name: str, labels: Sequence[str]) -> Self:
        """Return the task of a head; `labels` are unused."""
        return cls(name)

    @property
    def outputs(self) -> int:
        """1, the width of the head."""
        return 1

    def called(self, value: float) -> float:
        """Return the number itself."""
        return float(value)

    def calibrated(self, predict: Callable[[], tuple[np.ndarray, np.ndarray]]) -> Self:
        """Return the task with σ² = the mean squared residual of `predict() -> (logits [N, 1], targets [N])`."""
        logits, targets = predict()
        sigma = float(np.sqrt(np.mean((logits[:, 0] - targets) ** 2, dtype=np.float64)))
        return dataclasses.replace(self, sigma=max(sigma, SMALLEST_SIGMA))

    def divergence(self, teacher: jax.Array, logits: jax.Array, temperature: float) -> jax.Array:
        """Return the KL between the normals around two predictions, (f* - f)² / 2σ²; [B, 1] twice -> float32 [B].

        The temperature cancels: it would multiply both variances by τ², and the factor τ² undoes that.
        """
        return 0.5 * jnp.square((teacher - logits)[:, 0].astype(jnp.float32) / self.sigma)

    def credit(self, scores: jax.Array, targets: jax.Array, scale: Array | float) -> jax.Array:
        """Return −(y − f)² / (2 `scale`); [B, 1], [B] -> float32 [B].

        With r² = 1 − mean (y − f)² / var y, the drop of its mean is to first order r times that of the correlation r.
        """
        return -0.5 * jnp.square(targets - scores[:, 0]).astype(jnp.float32) / scale

    def scale(self, labels: np.ndarray) -> float:
        """Return the variance of the labels."""
        return float(np.var(labels))

    def sample(self, key: jax.Array, logits: jax.Array) -> jax.Array:
        """Draw targets float32 [B] from the model's distribution, normal around logits [B, 1] with deviation σ."""
        return logits[:, 0] + self.sigma * jax.random.normal(key, logits.shape[:1])

    def support(self, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return two targets f ± σ and their weights ½, [2, B] each.

        They have the variance of the normal, so the mean of squared gradients over them is that over the normal,
        (∂f/∂θ)² / σ².
        """
        prediction = logits[:, 0]
        return jnp.stack([prediction - self.sigma, prediction + self.sigma]), jnp.full((2, len(prediction)), 0.5)
