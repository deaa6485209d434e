"""Decisions about the drop of the original task: combined score, early stopping, crossover and verdict.

Pure functions on JSON-like data. Terms: the original task is a task of the base model; its drop (forgetting) is the
base's score minus the score now, in units of the metric and signed so that + is a loss, also for rmse; its retention is
the score after over the score before. A history is the list of scores on the fixed validation probe, starting with the
base's: [{"step", "original", "new", "combined", ...}, ...]. A score that is not finite is nan, -inf or, read from JSON,
None.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from fft.core.naming import ORIGINAL, UNEMBED
from fft.stats.intervals import LEVEL, Change, unseen_rate
from fft.stats.metrics import Metric

EXIT_CODES = {"pass": 0, "fail": 1, "undecided": 4}
SAME = 1e-9  # scores closer than this are equal: they differ by rounding, not by examples


class Verdict(NamedTuple):
    """Whether the drop of the original task is within the tolerance.

    outcome is 'pass', 'fail' or 'undecided'; [drop_low, drop_high] is the interval of drop; needed is the number of
    test examples that would decide, None if it is decided or no number would. reason says why the score is not defined
    on these examples, None if the drop was measured.
    """

    outcome: str
    tolerance: float
    drop: float
    drop_low: float
    drop_high: float
    needed: int | None
    reason: str | None = None


def combined_score(
    new: float, original: float | None, baseline_original: float | None, weight: float, tolerance: float
) -> float:
    """Return new - weight * max(0, drop - tolerance) with drop = baseline_original - original.

    The best step is the one with the highest. All scores are signed so that higher is better (sign *
    score for rmse). Without an original task (None) it is the new score. A score that is not finite gives -inf, so that
    it is never the best.

    >>> round(combined_score(new=0.90, original=0.80, baseline_original=0.85, weight=1.0, tolerance=0.01), 6)
    0.86
    """
    loss = 0.0
    if original is not None and baseline_original is not None:
        drop = baseline_original - original
        # `not <=` instead of `>`, so that nan remains nan.
        loss = weight * (drop - tolerance) if not drop <= tolerance else 0.0
    combined = new - loss
    return combined if math.isfinite(combined) else -math.inf


def below_all(metric: Metric) -> float:
    """Return a number below every score of the metric, signed so that higher is better."""
    return min(metric.sign * bound for bound in metric.bounds) - SAME


def starts_fresh(run: dict[str, Any]) -> bool:
    """Return whether the new task of a run (data of run.json) began with a random head, which had no score before."""
    return run["experiment"].get("head") == "new" and run["data"]["new"].get("head") != UNEMBED


def crossover(history: Sequence[dict[str, Any]], tolerance: float, sign: int = 1, name: str = ORIGINAL) -> int | None:
    """Return the first scored step at which an original task's drop on the probe exceeds the tolerance, or None.

    It is the first crossing even if the score recovers later. The probe is the same few hundred examples each time, so
    its changes are less noisy than its scores, but a crossing by an example or two is noise; the verdict uses the test
    split. sign is the original metric's (-1 for rmse). A score that is not finite counts as a crossing.
    """
    if not history or history[0][name] is None:
        return None
    base = history[0][name]
    for entry in history[1:]:
        lost = entry[name] is None or not sign * (base - entry[name]) <= tolerance + SAME
        if lost:
            return entry["step"]
    return None


def best(history: Sequence[dict[str, Any]]) -> int:
    """Return the index of the highest combined score, the earliest of equal ones; the base (index 0) is included.

    A combined score of nan or None counts as -inf. Raises: ValueError for an empty history.
    """
    if not history:
        raise ValueError("expected at least one scoring in the history")
    values = [entry["combined"] for entry in history]
    values = [-math.inf if value is None or math.isnan(value) else value for value in values]
    return values.index(max(values))


def should_stop(history: Sequence[dict[str, Any]], patience: int) -> bool:
    """Return whether none of the last `patience` scores beats the best combined score before them; 0 never stops."""
    return patience > 0 and len(history) - 1 - best(history) >= patience


def verdict(change: Change, tolerance: float) -> Verdict:
    """Return pass if drop_high <= tolerance, fail if drop_low > tolerance, else undecided.

    If the score is no longer finite while the base's was, the outcome is fail. If the score is not defined on these
    examples, it is undecided, with the reason.

    >>> verdict(Change("accuracy", 0.90, 0.895, -0.005, -0.015, 0.005, 1000), tolerance=0.01)[::5]
    ('undecided', 4000)
    """
    drop, drop_low, drop_high = (0.0 - value for value in (change.change, change.high, change.low))
    if change.undefined:
        return Verdict("undecided", tolerance, drop, drop_low, drop_high, None, change.undefined)
    if drop_high <= tolerance + SAME:
        outcome = "pass"
    elif drop_low > tolerance + SAME or (math.isfinite(change.before) and not math.isfinite(change.after)):
        outcome = "fail"
    else:
        outcome = "undecided"
    needed = examples_needed(change, tolerance) if outcome == "undecided" else None
    return Verdict(outcome, tolerance, drop, drop_low, drop_high, needed)


def is_scored(change: dict[str, Any] | None) -> bool:
    """Return whether the change of a task in a record has a finite score that is defined on the task's rows."""
    return change is not None and change["after"] is not None and not change.get("undefined")


def overall(outcomes: Sequence[str]) -> str:
    """Return the outcome of several original tasks: fail if one fails, else undecided if one is, else pass.

    Since all of them must pass, each at its own level, the probability of a wrong pass is at most that of a single task
    and needs no correction (the intersection-union test; Berger 1982).
    """
    return max(outcomes, key=("pass", "undecided", "fail").index)


def examples_needed(change: Change, tolerance: float) -> int | None:
    """Estimate how many examples would put the interval on one side of the tolerance, if the drop stays the same.

    n (arm / gap)^2: gap is the distance of the drop from the tolerance, arm the distance from the drop to the end of
    the interval on that side, which shrinks as 1 / sqrt(n). If no prediction changed, the arm is K unseen_rate(n) of
    `intervals.unseen`, and the m with K unseen_rate(m) = gap is log .025 / log(1 - gap / K). None if the drop equals
    the tolerance or a number is not finite: then no number of examples decides.
    """
    gap = tolerance + change.change
    arm = change.change - change.low if gap > 0 else change.high - change.change
    if not (math.isfinite(gap) and math.isfinite(arm)) or abs(gap) < SAME:
        return None
    if change.changed == 0 and 0 < gap < arm:
        share = gap * unseen_rate(change.n) / arm
        return math.ceil(math.log((1 - LEVEL) / 2) / math.log(1 - share) - SAME)
    return math.ceil(change.n * (arm / gap) ** 2 - SAME)
