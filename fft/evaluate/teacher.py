"""The base as a teacher: its outputs on the rows of a stream, computed once before the training."""

from collections.abc import Callable
from typing import Literal

import jax
import numpy as np

from fft.core.batch import Batch
from fft.core.network import outputs_of
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
    """`apply(params, batch)` [B, ...] at the places of a stream's N rows, [N, ...]; `encoded` may stand for the rows.

    Computed for the rows that `steps` steps will read; zeros elsewhere.
    """
    seen, rows = read_rows(batches, steps), encoded or batches.encoded
    cut = eval_batches(rows.take(seen), EVAL_BATCH, batches.lengths, batches.pad_id)
    found = predict(announced(jax.jit(apply), "the base", batches.lengths), params, cut, len(seen), poll)
    whole = np.zeros((len(rows.ids), *found.shape[1:]), found.dtype)
    whole[seen] = found
    return whole


def read_rows(batches: TrainBatches, steps: int) -> np.ndarray:
    """The places of the rows that `steps` steps will read, ascending."""
    return np.unique(np.concatenate([batches.rows(step) for step in range(steps)]))


def base_part(
    checkpoint: Checkpoint,
    kept: Task | None,
    part: Literal["logits", "score", "pooled"],
    batches: TrainBatches,
    steps: int,
    poll: Callable[[], None],
    encoded: Encoded | None = None,
) -> np.ndarray:
    """The base's "logits" or "score" of the original task, or its "pooled" states, at the places of a stream's rows, or
    of others that stand for them.
    """

    def apply(params: Params, batch: Batch) -> jax.Array:
        if part == "pooled":
            return outputs_of(checkpoint.model, params, batch).pooled
        assert kept is not None  # who asks for a head's answers has one
        outputs = outputs_of(checkpoint.model, params, batch, read=(kept.reads,))
        return kept.score(outputs, batch) if part == "score" else kept.logits(outputs, batch)

    return base_outputs(apply, checkpoint.params, batches, steps, poll, encoded)
