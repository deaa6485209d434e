"""The front of a method: what it keeps against what it learns, over its strengths; compared at equal new-task score.

Pure functions on arrays of points [N, 2], new score and original score, both with higher better.

References: Zitzler and Thiele 1999, IEEE TEC 3(4) (hypervolume).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fft.stats.ablation import differing, method_label, setting_hash
from fft.stats.metrics import METRICS
from fft.stats.retention import is_scored, starts_fresh

LEVEL = 0.95


class Spread(NamedTuple):
    """A mean over seeds and its 95 % interval (None for one seed)."""

    mean: float
    interval: tuple[float, float] | None


class Front(NamedTuple):
    """One method over its strengths."""

    method: str
    settings: int
    seeds: int
    points: np.ndarray
    """[settings, 2]: new and original score on test, means over seeds, by rising new score"""
    labels: tuple[str, ...]
    """[settings]: what sets each point off from the method's others, `strength 10` say"""
    hypervolume: Spread
    original: Spread
    """at `matched`"""


def fronts(records: Sequence[dict[str, Any]]) -> tuple[list[Front], float | None]:
    """The front of every method among finished runs, and the new score `matched` at which they are compared.

    Runs that differ in their seed alone are one setting. `matched` is the highest new score that every front reaches
    with every seed. Hypervolumes are over the worst scores seen, the base's among them, but for a new score of a fresh
    head.
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
    found = []
    for name, seeds in by_seed.items():
        told = dict(zip(by_method[name], differing(list(by_method[name].values())), strict=True))
        means = {key: np.mean([of[key] for of in runs[name].values() if key in of], axis=0) for key in told}
        order = sorted(means, key=lambda key: means[key][0])
        points, labels = np.stack([means[key] for key in order]), tuple(told[key] for key in order)
        volumes = [hypervolume(points, np.nanmin(every, axis=0)) for points in seeds]
        kept = [original_at(points, matched) for points in seeds]
        found.append(Front(name, len(told), len(seeds), points, labels, spread(volumes), spread(kept)))
    return found, matched


def best(points: np.ndarray) -> np.ndarray:
    """The points [M, 2] that no other one beats in one score and equals in the other, by falling new score."""
    kept: list[np.ndarray] = []
    for point in sorted(points, key=lambda point: (-point[0], -point[1])):
        if not kept or point[1] > kept[-1][1]:
            kept.append(point)
    return np.array(kept)


def hypervolume(points: np.ndarray, reference: np.ndarray) -> float:
    """The area that some points [N, 2] dominate above a reference point [2]."""
    area, reached = 0.0, reference[1]
    for new, original in best(points):
        area += max(0.0, new - reference[0]) * max(0.0, original - reached)
        reached = max(reached, original)
    return float(area)


def original_at(points: np.ndarray, new: float) -> float:
    """The original score of a front at a new score: the best points joined by lines; nan beyond the highest."""
    front = best(points)[::-1]
    if new > front[-1, 0] + 1e-12:
        return float("nan")
    return float(np.interp(new, front[:, 0], front[:, 1]))


def spread(values: Sequence[float]) -> Spread:
    """The mean over seeds and its 95 % t interval."""
    from scipy import stats

    mean = float(np.mean(values))
    if len(values) < 2:
        return Spread(mean, None)
    error = stats.sem(values)
    low, high = stats.t.interval(LEVEL, len(values) - 1, mean, error) if error > 0 else (mean, mean)
    return Spread(mean, (float(low), float(high)))


def _signed(record: dict[str, Any], when: str) -> np.ndarray:
    """The new and the original score [2]; nan for the new one before a fresh head was trained."""
    unscored = ("new",) if when == "before" and starts_fresh(record) else ()
    return np.array(
        [
            np.nan if task in unscored else METRICS[record[task]["metric"]].sign * record[task][when]
            for task in ("new", "original")
        ]
    )
