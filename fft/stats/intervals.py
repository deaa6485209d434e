"""Scores, their intervals, and the paired change between two models on the same examples.

Pure functions on arrays of labels and predictions of N examples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fft.core.errors import InputError
from fft.stats.metrics import Metric, accuracy

LEVEL = 0.95
RESAMPLES = 10_000
MOST_DRAWS = 20_000_000  # resamples x examples; above 2,000 examples there are fewer resamples, at least 1,000
BATCH_DRAWS = 100_000  # resamples x examples at a time: fits the cache, bounds the memory


class Interval(NamedTuple):
    """A score of n examples and its 95 % interval, in the metric's own unit; the ends are nan if there is none."""

    value: float
    low: float
    high: float
    n: int


class Estimate(NamedTuple):
    """A number with its 95 % interval; the ends are nan if there is none."""

    value: float
    low: float
    high: float


class Change(NamedTuple):
    """The change of a score between two models on the same n examples.

    before and after are in the metric's unit; change, low, high are signed so that + is better (for rmse, change =
    before - after). mcnemar_p is the exact two-sided p of McNemar's test for accuracy and matches, None for others.
    changed counts the examples whose prediction differs, None for regression. undefined says why the score is not
    defined on these examples, and change, low and high are nan then; None if it is defined. before is nan if there was
    no model before.
    """

    metric: str
    before: float
    after: float
    change: float
    low: float
    high: float
    n: int
    mcnemar_p: float | None = None
    changed: int | None = None
    undefined: str | None = None


# ---------------------------------------------------------------- predictions


def predictions(kind: str, logits: np.ndarray) -> np.ndarray:
    """Convert logits [N, W] to classes int32 [N] for classification, else to the first values [N]: float64, or for
    answers int32.

    A row with a logit that is not finite gets the class -1, which is always wrong.
    """
    if kind == "answers":
        return np.asarray(logits)[:, 0].astype(np.int32)
    if kind != "classification":
        return np.asarray(logits, np.float64)[:, 0]
    finite = np.isfinite(logits).all(-1)
    return np.where(finite, np.argmax(logits, axis=-1), -1).astype(np.int32)


# ---------------------------------------------------------------- intervals


def interval(metric: Metric, labels: np.ndarray, predictions: np.ndarray, seed: int = 0) -> Interval:
    """Return the score of predictions [N] with its 95 % percentile bootstrap interval (scipy.stats.bootstrap).

    A bootstrap of 20 correct predictions out of 20 gives [1, 1]. For class predictions each side of the interval is
    therefore at least `unseen` wide (for 20 of 20: [.832, 1], the exact binomial interval), within the metric's bounds.
    The ends are nan for a score that is not defined on these labels (`Metric.undefined`), and for real values of one
    example or that are not finite.

    Raises: InputError without examples.

    >>> from fft.stats.metrics import METRICS
    >>> interval(METRICS["accuracy"], np.ones(20, int), np.ones(20, int))
    Interval(value=1.0, low=0.8315665290169146, high=1.0, n=20)
    """
    labels, (predictions,) = _checked(labels, predictions)
    value = float(metric.function(labels, predictions))
    if metric.undefined(labels):
        return Interval(value, float("nan"), float("nan"), len(labels))
    low, high = _bootstrap(metric, metric.function, (labels, predictions), value, seed)
    if metric.discrete:
        floor = unseen(metric, labels, predictions)
        low, high = min(low, value - floor), max(high, value + floor)
    low, high = (float(end) for end in np.clip((low, high), *metric.bounds))
    return Interval(value, low, high, len(labels))


def paired_change(metric: Metric, labels: np.ndarray, before: np.ndarray, after: np.ndarray, seed: int = 0) -> Change:
    """Return the change of a score from predictions before [N] to after [N] on the same labels [N]; + is better.

    The 95 % interval is a paired percentile bootstrap: it resamples examples, so that examples that are hard for both
    models cancel. If few predictions differ, a bootstrap interval is too narrow; if none do, it is [0, 0]. For class
    predictions each side of the interval is therefore at least `unseen` wide: 20 unchanged predictions give a change of
    0 with [-.168, .168], and it takes 368 of them to show a drop within .01. Real-valued predictions that agree bit for
    bit on every example do not agree by chance, and [0, 0] stands. If the score is not defined, because the labels or
    the predictions `before` do not vary, the change is nan.

    McNemar's exact test (accuracy and matches only) compares the numbers of examples that only one of the models
    predicts correctly with a fair coin; p is 1 without such examples.

    Raises: InputError without examples.
    References: McNemar 1947; Hanley and Lippman-Hand 1983 (nothing seen in n); Efron and Tibshirani 1993, ch. 13.
    """
    labels, (before, after) = _checked(labels, before, after)
    scores = float(metric.function(labels, before)), float(metric.function(labels, after))
    if reason := metric.undefined(labels) or _orders_nothing(metric, before):
        return _undefined(metric, scores, len(labels), reason)
    change = metric.sign * (scores[1] - scores[0])

    def difference(labels: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        return metric.sign * (metric.function(labels, after) - metric.function(labels, before))

    low, high = _bootstrap(metric, difference, (labels, before, after), change, seed)
    changed = None
    if metric.discrete:
        changed = int((before != after).sum())
        floor = unseen(metric, labels, before)
        low, high = min(low, change - floor), max(high, change + floor)
    p = mcnemar_p(labels, before, after) if metric.function is accuracy else None
    return Change(metric.name, *scores, change, float(low), float(high), len(labels), p, changed)


def change_between(metric: Metric, labels: np.ndarray, before: np.ndarray, after: np.ndarray) -> Change:
    """Return `paired_change` of two models' logits before, after [N, C]; `unchanged` if they agree bit for bit."""
    if np.array_equal(before, after):
        return unchanged(metric, labels, predictions(metric.kind, before))
    return paired_change(metric, labels, predictions(metric.kind, before), predictions(metric.kind, after))


def first_score(metric: Metric, labels: np.ndarray, after: np.ndarray) -> Change:
    """Return the score of predictions after [N] if there was no model before: the change is nan."""
    labels, (after,) = _checked(labels, after)
    nothing = float("nan")
    score = float(metric.function(labels, after))
    return Change(
        metric.name, nothing, score, nothing, nothing, nothing, len(labels), undefined=metric.undefined(labels)
    )


def unchanged(metric: Metric, labels: np.ndarray, predictions: np.ndarray) -> Change:
    """Return the change of a model that was not trained, or predicts the same: exactly 0, with the interval [0, 0]."""
    labels, (predictions,) = _checked(labels, predictions)
    score = float(metric.function(labels, predictions))
    if reason := metric.undefined(labels) or _orders_nothing(metric, predictions):
        return _undefined(metric, (score, score), len(labels), reason)
    p = 1.0 if metric.function is accuracy else None
    return Change(metric.name, score, score, 0.0, 0.0, 0.0, len(labels), p, 0 if metric.discrete else None)


def _orders_nothing(metric: Metric, before: np.ndarray) -> str | None:
    """Return why the base's score is not defined: its real-valued predictions are constant; None if they vary."""
    if metric.kind != "regression" or not metric.by_variation or np.ptp(before) != 0:
        return None
    return f"the base predicts {before[0]:g} for every row: its {metric.name} is 0 by definition"


def _undefined(metric: Metric, scores: tuple[float, float], n: int, reason: str) -> Change:
    nothing = float("nan")
    return Change(metric.name, *scores, nothing, nothing, nothing, n, undefined=reason)


def unseen_rate(n: int) -> float:
    """Return 1 - .025^(1/n), about 3.7 / n: the highest rate of an event that was not observed in n examples.

    This is the upper end of the exact 95 % binomial interval (Clopper and Pearson 1934) for 0 of n.
    """
    return 1 - ((1 - LEVEL) / 2) ** (1 / n)


def unseen(metric: Metric, labels: np.ndarray, predictions: np.ndarray) -> float:
    """Return the smallest half-width that N examples allow an interval, in units of the score (rule of three).

    unseen_rate(N) times the `leverage` of an example.
    """
    return unseen_rate(len(labels)) * leverage(metric, labels, predictions)


def leverage(metric: Metric, labels: np.ndarray, predictions: np.ndarray) -> float:
    """Return N times the mean change of the score when one correct prediction becomes wrong, over those predictions.

    It is 1 for accuracy, and if no prediction is correct.
    """
    n = len(labels)
    classes, first, count = np.unique(
        np.where(labels == predictions, labels, labels.min() - 1), return_index=True, return_counts=True
    )
    right = classes >= labels.min()
    if not right.any():
        return 1.0
    flipped = np.repeat(predictions[None], right.sum(), axis=0)
    values = np.unique(np.concatenate([labels, predictions]))
    for row, (example, label) in zip(flipped, zip(first[right], classes[right], strict=True), strict=True):
        others = values[values != label]
        row[example] = others[0] if len(others) else label + 1
    moved = np.abs(
        metric.function(np.broadcast_to(labels, flipped.shape), flipped) - metric.function(labels, predictions)
    )
    return float(n * np.average(moved, weights=count[right]))


def mcnemar_p(labels: np.ndarray, before: np.ndarray, after: np.ndarray) -> float:
    """Return McNemar's exact two-sided p for labels, before, after [N]; 1 if both are correct on the same examples."""
    from scipy.stats import binomtest

    lost = int(((before == labels) & (after != labels)).sum())
    gained = int(((before != labels) & (after == labels)).sum())
    return float(binomtest(lost, lost + gained, 0.5).pvalue) if lost + gained else 1.0


def _checked(labels: np.ndarray, *predicted: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return labels and predictions as arrays [N].

    Raises: InputError without examples; ValueError if the lengths differ.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or not len(labels):
        raise InputError(f"expected at least one example to score, got labels of shape {labels.shape}")
    arrays = [np.asarray(values) for values in predicted]
    for values in arrays:
        if values.shape != labels.shape:
            raise ValueError(f"expected predictions of shape {labels.shape}, got {values.shape}")
    return labels, arrays


def _bootstrap(
    metric: Metric, statistic: Callable, data: tuple[np.ndarray, ...], value: float, seed: int
) -> tuple[float, float]:
    """Return the 95 % percentile interval of statistic(*data) over resampled examples; data are arrays [N]."""
    from scipy.stats import bootstrap

    n = len(data[0])
    if not metric.discrete and (n < 2 or not all(np.isfinite(values).all() for values in data)):
        return float("nan"), float("nan")
    if n < 2:
        return value, value
    if metric.by_order:
        data = tuple(np.unique(values, return_inverse=True)[1].astype(np.int32) for values in data)
    elif metric.discrete:
        data = tuple(values.astype(np.int32) for values in data)
    result = bootstrap(
        data,
        lambda *resampled, axis: statistic(*resampled),
        paired=True,
        vectorized=True,
        axis=-1,
        n_resamples=int(np.clip(MOST_DRAWS // n, 1_000, RESAMPLES)),
        batch=max(1, BATCH_DRAWS // n),
        method="percentile",
        confidence_level=LEVEL,
        rng=np.random.default_rng(seed),
    )
    return result.confidence_interval
