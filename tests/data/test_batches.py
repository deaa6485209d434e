"""Batches: optimal lengths, every row as often as it should be, few shapes, and batch i a function of (seed, i)."""

from collections import Counter
from itertools import combinations
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import fft.data.batches as module
from fft.commands.demo import NEW_ROWS
from fft.core.batch import Batch
from fft.core.errors import InputError
from fft.data.batches import COMPILE_STEPS, TrainBatches, bucket_lengths, eval_batches, padding_waste
from fft.data.streams import training_batches
from fft.experiment import Optim
from tests.helpers.tiny_tasks import encoded


@pytest.mark.parametrize("most", [1, 2, 3, 5])
def test_bucket_lengths_are_optimal(most):
    def padded(lengths, buckets):
        return sum(min(b for b in buckets if b >= length) for length in lengths)

    rng = np.random.default_rng(most)
    for _ in range(30):
        lengths = rng.integers(1, 14, rng.integers(1, 40)).tolist()
        found = bucket_lengths(lengths, most)
        assert list(found) == sorted(set(found)) and len(found) <= most and found[-1] == max(lengths)
        unique = sorted(set(lengths))
        best = min(padded(lengths, (*some, unique[-1])) for some in combinations(unique, min(most, len(unique)) - 1))
        assert padded(lengths, found) == best


@pytest.mark.parametrize("steps", [3, 20, 60, 10_000])
def test_a_further_bucket_length_pays_for_its_compilation(steps):
    """Against a loop over all sets of lengths, in units of the tokens of one step."""
    lengths = np.random.default_rng(steps).gamma(4.0, 3.0, 60).astype(int) + 1
    row = lengths.mean()

    def price(buckets):
        padded = np.mean([min(b for b in buckets if b >= length) for length in lengths])
        return steps * padded / row + COMPILE_STEPS * len(buckets)

    unique = sorted(set(lengths.tolist()))
    sets = [(*some, unique[-1]) for count in range(5) for some in combinations(unique[:-1], count)]
    found = bucket_lengths(lengths, steps=steps)
    assert price(found) == pytest.approx(min(map(price, sets)))
    assert len(found) == {3: 1, 20: 2, 60: 3, 10_000: 5}[steps]


def counts(batches, steps):
    return Counter(row for step in steps for row in batches.rows(step).tolist())


def lengths_of(count, seed=0):
    return np.random.default_rng(seed).integers(3, 40, count)


@pytest.mark.parametrize(("rows", "size"), [(64, 4), (640, 4), (7, 7), (12, 1)])
def test_every_row_once_an_epoch(rows, size):
    data = encoded(lengths_of(rows))
    batches = TrainBatches(data, size, 0, bucket_lengths(data.lengths()), 0)
    epochs = [counts(batches, range(e * rows // size, (e + 1) * rows // size)) for e in range(3)]
    assert all(epoch == Counter(range(rows)) for epoch in epochs)
    if rows > size > 1:
        assert batches.rows(0).tolist() != batches.rows(rows // size).tolist()


@pytest.mark.parametrize(("rows", "size"), [(3, 8), (1, 4), (10, 4), (100, 32), (641, 4)])
def test_rows_that_do_not_divide(rows, size):
    data = encoded(lengths_of(rows))
    batches = TrainBatches(data, size, 0, bucket_lengths(data.lengths()), 0)
    assert counts(batches, range(rows)) == Counter({row: size for row in range(rows)})  # size epochs
    used = counts(batches, range(-(-rows // size)))
    assert set(used) == set(range(rows))
    assert len(batches) == -(-rows // size)
    assert all(len(batches.rows(step)) == size for step in range(20))


def test_batch_is_a_function_of_seed_and_index():
    data = encoded(lengths_of(700))
    make = lambda seed: TrainBatches(data, 4, seed, bucket_lengths(data.lengths()), 9)  # noqa: E731
    forward = make(1)
    expected = [forward.batch(step) for step in range(400)]
    jumping = make(1)
    for step in np.random.default_rng(0).permutation(400)[:80]:
        found = jumping.batch(int(step))
        assert jax.tree.all(jax.tree.map(np.array_equal, found, expected[step]))
    other = make(2)
    assert sum((other.rows(s)[:4] == forward.rows(s)[:4]).all() for s in range(400)) < 4


def test_content_and_shapes():
    data = encoded(lengths_of(300))
    lengths = bucket_lengths(data.lengths())
    batches = TrainBatches(data, 8, 0, lengths, 9)
    shapes = set()
    for step in range(80):
        batch, rows = batches.batch(step), batches.rows(step)
        assert jax.tree.map(lambda array: array.dtype.name, batch) == Batch(
            ids="int32", mask="int32", types="int32", targets="int32", weight="float32", row="int32"
        )
        for at, row in enumerate(rows):
            tokens = len(data.ids[row])
            assert (batch.ids[at, :tokens] == 100 + row).all() and (batch.ids[at, tokens:] == 9).all()
            assert batch.mask[at].sum() == batch.mask[at, :tokens].sum() == tokens
        assert (batch.targets == data.labels[rows]).all() and (batch.weight == 1).all() and (batch.row == rows).all()
        longest = max(len(data.ids[row]) for row in rows)
        assert batch.ids.shape == (8, min(length for length in lengths if length >= longest))
        shapes.add(batch.ids.shape)
    assert 2 <= len(shapes) <= 5


def test_windows_are_sorted_but_their_batches_are_not(monkeypatch):
    monkeypatch.setattr(module, "WINDOW", 10)
    data = encoded(lengths_of(800))
    batches = TrainBatches(data, 8, 0, bucket_lengths(data.lengths()), 0)
    means = [data.lengths()[batches.rows(step)].mean() for step in range(100)]
    assert means[:10] != sorted(means[:10]) and means[:10] != sorted(means[:10], reverse=True)
    assert all(np.ptp(data.lengths()[batches.rows(step)]) < 20 for step in range(100))
    windows = [set(np.concatenate([batches.rows(s) for s in range(at, at + 10)])) for at in (0, 10, 100)]
    assert len(windows[0]) == 80 and not windows[0] & windows[1] and windows[0] != windows[2]


@pytest.mark.parametrize("rows", [1, 8, 21])
def test_eval_batches_cover_every_row_once(rows):
    data = encoded(lengths_of(rows))
    lengths = bucket_lengths(data.lengths())
    seen = []
    for batch, index in eval_batches(data, 8, lengths, 9):
        assert batch.ids.shape[0] == 8 and batch.ids.shape[1] in lengths
        assert batch.weight.tolist() == [1.0] * len(index) + [0.0] * (8 - len(index))
        assert batch.ids[: len(index), 0].tolist() == (100 + index).tolist()
        assert (batch.mask.sum(1) > 0).all()
        assert (batch.targets[: len(index)] == data.labels[index]).all()
        assert batch.row.tolist() == [*index.tolist(), *[index[-1]] * (8 - len(index))]
        seen += index.tolist()
    assert sorted(seen) == list(range(rows))


def test_padding_waste_counts_padding_and_fillers():
    data = encoded([2, 4, 4])
    assert padding_waste([batch for batch, _ in eval_batches(data, 2, (4,), 0)]) == pytest.approx(6 / 16)


def test_troubles():
    data = encoded([3, 9])
    for make in (lambda: TrainBatches(data, 2, 0, (4, 8), 0), lambda: next(eval_batches(data, 2, (4, 8), 0))):
        with pytest.raises(InputError, match="row 2 has 9 tokens, more than the longest bucket, 8"):
            make()
    with pytest.raises(InputError, match="no training rows"):
        TrainBatches(data.take(np.zeros(0, int)), 2, 0, (4,), 0)


@pytest.mark.parametrize(("steps", "most"), [(1, 1), (42, 2), (252, 4), (2_000, 5)])
def test_a_short_run_is_padded_to_fewer_lengths(steps, most):
    data = SimpleNamespace(splits={"train": encoded(lengths_of(64))}, pad_id=0)
    assert len(training_batches(Optim().step_rows, {"new": 1.0}, {"new": data}, steps, 0)["new"].lengths) == most


def test_padding_waste_on_the_demo_data(minilm, demo_data):
    from fft.data.rows import Columns
    from fft.data.sources import open_source
    from fft.data.tokenize import EncodeOptions, encode, load_tokenizer

    tokenizer = load_tokenizer(minilm, 30522)
    for domain in ("tweets", "movie"):
        rows = open_source(f"demo:{domain}").read("train", Columns())
        data, _ = encode(tokenizer, rows, np.zeros(len(rows.texts), np.int32), EncodeOptions(128, 30522, 512))
        default = 3 * len(data.ids) // 32
        for rows, steps, most in ((len(data.ids), default, 0.20), (NEW_ROWS, NEW_ROWS // 32, 0.40)):
            new = SimpleNamespace(splits={"train": data.take(np.arange(rows))}, pad_id=0)
            batches = training_batches(Optim().step_rows, {"new": 1.0}, {"new": new}, steps, 0)["new"]
            epoch = [batches.batch(step) for step in range(len(batches))]
            assert padding_waste(epoch) <= most
            assert len({batch.ids.shape for batch in epoch}) <= 5
