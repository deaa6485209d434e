"""Streams: what a step reads, the new task's batches and those that the method wants beside them."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from fft.errors import InputError
from fft.evaluate import predict
from fft.experiment import Optim
from fft.models import Checkpoint
from fft.progress import announced, doing
from fft.tasks import Encoded, TaskData, TrainBatches, bucket_lengths, eval_batches

MOST_LENGTHS, STEPS_A_LENGTH = 5, 14
EVAL_BATCH = 32
PROBE_SEED = 0  # a constant: every run is scored on the same rows while it trains


def training_batches(
    optim: Optim, shares: dict[str, float], data: dict[str, TaskData], steps: int, seed: int
) -> dict[str, TrainBatches]:
    """The host batches of every stream.

    `shares` are the rows of a stream for each new one; a step has accumulate · batch_size new rows.
    """
    made = {}
    for name, share in shares.items():
        rows, size = data[name].splits["train"], max(1, round(share * optim.accumulate * optim.batch_size))
        lengths = bucket_lengths(rows.lengths(), most_lengths(share * steps))
        made[name] = TrainBatches(rows, size, seed, lengths, data[name].pad_id)
    return made


def most_lengths(steps: float) -> int:
    """To how many lengths the batches of so many whole steps are padded, at most MOST_LENGTHS.

    A short run has fewer: compiling the step for one takes as long as about STEPS_A_LENGTH steps.
    """
    return min(MOST_LENGTHS, 1 + int(steps) // STEPS_A_LENGTH)


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
    kept: Any,
    part: str,
    batches: TrainBatches,
    steps: int,
    poll: Callable[[], None],
    encoded: Encoded | None = None,
) -> np.ndarray:
    """The base's "logits" of the original head or its "pooled" states at the places of a stream's rows, or of others
    that stand for them.
    """

    def apply(params, batch):
        found = checkpoint.model.apply(params, batch)
        return kept.logits(found, batch) if part == "logits" else found["pooled"]

    return base_outputs(apply, checkpoint.params, batches, steps, poll, encoded)


def original_batches(original: TaskData, n: int, seed: int, size: int = EVAL_BATCH) -> Iterator[dict]:
    """Host batches of `size` rows, at most `n` training rows of an original task in all, padded to two lengths.

    Rows of like length share a batch; the batches come in a seeded order, so that the first few stand for all. A
    batch holds "number" int32 [B] besides, the rows' places in their source.
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
            yield {**batch, "number": np.resize(chosen.numbers[picked], size).astype(np.int32)}
            work.advance(len(picked))


def chosen_rows(size: int, n: int, seed: int) -> np.ndarray:
    """Positions of a seeded choice of at most `n` of `size` rows, ascending."""
    return np.sort(np.random.default_rng(seed).permutation(size)[:n])
