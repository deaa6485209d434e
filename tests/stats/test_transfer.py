"""The measures of a sequence against matrices calculated by hand."""

import numpy as np
import pytest

from fft.stats.intervals import LEVEL, unseen_rate
from fft.stats.metrics import METRICS
from fft.stats.transfer import (
    MEASURES,
    Answered,
    average_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
    matrix_of,
    measures,
)

NAN = float("nan")
UNSEEN = (1 - LEVEL) / 2
SHARED = np.array([[0.5, 0.4, 0.3], [0.9, 0.6, 0.35], [0.8, 0.9, 0.5], [0.7, 0.95, 0.9]])
OWN = np.array([[NAN, NAN, NAN], [0.9, NAN, NAN], [0.95, 0.8, NAN], [0.85, 0.7, 0.9]])


def test_by_hand_with_one_head():
    assert average_accuracy(SHARED) == pytest.approx((0.7 + 0.95 + 0.9) / 3)
    assert backward_transfer(SHARED) == pytest.approx(((0.7 - 0.9) + (0.95 - 0.9)) / 2)
    assert forward_transfer(SHARED) == pytest.approx(((0.6 - 0.4) + (0.5 - 0.3)) / 2)
    assert forgetting(SHARED) == pytest.approx(((0.9 - 0.7) + (0.9 - 0.95)) / 2)


def test_by_hand_with_heads_of_their_own():
    assert backward_transfer(OWN) == pytest.approx(((0.85 - 0.9) + (0.7 - 0.8)) / 2)
    assert forgetting(OWN) == pytest.approx(((0.95 - 0.85) + (0.8 - 0.7)) / 2)
    assert np.isnan(forward_transfer(OWN))


def test_two_tasks_and_many_matrices_at_once():
    two = np.array([[0.5, 0.5], [0.9, 0.7], [0.6, 0.8]])
    values = [float(measure(two)) for measure in MEASURES.values()]
    assert values == pytest.approx([0.7, -0.3, 0.2, 0.3])
    for measure in MEASURES.values():
        np.testing.assert_allclose(measure(np.stack([SHARED, SHARED + 0.01])), [measure(SHARED)] * 2, atol=0.011)


def answered(n=400, seed=0):
    """Return two tasks of two classes, with random predictions of given accuracies."""
    rng = np.random.default_rng(seed)
    shares, tasks = np.array([[NAN, NAN], [0.9, NAN], [0.6, 0.8]]), []
    for j in range(2):
        labels = rng.integers(0, 2, n)
        predictions = [
            None if np.isnan(share) else np.where(rng.random(n) < share, labels, 1 - labels) for share in shares[:, j]
        ]
        tasks.append(Answered(METRICS["accuracy"], labels, predictions))
    return tasks


def test_the_matrix_is_that_of_the_predictions_and_intervals_contain_the_values():
    tasks = answered()
    matrix = matrix_of(tasks)
    assert np.isnan(matrix[0]).all() and np.isnan(matrix[1, 1])
    right = [[answer is not None and answer == task.labels for answer in task.answers] for task in tasks]
    assert matrix[1, 0] == right[0][1].mean() and matrix[2, 1] == right[1][2].mean()
    estimates = measures(tasks)
    assert estimates["forward_transfer"] is None
    for name, estimate in estimates.items():
        if estimate is not None:
            assert estimate.value == pytest.approx(float(MEASURES[name](matrix)))
            assert estimate.low < estimate.value < estimate.high
    lost = right[0][2].astype(float) - right[0][1]
    error = 1.96 * lost.std() / np.sqrt(len(lost))  # T = 2: the backward transfer is the mean of one task's changes
    backward = estimates["backward_transfer"]
    assert backward.high - backward.low == pytest.approx(2 * error, rel=0.1)


def unchanged(sizes, metric="accuracy", labels=None):
    """Return tasks of these sizes, all of whose rows every model predicts correctly."""
    tasks = []
    for size in sizes:
        right = np.arange(size) % 2 if labels is None else labels(size)
        tasks.append(Answered(METRICS[metric], right, [right] * (len(sizes) + 1)))
    return tasks


def test_intervals_of_few_unchanged_rows_are_wide():
    forgotten = measures(unchanged([10, 10]))["forgetting"]
    assert forgotten.value == 0 and forgotten.high == -forgotten.low == pytest.approx(unseen_rate(10))
    three = measures(unchanged([10, 40, 20]))
    assert three["forgetting"].high == pytest.approx(unseen_rate(20)), "two tasks, of 10 rows at least"
    assert three["average_accuracy"] == (1.0, pytest.approx(1 - unseen_rate(30)), 1.0)


def test_the_floor_of_a_mean_covers_what_each_task_may_lose():
    """For two tasks of 10 and 40 rows: the floor covers all error rates with over 2.5 % chance of no observed error."""
    floor = unseen_rate(20)
    for p in np.linspace(0, 1, 101):
        worst = 1 - (UNSEEN / (1 - p) ** 10) ** (1 / 40) if (1 - p) ** 10 >= UNSEEN else 0.0
        assert (1 - p) ** 10 < UNSEEN or (p + worst) / 2 <= floor + 1e-12


def test_a_task_whose_score_is_not_defined_has_no_measure():
    one_class = unchanged([10, 10], "mcc", lambda size: np.ones(size, int))
    assert np.isnan(matrix_of(one_class)).all() and measures(one_class) == dict.fromkeys(MEASURES)
    mixed = [unchanged([10, 10])[0], one_class[1]]
    estimates = measures(mixed)
    assert estimates["average_accuracy"] is None and estimates["forgetting"] is not None, (
        "forgetting excludes the last task"
    )


def test_one_row_has_no_interval():
    lone = [Answered(METRICS["accuracy"], np.ones(1, int), [None, np.ones(1, int), np.ones(1, int)])] * 2
    assert np.isnan(measures(lone)["average_accuracy"].low) and measures(lone)["average_accuracy"].value == 1.0
