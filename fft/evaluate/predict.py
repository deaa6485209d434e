"""A model's outputs on many rows, with one compiled program for each padded length."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from fft.core.batch import Array, Batch
from fft.core.progress import doing
from fft.core.tree import Params
from fft.data.encoded import Encoded

Predictor = Callable[[Params, Batch], Array]
"""f(params, batch) -> [B, W], or [B, T, W]"""


def predict(
    f: Predictor,
    params: Params,
    batches: Iterable[tuple[Batch, np.ndarray]],
    n: int,
    poll: Callable[[], None] | None = None,
) -> np.ndarray:
    """Return the outputs of f for n examples, [N, W], in the order of the examples, whatever that of the batches. For
    outputs of tokens it is [N, T, W], T the longest, with 0 beyond the end of shorter batches.

    `batches` yields (batch, index): index [b] holds the example numbers of the batch's real rows (weight > 0), in
    order; filler rows are dropped. The next batch is prepared while the device computes this one. `poll` is called
    after every batch and may raise to stop.

    Raises: ValueError where the batches do not cover each of the n examples once.
    """
    outputs: np.ndarray | None = None
    times = np.zeros(n, np.int64)

    def collect(batch: Batch, index: np.ndarray, out: Array) -> None:
        nonlocal outputs
        rows = np.asarray(out)[: len(index)]
        if outputs is None:
            outputs = np.zeros((n, *rows.shape[1:]), rows.dtype)
        tokens = rows.shape[1]
        if rows.ndim == 3 and tokens > outputs.shape[1]:
            outputs = np.pad(outputs, ((0, 0), (0, tokens - outputs.shape[1]), (0, 0)))
        outputs[index, :tokens] = rows
        np.add.at(times, index, 1)

    waiting = None
    with doing("rows", total=n) as work:
        for batch, index in batches:
            out = f(params, batch)
            if waiting is not None:
                collect(*waiting)
            waiting = (batch, index, out)
            work.advance(len(index))
            if poll is not None:
                poll()
    if waiting is not None:
        collect(*waiting)
    if outputs is None or not (times == 1).all():
        raise ValueError(f"expected batches that cover {n} examples once each, got {int((times == 1).sum())} once")
    return outputs


SCORE_BATCH = 16  # a row costs no more than in a larger batch, and less of the batch is padding
SCORE_TOKENS = 4_096  # the same for long rows whose tokens are predicted: a sample may be fewer than SCORE_BATCH


def score_batch(rows: Encoded, lengths: Sequence[int], most: int = SCORE_BATCH) -> int:
    """Return the batch size in which rows, padded to at most the longest of `lengths`, are scored."""
    return most if rows.targets is None else min(most, max(1, SCORE_TOKENS // max(lengths)))
