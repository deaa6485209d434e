"""The base as a teacher: its outputs on the rows of a stream, computed once before the training."""

from collections.abc import Callable

import jax
import numpy as np

from fft.core.progress import announced
from fft.core.tree import Params
from fft.data.batches import TrainBatches, eval_batches
from fft.data.streams import EVAL_BATCH
from fft.data.tokenize import Encoded
from fft.evaluate.predict import Predictor, predict
from fft.models import Checkpoint
from fft.tasks import Task


def base_outputs(
    apply: Predictor,
    params: Params,
    batches: TrainBatches,
    steps: int,
    poll: Callable[[], None] = lambda: None,
    encoded: Encoded | None = None,
) -> np.ndarray:
    """`apply(params, batch)` [B, W] at the places of a stream's N rows, [N, W]; `encoded` may stand for the rows.

    Computed for the rows that `steps` steps will read; zeros elsewhere.
    """
    seen, rows = read_rows(batches, steps), encoded or batches.encoded
    cut = eval_batches(rows.take(seen), EVAL_BATCH, batches.lengths, batches.pad_id)
    found = predict(announced(jax.jit(apply), "the base", batches.lengths), params, cut, len(seen), poll)
    whole = np.zeros((len(rows.ids), found.shape[1]), found.dtype)
    whole[seen] = found
    return whole


def read_rows(batches: TrainBatches, steps: int) -> np.ndarray:
    """The places of the rows that `steps` steps will read, ascending."""
    return np.unique(np.concatenate([batches.rows(step) for step in range(steps)]))


def base_part(
    checkpoint: Checkpoint,
    kept: Task | None,
    part: str,
    batches: TrainBatches,
    steps: int,
    poll: Callable[[], None],
    encoded: Encoded | None = None,
) -> np.ndarray:
    """The base's "logits" of the original head or its "pooled" states at the places of a stream's rows, or of others
    that stand for them.
    """

    def apply(params: Params, batch: dict) -> jax.Array:
        found = checkpoint.model.apply(params, batch)
        if part != "logits":
            return found["pooled"]
        assert kept is not None  # who asks for a head's answers has one
        return kept.logits(found, batch)

    return base_outputs(apply, checkpoint.params, batches, steps, poll, encoded)
