"""What the tasks of a sequence did to each other: the matrix of scores, and what is read off it.

Pure functions. R [..., T + 1, T] has the score on the test rows of task j (columns 1 to T) after task i was learned
(rows 1 to T); row 0 is the model before the first. nan where a model has no head for a task. Higher is better.

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
    """ACC = 1/T Σ_j R[T, j]: what the last model can do; [..., T + 1, T] -> [...]."""
    return matrix[..., -1, :].mean(-1)


def backward_transfer(matrix: np.ndarray) -> np.ndarray:
    """BWT = 1/(T − 1) Σ_{j < T} (R[T, j] − R[j, j]): what later tasks did to earlier ones, − is forgetting."""
    at = np.arange(1, matrix.shape[-1])
    return (matrix[..., -1, :-1] - matrix[..., at, at - 1]).mean(-1)


def forward_transfer(matrix: np.ndarray) -> np.ndarray:
    """FWT = 1/(T − 1) Σ_{j > 1} (R[j − 1, j] − R[0, j]): what earlier tasks did for later ones, before these were
    learned. R[0, j], the base's score, stands where the reference has that of a random initialisation.
    """
    at = np.arange(1, matrix.shape[-1])
    return (matrix[..., at, at] - matrix[..., 0, 1:]).mean(-1)


def forgetting(matrix: np.ndarray) -> np.ndarray:
    """F = 1/(T − 1) Σ_{j < T} (max_{0 < i < T} R[i, j] − R[T, j]): the fall from the best that each task once had."""
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
"""the tasks that each measure is a mean over"""


class Answered(NamedTuple):
    """One task's test rows: their labels [N], and what each of the T + 1 models said of them, [N] or None."""

    metric: Metric
    labels: np.ndarray
    answers: Sequence[np.ndarray | None]


def matrix_of(tasks: Sequence[Answered], rows: Sequence[np.ndarray] | None = None) -> np.ndarray:
    """R of T tasks; `rows` [..., N_j] of each task are the places of the rows that count. None: all, and nan for a
    task whose score is not defined on them.
    """
    columns = []
    for at, task in enumerate(tasks):
        picked = np.arange(len(task.labels)) if rows is None else rows[at]
        nothing = np.full(picked.shape[:-1], np.nan)
        labels = task.labels[picked]
        unscored = rows is None and task.metric.undefined(task.labels)
        of = [
            nothing if said is None or unscored else task.metric.function(labels, said[picked]) for said in task.answers
        ]
        columns.append(np.stack(of, axis=-1))
    return np.stack(columns, axis=-1)


def measures(tasks: Sequence[Answered], seed: int = 0) -> dict[str, Estimate | None]:
    """Every measure with its percentile bootstrap interval, the rows of each task resampled on their own; None for a
    measure that needs a score which does not exist, or is not defined on a task's rows.

    An interval is never narrower than `unseen` on either side: answers that agree on ten rows have not shown that they
    always do.
    """
    whole = matrix_of(tasks)
    return {name: _estimate(tasks, name, whole, seed) for name in MEASURES}


def _estimate(tasks: Sequence[Answered], name: str, whole: np.ndarray, seed: int) -> Estimate | None:
    """One measure of R, `whole`, with its interval."""
    counted = tasks[AVERAGED[name]]
    if any(task.metric.undefined(task.labels) for task in counted):
        return None
    value = float(MEASURES[name](whole))
    if np.isnan(value):
        return None
    low, high = _interval(tasks, MEASURES[name], seed)
    floor = unseen(counted)
    least, most = (pick(task.metric.bounds[at] for task in counted) for at, pick in enumerate((min, max)))
    bounds = (least, most) if name == "average_accuracy" else (least - most, most - least)
    ends = np.clip((np.minimum(low, value - floor), np.maximum(high, value + floor)), *bounds)
    return Estimate(value, *map(float, ends))


def unseen(tasks: Sequence[Answered]) -> float:
    """How far rows of a sort not seen once may still move the mean over K tasks of a score or of its change.

    unseen_rate(K min N_j) times the greatest leverage of a row: of rows that may go wrong in each task, none was seen
    in K min N_j independent draws at least. What may be as frequent in every task is seen K times as soon as in one.
    """
    draws = len(tasks) * min(len(task.labels) for task in tasks)
    return unseen_rate(draws) * max(map(_last_leverage, tasks))


def _last_leverage(task: Answered) -> float:
    """The leverage of a row of a task for the last model, which has learned every task."""
    said = task.answers[-1]
    assert said is not None
    return leverage(task.metric, task.labels, said)


def _interval(tasks: Sequence[Answered], measure: Callable, seed: int) -> tuple[float, float]:
    """The percentile bootstrap interval of a measure."""
    from scipy.stats import bootstrap

    sizes = [len(task.labels) for task in tasks]
    if min(sizes) < 2:
        return float("nan"), float("nan")
    found = bootstrap(
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
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
