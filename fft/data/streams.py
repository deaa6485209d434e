"""Streams of batches that a training step reads: the new task's, and those that the method requests."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import jax
import numpy as np

from fft.core.batch import Batch
from fft.core.errors import InputError
from fft.core.progress import doing
from fft.data import PackedBatches, TaskData, TrainBatches, bucket_lengths, eval_batches
from fft.data.batches import Batches
from fft.data.encoded import Encoded

EVAL_BATCH = 32
PROBE_SEED = 0  # not the run's seed: all runs are scored on the same probe rows
ROW_TOKENS = 32
"""tokens that count as a row in a sample of held-out rows whose tokens are predicted: each of them tells something"""


def training_batches(
    step_rows: int,
    shares: dict[str, float],
    data: dict[str, TaskData],
    steps: int,
    seed: int,
    capacities: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, Batches]:
    """Return the host batches of every stream.

    `step_rows` is the number of new-task rows per step, `shares` the rows of each stream per new-task row. The rows of
    the streams in `capacities` are packed into rows of so many tokens, and a packed row counts as one.
    """
    batches: dict[str, Batches] = {}
    for name, share in shares.items():
        rows, size = data[name].splits["train"], max(1, round(share * step_rows))
        if name in capacities:
            batches[name] = PackedBatches(rows, size, seed, capacities[name], data[name].pad_id)
            continue
        lengths = bucket_lengths(rows.lengths(), steps=share * steps)
        batches[name] = TrainBatches(rows, size, seed, lengths, data[name].pad_id)
    return batches


def step_batch(batches: Mapping[str, Batches], step: int, accumulate: int) -> dict[str, Batch]:
    """Return the input of step `step`: arrays [A, B, ...] of the new task, [1, B, ...] of the other streams."""

    def cut(stream: str, batch: Batch) -> Batch:
        micros = accumulate if stream == "new" else 1
        return jax.tree.map(lambda values: values.reshape(micros, -1, *values.shape[1:]), batch)

    return {stream: cut(stream, source.batch(step)) for stream, source in batches.items()}


def original_batches(original: TaskData, n: int, seed: int, size: int = EVAL_BATCH) -> Iterator[Batch]:
    """Yield host batches of `size` rows from at most `n` training rows of an original task, padded to two lengths.

    Rows of similar length share a batch. The batches come in a seeded order, so the first few are representative. Their
    `row` holds row numbers of the source.

    Raises: InputError if there are no training rows.
    """
    rows = original.splits["train"]
    if not len(rows.ids):
        raise InputError("the original task has no training rows: give a source with more than its evaluation rows")
    chosen = rows.take(chosen_rows(len(rows.ids), n, seed))
    lengths = bucket_lengths(chosen.lengths(), most=2)
    batches = list(eval_batches(chosen, size, lengths, original.pad_id))
    with doing("original rows", total=len(chosen.ids)) as work:
        for at in np.random.default_rng(seed).permutation(len(batches)):
            batch, picked = batches[at]
            yield batch._replace(row=np.resize(chosen.numbers[picked], size).astype(np.int32))
            work.advance(len(picked))


def held_out_sample(rows: Encoded, most: int) -> Encoded:
    """Return at most `most` rows, the same ones in every run, each an example of its own. Rows whose tokens are
    predicted have at most ROW_TOKENS · `most` tokens in all, but are one at least.
    """
    order = np.random.default_rng(PROBE_SEED).permutation(len(rows.ids))[:most]
    if rows.targets is not None:
        order = order[: max(1, np.searchsorted(np.cumsum(rows.lengths()[order]), ROW_TOKENS * most, side="right"))]
    return rows.take(np.sort(order))


def chosen_rows(size: int, n: int, seed: int) -> np.ndarray:
    """Return the positions of a seeded sample of at most `n` of `size` rows, ascending."""
    return np.sort(np.random.default_rng(seed).permutation(size)[:n])
