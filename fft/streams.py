"""Streams: what a step reads, the new task's batches and those that the method wants beside them."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fft.evaluate import predict
from fft.experiment import Optim
from fft.tasks import TaskData, TrainBatches, bucket_lengths, eval_batches

MOST_LENGTHS, STEPS_A_LENGTH = 5, 14
OUTPUTS_BATCH = 32


class ProbeBatches(TrainBatches):
    """Batches of held-out rows, each with "before" float32 [B], what the base was worth on it."""

    before: np.ndarray

    def batch(self, index: int) -> dict[str, np.ndarray]:
        batch = super().batch(index)
        return {**batch, "before": self.before[batch["row"]]}


def training_batches(
    optim: Optim, shares: dict[str, float], data: dict[str, TaskData], steps: int, seed: int
) -> dict[str, TrainBatches]:
    """The host batches of every stream, padded to at most MOST_LENGTHS lengths.

    `shares` are the rows of a stream for each new one; a step has accumulate · batch_size new rows. A short run, or a
    small share, has fewer lengths: compiling the step for one takes as long as about STEPS_A_LENGTH steps.
    """
    made = {}
    for name, share in shares.items():
        rows, size = data[name].splits["train"], max(1, round(share * optim.accumulate * optim.batch_size))
        lengths = bucket_lengths(rows.lengths(), min(MOST_LENGTHS, 1 + int(share * steps) // STEPS_A_LENGTH))
        made[name] = TrainBatches(rows, size, seed, lengths, data[name].pad_id)
    return made


def step_batch(batches: dict[str, TrainBatches], step: int, accumulate: int) -> dict[str, dict[str, np.ndarray]]:
    """What step number `step` reads: arrays [A, B, ...] of the new task, [1, B, ...] of the other streams."""

    def cut(stream, batch):
        micros = accumulate if stream == "new" else 1
        return {name: values.reshape(micros, -1, *values.shape[1:]) for name, values in batch.items()}

    return {stream: cut(stream, made.batch(step)) for stream, made in batches.items()}


def base_outputs(
    apply: Callable[[Any, dict], jax.Array],
    params: Any,
    batches: TrainBatches,
    steps: int,
    poll: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """`apply(params, batch)` [B, W] at the places of a stream's N rows, [N, W].

    Computed for the rows that `steps` steps will read; zeros elsewhere.
    """
    seen = np.unique(np.concatenate([batches.rows(step) for step in range(steps)]))
    cut = eval_batches(batches.encoded.take(seen), OUTPUTS_BATCH, batches.lengths, batches.pad_id)
    found = predict(jax.jit(apply), params, cut, len(seen), poll)
    whole = np.zeros((len(batches.encoded.ids), found.shape[1]), found.dtype)
    whole[seen] = found
    return whole
