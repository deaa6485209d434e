"""Batches of few shapes: rows of similar length together, padded to one of a few bucket lengths.

Each distinct shape [B, T] is compiled once, and a padding token costs as much as a real one.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np

from fft.core.batch import Batch, row_weight
from fft.core.errors import InputError
from fft.data.encoded import Encoded

WINDOW = 50  # about this many batches are sorted by length together
MOST_LENGTHS = 5
COMPILE_STEPS = 14  # compiling a step for one more length takes about as long as so many steps, on two CPU cores


class Batches(Protocol):
    """An endless sequence of training batches, such as TrainBatches and fft.data.packing.PackedBatches."""

    @property
    def encoded(self) -> Encoded:
        """The rows."""
        ...

    @property
    def lengths(self) -> tuple[int, ...]:
        """The padded lengths T that its batches have."""
        ...

    @property
    def pad_id(self) -> int: ...

    @property
    def tokens(self) -> float:
        """The mean number of tokens of a batch, without padding."""
        ...

    def __len__(self) -> int:
        """Number of batches per epoch, rounded up."""
        ...

    def batch(self, index: int) -> Batch:
        """Return batch number `index`, counted from 0 over all epochs."""
        ...

    def rows(self, index: int) -> np.ndarray:
        """Positions in `encoded` of the rows of batch `index`, int64 [N]."""
        ...


def bucket_lengths(
    lengths: Sequence[int] | np.ndarray, most: int = MOST_LENGTHS, steps: float = math.inf
) -> tuple[int, ...]:
    """Return at most `most` bucket lengths, ascending, that minimise the total tokens after padding.

    Each row is padded to the next bucket length; `lengths` [N] are the lengths of the rows. For a run of `steps` steps
    a further bucket counts as the tokens of COMPILE_STEPS steps without padding, so that short runs get few.

    Exact, by dynamic programming over the unique lengths u_1 < ... < u_M: the minimum tokens of the rows up to u_j in
    k buckets are cost[k, j] = min over i of cost[k-1, i] + u_j · (rows longer than u_i and not longer than u_j).
    """
    unique, counts = np.unique(np.asarray(lengths), return_counts=True)
    rows = np.concatenate([[0], np.cumsum(counts)])  # rows[j]: rows among the j shortest lengths
    alone = unique[None, :] * (rows[None, 1:] - rows[:-1, None])  # [i, j]: lengths i..j in one bucket
    alone = np.where(np.tri(len(unique), k=-1, dtype=bool), np.inf, alone)
    cost, cuts = alone[0], []
    totals = [cost[-1]]
    for _ in range(1, min(most, len(unique))):
        through = np.concatenate([[np.inf], cost[:-1]])[:, None] + alone  # [i, j]: the last bucket starts at i
        cuts.append(through.argmin(0))
        cost = through.min(0)
        totals.append(cost[-1])
    price = COMPILE_STEPS / steps * (unique * counts).sum()
    count = int(np.argmin(np.array(totals) + price * np.arange(len(totals))))
    last, chosen = len(unique) - 1, []
    for cut in reversed(cuts[:count]):
        chosen.append(last)
        last = cut[last] - 1
    return tuple(int(unique[at]) for at in reversed([*chosen, last]))


def collate(
    encoded: Encoded, picked: np.ndarray, batch_size: int, length: int, pad_id: int, places: int | None = None
) -> Batch:
    """Return the rows at `picked` (at most B) as one batch of B rows and T = `length` tokens.

    Filler rows repeat the last real row, to be valid input, and have weight 0. The batch's `row` holds the positions of
    its rows in `encoded`. Rows with targets for their tokens get S = `places` of them, see `most_places`.
    """
    full = np.concatenate([picked, np.repeat(picked[-1:], batch_size - len(picked))])
    ids = np.full((batch_size, length), pad_id, np.int32)
    mask, types = np.zeros_like(ids), np.zeros_like(ids)
    for row, at in enumerate(full):
        tokens = len(encoded.ids[at])
        ids[row, :tokens] = encoded.ids[at]
        types[row, :tokens] = encoded.types[at]
        mask[row, :tokens] = 1
    weight = (np.arange(batch_size) < len(picked)).astype(np.float32)
    task = None if encoded.task is None else encoded.task[full]
    number = full.astype(np.int32)
    if encoded.targets is None:
        return Batch(ids, mask, types, encoded.labels[full], weight, number, task)
    assert places is not None  # callers give it for such rows
    where, targets, counts = token_targets([encoded.targets[at] for at in full], weight, places)
    return Batch(ids, mask, types, targets, counts, number, task, where)


def token_targets(
    targets: Sequence[np.ndarray], weight: np.ndarray, places: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the places of targets that are not -1, these targets, and their weights, [B, S] each.

    The weight of a target is that of its row [B]; rows with fewer targets end in ones of weight 0.
    """
    where = np.zeros((len(targets), places), np.int32)
    chosen, weights = np.zeros_like(where), np.zeros(where.shape, np.float32)
    for row, values in enumerate(targets):
        found = np.flatnonzero(values >= 0)
        where[row, : len(found)], chosen[row, : len(found)] = found, values[found]
        weights[row, : len(found)] = weight[row]
    return where, chosen, weights


def most_places(encoded: Encoded, lengths: Sequence[int]) -> dict[int, int | None]:
    """Return for each padded length the most targets that a row of at most that length has: {T: S}, so that there is
    one program for each length; {T: None} for rows with one target each.
    """
    counts, tokens = encoded.target_counts(), encoded.lengths()
    if counts is None:
        return dict.fromkeys(lengths)
    return {length: max(1, int(counts[tokens <= length].max(initial=0))) for length in lengths}


class Numbering:
    """Numbers the targets of all rows, in their order. Rows without a target for each token, or with targets that are
    drawn anew in each epoch, have no numbers.
    """

    def __init__(self, encoded: Encoded) -> None:
        counts = encoded.target_counts() if encoded.targets_stay else None
        self._own = None if counts is None else np.split(np.arange(counts.sum()), np.cumsum(counts)[:-1])

    def of(self, rows: Sequence[np.ndarray], places: int | None) -> np.ndarray | None:
        """Return the numbers int32 [B, S] of the targets of B rows, each one or more rows of `encoded`, by position."""
        if self._own is None or places is None:
            return None
        numbers = np.zeros((len(rows), places), np.int32)
        for row, picked in enumerate(rows):
            own = np.concatenate([self._own[at] for at in picked])
            numbers[row, : len(own)] = own
        return numbers


class TrainBatches:
    """An endless sequence of training batches; `batch(i)` is a pure function of (seed, i).

    Rows come in a seeded order, reshuffled every epoch (Grain). The rows of about `WINDOW` batches are sorted by length
    and cut into batches, which are then shuffled. An epoch is N/B batches. If B divides N, every row is used exactly
    once per epoch; otherwise (also if N < B) the last batch is completed with rows of the next epoch.

    Example: `batches = TrainBatches(encoded, 32, seed=0, lengths=bucket_lengths(encoded.lengths()), pad_id=0)`.
    """

    def __init__(self, encoded: Encoded, batch_size: int, seed: int, lengths: Sequence[int], pad_id: int) -> None:
        import grain

        if not len(encoded.ids):
            raise InputError("no training rows: give a source with some")
        self.encoded, self.batch_size, self.seed, self.pad_id = encoded, batch_size, seed, pad_id
        self.lengths = tuple(lengths)
        self._tokens = encoded.lengths()
        _require_bucket(self._tokens, self.lengths)
        self._places = most_places(encoded, self.lengths)
        self._numbering = Numbering(encoded)
        self._order = grain.MapDataset.range(len(encoded.ids)).seed(seed).shuffle().repeat()
        self._window: tuple[int, np.ndarray] = (-1, np.zeros((0, 0), np.int64))

    def __len__(self) -> int:
        """Number of batches per epoch, rounded up."""
        return -(-len(self.encoded.ids) // self.batch_size)

    @property
    def tokens(self) -> float:
        """The mean number of tokens of a batch, without padding."""
        return float(self._tokens.mean()) * self.batch_size

    def batch(self, index: int) -> Batch:
        """Return batch number `index`, counted from 0 over all epochs."""
        picked = self.rows(index)
        length = _bucket(int(self._tokens[picked].max()), self.lengths)
        rows = self.encoded.redrawn(picked, (self.seed, index))
        batch = collate(rows, picked, self.batch_size, length, self.pad_id, self._places[length])
        return batch._replace(numbers=self._numbering.of(list(picked[:, None]), self._places[length]))

    def rows(self, index: int) -> np.ndarray:
        """Positions of the rows of batch `index`, int64 [B]."""
        start, stop = self._window_of(index)
        if self._window[0] != start:
            self._window = (start, self._sorted(start, stop))
        return self._window[1][index - start]

    def _window_of(self, index: int) -> tuple[int, int]:
        """Return the first and last + 1 batch of the window of `index`; no window crosses the end of an epoch."""
        size, rows = self.batch_size, len(self.encoded.ids)
        epoch = index * size // rows
        first, last = -(-epoch * rows // size), -(-(epoch + 1) * rows // size)
        count = max(1, round((last - first) / WINDOW))
        edges = [first + (last - first) * k // count for k in range(count + 1)]
        at = int(np.searchsorted(edges, index, side="right"))
        return edges[at - 1], edges[at]

    def _sorted(self, start: int, stop: int) -> np.ndarray:
        """Rows of the batches start to stop, [stop - start, B]: grouped by length, the batches in a seeded order."""
        stream = np.array([self._order[at] for at in range(start * self.batch_size, stop * self.batch_size)], np.int64)
        by_length = stream[np.argsort(self._tokens[stream], kind="stable")].reshape(stop - start, self.batch_size)
        return by_length[np.random.default_rng([self.seed, start]).permutation(stop - start)]


def eval_batches(
    encoded: Encoded, batch_size: int, lengths: Sequence[int], pad_id: int
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Yield every row once, longest first, as (batch, positions of its real rows in `encoded`, at most [B]).

    Shapes are [B, T] with T in `lengths`. The last batch, of the shortest rows, ends in filler rows of weight 0.
    """
    tokens, places = encoded.lengths(), most_places(encoded, lengths)
    _require_bucket(tokens, lengths)
    order = np.argsort(-tokens, kind="stable")
    for start in range(0, len(order), batch_size):
        picked = order[start : start + batch_size]
        length = _bucket(int(tokens[picked].max()), lengths)
        yield collate(encoded, picked, batch_size, length, pad_id, places[length]), picked


def padding_waste(batches: Iterable[Batch]) -> float:
    """The share of tokens [B, T] that are padding or filler rows."""
    real = size = 0
    for batch in batches:
        real += int(batch.mask[row_weight(batch.weight) > 0].sum())
        size += batch.mask.size
    return 1 - real / size


def _require_bucket(tokens: np.ndarray, lengths: Sequence[int]) -> None:
    if len(tokens) and tokens.max() > max(lengths):
        raise InputError(
            f"row {int(tokens.argmax()) + 1} has {tokens.max()} tokens, more than the longest bucket, {max(lengths)}"
        )


def _bucket(tokens: int, lengths: Sequence[int]) -> int:
    """Return the smallest of `lengths` that is at least `tokens`."""
    return min(length for length in lengths if length >= tokens)
