"""Damage by label and by example, against plain loops."""

import numpy as np
import pytest

from fft.stats.damage import by_label, further, newly
from fft.stats.intervals import paired_change
from fft.stats.metrics import METRICS

NAMES = ("a", "b", "c", "d")


@pytest.fixture
def predicted():
    """Labels and two models' predictions: label c gets worse, d does not occur, -1 is not a class."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 120)
    before = np.where(rng.random(120) < 0.9, labels, rng.integers(0, 4, 120))
    after = np.where((labels == 2) & (rng.random(120) < 0.6), -1, before)
    return labels, before, np.where(rng.random(120) < 0.1, labels, after)


def test_newly_wrong_and_newly_right_by_a_loop(predicted):
    wrong, right = [], []
    for at, (label, was, now) in enumerate(zip(*predicted, strict=True)):
        if was == label != now:
            wrong.append(at)
        if was != label == now:
            right.append(at)
    assert wrong and right and [indices.tolist() for indices in newly(*predicted)] == [wrong, right]


def test_the_change_of_every_label_by_a_loop(predicted):
    labels, before, after = predicted
    rows = by_label(labels, before, after, NAMES)
    assert rows[0].label == "c" and {row.label for row in rows} == {"a", "b", "c"}
    assert [row.change for row in rows] == sorted(row.change for row in rows)
    for row in rows:
        mine = [at for at in range(120) if NAMES[labels[at]] == row.label]
        right = [[int(values[at] == labels[at]) for at in mine] for values in (before, after)]
        assert row.n == len(mine) and row.before == sum(right[0]) / len(mine) and row.after == sum(right[1]) / len(mine)
        assert row.lost == sum(a > b for a, b in zip(*right, strict=True))
        assert row.gained == sum(a < b for a, b in zip(*right, strict=True))
        assert row.change == pytest.approx((row.gained - row.lost) / row.n) and row.low <= row.change <= row.high
    assert sum(row.n for row in rows) == 120
    whole = paired_change(METRICS["accuracy"], labels, before, after)
    assert sum(row.gained - row.lost for row in rows) / 120 == pytest.approx(whole.change)


def test_predictions_with_growing_and_shrinking_errors():
    labels = np.array([0, 1, 2, 3, 4, 5, 6], np.float32)
    before = np.array([0.0, 1.5, 2.0, 3.0, 9.0, np.nan, np.nan])
    after = np.array([0.5, 1.0, 5.0, 3.0, 4.0, 5.0, np.inf])
    worse, better = further(labels, before, after)
    assert worse.tolist() == [2, 0] and better.tolist() == [5, 4, 1]
    assert further(labels, after, before)[0].tolist() == [5, 4, 1]
    assert further(labels, labels, np.where(labels == 3, np.nan, labels))[0].tolist() == [3]
