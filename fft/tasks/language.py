"""The prediction of tokens: the next one of a text, or of an answer, by the language head.

Letters: B rows, S places with a target, V vocabulary, D model.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from fft.core.batch import Array, Batch, Labelled, Outputs, Read, weighted_sum
from fft.core.naming import UNEMBED
from fft.tasks.categorical import Categorical

WHOLE, CHUNK = 512, 384
"""the most targets whose logits [V] are computed at once, and the most in a part of more; parts have a gradient of the
output layer each, beside its sum, so that they pay off only for many targets"""

REST = 1e-6
"""the least probability of all other tokens together: less is rounding"""


@dataclass(frozen=True)
class Language(Categorical):
    """Prediction of the tokens at some places of a text, with a language head; targets and weights are [B, S].

    A batch names the places that have a target, so only their states reach the output layer, and few of them at a
    time: the logits [B, T, V] are never in memory. A score is a ratio of sums over the tokens of all rows.
    """

    name: str = UNEMBED
    metric: str = "nats"
    labels: tuple[str, ...] = ()
    kind: ClassVar[str] = "language"
    named: ClassVar[bool] = False
    problem: ClassVar[str] = ""
    reads: ClassVar[Read] = "tokens"
    stores: ClassVar[bool] = False
    generates: ClassVar[bool] = False
    enumerable: ClassVar[bool] = False

    @classmethod
    def of_head(cls, name: str, labels: Sequence[str]) -> Self:
        """Return the task of a head; `labels` are unused."""
        return cls(name)

    @property
    def unit(self) -> float:
        """A tenth of a nat a token, far beyond the budgets of texts."""
        return 0.1

    @property
    def outputs(self) -> int:
        """0: the width of the language head is the model's vocabulary, which the task does not know."""
        return 0

    def called(self, value: float) -> float:
        """Return the number itself."""
        return float(value)

    def calibrated(self, predict: Callable[[], tuple[np.ndarray, np.ndarray]]) -> Self:
        """Return the task itself: token probabilities have no scale to fit."""
        return self

    def terms(self, outputs: Outputs, batch: Labelled) -> jax.Array:
        """Return the `nll` of every target, [B, S]."""

        def nll(states: jax.Array, targets: jax.Array) -> jax.Array:
            return self.nll(outputs.read(self.name, states), targets)

        return by_chunks(nll, self.states_read(outputs, batch), jnp.asarray(batch.targets))

    def divergences(self, base: Outputs, outputs: Outputs, batch: Labelled, temperature: float) -> jax.Array:
        """Return the `divergence` of a model's predictions from the base's at every place, [B, S]."""

        def divergence(states: jax.Array, anchor: jax.Array) -> jax.Array:
            return self.divergence(base.read(self.name, anchor), outputs.read(self.name, states), temperature)

        return by_chunks(divergence, self.states_read(outputs, batch), self.states_read(base, batch))

    def likeliest(
        self, outputs: Outputs, batch: Labelled, count: int, temperature: float
    ) -> tuple[jax.Array, jax.Array]:
        """Return the `count` likeliest tokens at every place and the logarithms of their probabilities at a
        temperature, [B, S, count] each.
        """
        states = self.states_read(outputs, batch)

        def of_row(states: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits = outputs.read(self.name, states).astype(jnp.float32)
            values, ids = jax.lax.top_k(jax.nn.log_softmax(logits / temperature), count)
            return ids, values

        return jax.lax.map(of_row, states)

    def divergences_from(
        self, ids: jax.Array, logs: jax.Array, outputs: Outputs, batch: Labelled, temperature: float
    ) -> jax.Array:
        """Return τ² KL(p ‖ q) in nats at every place, [B, S], of the base's p and the model's q over K + 1 outcomes:
        the base's K `likeliest` tokens and any other.

        Merging outcomes makes a divergence smaller (Cover and Thomas 2006, theorem 2.8.1), and for all tokens it is
        that of `divergences`.
        """

        def divergence(states: jax.Array, ids: jax.Array, logs: jax.Array) -> jax.Array:
            logits = outputs.read(self.name, states).astype(jnp.float32) / temperature
            now = jnp.take_along_axis(logits, ids, axis=-1) - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
            others = [jnp.log(jnp.maximum(1 - jnp.sum(jnp.exp(x), axis=-1), REST)) for x in (logs, now)]
            return temperature**2 * (
                jnp.sum(jnp.exp(logs) * (logs - now), axis=-1) + jnp.exp(others[0]) * (others[0] - others[1])
            )

        return by_chunks(divergence, self.states_read(outputs, batch), ids, logs)

    def sample(self, key: jax.Array, logits: jax.Array) -> jax.Array:
        """Draw tokens int32 [...] from the model's distribution softmax(logits [..., V]).

        By inversion of the cumulative probabilities, with one random number for each token drawn: the Gumbel draws of
        jax.random.categorical, V for each, take longer than the backward pass of a small model.
        """
        cumulative = jnp.cumsum(jax.nn.softmax(logits.astype(jnp.float32)), axis=-1)
        threshold = jax.random.uniform(key, logits.shape[:-1]) * cumulative[..., -1]
        return jnp.sum(cumulative <= threshold[..., None], axis=-1).astype(jnp.int32)

    def score(self, outputs: Outputs, batch: Labelled) -> jax.Array:
        """Return the sums of every row over its targets, [B, 2]: their nll in nats, and how many are the likeliest
        token; the one that the metric needs first.
        """

        def values(states: jax.Array, targets: jax.Array) -> jax.Array:
            logits = outputs.read(self.name, states)
            right = (jnp.argmax(logits, axis=-1) == targets).astype(jnp.float32)
            return jnp.stack([self.nll(logits, targets), right], axis=-1)

        nll, right = jnp.moveaxis(
            by_chunks(values, self.states_read(outputs, batch), jnp.asarray(batch.targets)), -1, 0
        )
        sums = [jax.vmap(weighted_sum)(terms, jnp.asarray(batch.weight)) for terms in (nll, right)]
        return jnp.stack(sums[::-1] if self.metric == "token_accuracy" else sums, axis=1)

    def sums(self, scores: Array) -> tuple[Array, Array]:
        """Return (Σ nll, right tokens) [N] each, from the `score` [N, 2] of rows."""
        return (scores[:, 1], scores[:, 0]) if self.metric == "token_accuracy" else (scores[:, 0], scores[:, 1])

    def losses(self, scores: jax.Array, labels: Array) -> jax.Array:
        """Return the mean nll of the rows' tokens [N]; `labels` [N] are their numbers of tokens."""
        return jnp.asarray(self.sums(scores)[0]) / labels

    def credit(self, scores: jax.Array, targets: jax.Array, scale: Array | float) -> jax.Array:
        """Return −Σ nll / `scale` [B], the mean number of tokens of the row's task: over many rows its mean is minus
        the nats a token.
        """
        return -jnp.asarray(self.sums(scores)[0]) / scale

    def scale(self, labels: np.ndarray) -> float:
        """Return the mean number of tokens of rows with so many tokens [N]."""
        return float(np.mean(labels))

    def summed(self, values: jax.Array, batch: Batch) -> jax.Array:
        """Return the sum of values [B] over the rows with a target, []."""
        return jnp.sum(jnp.where(jnp.any(jnp.asarray(batch.weight) > 0, axis=1), values, 0.0))


def by_chunks(function: Callable[..., jax.Array], states: jax.Array, *arrays: jax.Array) -> jax.Array:
    """Return function(states [B, S, D], arrays [B, S, ...]) [B, S, ...], a function of each place by itself.

    Above WHOLE places it is computed for equal parts of them, one after the other, and again in the backward pass.
    """
    rows, places = states.shape[:2]
    count = rows * places
    if count <= WHOLE:
        return function(states, *arrays)
    parts = math.ceil(count / CHUNK)
    size = math.ceil(count / parts)

    def split(values: jax.Array) -> jax.Array:
        flat = values.reshape(count, *values.shape[2:])
        padded = jnp.pad(flat, ((0, parts * size - count), *((0, 0) for _ in flat.shape[1:])))
        return padded.reshape(parts, size, *flat.shape[1:])

    def of_part(carry: None, part: tuple[jax.Array, ...]) -> tuple[None, jax.Array]:
        return carry, function(*part)

    _, values = jax.lax.scan(jax.checkpoint(of_part), None, (split(states), *map(split, arrays)))
    return values.reshape(parts * size, *values.shape[2:])[:count].reshape(rows, places, *values.shape[2:])
