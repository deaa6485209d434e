"""The Pareto front of a method: original against new score over its settings; compared at equal new score.

Pure functions on arrays of points [N, 2], new score and original score, both with higher better.

References: Zitzler and Thiele 1999, IEEE TEC 3(4) (hypervolume).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fft.stats.ablation import describe_differences, method_label, setting_hash
from fft.stats.intervals import Estimate
from fft.stats.metrics import METRICS
from fft.stats.retention import is_scored, starts_fresh

LEVEL = 0.95


class Front(NamedTuple):
    """The front of one method over its settings."""

    method: str
    settings: int
    seeds: int
    points: np.ndarray
    """[settings, 2]: new and original score on test, means over seeds, by rising new score"""
    labels: tuple[str, ...]
    """[settings]: the settings in which a point differs from the method's others, such as `strength 10`"""
    hypervolume: Estimate
    original: Estimate
    """the original score at the new score `matched`"""


def fronts(records: Sequence[dict[str, Any]]) -> tuple[list[Front], float | None]:
    """Return the front of every method among finished runs, and the new score `matched` at which they are compared.

    Runs that differ only in their seed are one setting. `matched` is the highest new score that every front reaches
    with every seed. The reference point of the hypervolumes has the lowest scores of all runs and the base, except
    the base's new score if the head was fresh.
    """
    records = [record for record in records if is_scored(record["original"]) and is_scored(record["new"])]
    if not records:
        return [], None
    base = _signed(records[0], "before")
    runs: dict[str, dict[int, dict[str, np.ndarray]]] = {}
    by_method: dict[str, dict[str, dict[str, Any]]] = {}
    for record in records:
        seed = record["experiment"]["seed"]
        setting = setting_hash(record)
        runs.setdefault(method_label(record), {}).setdefault(seed, {})[setting] = _signed(record, "after")
        by_method.setdefault(method_label(record), {}).setdefault(setting, record)
    by_seed = {name: [np.stack(list(of.values())) for of in seeds.values()] for name, seeds in runs.items()}
    every = np.concatenate([base[None], *(points for seeds in by_seed.values() for points in seeds)])
    matched = float(min(points[:, 0].max() for seeds in by_seed.values() for points in seeds))
    result = []
    for name, seeds in by_seed.items():
        differences = dict(zip(by_method[name], describe_differences(list(by_method[name].values())), strict=True))
        means = {key: np.mean([of[key] for of in runs[name].values() if key in of], axis=0) for key in differences}
        order = sorted(means, key=lambda key: means[key][0])
        points, labels = np.stack([means[key] for key in order]), tuple(differences[key] for key in order)
        volumes = [hypervolume(points, np.nanmin(every, axis=0)) for points in seeds]
        originals = [original_at(points, matched) for points in seeds]
        result.append(Front(name, len(differences), len(seeds), points, labels, mean_of(volumes), mean_of(originals)))
    return result, matched


def pareto_front(points: np.ndarray) -> np.ndarray:
    """Return the Pareto-optimal points [M, 2], by falling new score.

    No other point is at least as good in both scores and better in one.
    """
    front: list[np.ndarray] = []
    for point in sorted(points, key=lambda point: (-point[0], -point[1])):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return np.array(front)


def hypervolume(points: np.ndarray, reference: np.ndarray) -> float:
    """Return the area that points [N, 2] dominate above a reference point [2]."""
    area, reached = 0.0, reference[1]
    for new, original in pareto_front(points):
        area += max(0.0, new - reference[0]) * max(0.0, original - reached)
        reached = max(reached, original)
    return float(area)


def original_at(points: np.ndarray, new: float) -> float:
    """Return the original score at a new score, interpolated linearly along the front; nan beyond its end."""
    front = pareto_front(points)[::-1]
    if new > front[-1, 0] + 1e-12:
        return float("nan")
    return float(np.interp(new, front[:, 0], front[:, 1]))


def mean_of(values: Sequence[float]) -> Estimate:
    """Return the mean over seeds and its 95 % t interval."""
    from scipy import stats

    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(mean, float("nan"), float("nan"))
    error = stats.sem(values)
    low, high = stats.t.interval(LEVEL, len(values) - 1, mean, error) if error > 0 else (mean, mean)
    return Estimate(mean, float(low), float(high))


def _signed(record: dict[str, Any], when: str) -> np.ndarray:
    """Return the new and the original score [2], higher better; the new one of a fresh head is nan before training."""
    unscored = ("new",) if when == "before" and starts_fresh(record) else ()
    return np.array(
        [
            np.nan if task in unscored else METRICS[record[task]["metric"]].sign * record[task][when]
            for task in ("new", "original")
        ]
    )
