"""The sources of a change of a score: label by label, and example by example.

Pure functions on the labels of N examples and the predictions of two models, before and after.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fft.stats.intervals import paired_change
from fft.stats.metrics import METRICS


class LabelChange(NamedTuple):
    """The n examples of one label: the recall of each model and its change.

    [low, high] is the paired 95 % interval of change = after - before; lost and gained count the examples that only
    the first and only the second model predicts correctly: change = (gained - lost) / n.
    """

    label: str
    n: int
    before: float
    after: float
    change: float
    low: float
    high: float
    lost: int
    gained: int


def by_label(labels: np.ndarray, before: np.ndarray, after: np.ndarray, names: Sequence[str]) -> list[LabelChange]:
    """Return the change of every label that occurs, the greatest loss first; labels, before, after [N] are classes.

    Each interval is that of `paired_change` on the label's examples, without correction for multiple comparisons: about
    one of twenty intervals misses the true change.
    """
    changes = []
    for label in np.unique(labels):
        mine = labels == label
        change = paired_change(METRICS["accuracy"], labels[mine], before[mine], after[mine])
        lost, gained = (len(positions) for positions in newly(labels[mine], before[mine], after[mine]))
        figures = (change.n, change.before, change.after, change.change, change.low, change.high)
        changes.append(LabelChange(names[int(label)], *figures, lost, gained))
    return sorted(changes, key=lambda row: row.change)


def newly(labels: np.ndarray, before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the examples that are newly wrong, and of those newly right; arguments are classes [N]."""
    was, now = before == labels, after == labels
    return np.flatnonzero(was & ~now), np.flatnonzero(~was & now)


def further(labels: np.ndarray, before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the examples whose |prediction - label| grew and shrank, the largest change first.

    Arguments are real numbers [N]; a prediction that is not finite has an infinite error.
    """
    errors = [np.abs(values - labels.astype(np.float64)) for values in (before, after)]
    first, second = (np.where(np.isfinite(error), error, np.inf) for error in errors)
    with np.errstate(invalid="ignore"):
        growth = np.nan_to_num(second - first, nan=0.0, posinf=np.inf, neginf=-np.inf)  # both infinite: no change
    order = np.argsort(-growth, kind="stable")
    return order[growth[order] > 0], order[::-1][growth[order[::-1]] < 0]
