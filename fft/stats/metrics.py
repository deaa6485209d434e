"""Metrics of classification, regression and language tasks; vectorised over leading axes, so a bootstrap is one call.

Classification metrics take class numbers (integers), regression metrics real numbers. Each agrees with scikit-learn or
scipy, also on degenerate samples, unless its docstring says otherwise. The metrics of language tasks take sums over the
tokens of a row and are ratios of their sums over rows, so that a bootstrap resamples rows with all their tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fft.core.errors import InputError


class Metric(NamedTuple):
    """A score of N predictions.

    kind is 'classification' (labels and predictions are class numbers), 'answers' (the labels are 1, the predictions 1
    for a right answer and 0 for another), or another (real numbers); sign is +1 if higher
    is better and -1 if lower is; bounds are the lowest and highest possible score; function(labels [..., N],
    predictions [..., N]) -> [...] is vectorised over the leading axes. by_order: only the order of the values matters,
    so that a bootstrap may replace them by small integers, which is far faster. by_variation: the score measures how
    predictions vary with the labels, and is 0 by convention if all labels are equal.
    """

    name: str
    kind: str
    sign: int
    bounds: tuple[float, float]
    function: Callable[[np.ndarray, np.ndarray], np.ndarray]
    by_order: bool = False
    by_variation: bool = False

    @property
    def discrete(self) -> bool:
        """Whether labels and predictions are classes, so that a prediction is right or wrong."""
        return self.kind in ("classification", "answers")

    def undefined(self, labels: np.ndarray) -> str | None:
        """Return why the score is 0 by definition for these labels [N], whatever is predicted; None if it is not.

        >>> METRICS["pearson"].undefined(np.full(60, -1.0)), METRICS["rmse"].undefined(np.full(60, -1.0))
        ('all 60 rows have the target -1: pearson is 0 by definition and cannot drop', None)
        """
        if not self.by_variation or not len(labels) or np.ptp(labels) > 0:
            return None
        value = f"have the target {labels[0]:g}" if self.kind == "regression" else "are of one class"
        rows = f"all {len(labels):,} rows {value}" if len(labels) > 1 else "there is one row"
        return f"{rows}: {self.name} is 0 by definition and cannot drop"


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Return the share of the N examples predicted correctly: labels, predictions [..., N] -> [...]."""
    return np.mean(labels == predictions, axis=-1)


def macro_f1(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Return the mean over classes of F1 = 2 TP / (labelled + predicted): labels, predictions [..., N] -> [...].

    The classes are those that occur in the labels or the predictions of the sample, as in scikit-learn: a class that
    is missing from a resample does not count, one that is only labelled or only predicted counts as 0.
    """
    labelled, predicted, right = _class_counts(labels, predictions)
    occurs = labelled + predicted
    f1 = 2 * right / np.maximum(occurs, 1)
    return f1.sum(-1) / (occurs > 0).sum(-1)


def mcc(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Return Matthews' correlation for C >= 2 classes (Gorodkin 2004): labels, predictions [..., N] -> [...].

    (N right - sum_c l_c p_c) / sqrt((N^2 - sum_c p_c^2)(N^2 - sum_c l_c^2)) with l_c labelled and p_c predicted as
    c. It is 0 if labels or predictions are of one class only, as in scikit-learn.
    """
    labelled, predicted, right = _class_counts(labels, predictions)
    n = float(np.shape(labels)[-1])
    above = n * right.sum(-1) - (labelled * predicted).sum(-1)
    below = (n**2 - (predicted**2).sum(-1)) * (n**2 - (labelled**2).sum(-1))
    return np.where(below > 0, above / np.sqrt(np.where(below > 0, below, 1.0)), 0.0)


def pearson(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Return the linear correlation: labels, predictions [..., N] -> [...].

    It is 0 if the labels or the predictions are constant (nan in scipy), so that a resample of one repeated example
    does not make an interval nan; nan if a value is not finite.
    """
    x = labels - np.mean(labels, axis=-1, keepdims=True)
    y = predictions - np.mean(predictions, axis=-1, keepdims=True)
    below = np.sqrt(np.einsum("...n,...n->...", x, x) * np.einsum("...n,...n->...", y, y))
    constant = (np.ptp(labels, axis=-1) == 0) | (np.ptp(predictions, axis=-1) == 0) | (below == 0)
    value = np.einsum("...n,...n->...", x, y) / np.where(constant, 1.0, below)
    return np.where(constant, 0.0, np.clip(value, -1.0, 1.0))


def spearman(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Return the correlation of the ranks, where ties have their mean rank: labels, predictions [..., N] -> [...].

    It is 0 if the labels or the predictions are constant, as for `pearson`; nan if a value is not finite.
    """
    finite = np.isfinite(labels).all(-1) & np.isfinite(predictions).all(-1)
    return np.where(finite, pearson(_ranks(labels), _ranks(predictions)), np.nan)


def rmse(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Return the root of the mean squared error, in the labels' unit: labels, predictions [..., N] -> [...]."""
    return np.sqrt(np.mean(np.square(labels - predictions), axis=-1))


def nats(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Return the mean negative log likelihood of a token in nats, Σ nll / Σ tokens: labels are the numbers of tokens
    of the N rows, predictions the sums of their nll, [..., N] -> [...].
    """
    return np.sum(predictions, axis=-1) / np.sum(labels, axis=-1)


def perplexity(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Return exp(nats): labels, predictions [..., N] -> [...]."""
    return np.exp(nats(labels, predictions))


def bits_per_byte(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Return Σ nll / (ln 2 · Σ bytes): labels are the UTF-8 bytes of the rows' scored text, predictions the sums of
    their nll in nats, [..., N] -> [...].
    """
    return nats(labels, predictions) / np.log(2)


METRICS = {
    "accuracy": Metric("accuracy", "classification", +1, (0.0, 1.0), accuracy),
    "macro_f1": Metric("macro_f1", "classification", +1, (0.0, 1.0), macro_f1),
    "mcc": Metric("mcc", "classification", +1, (-1.0, 1.0), mcc, by_variation=True),
    "pearson": Metric("pearson", "regression", +1, (-1.0, 1.0), pearson, by_variation=True),
    "spearman": Metric("spearman", "regression", +1, (-1.0, 1.0), spearman, by_order=True, by_variation=True),
    "rmse": Metric("rmse", "regression", -1, (0.0, float("inf")), rmse),
    "nats": Metric("nats", "language", -1, (0.0, float("inf")), nats),
    "perplexity": Metric("perplexity", "language", -1, (1.0, float("inf")), perplexity),
    "bits_per_byte": Metric("bits_per_byte", "language", -1, (0.0, float("inf")), bits_per_byte),
    "token_accuracy": Metric("token_accuracy", "language", +1, (0.0, 1.0), nats),
    "exact_match": Metric("exact_match", "answers", +1, (0.0, 1.0), accuracy),
    "squad_match": Metric("squad_match", "answers", +1, (0.0, 1.0), accuracy),
    "number_match": Metric("number_match", "answers", +1, (0.0, 1.0), accuracy),
}


def metric_for(kind: str, name: str | None = None) -> Metric:
    """Return the metric of a name, by default the first of its kind (accuracy, pearson).

    Raises: InputError for an unknown kind, and for a metric of another kind.
    """
    fitting = [metric for metric in METRICS.values() if metric.kind == kind]
    if not fitting:
        known = " or ".join(repr(kind) for kind in dict.fromkeys(metric.kind for metric in METRICS.values()))
        raise InputError(f"kind of task: expected {known}, got {kind!r}")
    if name is None:
        return fitting[0]
    for metric in fitting:
        if metric.name == name:
            return metric
    names = ", ".join(metric.name for metric in fitting)
    raise InputError(f"--metric {name} is not for a {kind} task: give one of {names}")


def _class_counts(labels: np.ndarray, predictions: np.ndarray) -> tuple[np.ndarray, ...]:
    """Count for arrays [..., N] how often each class is labelled, predicted, and both: three [..., C] of float64."""
    lowest = min(labels.min(), predictions.min())
    classes = int(max(labels.max(), predictions.max())) - int(lowest) + 1
    right = np.where(labels == predictions, labels - lowest, classes)
    return (
        _counts(labels - lowest, classes),
        _counts(predictions - lowest, classes),
        _counts(right, classes + 1)[..., :-1],
    )


def _counts(codes: np.ndarray, bins: int) -> np.ndarray:
    """Count how often each code in 0..bins-1 occurs: codes [..., N] -> [..., bins], float64."""
    rows = codes.reshape(-1, codes.shape[-1])
    shifted = rows + np.arange(len(rows), dtype=np.int64)[:, None] * bins
    counts = np.bincount(shifted.ravel(), minlength=len(rows) * bins)
    return counts.reshape(*codes.shape[:-1], bins).astype(np.float64)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Rank values [..., N] from 1 within the last axis; ties have their mean rank.

    Integers from 0 are ranked by counting, which for many resamples is ten times faster than sorting.
    """
    from scipy.stats import rankdata

    if values.dtype.kind not in "iu":
        return rankdata(values, axis=-1)
    counts = _counts(values, int(values.max()) + 1)
    mean_rank = np.cumsum(counts, axis=-1) - (counts - 1) / 2
    return np.take_along_axis(mean_rank, values.astype(np.int64), axis=-1)
