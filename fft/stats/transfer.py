"""Transfer between the tasks of a sequence: the matrix of scores and the measures computed from it.

Pure functions. R [..., T + 1, T] has the score on the test rows of task j (columns 1 to T) after task i was learned
(rows 1 to T); row 0 is the model before the first task. It is nan if a model has no head for a task. The measures take
scores of which higher is better; those of a metric of which lower is better are negated first.

References: Lopez-Paz and Ranzato 2017, arXiv 1706.08840, section 2 (average accuracy, backward and forward transfer);
Chaudhry et al. 2018, arXiv 1801.10112, section 3 (forgetting).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from fft.stats.intervals import LEVEL, Estimate, leverage, unseen_rate
from fft.stats.metrics import Metric

RESAMPLES, MOST_DRAWS = 2000, 20_000_000


def average_accuracy(matrix: np.ndarray) -> np.ndarray:
    """Return ACC = 1/T Σ_j R[T, j], the mean score of the last model; [..., T + 1, T] -> [...]."""
    return matrix[..., -1, :].mean(-1)


def backward_transfer(matrix: np.ndarray) -> np.ndarray:
    """Return BWT = 1/(T − 1) Σ_{j < T} (R[T, j] − R[j, j]), the effect of later tasks, below 0 for forgetting."""
    at = np.arange(1, matrix.shape[-1])
    return (matrix[..., -1, :-1] - matrix[..., at, at - 1]).mean(-1)


def forward_transfer(matrix: np.ndarray) -> np.ndarray:
    """Return FWT = 1/(T − 1) Σ_{j > 1} (R[j − 1, j] − R[0, j]), the effect of earlier tasks on later, unlearned ones.

    R[0, j] is the base's score, where the reference uses that of a random initialisation.
    """
    at = np.arange(1, matrix.shape[-1])
    return (matrix[..., at, at] - matrix[..., 0, 1:]).mean(-1)


def forgetting(matrix: np.ndarray) -> np.ndarray:
    """Return F = 1/(T − 1) Σ_{j < T} (max_{0 < i < T} R[i, j] − R[T, j]), the mean drop from each task's best score."""
    return (np.nanmax(matrix[..., 1:-1, :-1], axis=-2) - matrix[..., -1, :-1]).mean(-1)


MEASURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "average_accuracy": average_accuracy,
    "backward_transfer": backward_transfer,
    "forward_transfer": forward_transfer,
    "forgetting": forgetting,
}


AVERAGED = {
    "average_accuracy": slice(None),
    "backward_transfer": slice(None, -1),
    "forward_transfer": slice(1, None),
    "forgetting": slice(None, -1),
}
"""the tasks over which each measure is a mean"""


class Answered(NamedTuple):
    """One task's test rows: their labels [N], and the predictions of each of the T + 1 models, [N] or None."""

    metric: Metric
    labels: np.ndarray
    answers: Sequence[np.ndarray | None]


def matrix_of(tasks: Sequence[Answered], rows: Sequence[np.ndarray] | None = None) -> np.ndarray:
    """Return R of T tasks on some of their rows; `rows` has the indices [..., N_j] for each task.

    None: all rows, and nan for a task whose score is not defined on them.
    """
    columns = []
    for at, task in enumerate(tasks):
        picked = np.arange(len(task.labels)) if rows is None else rows[at]
        missing = np.full(picked.shape[:-1], np.nan)
        labels = task.labels[picked]
        unscored = rows is None and task.metric.undefined(task.labels)
        scores = [
            missing if predictions is None or unscored else task.metric.function(labels, predictions[picked])
            for predictions in task.answers
        ]
        columns.append(np.stack(scores, axis=-1))
    return np.stack(columns, axis=-1)


def measures(tasks: Sequence[Answered], seed: int = 0) -> dict[str, Estimate | None]:
    """Return every measure with its percentile bootstrap interval, the rows of each task resampled independently.

    A measure is None if it needs a score that does not exist or is not defined on a task's rows. Each side of an
    interval is at least `unseen` wide: predictions that agree on ten rows need not agree on all.
    """
    matrix = matrix_of(tasks)
    return {name: _estimate(tasks, name, matrix, seed) for name in MEASURES}


def _estimate(tasks: Sequence[Answered], name: str, matrix: np.ndarray, seed: int) -> Estimate | None:
    """Return one measure of R, `matrix`, with its interval."""
    averaged = tasks[AVERAGED[name]]
    if any(task.metric.undefined(task.labels) for task in averaged):
        return None
    sign = tasks[0].metric.sign  # that of all tasks of a sequence
    of_matrix = MEASURES[name] if name != "average_accuracy" else lambda matrix: sign * average_accuracy(matrix)

    def measure(scores: np.ndarray) -> np.ndarray:
        return of_matrix(sign * scores)

    value = float(measure(matrix))
    if np.isnan(value):
        return None
    low, high = _interval(tasks, measure, seed)
    floor = unseen(averaged)
    least, most = (pick(task.metric.bounds[at] for task in averaged) for at, pick in enumerate((min, max)))
    bounds = (least, most) if name == "average_accuracy" else (least - most, most - least)
    ends = np.clip((np.minimum(low, value - floor), np.maximum(high, value + floor)), *bounds)
    return Estimate(value, *map(float, ends))


def unseen(tasks: Sequence[Answered]) -> float:
    """Return the smallest half-width that the rows allow an interval of a mean over K tasks, in units of the score.

    It is unseen_rate(K min N_j) times the greatest leverage of a row: an error that is equally frequent in every task
    was not observed in at least K min N_j independent rows. 0 for scores that are not counts of right predictions.
    """
    if not tasks[0].metric.discrete:
        return 0.0
    draws = len(tasks) * min(len(task.labels) for task in tasks)
    return unseen_rate(draws) * max(map(_last_leverage, tasks))


def _last_leverage(task: Answered) -> float:
    """Return the leverage of a row of a task for the last model, which has learned every task."""
    predictions = task.answers[-1]
    assert predictions is not None
    return leverage(task.metric, task.labels, predictions)


def _interval(tasks: Sequence[Answered], measure: Callable, seed: int) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a measure."""
    from scipy.stats import bootstrap

    sizes = [len(task.labels) for task in tasks]
    if min(sizes) < 2:
        return float("nan"), float("nan")
    result = bootstrap(
        [np.arange(size) for size in sizes],
        lambda *rows, axis: measure(matrix_of(tasks, rows)),
        vectorized=True,
        axis=-1,
        n_resamples=int(np.clip(MOST_DRAWS // sum(sizes), 500, RESAMPLES)),
        batch=100,
        method="percentile",
        confidence_level=LEVEL,
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
