"""Streams: what a step reads, the new task's batches and those that the method wants beside them."""

from collections.abc import Iterator

import jax
import numpy as np

from fft.core.batch import Batch
from fft.core.errors import InputError
from fft.core.progress import doing
from fft.data import TaskData, TrainBatches, bucket_lengths, eval_batches

MOST_LENGTHS, STEPS_A_LENGTH = 5, 14
EVAL_BATCH = 32
PROBE_SEED = 0  # a constant: every run is scored on the same rows while it trains


def training_batches(
    step_rows: int, shares: dict[str, float], data: dict[str, TaskData], steps: int, seed: int
) -> dict[str, TrainBatches]:
    """The host batches of every stream.

    `step_rows` is the number of new rows of a step, `shares` are the rows of a stream for each new one.
    """
    made = {}
    for name, share in shares.items():
        rows, size = data[name].splits["train"], max(1, round(share * step_rows))
        lengths = bucket_lengths(rows.lengths(), most_lengths(share * steps))
        made[name] = TrainBatches(rows, size, seed, lengths, data[name].pad_id)
    return made


def most_lengths(steps: float) -> int:
    """To how many lengths the batches of so many whole steps are padded, at most MOST_LENGTHS.

    A short run has fewer: compiling the step for one takes as long as about STEPS_A_LENGTH steps.
    """
    return min(MOST_LENGTHS, 1 + int(steps) // STEPS_A_LENGTH)


def step_batch(batches: dict[str, TrainBatches], step: int, accumulate: int) -> dict[str, Batch]:
    """What step number `step` reads: arrays [A, B, ...] of the new task, [1, B, ...] of the other streams."""

    def cut(stream: str, batch: Batch) -> Batch:
        micros = accumulate if stream == "new" else 1
        return jax.tree.map(lambda values: values.reshape(micros, -1, *values.shape[1:]), batch)

    return {stream: cut(stream, made.batch(step)) for stream, made in batches.items()}


def original_batches(original: TaskData, n: int, seed: int, size: int = EVAL_BATCH) -> Iterator[Batch]:
    """Host batches of `size` rows, at most `n` training rows of an original task in all, padded to two lengths.

    Rows of like length share a batch; the batches come in a seeded order, so that the first few stand for all. Their
    `row` are the numbers of the rows in their source.
    """
    rows = original.splits["train"]
    if not len(rows.ids):
        raise InputError("the original task has no training rows: its source must hold some beside its evaluation rows")
    chosen = rows.take(chosen_rows(len(rows.ids), n, seed))
    lengths = bucket_lengths(chosen.lengths(), most=2)
    made = list(eval_batches(chosen, size, lengths, original.pad_id))
    with doing("original rows", total=len(chosen.ids)) as work:
        for at in np.random.default_rng(seed).permutation(len(made)):
            batch, picked = made[at]
            yield batch._replace(row=np.resize(chosen.numbers[picked], size).astype(np.int32))
            work.advance(len(picked))


def chosen_rows(size: int, n: int, seed: int) -> np.ndarray:
    """Positions of a seeded choice of at most `n` of `size` rows, ascending."""
    return np.sort(np.random.default_rng(seed).permutation(size)[:n])
