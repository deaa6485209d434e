"""The base as a teacher: its outputs on the rows of a stream, computed once before training."""

from collections.abc import Callable
from typing import Literal

import jax
import numpy as np

from fft.core.batch import Batch
from fft.core.network import outputs_of
from fft.core.progress import announced, doing
from fft.core.tree import Params
from fft.data.batches import Batches, Numbering, bucket_lengths, eval_batches
from fft.data.encoded import Encoded
from fft.data.streams import EVAL_BATCH
from fft.evaluate.predict import Predictor, predict, score_batch
from fft.models import Checkpoint
from fft.tasks import Language, Task


def base_outputs(
    apply: Predictor,
    params: Params,
    batches: Batches,
    steps: int,
    poll: Callable[[], None] = lambda: None,
    encoded: Encoded | None = None,
) -> np.ndarray:
    """Return `apply(params, batch)` [B, ...] for the N rows of a stream, as [N, ...].

    It is computed for the rows that `steps` steps will read; the others are 0. `encoded` replaces the stream's rows.
    """
    seen, rows = read_rows(batches, steps), encoded or batches.encoded
    size = score_batch(rows, batches.lengths, EVAL_BATCH)
    cut = eval_batches(rows.take(seen), size, batches.lengths, batches.pad_id)
    outputs = predict(announced(jax.jit(apply), "the base", batches.lengths), params, cut, len(seen), poll)
    complete = np.zeros((len(rows.ids), *outputs.shape[1:]), outputs.dtype)
    complete[seen] = outputs
    return complete


def base_likeliest(
    checkpoint: Checkpoint,
    task: Language,
    batches: Batches,
    steps: int,
    count: int,
    temperature: float,
    poll: Callable[[], None],
) -> tuple[np.ndarray, np.ndarray]:
    """Return the base's `Language.likeliest` for the M targets of a stream's rows, [M, count] each, in the order of
    Batch.numbers; those of rows that `steps` steps do not read are 0. A smaller vocabulary has no more than all tokens.
    """
    count = min(count, checkpoint.model.config.vocab_size)
    rows, seen = batches.encoded, read_rows(batches, steps)
    numbering, total = Numbering(rows), int(rows.example_targets().sum())
    ids, logs = np.zeros((total, count), np.int32), np.zeros((total, count), np.float32)
    lengths = bucket_lengths(rows.lengths()[seen])

    @jax.jit
    def apply(params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
        outputs = outputs_of(checkpoint.model, params, batch, read=(task.reads,))
        return task.likeliest(outputs, batch, count, temperature)

    cut = eval_batches(rows.take(seen), score_batch(rows, lengths, EVAL_BATCH), lengths, batches.pad_id)
    with doing("rows", total=len(seen)) as work:
        for batch, index in cut:
            real = np.asarray(batch.weight[: len(index)]) > 0
            numbers = numbering.of(list(seen[index][:, None]), real.shape[1])
            assert numbers is not None  # as of all rows whose targets stay the same
            for kept, found in zip((ids, logs), apply(checkpoint.params, batch), strict=True):
                kept[numbers[real]] = np.asarray(found)[: len(index)][real]
            work.advance(len(index))
            poll()
    return ids, logs


def read_rows(batches: Batches, steps: int) -> np.ndarray:
    """Return the positions of the rows that `steps` steps will read, ascending."""
    return np.unique(np.concatenate([batches.rows(step) for step in range(steps)]))


def base_part(
    checkpoint: Checkpoint,
    original_task: Task | None,
    part: Literal["logits", "score", "pooled"],
    batches: Batches,
    steps: int,
    poll: Callable[[], None],
    encoded: Encoded | None = None,
) -> np.ndarray:
    """Return the base's "logits" or "score" of the original task, or its "pooled" states, as `base_outputs`."""

    def apply(params: Params, batch: Batch) -> jax.Array:
        if part == "pooled":
            return outputs_of(checkpoint.model, params, batch).pooled
        assert original_task is not None  # callers that ask for logits or scores have one
        outputs = outputs_of(checkpoint.model, params, batch, read=(original_task.reads,))
        return original_task.score(outputs, batch) if part == "score" else original_task.logits(outputs, batch)

    return base_outputs(apply, checkpoint.params, batches, steps, poll, encoded)
