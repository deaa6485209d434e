"""Packed batches: several texts in one row, so that hardly a token is padding.

Letters: B packed rows, T their tokens, S places with a target.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np

from fft.core.batch import Batch
from fft.core.errors import InputError
from fft.data.batches import Numbering, token_targets
from fft.data.encoded import Encoded

WINDOW = 100  # the rows of about this many packs are packed together
ROUNDING = 64  # a capacity that is not given is a multiple of so many tokens
STEPS = 8  # S is a multiple of T / STEPS


def packs(lengths: Sequence[int] | np.ndarray, capacity: int) -> list[list[int]]:
    """Return the positions of rows of `lengths` [N], distributed over packs of at most `capacity` tokens.

    Best-fit decreasing: the longest row comes first, each into the pack with the least space that is enough for it,
    which takes at most 11/9 of the fewest packs, plus one.

    Reference: Johnson et al. 1974, SIAM J. Comput. 3(4).

    Raises: InputError for a row longer than the capacity.
    """
    lengths = np.asarray(lengths)
    if len(lengths) and lengths.max() > capacity:
        at = int(lengths.argmax())
        raise InputError(f"row {at + 1} has {lengths[at]} tokens, more than fit into a pack of {capacity}")
    result: list[list[int]] = []
    by_space: dict[int, list[int]] = {}  # free tokens -> packs
    spaces: list[int] = []  # the keys of by_space, ascending
    for at in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[at])
        place = bisect_left(spaces, length)
        if place == len(spaces):
            number, space = len(result), capacity
            result.append([])
        else:
            space = spaces[place]
            number = by_space[space].pop()
            if not by_space[space]:
                del by_space[space], spaces[place]
        result[number].append(at)
        rest = space - length
        if rest not in by_space:
            by_space[rest] = []
            insort(spaces, rest)
        by_space[rest].append(number)
    return result


def default_capacity(lengths: np.ndarray, most: int) -> int:
    """Return the tokens of a packed row for rows of `lengths` [N]: the longest, rounded up, but at most `most`."""
    return min(most, -(-int(lengths.max(initial=1)) // ROUNDING) * ROUNDING)


class Packs:
    """An endless sequence of packs of rows; pack i is a pure function of (seed, i).

    Every epoch has all rows in a seeded order. The rows of about WINDOW packs at a time are packed, and these packs
    shuffled, so that every row occurs once an epoch, each time among other rows. Epochs may differ by a few packs.
    """

    def __init__(self, lengths: np.ndarray, capacity: int, seed: int) -> None:
        if not len(lengths):
            raise InputError("no training rows: give a source with some")
        self.lengths, self.capacity, self.seed = lengths, capacity, seed
        self._starts = [0]  # the first pack of every epoch that was packed so far, and of the next one
        self._epoch: tuple[int, list[np.ndarray]] = (-1, [])
        self.first = self._packed(0)
        """the packs of the first epoch"""

    def __len__(self) -> int:
        """Number of packs of the first epoch."""
        return len(self.first)

    def __getitem__(self, index: int) -> np.ndarray:
        """Return the positions of the rows of pack `index`, counted from 0 over all epochs."""
        while index >= self._starts[-1]:
            self._packed(len(self._starts) - 1)
        epoch = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._packed(epoch)[index - self._starts[epoch]]

    def _packed(self, epoch: int) -> list[np.ndarray]:
        """Return the packs of an epoch; all epochs before it have been packed."""
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._pack(epoch))
            if epoch == len(self._starts) - 1:
                self._starts.append(self._starts[-1] + len(self._epoch[1]))
        return self._epoch[1]

    def _pack(self, epoch: int) -> list[np.ndarray]:
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.lengths))
        windows = max(1, round(int(self.lengths.sum()) / self.capacity / WINDOW))
        result: list[np.ndarray] = []
        for window in np.array_split(order, windows):
            chosen = packs(self.lengths[window], self.capacity)
            result += [window[chosen[at]] for at in rng.permutation(len(chosen))]
        return result


class PackedBatches:
    """An endless sequence of training batches of packed rows; `batch(i)` is a pure function of (seed, i).

    A batch has B packs, see Packs, and always T tokens. S is the most targets that a pack of the first epoch has,
    rounded up; a later batch with more has a larger one.

    Example: `batches = PackedBatches(encoded, 8, seed=0, capacity=512, pad_id=0)`.
    """

    def __init__(self, encoded: Encoded, batch_size: int, seed: int, capacity: int, pad_id: int) -> None:
        counts = encoded.target_counts()
        assert counts is not None  # only the rows of language tasks are packed
        self.encoded, self.batch_size, self.pad_id = encoded, batch_size, pad_id
        self.lengths = (capacity,)
        self.packs = Packs(encoded.lengths(), capacity, seed)
        self._counts = counts
        self._numbering = Numbering(encoded)
        self._places = self._rounded(self.packs.first)

    def __len__(self) -> int:
        """Number of batches of the first epoch, rounded up."""
        return -(-len(self.packs) // self.batch_size)

    @property
    def tokens(self) -> float:
        """The mean number of tokens of a batch, without padding."""
        return self.fill * self.batch_size * self.lengths[0]

    @property
    def fill(self) -> float:
        """The share of tokens that are no padding, in the first epoch."""
        return int(self.packs.lengths.sum()) / (len(self.packs) * self.lengths[0])

    def batch(self, index: int) -> Batch:
        """Return batch number `index`, counted from 0 over all epochs."""
        chosen = self._chosen(index)
        places = max(self._places, self._rounded(chosen))
        batch = collate_packs(self.encoded, chosen, self.lengths[0], self.pad_id, places)
        return batch._replace(numbers=self._numbering.of(chosen, places))

    def rows(self, index: int) -> np.ndarray:
        """Positions of the rows of batch `index`, int64 [N]."""
        return np.concatenate(self._chosen(index))

    def _chosen(self, index: int) -> list[np.ndarray]:
        """Return the packs of a batch."""
        return [self.packs[at] for at in range(index * self.batch_size, (index + 1) * self.batch_size)]

    def _rounded(self, chosen: Sequence[np.ndarray]) -> int:
        """Return the most targets that one of the packs has, rounded up, so that few programs are compiled."""
        step = -(-self.lengths[0] // STEPS)
        most = max(int(self._counts[rows].sum()) for rows in chosen)
        return min(self.lengths[0], -(-most // step) * step)


def collate_packs(encoded: Encoded, chosen: Sequence[np.ndarray], length: int, pad_id: int, places: int) -> Batch:
    """Return packs of rows, at positions in `encoded`, as one batch of T = `length` tokens and S = `places`."""
    assert encoded.targets is not None  # as in a language task
    ids = np.full((len(chosen), length), pad_id, np.int32)
    types, segments = np.zeros_like(ids), np.zeros_like(ids)
    for row, pack in enumerate(chosen):
        tokens = np.concatenate([encoded.ids[at] for at in pack])
        ids[row, : len(tokens)] = tokens
        types[row, : len(tokens)] = np.concatenate([encoded.types[at] for at in pack])
        segments[row, : len(tokens)] = np.repeat(np.arange(1, len(pack) + 1), [len(encoded.ids[at]) for at in pack])
    targets = [np.concatenate([encoded.targets[at] for at in pack]) for pack in chosen]
    where, targets, weight = token_targets(targets, np.ones(len(chosen), np.float32), places)
    first = np.array([pack[0] for pack in chosen], np.int32)
    return Batch(ids, (segments > 0).astype(np.int32), types, targets, weight, first, None, where, segments)
