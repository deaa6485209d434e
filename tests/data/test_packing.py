"""Packs: every text once an epoch, never too full, close to the fewest possible; batches a function of (seed, i)."""

from collections import Counter

import jax
import numpy as np
import pytest

from fft.core.errors import InputError
from fft.data.packing import PackedBatches, Packs, collate_packs, default_capacity, packs
from tests.helpers.language_rows import texts


def first_fit(lengths, capacity):
    spaces = []
    for length in lengths:
        at = next((at for at, space in enumerate(spaces) if space >= length), len(spaces))
        spaces[at:] = [*([capacity] if at == len(spaces) else [spaces[at]]), *spaces[at + 1 :]]
        spaces[at] -= length
    return len(spaces)


@pytest.mark.parametrize("draw", ["uniform", "short", "long", "one"])
@pytest.mark.parametrize("capacity", [16, 100])
def test_packs_hold_every_row_once_and_are_few(draw, capacity):
    rng = np.random.default_rng(capacity)
    for rows in (1, 7, 300):
        lengths = {
            "uniform": lambda n: rng.integers(1, capacity + 1, n),
            "short": lambda n: np.minimum(1 + rng.gamma(2.0, capacity / 20, n).astype(int), capacity),
            "long": lambda n: rng.integers(capacity // 2 + 1, capacity + 1, n),
            "one": lambda n: np.ones(n, int),
        }[draw](rows)
        found = packs(lengths, capacity)
        assert Counter(at for pack in found for at in pack) == Counter(range(rows))
        assert max(lengths[pack].sum() for pack in found) <= capacity
        fewest = -(-int(lengths.sum()) // capacity)
        assert fewest <= len(found) <= max(11 * fewest / 9 + 1, np.sum(lengths > capacity // 2))
        assert len(found) <= 1.05 * first_fit(lengths, capacity)
        if draw in ("short", "one") and rows == 300:
            assert len(found) <= max(1.02 * fewest, fewest + 1)


def test_a_row_goes_where_it_fits_best():
    assert packs([5, 7, 3, 2, 4], 10) == [[1, 2], [0, 4], [3]]
    assert packs([], 10) == []


def test_a_row_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match="row 2 has 11 tokens, more than fit into a pack of 10"):
        packs([3, 11], 10)
    with pytest.raises(InputError, match="no training rows"):
        Packs(np.zeros(0, int), 10, 0)


def test_a_capacity_that_is_not_given_is_that_of_the_longest_row():
    assert default_capacity(np.array([3, 65]), 1024) == 128
    assert default_capacity(np.array([3, 64]), 1024) == 64
    assert default_capacity(np.array([3, 65]), 100) == 100


@pytest.mark.parametrize("rows", [3, 5000])
def test_every_row_once_an_epoch_and_pack_i_is_a_function_of_seed_and_i(rows):
    lengths = np.random.default_rng(rows).integers(1, 30, rows)
    forward, sizes = Packs(lengths, 64, 1), []
    stream = [forward[at].tolist() for at in range(3 * len(forward) + 20)]
    start = 0
    for _ in range(3):
        seen, stop = Counter(), start
        while sum(seen.values()) < rows:
            seen.update(stream[stop])
            stop += 1
        assert seen == Counter(range(rows))
        sizes.append(stop - start)
        start = stop
    assert sizes[0] == len(forward) and max(sizes) <= 1.02 * min(sizes)
    jumping, other = Packs(lengths, 64, 1), Packs(lengths, 64, 2)
    for at in (len(stream) - 1, 0, sizes[0], sizes[0] - 1, start):
        assert jumping[at].tolist() == stream[at]
    if rows > 1000:
        assert lengths.sum() / 64 / sizes[0] > 0.97, "hardly a token is padding"
        first, second = ({frozenset(pack) for pack in stream[at : at + sizes[0]]} for at in (0, sizes[0]))
        assert len(first & second) < 0.01 * sizes[0], "other rows come together in the next epoch"
        assert sum(other[at].tolist() == stream[at] for at in range(50)) == 0


def test_a_packed_batch_holds_the_tokens_of_its_texts():
    rows = texts([5, 3, 4, 2], share=0.5)
    batch = collate_packs(rows, [np.array([0, 3]), np.array([1])], 8, 9, 4)
    assert batch.segments.tolist() == [[1] * 5 + [2] * 2 + [0], [1] * 3 + [0] * 5]
    assert (batch.mask == (batch.segments > 0)).all() and batch.row.tolist() == [0, 1] and batch.task is None
    assert batch.ids[0].tolist() == [*rows.ids[0], *rows.ids[3], 9] and batch.ids[1, 3:].tolist() == [9] * 5
    for row, pack in enumerate(([0, 3], [1])):
        targets = np.concatenate([rows.targets[at] for at in pack])
        real = batch.weight[row] > 0
        assert real.sum() == (targets >= 0).sum() and set(batch.weight.ravel().tolist()) == {0.0, 1.0}
        assert (targets[batch.places[row][real]] == batch.targets[row][real]).all()


def test_batches_have_one_shape_and_all_targets():
    rows = texts(np.random.default_rng(0).integers(2, 20, 400), share=0.4)
    batches = PackedBatches(rows, 4, 0, 48, 0)
    made = [batches.batch(step) for step in range(2 * len(batches))]
    assert {batch.ids.shape for batch in made} == {(4, 48)} and batches.lengths == (48,)
    assert len({batch.places.shape[1] for batch in made}) <= 2 and made[0].places.shape[1] < 48
    for step, batch in enumerate(made):
        assert batch.weight.sum() == rows.target_counts()[batches.rows(step)].sum()
    again = PackedBatches(rows, 4, 0, 48, 0).batch(7)
    assert jax.tree.all(jax.tree.map(np.array_equal, again, made[7]))
    assert batches.fill == pytest.approx(rows.lengths().sum() / (48 * len(batches.packs)))


def test_a_later_batch_with_more_targets_has_more_places():
    rows = texts([4, 4, 4, 4])
    batches = PackedBatches(rows, 1, 0, 8, 0)
    batches._places = 1
    assert batches.batch(0).places.shape == (1, 8) and batches.batch(0).weight.sum() == 8
