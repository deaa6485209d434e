"""The answer to a prompt: learned as the tokens behind it, and scored by what the model writes there.

Letters: B rows, N new tokens at most.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fft.core.batch import Array
from fft.tasks.language import Language

RIGHT, TRUNCATED, NLL, WRITTEN = 0, 1, 2, 3
"""the columns of a row's score: 1 for a right answer, 1 for one cut off, nats a token of the expected answer, and from
WRITTEN the ids that the model wrote, padded with -1"""


class Writer(NamedTuple):
    """How a model's answers are written and read."""

    folder: Path
    """of the tokenizer"""
    vocab_size: int
    stops: tuple[int, ...]
    """the ids that end an answer"""
    max_new: int
    """the most tokens of an answer"""


@dataclass(frozen=True)
class Answers(Language):
    """Prediction of the answers to prompts, whose score is the share of right ones among those that the model writes.

    Loss, penalties and divergences are those of the answers' tokens, as for `Language`. The score is computed from
    generated texts by fft.evaluate.written. A contract's multiplier, which needs a score in every step, watches the
    probability of the expected answers.
    """

    metric: str = "exact_match"
    writer: Writer | None = None
    """None until the checkpoint is known"""
    generates: ClassVar[bool] = True

    def losses(self, scores: jax.Array, labels: Array) -> jax.Array:
        """Return the mean nll of the tokens of each expected answer [N], from the scores [N, WRITTEN + N]."""
        return jnp.asarray(scores)[:, NLL]

    def credit(self, scores: jax.Array, targets: jax.Array, scale: Array | float) -> jax.Array:
        """Return the probability of the expected answers [B], from the `score` [B, 2] of `Language`."""
        return jnp.exp(-jnp.asarray(scores)[:, 0])

    @property
    def unit(self) -> float:
        """1: an answer that was certain is impossible."""
        return 1.0

    def scale(self, labels: np.ndarray) -> float:
        """Return 1: credits are probabilities."""
        return 1.0
